//! A TLS stream that remembers why it broke. The server's verdict on our certificate comes as an alert after our side of
//! the handshake is done, and the layers above would report only that the connection is gone.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use super::root;

/// Why a stream broke, once it did. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Fate(Arc<Mutex<Option<String>>>);

impl Fate {
    /// The cause, if there was one besides an orderly end.
    pub fn cause(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The first cause is the one that counts.
    fn seal(&self, error: &io::Error) {
        let mut fate = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fate.get_or_insert_with(|| root(error));
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause() {
            Some(cause) => f.write_str(&cause),
            None => f.write_str("the hub closed the connection"),
        }
    }
}

/// The stream.
#[derive(Debug)]
pub(super) struct Stream {
    tls: TlsStream<TcpStream>,
    fate: Fate,
}

impl Stream {
    pub(super) fn new(tls: TlsStream<TcpStream>, fate: Fate) -> Self {
        Self { tls, fate }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.tls).poll_read(cx, buffer));
        Poll::Ready(read.inspect_err(|error| self.fate.seal(error)))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}
