//! `lab shell`, `lab exec` and `lab down`: finding a running lab and entering it. Knows run directories and `nsenter`; must not
//! know what is inside.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use super::refuse;
use crate::control::Control;
use crate::error::{Context, Result};
use crate::wait::eventually;
use crate::{keeper, run_dir, shell};

/// The lab's end takes 0.2 s, and removing kubelets' files some more.
const END: Duration = Duration::from_secs(30);

/// A lab's inside listens within a second.
const STARTING: Duration = Duration::from_secs(60);

/// A run directory, and the process id of the lab's inside when it lives.
struct Found {
    path: PathBuf,
    pid: Option<i32>,
}

impl Found {
    fn is_dead(&self) -> bool {
        let modified = self
            .path
            .metadata()
            .and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|time| time.elapsed().ok());
        self.pid.is_none() && age.is_some_and(|age| age > STARTING)
    }
}

pub(super) async fn shell(lab: Option<String>) -> Result<ExitCode> {
    let (path, pid) = one(lab).await?;
    let rc = path.join(shell::RC);
    let command = [
        "bash".into(),
        "--rcfile".into(),
        rc.into_os_string(),
        "-i".into(),
    ];
    become_inside(pid, None, &command)
}

pub(super) async fn exec(
    lab: Option<String>,
    on: String,
    command: Vec<OsString>,
) -> Result<ExitCode> {
    let (_, pid) = one(lab).await?;
    become_inside(pid, Some(&on), &command)
}

pub(super) async fn down(lab: Option<String>, all: bool) -> Result<ExitCode> {
    let mut labs = find(lab.as_deref()).await;
    // What has no inside lost its keeper too, for a keeper would have removed it, or it is just starting.
    for dead in labs.iter().filter(|found| found.is_dead()) {
        println!("removing what is left of {}", dead.path.display());
        keeper::remove(&dead.path);
    }
    labs.retain(|found| found.pid.is_some());
    if labs.len() > 1 && !all {
        return several(&labs);
    }
    if labs.is_empty() {
        println!("no lab is running");
    }
    for lab in labs {
        println!("ending {}", lab.path.display());
        Control::new(&lab.path).shutdown().await?;
        eventually(END, "the lab's directory is gone", || async {
            match lab.path.exists() {
                true => Err(format!("{} is there", lab.path.display()).into()),
                false => Ok(()),
            }
        })
        .await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The one lab that was meant.
async fn one(name: Option<String>) -> Result<(PathBuf, i32)> {
    let mut labs = find(name.as_deref()).await;
    labs.retain(|found| found.pid.is_some());
    match labs.as_slice() {
        [
            Found {
                path,
                pid: Some(pid),
            },
        ] => Ok((path.clone(), *pid)),
        [] => refuse("no such lab is running: `lab up` starts one"),
        several_labs => several(several_labs),
    }
}

fn several<T>(labs: &[Found]) -> Result<T> {
    let names: Vec<_> = labs
        .iter()
        .filter_map(|lab| lab.path.file_name()?.to_str())
        .collect();
    refuse(format!(
        "several labs are running, name one with --lab: {}",
        names.join(", ")
    ))
}

/// This user's labs.
async fn find(name: Option<&str>) -> Vec<Found> {
    let entries = std::fs::read_dir(run_dir::parent());
    let mut found = Vec::new();
    for entry in entries.into_iter().flatten().flatten() {
        let file = entry.file_name();
        let file = file.to_string_lossy();
        let path = entry.path();
        let mine = file.starts_with(run_dir::PREFIX) && std::fs::read_dir(&path).is_ok();
        if mine && name.is_none_or(|name| name == file) {
            let pid = Control::new(&path).pid().await.ok();
            found.push(Found { path, pid });
        }
    }
    found
}

/// Becomes a command inside the lab, with this terminal.
fn become_inside(pid: i32, netns: Option<&str>, command: &[OsString]) -> Result<ExitCode> {
    let mut argv: Vec<OsString> = Vec::new();
    if !shares(pid, "net") {
        argv.extend(["nsenter".into(), format!("--target={pid}").into()]);
        if !shares(pid, "user") {
            argv.extend(["--user", "--preserve-credentials"].map(OsString::from));
        }
        argv.extend(["--net", "--mount", "--pid", "--"].map(OsString::from));
        if let Some(netns) = netns {
            let netns = format!("--net=/run/netns/{netns}");
            argv.extend(["nsenter".into(), netns.into(), "--".into()]);
        }
    } else if let Some(netns) = netns {
        return refuse(format!(
            "this lab runs without namespaces, and so without the host {netns}"
        ));
    }
    argv.extend(command.iter().cloned());
    let Some((program, arguments)) = argv.split_first() else {
        return refuse("no command was given");
    };
    let path = crate::packages::search_path();
    let failed = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .exec();
    Err(failed).with_context(|| format!("cannot run {}", program.to_string_lossy()))
}

/// Whether that process is in the same namespace as this one.
fn shares(pid: i32, kind: &str) -> bool {
    let of =
        |process: &str| std::fs::read_link(Path::new("/proc").join(process).join("ns").join(kind));
    match (of(&pid.to_string()), of("self")) {
        (Ok(theirs), Ok(ours)) => theirs == ours,
        _ => false,
    }
}
