//! Speaks from within a network namespace: connects to a TCP address for bytes that pass on at once, or sends one datagram. Knows
//! setns and sockets, and nothing else.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpStream as StdStream, UdpSocket};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::error::{Context, Error, Result};

/// The kernel says within three seconds that nobody answers on a link.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Whoever answers datagrams here does so at once.
const DATAGRAM: Duration = Duration::from_secs(1);

/// Connects from `netns`, or from the lab's own namespace.
pub(super) async fn dial(netns: Option<&str>, address: SocketAddr) -> Result<TcpStream> {
    let failed = || format!("cannot connect to {address}");
    let Some(netns) = netns else {
        let stream = TcpStream::connect(address).await.with_context(failed)?;
        stream.set_nodelay(true).with_context(failed)?;
        return Ok(stream);
    };
    let netns = netns.to_owned();
    let stream = inside(move || connect(&netns, address)).await?;
    stream.set_nonblocking(true).with_context(failed)?;
    TcpStream::from_std(stream).with_context(failed)
}

/// Sends a datagram from `netns` and returns the first that comes back from there.
pub(super) async fn datagram(
    netns: String,
    address: SocketAddr,
    payload: String,
) -> Result<String> {
    inside(move || {
        let failed = || format!("no answer from {address}");
        enter(&netns)?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).with_context(failed)?;
        socket.connect(address).with_context(failed)?;
        let patience = Some(DATAGRAM);
        socket.set_read_timeout(patience).with_context(failed)?;
        socket.send(payload.as_bytes()).with_context(failed)?;
        let mut answer = [0; 2048];
        let length = socket.recv(&mut answer).with_context(failed)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    })
    .await
}

/// Runs on a thread of its own: one that changed its namespace must not be used for anything else, so it ends there.
async fn inside<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (done, result) = oneshot::channel();
    std::thread::spawn(move || {
        // Nobody waiting means that nobody wants the answer.
        let _ = done.send(work());
    });
    let died = |_| Error::Start("the connecting thread died".into());
    result.await.map_err(died)?
}

/// Moves the calling thread into a network namespace.
fn enter(netns: &str) -> Result<()> {
    let path = format!("/run/netns/{netns}");
    let namespace = File::open(&path).with_context(|| format!("there is no {path}"))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {path}"))
}

fn connect(netns: &str, address: SocketAddr) -> Result<StdStream> {
    enter(netns)?;
    let failed = || format!("cannot connect to {address}");
    let stream = StdStream::connect_timeout(&address, TIMEOUT).with_context(failed)?;
    stream.set_nodelay(true).with_context(failed)?;
    Ok(stream)
}
