//! Finds this project's own programs (`lab`, `berth-hub`, `berth-agent`) next to the running one, and has cargo build them when
//! they are missing or older than the sources. Knows the layout of the target directory; must not know what they do.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tokio::process::Command;

use crate::error::{Context, Error, Result};

/// A program, and what it is made of, relative to the workspace.
struct Program {
    name: &'static str,
    sources: &'static [&'static str],
}

/// The lab's own first.
const PROGRAMS: [Program; 3] = [
    Program {
        name: "lab",
        sources: &["Cargo.lock", "tests/lab/Cargo.toml", "tests/lab/src"],
    },
    Program {
        name: "berth-hub",
        sources: &["Cargo.lock", "build.rs", "proto", "common", "hub"],
    },
    Program {
        name: "berth-agent",
        sources: &["Cargo.lock", "build.rs", "proto", "common", "agent"],
    },
];

/// The root of this workspace.
pub(crate) fn workspace() -> PathBuf {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR"));
    lab.ancestors().nth(2).unwrap_or(lab).to_path_buf()
}

/// The directory with the programs, none older than its sources: `lab`, and with `berth` the hub and the agent.
pub(crate) async fn directory(berth: bool) -> Result<PathBuf> {
    let me = std::env::current_exe().context("cannot find the running program")?;
    let directory = directory_of(&me)
        .ok_or_else(|| Error::Start(format!("{} is not in a target directory", me.display())))?;
    let wanted = if berth { PROGRAMS.len() } else { 1 };
    let stale = PROGRAMS.iter().take(wanted).any(|program| {
        let path = directory.join(program.name);
        let sources = program.sources.iter();
        let newest = sources
            .map(|source| newest(&workspace().join(source)))
            .max();
        path != me && modified(&path) < newest.flatten()
    });
    if stale {
        build(&directory).await?;
    }
    Ok(directory)
}

/// Builds the whole workspace's programs, as the tests' own build does: with fewer packages cargo would choose other features
/// of what they share, and build all that again.
async fn build(directory: &Path) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace())
        .args(["build", "--quiet", "--workspace", "--bins"]);
    if directory
        .file_name()
        .is_some_and(|profile| profile == "release")
    {
        command.arg("--release");
    }
    if let Some(target) = directory.parent() {
        command.arg("--target-dir").arg(target);
    }
    let output = command.output().await.context("cannot run cargo")?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(Error::Start(format!(
        "cargo cannot build this project's programs:\n{complaint}"
    )))
}

/// `target/<profile>` of a program or a test within it.
fn directory_of(program: &Path) -> Option<PathBuf> {
    let directory = program.parent()?;
    match directory.file_name()?.to_str()? {
        "deps" | "examples" => Some(directory.parent()?.to_path_buf()),
        _ => Some(directory.to_path_buf()),
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().ok()?.modified().ok()
}

/// When the newest file at or below a path was changed.
fn newest(path: &Path) -> Option<SystemTime> {
    if !path.is_dir() {
        return modified(path);
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| newest(&entry.path())).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_and_programs_share_a_directory() {
        for program in ["/w/target/debug/lab", "/w/target/debug/deps/smoke-1f"] {
            let found = directory_of(Path::new(program)).unwrap();
            assert_eq!(found, Path::new("/w/target/debug"));
        }
    }

    #[test]
    fn the_workspace_is_this_one() {
        assert!(workspace().join("proto/lib.rs").is_file());
    }
}
