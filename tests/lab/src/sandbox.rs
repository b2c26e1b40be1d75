//! The lab seen as a place where processes run: starts the keeper and through it the lab's inside, and holds the pipe whose
//! end is the lab's end. Knows isolation and paths; must not know what a cluster is.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::control::Control;
use crate::error::{Context, Error, Result};
use crate::isolation::{Isolation, NOBODY};
use crate::run_dir::RunDir;

/// How long the namespaces may take: it is a matter of milliseconds.
const DEADLINE: Duration = Duration::from_secs(20);

/// A running, empty lab. Dropping it ends it and everything inside.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// How to reach the inside.
    pub(crate) control: Control,
    /// Where its files are.
    pub(crate) run_dir: RunDir,
    /// What separates it from the machine.
    pub(crate) isolation: Isolation,
    keeper: Mutex<Option<(Child, ChildStdin)>>,
    shown: Vec<(PathBuf, PathBuf)>,
}

impl Sandbox {
    /// Starts one behind these walls. `programs` and `parts` are the directories with this project's programs and with everybody else's;
    /// `as_nobody` has a caller that is root start it as an ordinary user, who sees the two under the run directory.
    pub(crate) async fn start(
        isolation: Isolation,
        as_nobody: bool,
        programs: &Path,
        parts: &Path,
    ) -> Result<Self> {
        let run_dir = RunDir::create(as_nobody.then_some(NOBODY))?;
        let mut shown = Vec::new();
        if as_nobody {
            shown.push((programs.to_path_buf(), run_dir.directory("programs")?));
            shown.push((parts.to_path_buf(), run_dir.directory("parts")?));
        }
        let mut keeper = Command::new(programs.join("lab"));
        keeper.arg("keeper").arg(run_dir.path()).arg("--");
        if as_nobody {
            keeper.args(["unshare", "--mount", "--propagation", "private"]);
            keeper.arg(programs.join("lab")).arg("stage");
            for (from, to) in &shown {
                keeper.arg("--bind").arg(from).arg(to);
            }
            keeper.arg("--");
        }
        keeper.args(isolation.wrapper(as_nobody));
        keeper
            .arg(inside(&shown, &programs.join("lab")))
            .arg("init");
        if isolation.has_packets() {
            keeper.arg("--sandbox");
        }
        keeper.arg(run_dir.path());
        let lifeline = start(keeper).await?;
        Ok(Self {
            control: Control::new(run_dir.path()),
            run_dir,
            isolation,
            keeper: Mutex::new(Some(lifeline)),
            shown,
        })
    }

    /// How a path outside is called inside.
    pub(crate) fn inside(&self, path: &Path) -> String {
        inside(&self.shown, path).to_string_lossy().into_owned()
    }

    /// A port to listen on: the wanted one in namespaces, where nobody else is, and any free one on loopback.
    pub(crate) fn port(&self, wanted: u16) -> Result<u16> {
        if self.isolation.has_packets() {
            return Ok(wanted);
        }
        let failed = "cannot find a free port on 127.0.0.1";
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context(failed)?;
        Ok(listener.local_addr().context(failed)?.port())
    }

    /// Ends it and waits until nothing of it is left.
    pub(crate) async fn stop(&self) -> Result<()> {
        let keeper = match self.keeper.lock() {
            Ok(mut keeper) => keeper.take(),
            Err(poisoned) => poisoned.into_inner().take(),
        };
        let Some((mut keeper, lifeline)) = keeper else {
            return Ok(());
        };
        drop(lifeline);
        keeper
            .wait()
            .await
            .context("cannot wait for the lab's end")?;
        Ok(())
    }
}

fn inside(shown: &[(PathBuf, PathBuf)], path: &Path) -> PathBuf {
    for (from, to) in shown {
        if let Ok(rest) = path.strip_prefix(from) {
            return to.join(rest);
        }
    }
    path.to_path_buf()
}

/// Starts the keeper and waits until the inside is ready.
async fn start(mut keeper: Command) -> Result<(Child, ChildStdin)> {
    let failed = "cannot start the lab's keeper";
    let mut child = keeper
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context(failed)?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(lifeline), Some(stdout), Some(mut stderr)) = pipes else {
        return Err(Error::Start(failed.into()));
    };
    let mut line = String::new();
    let mut stdout = BufReader::new(stdout);
    let ready = tokio::time::timeout(DEADLINE, stdout.read_line(&mut line)).await;
    if !matches!(ready, Ok(Ok(_))) || line != "ready\n" {
        drop(lifeline);
        let mut complaint = String::new();
        let _ = tokio::time::timeout(DEADLINE, stderr.read_to_string(&mut complaint)).await;
        return Err(Error::Start(format!(
            "the lab's namespaces did not start: {}",
            complaint.trim()
        )));
    }
    // The inside has nothing to say any more, but a full pipe would block it.
    tokio::spawn(async move { tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await });
    Ok((child, lifeline))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_renamed_only_where_shown() {
        let shown = [(PathBuf::from("/root/bin"), PathBuf::from("/tmp/l/parts"))];
        assert_eq!(
            inside(&shown, Path::new("/root/bin/etcd")),
            Path::new("/tmp/l/parts/etcd")
        );
        assert_eq!(
            inside(&shown, Path::new("/usr/bin/ip")),
            Path::new("/usr/bin/ip")
        );
    }
}
