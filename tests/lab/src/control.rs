//! The way from outside into the lab: one method per request of the control protocol. Knows the socket; must not know what the
//! commands are for.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::signal::Signal;
use tokio::io::BufReader;
use tokio::net::UnixStream;

use crate::error::{Context, Error, Result};
use crate::protocol::{self, Exit, Reply, Request};

/// How much of a failed command's output an error shows.
const SHOWN: usize = 4_000;

/// A connection into the lab that is open when it comes from [`Control::dial`]: bytes both ways.
pub(crate) type Stream = BufReader<UnixStream>;

/// Sends requests into the lab. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    socket: Arc<Path>,
}

impl Control {
    /// Speaks to the lab whose run directory this is.
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self {
            socket: run_dir.join("control.sock").into(),
        }
    }

    async fn connect(&self) -> Result<Stream> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.with_context(|| {
            format!("no lab answers at {}: it has ended", self.socket.display())
        })?;
        Ok(BufReader::new(stream))
    }

    /// The process id of the lab's inside, as seen from here.
    pub(crate) async fn pid(&self) -> Result<i32> {
        let stream = self.connect().await?;
        let peer = stream.get_ref().peer_cred();
        let pid = peer.context("cannot see who serves the lab")?.pid();
        pid.ok_or_else(|| Error::Start("the lab's inside is not visible from here".into()))
    }

    async fn ask(&self, request: &Request) -> Result<Reply> {
        let mut stream = self.connect().await?;
        protocol::write(&mut stream, request).await?;
        match protocol::read(&mut stream).await? {
            Reply::Failed { message } => Err(Error::Refused(message)),
            reply => Ok(reply),
        }
    }

    /// Starts a process that stays; see [`crate::process::Process`] for the comfortable way.
    pub(crate) async fn spawn(
        &self,
        name: &str,
        command: protocol::Command,
        log: PathBuf,
    ) -> Result<i32> {
        let name = name.to_owned();
        let reply = self.ask(&Request::Spawn { name, command, log }).await?;
        match reply {
            Reply::Started { pid } => Ok(pid),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a signal to a named process; one that has ended is no error.
    pub(crate) async fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let name = name.to_owned();
        let signal = signal as i32;
        self.ask(&Request::Signal { name, signal }).await.map(drop)
    }

    /// Waits until a named process has ended.
    pub(crate) async fn wait(&self, name: &str) -> Result<Exit> {
        let name = name.to_owned();
        match self.ask(&Request::Wait { name }).await? {
            Reply::Exited(exit) => Ok(exit),
            other => Err(unexpected(&other)),
        }
    }

    /// The process id inside the lab of a named process, or how it ended.
    pub(crate) async fn status(&self, name: &str) -> Result<Result<i32, Exit>> {
        let name = name.to_owned();
        match self.ask(&Request::Status { name }).await? {
            Reply::Started { pid } => Ok(Ok(pid)),
            Reply::Exited(exit) => Ok(Err(exit)),
            other => Err(unexpected(&other)),
        }
    }

    /// Opens a TCP connection from within the lab.
    pub(crate) async fn dial(&self, netns: Option<&str>, address: SocketAddr) -> Result<Stream> {
        let mut stream = self.connect().await?;
        let netns = netns.map(str::to_owned);
        protocol::write(&mut stream, &Request::Dial { netns, address }).await?;
        match protocol::read(&mut stream).await? {
            Reply::Done => Ok(stream),
            Reply::Failed { message } => Err(Error::Refused(message)),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a datagram from a host of the lab, and returns the answer.
    pub(crate) async fn datagram(
        &self,
        netns: &str,
        address: SocketAddr,
        payload: &str,
    ) -> Result<String> {
        let request = Request::Datagram {
            netns: netns.to_owned(),
            address,
            payload: payload.to_owned(),
        };
        match self.ask(&request).await? {
            Reply::Datagram { payload } => Ok(payload),
            other => Err(unexpected(&other)),
        }
    }

    /// Waits until the lab has ended.
    pub(crate) async fn ended(&self) -> Result<()> {
        let mut stream = self.connect().await?;
        // A connection that says nothing stays open as long as the inside lives.
        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1]).await;
        Ok(())
    }

    /// Ends the lab.
    pub(crate) async fn shutdown(&self) -> Result<()> {
        self.ask(&Request::Shutdown).await.map(drop)
    }

    /// Prepares a command to be run inside.
    pub(crate) fn command<S: Into<String>>(&self, argv: impl IntoIterator<Item = S>) -> Command {
        self.prepared(protocol::Command {
            netns: None,
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
        })
    }

    /// Prepares a command that is described already.
    pub(crate) fn prepared(&self, what: protocol::Command) -> Command {
        Command {
            control: self.clone(),
            what,
            stdin: String::new(),
        }
    }
}

fn unexpected(reply: &Reply) -> Error {
    Error::Refused(format!("an answer to another question came: {reply:?}"))
}

/// A command to be run inside the lab, to its end.
#[derive(Debug, Clone)]
#[must_use = "nothing happens before `run` or `output`"]
pub struct Command {
    control: Control,
    what: protocol::Command,
    stdin: String,
}

/// What a command that ran left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Output {
    /// The exit code, as a shell would give it, and both outputs in one text: the complaints last.
    #[must_use]
    pub fn told(self) -> (i32, String) {
        let code = match self.exit {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        };
        (code, self.stdout + &self.stderr)
    }
}

impl Command {
    /// In that network namespace.
    pub fn netns(mut self, name: &str) -> Self {
        self.what.netns = Some(name.to_owned());
        self
    }

    /// With this variable in its otherwise clean environment.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.what.env.push((name.to_owned(), value.into()));
        self
    }

    /// Reading this text.
    pub fn stdin(mut self, text: impl Into<String>) -> Self {
        self.stdin = text.into();
        self
    }

    /// Runs it and returns whatever came of it.
    pub async fn output(self) -> Result<Output> {
        let request = Request::Exec {
            command: self.what,
            stdin: self.stdin,
        };
        match self.control.ask(&request).await? {
            Reply::Output {
                exit,
                stdout,
                stderr,
            } => Ok(Output {
                exit,
                stdout,
                stderr,
            }),
            other => Err(unexpected(&other)),
        }
    }

    /// Runs it and returns what it printed; ending badly is an error.
    pub async fn run(self) -> Result<String> {
        let command = self.what.argv.join(" ");
        let output = self.output().await?;
        if output.exit.success() {
            return Ok(output.stdout);
        }
        let text = format!("{}\n{}", output.stderr.trim_end(), output.stdout.trim_end());
        Err(Error::Command {
            command,
            exit: output.exit,
            output: tail(text.trim(), SHOWN).to_owned(),
        })
    }
}

/// The last `bytes` of a text, from the start of a line where there is one.
pub(crate) fn tail(text: &str, bytes: usize) -> &str {
    let mut from = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let end = &text[from..];
    match end.find('\n') {
        Some(newline) if from > 0 => &end[newline + 1..],
        _ => end,
    }
}

#[cfg(test)]
mod tests {
    use super::tail;

    #[test]
    fn a_tail_starts_with_a_whole_line() {
        assert_eq!(tail("one\ntwo\nthree", 8), "three");
        assert_eq!(tail("short", 80), "short");
        assert_eq!(tail("ééé", 3), "é");
    }
}
