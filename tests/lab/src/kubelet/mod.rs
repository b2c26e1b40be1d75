//! One node as a real kubelet with containerd: `lab node <spec>`, run inside the node's network namespace. It gives itself a
//! mount and a host name namespace, lays out the files that both programs expect, starts them and stays until one ends. Knows
//! one node; must not know what clusters are made of.
//!
//! `lab runc …` stands in for runc where the user owns no cgroup.

mod cgroups;
mod config;
mod mounts;
pub mod runc;

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::packages;

/// How long containerd may take to listen; it takes 0.2 s.
const CONTAINERD_DEADLINE: Duration = Duration::from_secs(30);
/// How often it is tried meanwhile.
const CONTAINERD_RETRY: Duration = Duration::from_millis(20);

/// Everything one node is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Its name, which becomes its host name.
    pub name: String,
    /// Its address on the fabric.
    pub address: Ipv4Addr,
    /// The range of its pods' addresses.
    pub pod_cidr: String,
    /// A directory of its own for state and logs: on a file system that overlays can lie on, and not below `/run`, `/var/lib`
    /// or `/var/log`, which are private to the node.
    pub dir: PathBuf,
    /// The directory with kubelet, containerd, its shim and ctr.
    pub bin: PathBuf,
    /// Archives of images to import, the sandbox's first.
    pub images: Vec<PathBuf>,
    /// How the kubelet reaches its API server.
    pub kubeconfig: PathBuf,
    /// Whose client certificates the kubelet's own API trusts.
    pub client_ca: PathBuf,
    /// The lab's cgroup, below which the node makes its own; `None` for an ordinary user, who owns none: then pods have no
    /// limits, and `lab runc` stands in for runc.
    pub cgroup: Option<String>,
    /// The `lab` program.
    pub lab: PathBuf,
}

/// Why a node ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The specification cannot be read.
    #[error("{path} is no node specification")]
    Spec {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// A step of laying the node out failed.
    #[error("cannot {doing}")]
    Setup {
        /// What was tried.
        doing: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program that must be on the machine is not.
    #[error("{0} is missing: `lab packages` installs it, or names the package")]
    Missing(&'static str),
    /// ctr refused an image.
    #[error("ctr cannot import {image}: {said}")]
    Import {
        /// Which.
        image: PathBuf,
        /// What it said.
        said: String,
    },
    /// containerd does not listen.
    #[error("containerd did not listen within {} s; see {log}", CONTAINERD_DEADLINE.as_secs())]
    Silent {
        /// Its log.
        log: PathBuf,
    },
    /// One of the two programs ended, which neither does by itself.
    #[error("{program} ended with {status}; see {log}")]
    Ended {
        /// Which.
        program: &'static str,
        /// How.
        status: String,
        /// Its log.
        log: PathBuf,
    },
}

/// Names what was tried.
trait Doing<T> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, NodeError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, NodeError> {
        self.map_err(|source| NodeError::Setup {
            doing: doing(),
            source: source.into(),
        })
    }
}

impl Spec {
    /// Reads what [`Spec::to_json`] gave.
    pub fn read(path: &Path) -> Result<Self, NodeError> {
        let wrong = |source| NodeError::Spec {
            path: path.to_owned(),
            source,
        };
        let text = std::fs::read(path).map_err(wrong)?;
        serde_json::from_slice(&text).map_err(|error| wrong(error.into()))
    }

    /// As the text that `lab node` reads.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::json!(self).to_string()
    }

    fn log(&self, program: &str) -> PathBuf {
        self.dir.join(format!("{program}.log"))
    }
}

/// The node, until it ends, which is always an error. Must be called by a process with one thread: namespaces are entered by
/// the calling thread alone.
pub fn main(spec: &Path) -> Result<std::convert::Infallible, NodeError> {
    let spec = Spec::read(spec)?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
        .doing(|| "leave the lab's mount and host name namespaces".into())?;
    nix::unistd::sethostname(&spec.name).doing(|| format!("be called {}", spec.name))?;
    mounts::lay_out(&spec.dir)?;
    if let Some(cgroup) = &spec.cgroup {
        let root = Path::new(cgroups::ROOT);
        cgroups::create(root, cgroup, &spec.name)
            .doing(|| format!("make the cgroup {cgroup}/{}", spec.name))?;
    }
    let cni = packages::cni_plugins().ok_or(NodeError::Missing("the CNI plugin `bridge`"))?;
    for (path, text, mode) in config::files(&spec, cni) {
        write(&path, &text, mode).doing(|| format!("write {}", path.display()))?;
    }
    run(&spec)
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, text)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Starts containerd, gives it the images, starts the kubelet, and waits.
fn run(spec: &Spec) -> Result<std::convert::Infallible, NodeError> {
    let containerd = spawn(spec, "containerd", |command| {
        command
            .arg("--config")
            .arg(spec.dir.join(config::CONTAINERD))
    })?;
    listening(spec)?;
    for image in &spec.images {
        import(spec, image)?;
    }
    let kubelet = spawn(spec, "kubelet", |command| {
        command
            .arg("--config")
            .arg(spec.dir.join(config::KUBELET))
            .arg("--kubeconfig")
            .arg(&spec.kubeconfig)
            .args(["--hostname-override", &spec.name])
            .args(["--node-ip", &spec.address.to_string()])
    })?;
    let (program, other, status) = loop {
        let status = wait().doing(|| "wait for the node's programs".into())?;
        match status.pid() {
            Some(pid) if pid == containerd => break ("containerd", kubelet, status),
            Some(pid) if pid == kubelet => break ("kubelet", containerd, status),
            _ => {}
        }
    };
    // Half a node is worse than none; the other may have ended at the same moment.
    let _ = kill(other, Signal::SIGKILL);
    Err(NodeError::Ended {
        program,
        status: describe(status),
        log: spec.log(program),
    })
}

/// One of this node's programs, found before everything else of that name.
fn program(spec: &Spec, name: &str) -> Command {
    let mut path = spec.bin.clone().into_os_string();
    path.push(":");
    path.push(packages::search_path());
    let mut command = Command::new(spec.bin.join(name));
    command.env("PATH", path).stdin(Stdio::null());
    command
}

fn spawn(
    spec: &Spec,
    name: &'static str,
    arguments: impl FnOnce(&mut Command) -> &mut Command,
) -> Result<Pid, NodeError> {
    let log = spec.log(name);
    let file = File::options().create(true).append(true).open(&log);
    let file = file.doing(|| format!("open {}", log.display()))?;
    let errors = file
        .try_clone()
        .doing(|| format!("open {}", log.display()))?;
    let mut command = program(spec, name);
    arguments(&mut command)
        // containerd says in its log, at every start, what a later version will not understand.
        .env("CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS", "1")
        .stdout(file)
        .stderr(errors);
    let child = command.spawn().doing(|| format!("start {name}"))?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other);
    Ok(Pid::from_raw(pid.doing(|| format!("follow {name}"))?))
}

/// Waits until containerd accepts connections: its socket is there before anything else it does for a kubelet.
fn listening(spec: &Spec) -> Result<(), NodeError> {
    let deadline = Instant::now() + CONTAINERD_DEADLINE;
    while UnixStream::connect(config::CONTAINERD_SOCKET).is_err() {
        if Instant::now() >= deadline {
            let log = spec.log("containerd");
            return Err(NodeError::Silent { log });
        }
        std::thread::sleep(CONTAINERD_RETRY);
    }
    Ok(())
}

fn import(spec: &Spec, image: &Path) -> Result<(), NodeError> {
    let output = program(spec, "ctr")
        .args(["--address", config::CONTAINERD_SOCKET])
        .args(["--namespace", "k8s.io", "images", "import"])
        .arg(image)
        .output()
        .doing(|| "run ctr".into())?;
    if output.status.success() {
        return Ok(());
    }
    Err(NodeError::Import {
        image: image.to_owned(),
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

fn describe(status: WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, code) => format!("exit code {code}"),
        WaitStatus::Signaled(_, signal, _) => signal.to_string(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_specification_survives_its_file() {
        let spec = config::tests::spec(None);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spec.json");
        std::fs::write(&path, spec.to_json()).unwrap();
        assert_eq!(Spec::read(&path).unwrap(), spec);
        std::fs::write(&path, "{}").unwrap();
        assert!(
            Spec::read(&path)
                .unwrap_err()
                .to_string()
                .contains("no node specification")
        );
    }
}
