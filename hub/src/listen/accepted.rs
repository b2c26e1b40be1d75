//! An accepted connection: the TLS stream, and who is at its other end. It counts the frames that pass: a peer that floods it is
//! told to go (GOAWAY), and what the HTTP/2 library refuses gets its metric and its line in the audit log here.

use std::{
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use berth_common::identity::{Identity, IdentityError, PeerCertificate, Serial};
use futures::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::{
    Expiry, ListenMetrics,
    frames::{self, Flood, Frames, Meter, Refused},
    metrics::Counted,
    slots::Slot,
};
use crate::audit;

/// Who is at the other end; shared, in the extensions of every request of the connection.
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

impl Peer {
    /// The peer, for the audit log.
    pub fn subject(&self) -> audit::Subject<'_> {
        let identity = self.identity.as_ref().ok();
        audit::Subject {
            peer: Some(self.remote),
            tenant: identity.and_then(|certificate| match &certificate.identity {
                Identity::Tenant(name) => Some(name),
                _ => None,
            }),
            serial: self.serial.as_ref(),
            ..audit::Subject::default()
        }
    }
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
    /// Boxed: the server moves a connection through several futures, and each has room for all of it.
    stream: Box<TlsStream<TcpStream>>,
    /// Shared with the server, which has it in the extensions of every request.
    peer: Arc<Peer>,
    heard: Meter,
    said: Frames,
    /// With which codes streams were reset. The audit log is told each once, for there may be thousands.
    reset: Vec<u32>,
    metrics: ListenMetrics,
    // Both held for their drop, when the connection ends.
    _slot: Slot<Holder>,
    _open: Counted,
}

impl Accepted {
    pub(super) fn new(
        stream: TlsStream<TcpStream>,
        peer: Peer,
        slot: Slot<Holder>,
        metrics: ListenMetrics,
    ) -> Self {
        Self {
            stream: Box::new(stream),
            peer: Arc::new(peer),
            heard: Meter::new(),
            said: Frames::of_server(),
            reset: Vec::new(),
            _slot: slot,
            _open: metrics.count_open(),
            metrics,
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

    /// Counts what was sent of these bytes, and tells what it refuses.
    fn count_said(&mut self, bytes: &[u8]) {
        let (peer, metrics, reset) = (&self.peer, &self.metrics, &mut self.reset);
        self.said.scan(bytes, |frame| match frame.refusal() {
            Some(Refused::Connection(code)) => refused(peer, metrics, "goaway", code),
            Some(Refused::Stream(code)) => {
                metrics.refuse_frames("rst-stream", frames::name(code));
                if !reset.contains(&code) {
                    reset.push(code);
                    tell(peer, "rst-stream", code);
                }
            }
            None => {}
        });
    }

    /// Tells a peer that floods us to go, where that is possible at once: whoever does not read is not waited for.
    fn part(&mut self, cx: &mut Context<'_>) -> io::Error {
        if self.said.is_between_frames() {
            let goaway = frames::goaway();
            let mut stream = Pin::new(&mut self.stream);
            // Nothing can be done about a peer that is not reached any more.
            let _ = stream.as_mut().poll_write(cx, &goaway);
            let _ = stream.poll_flush(cx);
        }
        refused(
            &self.peer,
            &self.metrics,
            "goaway",
            frames::ENHANCE_YOUR_CALM,
        );
        io::ErrorKind::ConnectionAborted.into()
    }

    /// The TCP connection below.
    #[cfg(test)]
    pub(super) fn tcp(&self) -> &TcpStream {
        self.stream.get_ref().0
    }
}

fn refused(peer: &Peer, metrics: &ListenMetrics, frame: &'static str, code: u32) {
    metrics.refuse_frames(frame, frames::name(code));
    tell(peer, frame, code);
}

fn tell(peer: &Peer, frame: &str, code: u32) {
    let what = format!("HTTP/2 {frame}");
    audit::refusal(&peer.subject(), frames::name(code), &what);
}

impl Connected for Accepted {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
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
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let heard = buffer.filled().get(before..).unwrap_or_default();
        match self.heard.take(heard, Instant::now()) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(Flood) => Poll::Ready(Err(self.part(cx))),
        }
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.count_said(bytes.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
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
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?;
        let mut left = written;
        for slice in slices {
            let part = left.min(slice.len());
            self.count_said(slice.get(..part).unwrap_or_default());
            left -= part;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
