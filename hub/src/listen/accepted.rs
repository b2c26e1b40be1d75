//! An accepted connection: the TLS stream, and who is at its other end.

use std::{
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use berth_common::identity::{Identity, IdentityError, PeerCertificate, Serial};
use futures::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::{Expiry, metrics::Counted, slots::Slot};

/// Who is at the other end; in the extensions of every request of the connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The identity, with the certificate's serial number and dates; or why a certificate of our CA has none, which
    /// a service answers with UNAUTHENTICATED.
    pub identity: Result<PeerCertificate, IdentityError>,
    /// The certificate's serial number, whether it has an identity or not; for logs and audit.
    pub serial: Option<Serial>,
    /// Where the connection comes from.
    pub remote: SocketAddr,
    /// Ends the connection.
    pub hangup: Hangup,
    /// Until when it may live.
    pub expiry: Expiry,
}

/// Whom an open connection counts against.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// Its identity; None for certificates of our CA that name nobody.
    Identity(Option<Identity>),
    /// Its address, where there is no certificate.
    Address(IpAddr),
}

/// Ends a connection from outside of the server that has it. HTTP/2 cannot end a stream that its peer does not read: what
/// there is to say waits behind what is not read. Clones share the connection.
#[derive(Clone, Debug, Default)]
pub struct Hangup(Arc<Hook>);

#[derive(Debug, Default)]
struct Hook {
    hung_up: AtomicBool,
    waker: AtomicWaker,
}

impl Hangup {
    /// Closes the connection now, whatever is still to be sent.
    pub fn hang_up(&self) {
        self.0.hung_up.store(true, Ordering::Release);
        self.0.waker.wake();
    }

    fn is_hung_up(&self) -> bool {
        self.0.hung_up.load(Ordering::Acquire)
    }
}

/// A TLS stream that knows its peer.
#[derive(Debug)]
pub struct Accepted {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    // Both held for their drop, when the connection ends.
    _slot: Slot<Holder>,
    _open: Counted,
}

impl Accepted {
    pub(super) fn new(
        stream: TlsStream<TcpStream>,
        peer: Peer,
        slot: Slot<Holder>,
        open: Counted,
    ) -> Self {
        Self {
            stream,
            peer,
            _slot: slot,
            _open: open,
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// An error once the connection was hung up, and the task that polls is woken when it is.
    fn check(&self, cx: &mut Context<'_>) -> io::Result<()> {
        let hangup = &self.peer.hangup;
        hangup.0.waker.register(cx.waker());
        if !hangup.is_hung_up() {
            return Ok(());
        }
        // A reset: the kernel need not keep for minutes what the peer does not read.
        let _ = self.stream.get_ref().0.set_zero_linger();
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    /// The TCP connection below.
    #[cfg(test)]
    pub(super) fn tcp(&self) -> &TcpStream {
        self.stream.get_ref().0
    }
}

impl Connected for Accepted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
