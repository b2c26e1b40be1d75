//! Whom a link carries messages for: the broker of a real agent, or one tenant of a simulated fleet. The link knows streams
//! and when to dial; what is said on them, and what becomes of the answers, is the party's.

use std::time::Instant;

use berth_common::session::{ProtocolError, agent::Event};
use berth_wire::v1;
use tokio::sync::watch;

use crate::broker::Broker;

/// One tenant's side of the conversation. No call waits, but for the three that return when something has happened.
pub trait Party: Send + Sync + 'static {
    /// Whether there is something to say yet: the first attempt waits a moment for it.
    fn source_synced(&self) -> watch::Receiver<bool>;
    /// A stream is up.
    fn connected(&self, now: Instant);
    /// The stream is gone, or could not be had.
    fn disconnected(&self);
    /// Takes in what the hub said, and gives back what concerns the stream itself.
    fn received(&self, message: v1::HubMessage, now: Instant) -> Result<Vec<Event>, ProtocolError>;
    /// The next message for the hub, or until when there is none.
    fn next_message(
        &self,
        now: Instant,
    ) -> Result<Result<v1::AgentMessage, Option<Instant>>, ProtocolError>;
    /// Returns when there may be something to say.
    fn outbound(&self) -> impl Future<Output = ()> + Send;
    /// Returns when the session has to be opened anew.
    fn redial(&self) -> impl Future<Output = ()> + Send;
    /// The hub does not know this tenant.
    fn tenant_unknown(&self);
    /// An attempt has failed before the hub said anything: nothing can be asked of it.
    fn unheard(&self, _why: &str) {}
}

impl Party for Broker {
    fn source_synced(&self) -> watch::Receiver<bool> {
        self.source_synced()
    }

    fn connected(&self, now: Instant) {
        self.connected(now);
    }

    fn disconnected(&self) {
        self.disconnected();
    }

    fn received(&self, message: v1::HubMessage, now: Instant) -> Result<Vec<Event>, ProtocolError> {
        self.received(message, now)
    }

    fn next_message(
        &self,
        now: Instant,
    ) -> Result<Result<v1::AgentMessage, Option<Instant>>, ProtocolError> {
        self.next_message(now)
    }

    fn outbound(&self) -> impl Future<Output = ()> + Send {
        self.outbound()
    }

    fn redial(&self) -> impl Future<Output = ()> + Send {
        self.redial()
    }

    fn tenant_unknown(&self) {
        self.tenant_unknown();
    }

    fn unheard(&self, why: &str) {
        self.unheard(why);
    }
}
