//! What the agent counts and measures. Names are whole here (`berth_…`), so that a name on a dashboard is found in the
//! code.

use std::{sync::Arc, time::SystemTime};

use berth_common::telemetry::latency_buckets;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::Registry,
};

use crate::broker::Broker;

/// The agent's metrics. Clones share them.
#[derive(Clone, Debug)]
pub struct AgentMetrics {
    /// 1 while a session with the hub is open.
    pub session_up: Gauge,
    /// 1 while the tenant's cluster is being read.
    pub source_synced: Gauge,
    attempts: Family<Ended, Counter>,
    writes: Family<Write, Counter>,
    events: Family<Outcome, Counter>,
    renewals: Family<Outcome, Counter>,
    certificate_end: Gauge,
    time_to_ip: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    kind: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

impl AgentMetrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            session_up: Gauge::default(),
            source_synced: Gauge::default(),
            attempts: Family::default(),
            writes: Family::default(),
            events: Family::default(),
            renewals: Family::default(),
            certificate_end: Gauge::default(),
            time_to_ip: Histogram::new(latency_buckets()),
        };
        registry.register(
            "berth_agent_session_up",
            "1 while a session with the hub is open",
            metrics.session_up.clone(),
        );
        registry.register(
            "berth_agent_source_synced",
            "1 while Services and nodes of this cluster are known and followed",
            metrics.source_synced.clone(),
        );
        // The encoder adds `_total` to counters.
        registry.register(
            "berth_agent_sessions_ended",
            "Sessions and attempts at one that ended, by reason",
            metrics.attempts.clone(),
        );
        registry.register(
            "berth_agent_writes",
            "Writes to Services, by kind and result",
            metrics.writes.clone(),
        );
        registry.register(
            "berth_agent_events",
            "Events on Services, by result",
            metrics.events.clone(),
        );
        registry.register(
            "berth_agent_certificate_renewals",
            "Renewals of the agent's own certificate, by result",
            metrics.renewals.clone(),
        );
        registry.register(
            "berth_agent_certificate_expiry_timestamp_seconds",
            "When the agent's certificate ends, in seconds since 1970; 0 while there is none",
            metrics.certificate_end.clone(),
        );
        registry.register(
            "berth_time_to_ip_seconds",
            "From the first sight of a Service to its address in its status",
            metrics.time_to_ip.clone(),
        );
        metrics
    }

    /// A session, or an attempt at one, ended.
    pub fn session_ended(&self, reason: &'static str) {
        self.attempts.get_or_create(&Ended { reason }).inc();
    }

    /// A Service was written to, or could not be.
    pub fn wrote(&self, kind: &'static str, result: &'static str) {
        self.writes.get_or_create(&Write { kind, result }).inc();
    }

    /// An event was sent, lost or dropped.
    pub fn event(&self, result: &'static str) {
        self.events.get_or_create(&Outcome { result }).inc();
    }

    /// The certificate was renewed, or could not be.
    pub fn renewed(&self, result: &'static str) {
        self.renewals.get_or_create(&Outcome { result }).inc();
    }

    /// The certificate in use ends then.
    pub fn certificate_ends(&self, end: SystemTime) {
        let since = end.duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.unwrap_or_default().as_secs();
        self.certificate_end
            .set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// How many events had this result.
    pub fn events(&self, result: &'static str) -> u64 {
        self.events.get_or_create(&Outcome { result }).get()
    }

    /// A new Service has its address.
    pub fn time_to_ip(&self, seconds: f64) {
        self.time_to_ip.observe(seconds);
    }
}

/// Counts the Services by state at each scrape.
#[derive(Debug)]
pub struct ServiceStates(pub Arc<Broker>);

impl Collector for ServiceStates {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let family = Family::<State, Gauge>::default();
        for (state, count) in self.0.count_services() {
            family.get_or_create(&State { state }).set(count);
        }
        let descriptor = encoder.encode_descriptor(
            "berth_agent_services",
            "Services of ours by state",
            None,
            ConstGauge::new(0_i64).metric_type(),
        )?;
        family.encode(descriptor)
    }
}
