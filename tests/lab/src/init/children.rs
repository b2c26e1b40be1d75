//! The table of processes inside the lab, and the reaping of those that end, orphans included. Knows process ids and how they
//! ended; must not know what they do.

use std::collections::HashMap;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::error::{Context, Error, Result};
use crate::protocol::Exit;

/// Follows one process to its end.
#[derive(Debug, Clone)]
pub(super) struct Follow {
    pub(super) pid: i32,
    exit: watch::Receiver<Option<Exit>>,
}

impl Follow {
    /// How it ended, if it has.
    pub(super) fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Waits for its end.
    pub(super) async fn wait(&mut self) -> Exit {
        match self.exit.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(exit)) => *exit,
            // The sender lives in the table until the exit is known, so this is the lab's own end.
            Ok(None) | Err(_) => Exit::Signal(Signal::SIGKILL as i32),
        }
    }

    /// Signals the process and everything in its group.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        match killpg(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno).context("cannot signal the process"),
        }
    }
}

#[derive(Debug, Default)]
struct Table {
    living: HashMap<i32, watch::Sender<Option<Exit>>>,
    named: HashMap<String, Follow>,
}

/// All processes that the lab started.
#[derive(Debug, Clone)]
pub(super) struct Children {
    table: Arc<Mutex<Table>>,
    die_with_us: bool,
}

impl Children {
    /// Starts reaping. `die_with_us` asks the kernel to end each process with this one, for when no pid namespace does so.
    pub(super) fn new(die_with_us: bool) -> Result<Self> {
        let mut ended = signal(SignalKind::child()).context("cannot wait for SIGCHLD")?;
        let children = Self {
            table: Arc::default(),
            die_with_us,
        };
        let reaper = children.clone();
        tokio::spawn(async move {
            while ended.recv().await.is_some() {
                reaper.reap();
            }
        });
        Ok(children)
    }

    /// Whether commands must be wrapped so that they die with this process.
    pub(super) fn die_with_us(&self) -> bool {
        self.die_with_us
    }

    /// Starts a process; with a name it can be found again, and the name must be free.
    pub(super) fn spawn(
        &self,
        name: Option<String>,
        command: &mut Command,
    ) -> Result<(Child, Follow)> {
        // Held while the process starts: the standard library reaps a child whose exec failed, and would panic if
        // the reaper had been faster.
        let mut table = self.lock();
        if let Some(name) = &name
            && table.named.get(name).is_some_and(|f| f.exit().is_none())
        {
            return Err(Error::Start(format!("{name} is running already")));
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        let pid = i32::try_from(child.id())
            .map_err(|_| Error::Start("the kernel gave an impossible process id".into()))?;
        let (sender, exit) = watch::channel(None);
        let follow = Follow { pid, exit };
        table.living.insert(pid, sender);
        if let Some(name) = name {
            table.named.insert(name, follow.clone());
        }
        Ok((child, follow))
    }

    /// The process of that name, dead or alive.
    pub(super) fn named(&self, name: &str) -> Result<Follow> {
        let table = self.lock();
        let follow = table.named.get(name).cloned();
        follow.ok_or_else(|| Error::Start(format!("no process is called {name}")))
    }

    /// Kills everything that was started and lives, and waits until it is gone, so that its ports are free again.
    pub(super) async fn kill_all(&self) {
        let mut ends = Vec::new();
        for (pid, sender) in &self.lock().living {
            // One that ended this instant is as good as killed.
            let _ = killpg(Pid::from_raw(*pid), Signal::SIGKILL);
            ends.push(sender.subscribe());
        }
        for mut end in ends {
            // A sender that is gone has sent.
            let _ = end.wait_for(Option::is_some).await;
        }
    }

    fn reap(&self) {
        let mut table = self.lock();
        loop {
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal as i32)),
                Err(Errno::EINTR) => continue,
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if let Some(sender) = table.living.remove(&pid.as_raw()) {
                sender.send_replace(Some(exit));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
