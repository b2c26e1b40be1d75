//! What the lab says to its process inside the namespaces ([`crate::init`]), and what that answers: one JSON line each way
//! per connection on a Unix socket. Knows shapes and the framing only; must not know what the processes are.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest line either side accepts, and so the most that a command may read or print.
pub(crate) const MAX_LINE: usize = 32 << 20;

/// What to run, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Command {
    /// The network namespace under `/run/netns`; `None` is the lab's own.
    pub(crate) netns: Option<String>,
    /// The program and its arguments.
    pub(crate) argv: Vec<String>,
    /// The whole environment besides `PATH`, `HOME` and `LANG`.
    pub(crate) env: Vec<(String, String)>,
}

/// One request; each has a connection of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Starts a process that stays, under a name that no living process has. Answer: [`Reply::Started`].
    Spawn {
        /// Its name from now on.
        name: String,
        /// What to run.
        command: Command,
        /// The file that its output is appended to.
        log: PathBuf,
    },
    /// Sends a signal to a named process and its group. Answer: [`Reply::Done`], also when it has ended.
    Signal {
        /// Which process.
        name: String,
        /// The signal's number.
        signal: i32,
    },
    /// Waits for a named process to end. Answer: [`Reply::Exited`].
    Wait {
        /// Which process.
        name: String,
    },
    /// Asks how a named process is. Answer: [`Reply::Started`] or [`Reply::Exited`].
    Status {
        /// Which process.
        name: String,
    },
    /// Runs a command to its end; closing the connection kills it. Answer: [`Reply::Output`].
    Exec {
        /// What to run.
        command: Command,
        /// What it reads.
        stdin: String,
    },
    /// Connects to a TCP address; after [`Reply::Done`] the connection is that stream.
    Dial {
        /// From which network namespace.
        netns: Option<String>,
        /// To where.
        address: SocketAddr,
    },
    /// Sends a datagram and waits a second for another. Answer: [`Reply::Datagram`].
    Datagram {
        /// From which network namespace.
        netns: String,
        /// To where.
        address: SocketAddr,
        /// What is sent.
        payload: String,
    },
    /// Ends the lab. Answer: [`Reply::Done`], then everything is gone.
    Shutdown,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// It was done.
    Done,
    /// The process lives.
    Started {
        /// Its process id inside the lab.
        pid: i32,
    },
    /// The process has ended.
    Exited(Exit),
    /// A command ran to its end. Bytes that are not UTF-8 are replaced.
    Output {
        /// How it ended.
        exit: Exit,
        /// What it printed.
        stdout: String,
        /// What it complained about.
        stderr: String,
    },
    /// A datagram came back. Bytes that are not UTF-8 are replaced.
    Datagram {
        /// What it says.
        payload: String,
    },
    /// It was not done.
    Failed {
        /// Why, for a person.
        message: String,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// Whether it ended by itself with code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Why a line could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side closed, or the socket failed.
    #[error("the connection to the lab's inside broke")]
    Io(#[from] std::io::Error),
    /// The other side closed in the middle of a line, or before it.
    #[error("the lab's inside closed the connection without an answer: it has ended, or is ending")]
    Closed,
    /// The line is longer than either side accepts.
    #[error("a message is longer than {MAX_LINE} bytes")]
    TooLong,
    /// The line is not what it should be.
    #[error("a message is malformed")]
    Json(#[from] serde_json::Error),
}

/// Writes one line.
pub(crate) async fn write<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> Result<(), FrameError> {
    let mut line = serde_json::to_vec(message)?;
    if line.len() >= MAX_LINE {
        return Err(FrameError::TooLong);
    }
    line.push(b'\n');
    to.write_all(&line).await?;
    Ok(to.flush().await?)
}

/// Reads one line, and nothing beyond it that is not left in the buffer.
pub(crate) async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncBufRead + Unpin),
) -> Result<T, FrameError> {
    let mut line = Vec::new();
    from.take(MAX_LINE as u64)
        .read_until(b'\n', &mut line)
        .await?;
    match line.last() {
        Some(b'\n') => Ok(serde_json::from_slice(&line)?),
        _ if line.len() >= MAX_LINE => Err(FrameError::TooLong),
        _ => Err(FrameError::Closed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_comes_back_and_leaves_the_rest_alone() {
        let sent = Reply::Output {
            exit: Exit::Signal(9),
            stdout: "two\nlines".into(),
            stderr: String::new(),
        };
        let mut wire = Vec::new();
        write(&mut wire, &sent).await.unwrap();
        wire.extend_from_slice(b"raw bytes");
        let mut rest = wire.as_slice();
        assert_eq!(read::<Reply>(&mut rest).await.unwrap(), sent);
        assert_eq!(rest, b"raw bytes");
    }

    #[tokio::test]
    async fn half_a_line_is_an_error() {
        let mut half = &b"{\"reply\":\"done\""[..];
        assert!(matches!(
            read::<Reply>(&mut half).await,
            Err(FrameError::Closed)
        ));
    }
}
