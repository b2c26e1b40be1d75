//! However a lab ends, nothing of it is left: no process, no directory, no cgroup. Its namespaces and mounts go with its last
//! process.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use berth_lab::{Seen, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// `lab up` with these arguments, once it runs, and its directory.
fn up(arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<(Child, PathBuf)> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["up", "--without-berth"])
        .args(arguments)
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child
        .stdout
        .take()
        .ok_or_else(|| anyhow::anyhow!("no stdout"))?;
    for line in BufReader::new(stdout).lines() {
        if let Some(log) = line?.trim().strip_prefix("Logs: ") {
            let directory = Path::new(log).parent().unwrap_or(Path::new("/"));
            return Ok((child, directory.to_owned()));
        }
    }
    anyhow::bail!("lab up ended with {}", child.wait()?)
}

/// What is left of the lab with that directory.
fn left(directory: &Path) -> Vec<String> {
    let name = directory
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut left = Vec::new();
    if directory.exists() {
        left.push(directory.display().to_string());
    }
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(&name) {
            left.push(command);
        }
    }
    for group in std::fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        let group = group.path().join(&name);
        if group.exists() {
            left.push(group.display().to_string());
        }
    }
    left
}

async fn ends(
    arguments: &[&str],
    environment: &[(&str, &str)],
    signal: Signal,
) -> anyhow::Result<()> {
    let (mut child, directory) = up(arguments, environment)?;
    let running = left(&directory);
    assert!(
        running
            .iter()
            .any(|process| process.contains("kube-apiserver")),
        "what is looked for can be seen while the lab runs: {running:?}"
    );
    kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
    child.wait()?;
    eventually(
        Duration::from_secs(10),
        "nothing of the lab is left",
        || async {
            let left = left(&directory);
            match left.is_empty() {
                true => Ok(()),
                false => Err(Seen(left.join("\n"))),
            }
        },
    )
    .await?;
    Ok(())
}

#[tokio::test]
async fn nothing_is_left_after_any_end() -> anyhow::Result<()> {
    ends(&[], &[], Signal::SIGKILL).await?;
    ends(&["--rootless"], &[], Signal::SIGINT).await?;
    ends(&[], &[("BERTH_LAB_FABRIC", "loopback")], Signal::SIGKILL).await?;
    // Real kubelets leave cgroups where they may have any.
    ends(&["--kubelets"], &[], Signal::SIGKILL).await
}
