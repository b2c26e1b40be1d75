//! The process that outlives the lab: it starts the lab's inside, waits for its end, whatever the reason, and removes what no
//! namespace takes along, which is the run directory and cgroups. Knows paths; must not know what ran.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use crate::error::{Context, Error, Result};

/// How often a directory that is still in use is tried again, and how long after.
const ATTEMPTS: u32 = 50;
const BETWEEN: Duration = Duration::from_millis(100);

/// Runs `command` to its end in a session of its own, which the terminal's Ctrl-C does not reach, then tidies up.
pub(crate) fn main(run_dir: &Path, command: &[OsString]) -> Result<ExitStatus> {
    nix::unistd::setsid().context("cannot leave the terminal")?;
    let status = program(command)?.status();
    if let Some(name) = run_dir.file_name() {
        remove_cgroups(Path::new("/sys/fs/cgroup"), Path::new(name));
    }
    remove(run_dir);
    status.context("cannot start the lab's namespaces")
}

/// Makes directories visible under other paths, then becomes `command`. For a mount namespace of its own.
pub(crate) fn stage(binds: &[(PathBuf, PathBuf)], command: &[OsString]) -> Result<()> {
    for (from, to) in binds {
        let none: Option<&str> = None;
        mount(Some(from), to, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("cannot show {} as {}", from.display(), to.display()))?;
    }
    Err(program(command)?.exec()).context("cannot start the lab's namespaces")
}

fn program(command: &[OsString]) -> Result<Command> {
    let (name, arguments) = command
        .split_first()
        .ok_or_else(|| Error::Start("no command was given".into()))?;
    let mut program = Command::new(name);
    program.args(arguments);
    Ok(program)
}

/// Removes a run directory. Files of kubelets run by an ordinary user belong to that user's subordinate ids, so they are
/// removed from a namespace where those are root's.
pub(crate) fn remove(run_dir: &Path) {
    for _ in 0..ATTEMPTS {
        if std::fs::remove_dir_all(run_dir).is_ok() || !run_dir.exists() {
            return;
        }
        // If it cannot be started, the next attempt is the ordinary one again.
        let _ = Command::new("unshare")
            .args(["--user", "--map-root-user", "--map-auto", "rm", "-rf"])
            .arg(run_dir)
            .output();
        std::thread::sleep(BETWEEN);
    }
}

/// Removes the lab's cgroup from every hierarchy (version 1), or from the one (version 2). The kernel keeps a cgroup for a
/// moment after its last process is gone.
fn remove_cgroups(root: &Path, name: &Path) {
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten();
    let mine = hierarchies
        .map(|entry| entry.path().join(name))
        .chain([root.join(name)])
        .filter(|path| path.is_dir());
    for group in mine {
        for _ in 0..ATTEMPTS {
            if remove_tree(&group).is_ok() {
                break;
            }
            std::thread::sleep(BETWEEN);
        }
    }
}

/// Removes directories, the deepest first; files of a cgroup go with it.
fn remove_tree(group: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_labs_own_cgroups_go() {
        let root = tempfile::tempdir().unwrap();
        for path in [
            "cpu/berth-lab-x/node/pod",
            "cpu/other",
            "memory/berth-lab-x",
        ] {
            std::fs::create_dir_all(root.path().join(path)).unwrap();
        }
        remove_cgroups(root.path(), Path::new("berth-lab-x"));
        assert!(!root.path().join("cpu/berth-lab-x").exists());
        assert!(!root.path().join("memory/berth-lab-x").exists());
        assert!(root.path().join("cpu/other").exists());
    }
}
