//! Making one part: compile it, copy it out of a module, or wrap it in an image. Shows progress while it runs, gives the part
//! its name only when it is whole, and must not decide what is needed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use super::cache;
use super::catalogue::{Part, Source};
use super::go::Go;
use super::module::{Module, TAGS};
use crate::image;
use crate::progress::{Progress, State, Step};

/// How often a running build is reported.
const TICK: Duration = Duration::from_secs(1);
/// How much of a failed build's log goes into the error.
const LOG_TAIL: usize = 12;

/// Why a part could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The compiler refused, or could not fetch a dependency.
    #[error("building {part} failed ({status}); the end of {log}:\n{tail}")]
    Failed {
        /// Which part.
        part: &'static str,
        /// How the command ended.
        status: ExitStatus,
        /// Where everything it said is.
        log: PathBuf,
        /// The last lines of that.
        tail: String,
    },
    /// `go mod download` answered in a way that is not understood.
    #[error("cannot tell where module {module} was downloaded to: {reason}")]
    Download {
        /// The module's path.
        module: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Reading or writing the cache failed.
    #[error("{path}: cannot make {part} there")]
    Io {
        /// Which part.
        part: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Makes `part` in its module's directory `dir`, unless it is there already, and returns its path. An image takes its program
/// from `bin`.
pub(super) fn make(
    go: &Go,
    part: &'static Part,
    dir: &Path,
    bin: &Path,
    step: &Step<'_>,
    progress: &mut dyn Progress,
) -> Result<PathBuf, BuildError> {
    let path = dir.join(part.name);
    if path.exists() {
        return Ok(path);
    }
    let started = Instant::now();
    progress.step(step, State::Started);
    let made = make_at(go, part, (dir, bin), &path, step, progress);
    let state = if made.is_ok() {
        State::Done
    } else {
        State::Failed
    };
    progress.step(step, state(started.elapsed()));
    made.map(|()| path)
}

fn make_at(
    go: &Go,
    part: &'static Part,
    (dir, bin): (&Path, &Path),
    path: &Path,
    step: &Step<'_>,
    progress: &mut dyn Progress,
) -> Result<(), BuildError> {
    let failed = |source| BuildError::Io {
        part: part.name,
        path: path.to_owned(),
        source,
    };
    let source = unpack(part.module, dir).map_err(failed)?;
    let new = cache::temporary(path);
    match part.source {
        Source::Package(package) => {
            let mut command = go.command(&source);
            command
                .args(["build", "-trimpath", "-tags", TAGS, "-ldflags"])
                .arg(part.module.ldflags())
                .arg("-o")
                .arg(&new)
                .arg(package);
            let log = dir.join(format!("{}.log", part.name));
            run(command, part.name, &log, step, progress)?;
        }
        Source::File(module, file) => {
            let found = downloaded(go, &source, module)?;
            let text = std::fs::read(found.join(file)).map_err(failed)?;
            std::fs::write(&new, text).map_err(failed)?;
        }
        Source::Image(program, user) => {
            let image = image::Image {
                name: &format!("lab.local/{program}:1"),
                program: &bin.join(program),
                user,
            };
            image.write(&new).map_err(failed)?;
        }
    }
    std::fs::rename(&new, path).map_err(failed)
}

/// Writes the module's files below `dir`, so that the go tool has something to run in.
fn unpack(module: &Module, dir: &Path) -> io::Result<PathBuf> {
    let root = dir.join("src");
    for (name, text) in module.files {
        let path = root.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, text)?;
    }
    Ok(root)
}

/// Runs a command to its end, its output in `log`, and reports while it runs.
fn run(
    mut command: Command,
    part: &'static str,
    log: &Path,
    step: &Step<'_>,
    progress: &mut dyn Progress,
) -> Result<(), BuildError> {
    let failed = |source| BuildError::Io {
        part,
        path: log.to_owned(),
        source,
    };
    let file = File::create(log).map_err(failed)?;
    let started = Instant::now();
    let child = command
        .stdout(file.try_clone().map_err(failed)?)
        .stderr(file)
        .spawn()
        .map_err(failed)?;
    let status = watch(
        child,
        |elapsed| {
            progress.step(step, State::Running(elapsed));
        },
        started,
    )
    .map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    Err(BuildError::Failed {
        part,
        status,
        log: log.to_owned(),
        tail: lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n"),
    })
}

/// Waits for a child and calls `tick` about once a second meanwhile.
fn watch(
    mut child: Child,
    mut tick: impl FnMut(Duration),
    started: Instant,
) -> io::Result<ExitStatus> {
    let (ended, end) = sync_channel(1);
    std::thread::spawn(move || ended.send(child.wait()));
    loop {
        match end.recv_timeout(TICK) {
            Ok(status) => return status,
            Err(RecvTimeoutError::Timeout) => tick(started.elapsed()),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(io::Error::other(
                    "the thread that waited for the build is gone",
                ));
            }
        }
    }
}

/// Where the go tool keeps a dependency's files; downloads it if need be.
fn downloaded(go: &Go, source: &Path, module: &'static str) -> Result<PathBuf, BuildError> {
    let wrong = |reason: String| BuildError::Download { module, reason };
    let output = go
        .command(source)
        .args(["mod", "download", "-json", module])
        .output()
        .map_err(|error| wrong(error.to_string()))?;
    if !output.status.success() {
        return Err(wrong(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ));
    }
    let answer: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|error| wrong(error.to_string()))?;
    answer["Dir"]
        .as_str()
        .map(PathBuf::from)
        .ok_or_else(|| wrong(format!("no Dir in {answer}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    const STEP: Step<'_> = Step {
        number: 1,
        total: 1,
        name: "x",
        doing: "building",
        usual: None,
    };

    #[test]
    fn a_failed_build_shows_the_end_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "seq 100; echo boom >&2; exit 3"]);
        let error = run(command, "x", &dir.path().join("x.log"), &STEP, &mut Silent).unwrap_err();
        let text = error.to_string();
        assert!(
            text.ends_with("100\nboom") && text.contains("x.log"),
            "{text}"
        );
        assert!(!text.contains("\n50\n"));
    }

    #[test]
    fn a_successful_build_is_silent() {
        let dir = tempfile::tempdir().unwrap();
        run(
            Command::new("true"),
            "x",
            &dir.path().join("x.log"),
            &STEP,
            &mut Silent,
        )
        .unwrap();
    }
}
