//! Connects to a TCP address from within a network namespace, for bytes that pass on at once. Knows setns and sockets, and
//! nothing else.

use std::fs::File;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::error::{Context, Error, Result};

/// The kernel says within three seconds that nobody answers on a link.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Connects from `netns`, or from the lab's own namespace.
pub(super) async fn dial(netns: Option<&str>, address: SocketAddr) -> Result<TcpStream> {
    let failed = || format!("cannot connect to {address}");
    let Some(netns) = netns else {
        let stream = TcpStream::connect(address).await.with_context(failed)?;
        stream.set_nodelay(true).with_context(failed)?;
        return Ok(stream);
    };
    let path = format!("/run/netns/{netns}");
    let (done, stream) = oneshot::channel();
    // A thread that changed its namespace must not be used for anything else, so it ends here.
    std::thread::spawn(move || {
        // Nobody waiting means that nobody wants the answer.
        let _ = done.send(connect(&path, address));
    });
    let stream = stream
        .await
        .map_err(|_| Error::Start("the connecting thread died".into()))??;
    stream.set_nonblocking(true).with_context(failed)?;
    TcpStream::from_std(stream).with_context(failed)
}

fn connect(netns: &str, address: SocketAddr) -> Result<StdStream> {
    let namespace = File::open(netns).with_context(|| format!("there is no {netns}"))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {netns}"))?;
    let failed = || format!("cannot connect to {address}");
    let stream = StdStream::connect_timeout(&address, TIMEOUT).with_context(failed)?;
    stream.set_nodelay(true).with_context(failed)?;
    Ok(stream)
}
