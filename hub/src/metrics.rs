//! What the hub counts about sessions. Other modules keep their own figures beside their code.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: String,
}

/// Figures about sessions.
#[derive(Clone, Debug, Default)]
pub struct SessionMetrics {
    live: Gauge,
    refused: Family<ReasonLabel, Counter>,
    ended: Family<CodeLabel, Counter>,
    /// Messages that were read and not taken: repetitions, broken snapshots.
    pub discarded: Counter,
    /// Resources that could not be read.
    pub unreadable: Counter,
}

impl SessionMetrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "berth_sessions",
            "Streams of tenants that are open now",
            self.live.clone(),
        );
        registry.register(
            "berth_sessions_refused",
            "Sessions that were refused, by reason",
            self.refused.clone(),
        );
        registry.register(
            "berth_sessions_ended",
            "Sessions that the hub ended, by gRPC code",
            self.ended.clone(),
        );
        registry.register(
            "berth_messages_discarded",
            "Messages of agents that were read and not taken: repetitions, broken snapshots",
            self.discarded.clone(),
        );
        registry.register(
            "berth_resources_unreadable",
            "Resources of agents that could not be read and were refused",
            self.unreadable.clone(),
        );
    }

    /// Counts a session for as long as the guard lives.
    pub fn live(&self) -> LiveSession {
        self.live.inc();
        LiveSession(self.live.clone())
    }

    /// Counts a refusal.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts an end.
    pub fn ended(&self, code: tonic::Code) {
        let code = format!("{code:?}");
        self.ended.get_or_create(&CodeLabel { code }).inc();
    }
}

/// One open session.
#[derive(Debug)]
pub struct LiveSession(Gauge);

impl Drop for LiveSession {
    fn drop(&mut self) {
        self.0.dec();
    }
}
