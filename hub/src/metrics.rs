//! What the hub counts about sessions. Other modules keep their own figures beside their code.

use std::sync::Arc;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::tenants::Tenants;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TenantLabel {
    tenant: String,
}

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
    calls_refused: Family<CodeLabel, Counter>,
    ended: Family<CodeLabel, Counter>,
    /// Messages that were read and not taken: repetitions, broken snapshots.
    pub discarded: Counter,
    /// Resources that could not be read.
    pub unreadable: Counter,
    /// Beginnings of times in which a tenant's Services were held back.
    pub restless: Counter,
    /// Beginnings of times in which agents threw each other out under one identity.
    pub contested: Counter,
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
            "berth_calls_refused",
            "Calls that were refused before a message of theirs was read, by gRPC code: of sessions and of all others",
            self.calls_refused.clone(),
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
        registry.register(
            "berth_tenants_restless",
            "How often a tenant began to change its Services again and again, faster than is carried out",
            self.restless.clone(),
        );
        registry.register(
            "berth_tenants_contested",
            "How often agents of one identity began to throw each other out again and again",
            self.contested.clone(),
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

    /// Counts a call that was refused.
    pub fn call_refused(&self, code: tonic::Code) {
        let code = format!("{code:?}");
        self.calls_refused.get_or_create(&CodeLabel { code }).inc();
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

/// Counts at each scrape what is absent from the tenants' clusters, and what of it the brake holds.
pub struct AbsentLoadBalancers(pub Arc<Tenants>);

impl std::fmt::Debug for AbsentLoadBalancers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AbsentLoadBalancers")
    }
}

impl Collector for AbsentLoadBalancers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (absent, held) = (Family::default(), Family::default());
        for (name, standing) in self.0.standings() {
            let set = |family: &Family<TenantLabel, Gauge>, count: usize| {
                let tenant = name.to_string();
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                family.get_or_create(&TenantLabel { tenant }).set(count);
            };
            set(&absent, standing.absent);
            set(&held, standing.held);
        }
        let described = encoder.encode_descriptor(
            "berth_load_balancers_absent",
            "Load balancers that are absent from their tenant's cluster without having been deleted there",
            None,
            MetricType::Gauge,
        )?;
        absent.encode(described)?;
        let described = encoder.encode_descriptor(
            "berth_load_balancers_held",
            "How many of them are held, for an operator to look first",
            None,
            MetricType::Gauge,
        )?;
        held.encode(described)
    }
}
