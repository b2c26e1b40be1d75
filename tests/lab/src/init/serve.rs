//! The control socket's server: reads one request per connection and has it done. Knows the protocol; must not hold state of
//! its own.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

use super::children::Children;
use super::{dial, run};
use crate::error::{Context, Error, Result};
use crate::protocol::{self, Reply, Request};

/// How long a failed accept waits for the next.
const BETWEEN: Duration = Duration::from_millis(20);

/// Serves until somebody asks for a shutdown.
pub(super) async fn accept(listener: &UnixListener, children: &Children) {
    let shutdown = Arc::new(Notify::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.notified() => return,
        };
        // Accepting fails only for want of file descriptors, which come back when connections end.
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(BETWEEN).await;
            continue;
        };
        let (children, shutdown) = (children.clone(), shutdown.clone());
        tokio::spawn(async move { connection(stream, &children, &shutdown).await });
    }
}

/// One request and its answer. A caller that went away has lost interest in errors too.
async fn connection(stream: UnixStream, children: &Children, shutdown: &Notify) {
    let mut stream = BufReader::new(stream);
    let Ok(request) = protocol::read::<Request>(&mut stream).await else {
        return;
    };
    if let Request::Dial { netns, address } = &request {
        match dial::dial(netns.as_deref(), *address).await {
            Ok(mut target) => {
                if protocol::write(&mut stream, &Reply::Done).await.is_ok() {
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut target).await;
                }
            }
            Err(error) => {
                let _ = protocol::write(&mut stream, &failed(&error)).await;
            }
        }
        return;
    }
    let last = request == Request::Shutdown;
    let mut byte = [0; 1];
    let reply = tokio::select! {
        reply = answer(children, request) => reply.unwrap_or_else(|error| failed(&error)),
        // A caller says nothing after its request: this is its end.
        _ = stream.get_mut().read(&mut byte) => return,
    };
    let _ = protocol::write(&mut stream, &reply).await;
    if last {
        shutdown.notify_one();
    }
}

async fn answer(children: &Children, request: Request) -> Result<Reply> {
    Ok(match request {
        Request::Spawn { name, command, log } => Reply::Started {
            pid: run::spawn(children, name, &command, &log)?.pid,
        },
        Request::Signal { name, signal } => {
            let signal = Signal::try_from(signal).context("there is no such signal")?;
            let process = children.named(&name)?;
            if process.exit().is_none() {
                process.signal(signal)?;
            }
            Reply::Done
        }
        Request::Wait { name } => Reply::Exited(children.named(&name)?.wait().await),
        Request::Status { name } => {
            let process = children.named(&name)?;
            match process.exit() {
                Some(exit) => Reply::Exited(exit),
                None => Reply::Started { pid: process.pid },
            }
        }
        Request::Exec { command, stdin } => {
            let (exit, stdout, stderr) = run::exec(children, &command, &stdin).await?;
            Reply::Output {
                exit,
                stdout,
                stderr,
            }
        }
        Request::Datagram {
            netns,
            address,
            payload,
        } => Reply::Datagram {
            payload: dial::datagram(netns, address, payload).await?,
        },
        Request::Shutdown | Request::Dial { .. } => Reply::Done,
    })
}

fn failed(error: &Error) -> Reply {
    Reply::Failed {
        message: error.chain(),
    }
}
