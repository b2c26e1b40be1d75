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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use berth_wire::v1;
    use futures::{StreamExt as _, poll};
    use tokio::time::Instant;

    use super::*;

    /// A transport that has taken one message, and has looked whether another goes with it.
    async fn with_one_in_hand() -> (mpsc::Sender<Said>, Outlet, Asked) {
        let (sender, receiver) = mpsc::channel(4);
        let (mut outlet, asked) = Outlet::new(receiver);
        assert!(poll!(outlet.next()).is_pending());
        sender
            .send(Ok(Box::new(v1::HubMessage::default())))
            .await
            .unwrap();
        assert!(poll!(outlet.next()).is_ready());
        assert!(poll!(outlet.next()).is_pending());
        (sender, outlet, asked)
    }

    #[tokio::test(start_paused = true)]
    async fn hostile_17_a_message_that_stays_in_hand_is_a_stall() {
        let (_sender, _outlet, asked) = with_one_in_hand().await;
        let began = Instant::now();
        asked.stalled().await;
        assert_eq!(began.elapsed(), STALL);
    }

    #[tokio::test(start_paused = true)]
    async fn a_transport_that_asks_for_more_may_wait_for_ever() {
        let (sender, mut outlet, asked) = with_one_in_hand().await;
        assert!(poll!(outlet.next()).is_pending());
        let hour = Duration::from_secs(3_600);
        assert!(timeout(hour, asked.stalled()).await.is_err());
        drop(sender);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_was_let_go_is_no_stall() {
        let (_sender, outlet, asked) = with_one_in_hand().await;
        drop(outlet);
        let hour = Duration::from_secs(3_600);
        assert!(timeout(hour, asked.stalled()).await.is_err());
    }
}
