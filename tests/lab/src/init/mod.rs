//! The first process inside the lab: PID 1 of its namespaces, or in loopback mode the parent of everything. It lives as long
//! as its standard input is open, which is held by the process that started the lab, so that no way to die leaves anything
//! behind. Knows processes, namespaces and sockets; must not know what a cluster is.

mod children;
mod dial;
mod run;
mod serve;

use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, unix::pipe};
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Context, Result};
use children::Children;

/// How long killed processes may take to be gone.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Runs until standard input ends, SIGTERM arrives or somebody asks for a shutdown.
///
/// `sandbox` says whether this process is alone in namespaces of its own. "ready" is printed once the control socket in
/// `run_dir` accepts connections.
///
/// The runtime must be a single-threaded one: in loopback mode the kernel ends the children together with the *thread* that
/// started them.
pub(crate) async fn main(run_dir: &Path, sandbox: bool) -> Result<()> {
    if sandbox {
        private_run()?;
    } else {
        nix::sys::prctl::set_child_subreaper(true).context("cannot become the lab's reaper")?;
    }
    let stdin = std::io::stdin().as_fd().try_clone_to_owned();
    let lifeline = stdin
        .and_then(pipe::Receiver::from_owned_fd)
        .context("standard input must be a pipe")?;
    let children = Children::new(!sandbox)?;
    let listener =
        UnixListener::bind(run_dir.join("control.sock")).context("cannot listen for the lab")?;
    println!("ready");
    std::io::stdout()
        .flush()
        .context("cannot say that the lab is ready")?;

    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    tokio::select! {
        () = end_of(lifeline) => {}
        _ = terminate.recv() => {}
        () = serve::accept(&listener, &children) => {}
    }
    // A process that not even SIGKILL ends hangs in the kernel; a namespace's end would wait for it just as long.
    let _ = tokio::time::timeout(LAST_WAIT, children.kill_all()).await;
    Ok(())
}

/// Gives the sandbox its own `/run`: the host's cannot be written by an ordinary user, and network namespaces, the xtables
/// lock and the sockets of container runtimes belong there.
fn private_run() -> Result<()> {
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=0755"),
    )
    .context("cannot mount a private /run")?;
    std::fs::create_dir("/run/netns").context("cannot make /run/netns")
}

/// Returns when whoever holds the other end of the pipe is gone.
async fn end_of(mut lifeline: pipe::Receiver) {
    let mut byte = [0; 1];
    while matches!(lifeline.read(&mut byte).await, Ok(1)) {}
}
