//! Turns a [`Command`] of the protocol into a running process: namespace, clean environment, output. Knows how a program is
//! started; must not know which one it is.

use std::fs::File;
use std::path::Path;
use std::process::{Command as Program, Stdio};

use std::os::unix::process::CommandExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};

use super::children::{Children, Follow};
use crate::error::{Context, Error, Result};
use crate::protocol::{Command, Exit, MAX_LINE};

/// Where programs are looked for: an ordinary user's `PATH` may lack the `sbin` directories.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of each of its two outputs a command may print.
const MAX_OUTPUT: u64 = MAX_LINE as u64 / 8;

/// Starts a process that stays.
pub(super) fn spawn(
    children: &Children,
    name: String,
    command: &Command,
    log: &Path,
) -> Result<Follow> {
    let open = || {
        File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open the log {}", log.display()))
    };
    let mut program = program(children, command)?;
    program.stdin(Stdio::null()).stdout(open()?).stderr(open()?);
    Ok(children.spawn(Some(name), &mut program)?.1)
}

/// Runs a command to its end. Dropped before that, it kills it.
pub(super) async fn exec(
    children: &Children,
    command: &Command,
    stdin: &str,
) -> Result<(Exit, String, String)> {
    let mut program = program(children, command)?;
    program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let (mut child, follow) = children.spawn(None, &mut program)?;
    let mut guard = KillOnDrop(follow);
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(to), Some(out), Some(err)) = pipes else {
        return Err(Error::Start("a pipe to the command is missing".into()));
    };
    let failed = "cannot use a pipe to the command";
    let mut to = ChildStdin::from_std(to).context(failed)?;
    let out = ChildStdout::from_std(out).context(failed)?;
    let err = ChildStderr::from_std(err).context(failed)?;
    let feed = async move {
        // A command that does not read its input to the end is its own business.
        let _ = to.write_all(stdin.as_bytes()).await;
    };
    let ((), out, err, exit) = tokio::join!(feed, text(out), text(err), guard.0.wait());
    Ok((exit, out, err))
}

/// Everything of a stream, up to the limit.
async fn text(stream: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    // A broken pipe is an end like any other; what was read until then counts.
    let _ = stream.take(MAX_OUTPUT).read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The program with its namespace and environment, not yet started. It leads a process group, so that signals reach what it
/// starts in turn.
fn program(children: &Children, command: &Command) -> Result<Program> {
    let mut argv: Vec<String> = Vec::new();
    if children.die_with_us() {
        argv.extend(["setpriv", "--pdeathsig", "KILL", "--"].map(String::from));
    }
    if let Some(netns) = &command.netns {
        argv.extend([
            "nsenter".into(),
            format!("--net=/run/netns/{netns}"),
            "--".into(),
        ]);
    }
    argv.extend(command.argv.iter().cloned());
    let (name, arguments) = argv
        .split_first()
        .ok_or_else(|| Error::Start("no command was given".into()))?;
    let mut program = Program::new(name);
    program
        .args(arguments)
        .env_clear()
        .envs([
            ("PATH", PATH),
            ("HOME", "/nonexistent"),
            ("LANG", "C.UTF-8"),
        ])
        .envs(command.env.iter().map(|(k, v)| (k, v)))
        .process_group(0);
    Ok(program)
}

/// Kills a process that nobody waits for any more.
struct KillOnDrop(Follow);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if self.0.exit().is_none() {
            // There is nobody to tell.
            let _ = self.0.signal(nix::sys::signal::Signal::SIGKILL);
        }
    }
}
