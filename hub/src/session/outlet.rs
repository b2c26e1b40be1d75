//! What the transport takes a session's messages from, and how it is seen that it does not get rid of them: it asks for the next
//! message when it has handed on the one before, and what the peer's window does not let through keeps it from asking.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::Stream;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::{STALL, Said};

/// The messages, as the transport takes them.
pub(super) struct Outlet {
    receiver: mpsc::Receiver<Said>,
    /// Whether it has asked for a message that there is not yet; told with every question.
    asks: watch::Sender<bool>,
    /// With a message in hand the transport looks once whether another can go with it: that is no question.
    looked: bool,
}

/// Whether the transport asks for more.
pub(super) struct Asked(watch::Receiver<bool>);

impl Outlet {
    pub(super) fn new(receiver: mpsc::Receiver<Said>) -> (Self, Asked) {
        let (asks, asked) = watch::channel(true);
        let outlet = Self {
            receiver,
            asks,
            looked: true,
        };
        (outlet, Asked(asked))
    }
}

impl Stream for Outlet {
    type Item = Said;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Said>> {
        let next = self.receiver.poll_recv(cx);
        if next.is_ready() {
            self.looked = false;
            self.asks.send_replace(false);
        } else if self.looked {
            self.asks.send_replace(true);
        } else {
            self.looked = true;
        }
        next
    }
}

impl Asked {
    /// Resolves when the transport has had a message for [`STALL`] without asking for the next.
    pub(super) async fn stalled(mut self) {
        loop {
            let idle = *self.0.borrow_and_update();
            let change = self.0.changed();
            let change = if idle {
                Ok(change.await)
            } else {
                timeout(STALL, change).await
            };
            match change {
                Ok(Ok(())) => {}
                // The transport has let go of the stream, which others notice.
                Ok(Err(_)) => return std::future::pending().await,
                Err(_) => return,
            }
        }
    }
}
