//! The connection of the session that is open now, for whoever has something to ask over it besides, and until when it is good. A
//! renewal over it prolongs it, for the hub then knows the connection by the new certificate as well. The hub may ask for one over it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use berth_common::tls::ClientTls;
use tokio::sync::watch;
use tonic::transport::Channel;

/// A connection is replaced so long before its certificate ends, or a tenth of what was left when it began, if that is less.
const MARGIN: Duration = Duration::from_secs(30);

/// The connection of the session. Clones are of the same link.
#[derive(Clone, Debug, Default)]
pub struct Live(Arc<watch::Sender<State>>);

#[derive(Debug, Default)]
struct State {
    /// Counts the connections.
    number: u64,
    session: Option<Session>,
    /// How often the hub has asked for a renewal, and within which time the last time.
    asked: (u64, Duration),
}

#[derive(Debug)]
struct Session {
    channel: Channel,
    expires: SystemTime,
    margin: Duration,
}

/// One connection, until this is dropped.
#[derive(Debug)]
pub(super) struct Opened {
    live: Live,
    number: u64,
}

impl Drop for Opened {
    fn drop(&mut self) {
        let number = self.number;
        self.live.0.send_modify(|state| {
            if state.number == number {
                state.session = None;
            }
        });
    }
}

impl Live {
    /// There is a connection, with a certificate that ends then.
    pub(super) fn open(&self, channel: Channel, expires: SystemTime) -> Opened {
        let left = expires
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        let mut number = 0;
        self.0.send_modify(|state| {
            state.number += 1;
            number = state.number;
            state.session = Some(Session {
                channel,
                expires,
                margin: MARGIN.min(left / 10),
            });
        });
        Opened {
            live: self.clone(),
            number,
        }
    }

    /// The connection and its number, if there is one.
    pub fn channel(&self) -> Option<(u64, Channel)> {
        let state = self.0.borrow();
        let session = state.session.as_ref()?;
        Some((state.number, session.channel.clone()))
    }

    /// The hub asks for a renewal, at a random moment within this time.
    pub(super) fn ask(&self, within: Duration) {
        self.0
            .send_modify(|state| state.asked = (state.asked.0 + 1, within));
    }

    /// How often the hub has asked for a renewal, and within which time the last time.
    pub fn asked(&self) -> (u64, Duration) {
        self.0.borrow().asked
    }

    /// Resolves when it has asked more often than that.
    pub async fn asked_again(&self, before: u64) {
        let mut states = self.0.subscribe();
        // The sender is ours, and lives as long as we are borrowed.
        let _ = states.wait_for(|state| state.asked.0 > before).await;
    }

    /// The hub has issued a certificate over that connection, which is good until then.
    pub fn extend(&self, number: u64, expires: SystemTime) {
        self.0.send_if_modified(|state| {
            let same = state.number == number;
            match state.session.as_mut().filter(|_| same) {
                Some(session) if session.expires < expires => {
                    session.expires = expires;
                    true
                }
                _ => false,
            }
        });
    }
}

impl Opened {
    /// Resolves shortly before the hub would end the connection, if there is a newer certificate to come back with. Where there is
    /// none, the old one is used to its last second.
    pub(super) async fn outlived(&self, tls: &ClientTls) {
        let mut states = self.live.0.subscribe();
        let mut revisions = tls.revisions();
        loop {
            let newest = tls.current().leaf.not_after;
            let end = {
                let state = states.borrow_and_update();
                let session = state
                    .session
                    .as_ref()
                    .filter(|_| state.number == self.number);
                session
                    .filter(|session| newest > session.expires)
                    .map(|session| session.expires - session.margin)
            };
            let due = async {
                match end {
                    Some(end) => {
                        let left = end.duration_since(SystemTime::now()).unwrap_or_default();
                        tokio::time::sleep(left).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => return,
                // Both senders are held by whoever calls.
                _ = states.changed() => {}
                _ = revisions.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::transport::Endpoint;

    use super::*;

    fn channel() -> Channel {
        Endpoint::from_static("http://127.0.0.1:1").connect_lazy()
    }

    #[tokio::test]
    async fn what_is_asked_for_later_does_not_prolong_another_connection() {
        let live = Live::default();
        assert!(live.channel().is_none());
        let now = SystemTime::now();
        let hours = |n: u32| now + n * Duration::from_secs(3_600);
        let first = live.open(channel(), hours(1));
        let (number, _) = live.channel().unwrap();
        let second = live.open(channel(), hours(2));
        drop(first);
        assert!(live.channel().is_some(), "the second is open");
        live.extend(number, hours(3));
        let expires = |live: &Live| live.0.borrow().session.as_ref().unwrap().expires;
        assert_eq!(expires(&live), hours(2));
        live.extend(second.number, hours(4));
        live.extend(second.number, hours(3));
        assert_eq!(expires(&live), hours(4));
        drop(second);
        assert!(live.channel().is_none());
    }
}
