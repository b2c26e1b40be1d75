//! One named process inside the lab, which can be started, killed, stopped, frozen and read. Knows its command line; must not
//! know what it serves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::control::{self, Control, tail};
use crate::error::{Context, Error, Result};
use crate::protocol::{Command, Exit};
use crate::wait::{Seen, eventually};

/// How long a process may take to end after SIGTERM, before it is killed. Above the hub's own drain.
const GRACE: Duration = Duration::from_secs(30);

/// How much of a log an error shows.
const SHOWN: usize = 3_000;

/// A process of the lab. Cloning gives another handle to the same process.
#[derive(Debug, Clone)]
pub struct Process {
    control: Control,
    name: String,
    command: Command,
    log: PathBuf,
}

impl Process {
    pub(crate) fn new(control: Control, name: &str, argv: Vec<String>, log: PathBuf) -> Self {
        let command = Command {
            netns: None,
            argv,
            env: Vec::new(),
        };
        Self {
            control,
            name: name.to_owned(),
            command,
            log,
        }
    }

    /// In that network namespace.
    #[must_use]
    pub fn netns(mut self, name: Option<&str>) -> Self {
        self.command.netns = name.map(str::to_owned);
        self
    }

    /// With this variable in its otherwise clean environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.command.env.retain(|(known, _)| known != name);
        self.command.env.push((name.to_owned(), value.into()));
        self
    }

    /// With one more argument from the next start on.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.command.argv.push(argument.into());
        self
    }

    /// The same program with the same environment, settings and place, but another subcommand: a command to be run to its end.
    pub(crate) fn subcommand(&self, name: &str) -> control::Command {
        let mut command = self.command.clone();
        if let Some(first) = command.argv.get_mut(1) {
            name.clone_into(first);
        }
        self.control.prepared(command)
    }

    /// What it is called: `acme/kube-apiserver`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it. That it runs does not mean that it is ready.
    pub async fn start(&self) -> Result<()> {
        let spawned = self
            .control
            .spawn(&self.name, self.command.clone(), self.log.clone())
            .await;
        spawned
            .map(drop)
            .with_context(|| format!("cannot start {}", self.name))
    }

    /// Kills it, as a crash would, and waits until it is gone.
    pub async fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL).await?;
        self.exited().await.map(drop)
    }

    /// Asks it to end and waits until it has; one that does not is killed after half a minute, and that is an error.
    pub async fn stop(&self) -> Result<Exit> {
        self.signal(Signal::SIGTERM).await?;
        match tokio::time::timeout(GRACE, self.exited()).await {
            Ok(exit) => exit,
            Err(_) => {
                self.kill().await?;
                Err(Error::Start(format!(
                    "{} did not end within {GRACE:?} of SIGTERM",
                    self.name
                )))
            }
        }
    }

    /// Stops it and starts it again.
    pub async fn restart(&self) -> Result<()> {
        self.stop().await?;
        self.start().await
    }

    /// Freezes it: its connections stay open and nothing answers.
    pub async fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP).await
    }

    /// Lets a frozen one go on.
    pub async fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT).await
    }

    /// Waits until it has ended, and says how.
    pub async fn exited(&self) -> Result<Exit> {
        self.control.wait(&self.name).await
    }

    /// Whether it runs.
    pub async fn is_running(&self) -> Result<bool> {
        Ok(self.control.status(&self.name).await?.is_ok())
    }

    /// Its process id inside the lab, when it runs.
    pub async fn pid(&self) -> Result<i32> {
        self.control
            .status(&self.name)
            .await?
            .map_err(|exit| Error::Start(format!("{} has ended with {exit}", self.name)))
    }

    /// Its resident memory in KiB.
    pub async fn resident_kib(&self) -> Result<u64> {
        let status = format!("/proc/{}/status", self.pid().await?);
        let text = self.control.command(["cat", &status]).run().await?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        kib.ok_or_else(|| Error::Start(format!("{status} shows no VmRSS")))
    }

    /// Everything it has written so far, over all its starts.
    pub async fn log(&self) -> Result<String> {
        let bytes = tokio::fs::read(&self.log)
            .await
            .with_context(|| format!("cannot read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Where its log is.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Waits until `look` finds what it wants; if the process ends or the deadline passes, the error shows its log.
    pub(crate) async fn ready<T, F, Fut>(&self, deadline: Duration, look: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, Seen>>,
    {
        let what = format!("{} is ready", self.name);
        let reason = tokio::select! {
            found = eventually(deadline, &what, look) => match found {
                Ok(found) => return Ok(found),
                Err(error) => error.chain(),
            },
            exit = self.exited() => format!("it ended with {}", exit?),
        };
        let log = self.log().await.unwrap_or_default();
        Err(Error::Start(format!(
            "{} does not work: {reason}\nthe end of {}:\n{}",
            self.name,
            self.log.display(),
            tail(&log, SHOWN)
        )))
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        self.control.signal(&self.name, signal).await
    }
}
