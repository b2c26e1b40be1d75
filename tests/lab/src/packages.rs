//! The programs of the operating system that a lab calls: which are missing, which packages have them, and installing those
//! where that is allowed. Knows commands and Debian's package names; must not know what they are called for in detail.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::parts::Needs;
use crate::progress::{Progress, State, Step};

/// Where programs are, beyond what PATH says: an ordinary user's PATH often lacks the `sbin` directories.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// Where distributions keep CNI plugins.
const CNI: [&str; 3] = ["/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin"];
/// Where apt keeps what it knows of packages.
const APT_LISTS: &str = "/var/lib/apt/lists";

/// Why the packages are not all there.
#[derive(Debug, thiserror::Error)]
pub enum PackagesError {
    /// Some are missing, and this process may not install them.
    #[error("not found: {}", line(missing))]
    Missing {
        /// What is missing.
        missing: Vec<&'static Requirement>,
    },
    /// apt was asked and did not help.
    #[error("`apt-get {arguments}` failed:\n{tail}")]
    Apt {
        /// What it was asked.
        arguments: String,
        /// The end of what it said.
        tail: String,
    },
    /// apt could not be started.
    #[error("cannot run apt-get")]
    Io(#[from] io::Error),
}

/// One program that must be there.
#[derive(Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The command, or a CNI plugin's file name.
    pub command: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
    when: When,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Packets move: namespaces, links, kube-proxy's rules.
    Nodes,
    /// Pods are containers.
    Kubelets,
    /// Pods are containers, and the user is not root.
    RootlessKubelets,
}

const fn needs(command: &'static str, package: &'static str, when: When) -> Requirement {
    Requirement {
        command,
        package,
        when,
    }
}

/// Everything a lab calls. kube-proxy (mode nftables) runs `nft`; conntrack it reaches through netlink.
static REQUIREMENTS: &[Requirement] = &[
    needs("ip", "iproute2", When::Nodes),
    needs("nft", "nftables", When::Nodes),
    needs("nsenter", "util-linux", When::Nodes),
    needs("sysctl", "procps", When::Nodes),
    needs("runc", "runc", When::Kubelets),
    needs("bridge", "containernetworking-plugins", When::Kubelets),
    needs("newuidmap", "uidmap", When::RootlessKubelets),
];

impl Requirement {
    fn applies(&self, wanted: Needs, root: bool) -> bool {
        match self.when {
            When::Nodes => wanted.nodes || wanted.kubelets,
            When::Kubelets => wanted.kubelets,
            When::RootlessKubelets => wanted.kubelets && !root,
        }
    }

    fn is_there(&self) -> bool {
        if self.package == "containernetworking-plugins" {
            return cni_plugins().is_some();
        }
        which(self.command).is_some()
    }
}

/// A program's path: along PATH, then in the `sbin` directories.
#[must_use]
pub fn which(command: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path())
        .map(|dir| dir.join(command))
        .find(|path| is_executable(path))
}

/// A PATH that has the `sbin` directories, for the programs of the lab.
#[must_use]
pub fn search_path() -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .chain(SBIN.iter().map(PathBuf::from));
    // Joining fails only for a directory with a colon in it, and none that was split at colons has one.
    std::env::join_paths(dirs).unwrap_or(path)
}

/// The directory with the CNI plugins.
#[must_use]
pub fn cni_plugins() -> Option<&'static Path> {
    CNI.iter().map(Path::new).find(|dir| {
        ["bridge", "host-local"]
            .iter()
            .all(|name| is_executable(&dir.join(name)))
    })
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// What of `needs` is missing on this machine.
#[must_use]
pub fn missing(needs: Needs) -> Vec<&'static Requirement> {
    let root = nix::unistd::geteuid().is_root();
    REQUIREMENTS
        .iter()
        .filter(|requirement| requirement.applies(needs, root) && !requirement.is_there())
        .collect()
}

/// Makes sure that every program `needs` asks for is there: root with apt-get installs what is missing, anyone else gets an
/// error with the line to paste. Blocks.
pub fn ensure(needs: Needs, progress: &mut dyn Progress) -> Result<(), PackagesError> {
    let absent = missing(needs);
    if absent.is_empty() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() || which("apt-get").is_none() {
        return Err(PackagesError::Missing { missing: absent });
    }
    install(&packages(&absent), progress)?;
    let absent = missing(needs);
    if absent.is_empty() {
        Ok(())
    } else {
        Err(PackagesError::Missing { missing: absent })
    }
}

/// Installs, and refreshes apt's lists first where there are none, or where they turn out to be stale.
fn install(packages: &str, progress: &mut dyn Progress) -> Result<(), PackagesError> {
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(packages.split(' '));
    let mut step = Step {
        number: 1,
        total: 1,
        name: packages,
        doing: "installing with apt-get",
        usual: None,
    };
    let started = Instant::now();
    progress.step(&step, State::Started);
    let mut result = Ok(());
    let fresh = has_lists();
    if fresh {
        result = apt(&arguments);
    }
    if !fresh || result.is_err() {
        step.doing = "installing with apt-get, after apt-get update";
        progress.step(&step, State::Running(started.elapsed()));
        result = apt(&["update"]).and_then(|()| apt(&arguments));
    }
    let state = if result.is_ok() {
        State::Done
    } else {
        State::Failed
    };
    progress.step(&step, state(started.elapsed()));
    result
}

fn has_lists() -> bool {
    std::fs::read_dir(APT_LISTS).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    })
}

fn apt(arguments: &[&str]) -> Result<(), PackagesError> {
    let output = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    Err(PackagesError::Apt {
        arguments: arguments.join(" "),
        tail: lines[lines.len().saturating_sub(8)..].join("\n"),
    })
}

/// What is missing, and the line to paste.
#[must_use]
pub fn line(missing: &[&Requirement]) -> String {
    let names: Vec<&str> = missing.iter().map(|r| r.command).collect();
    format!(
        "{}; install with:\n  sudo apt-get install --yes {}",
        names.join(", "),
        packages(missing)
    )
}

fn packages(missing: &[&Requirement]) -> String {
    let mut names: Vec<&str> = missing.iter().map(|r| r.package).collect();
    names.sort_unstable();
    names.dedup();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applying(wanted: Needs, root: bool) -> Vec<&'static str> {
        REQUIREMENTS
            .iter()
            .filter(|requirement| requirement.applies(wanted, root))
            .map(|requirement| requirement.command)
            .collect()
    }

    #[test]
    fn control_planes_need_nothing_of_the_system() {
        assert!(applying(Needs::CONTROL_PLANES, true).is_empty());
    }

    #[test]
    fn only_an_ordinary_users_kubelets_need_newuidmap() {
        let kubelets = Needs {
            kubelets: true,
            ..Needs::CONTROL_PLANES
        };
        assert!(!applying(kubelets, true).contains(&"newuidmap"));
        assert!(applying(kubelets, false).contains(&"newuidmap"));
        assert!(applying(kubelets, true).contains(&"nft"));
    }

    #[test]
    fn the_error_has_one_line_to_paste() {
        let error = PackagesError::Missing {
            missing: REQUIREMENTS[1..6].iter().collect(),
        };
        assert_eq!(
            error.to_string(),
            "not found: nft, nsenter, sysctl, runc, bridge; install with:\n  sudo apt-get install --yes containernetworking-plugins nftables procps runc util-linux"
        );
    }

    #[test]
    fn programs_are_found_in_sbin_too() {
        assert!(which("sh").is_some());
        assert!(which("no-such-program-anywhere").is_none());
        let path = search_path();
        assert!(std::env::split_paths(&path).any(|dir| dir == Path::new("/usr/sbin")));
    }
}
