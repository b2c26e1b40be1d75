//! What is counted about planning and writing.

use std::time::Duration;

use berth_common::telemetry::latency_buckets;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{Failure, write::What};
use crate::{
    plan::Write,
    policy::{Judged, Shortage},
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    kind: &'static str,
    verb: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UnfitLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QuotaLabels {
    quota: &'static str,
    result: &'static str,
}

/// Figures about planning and writing.
#[derive(Clone, Debug)]
pub struct WriteMetrics {
    writes: Family<WriteLabels, Counter>,
    plans: Histogram,
    queue: Gauge,
    parked: Gauge,
    released: Counter,
    refused_addresses: Family<UnfitLabels, Counter>,
    refused: Family<RefusedLabels, Counter>,
    short: Family<QuotaLabels, Counter>,
    waiting: Gauge,
    withdrawn: Family<UnfitLabels, Counter>,
    throttled: Counter,
    resting: Gauge,
}

impl Default for WriteMetrics {
    fn default() -> Self {
        Self {
            writes: Family::default(),
            // A plan takes microseconds; a millisecond is worth a look.
            plans: Histogram::new(
                [0.00001, 0.00003, 0.0001, 0.0003, 0.001]
                    .into_iter()
                    .chain(latency_buckets()),
            ),
            queue: Gauge::default(),
            parked: Gauge::default(),
            released: Counter::default(),
            refused_addresses: Family::default(),
            refused: Family::default(),
            short: Family::default(),
            waiting: Gauge::default(),
            withdrawn: Family::default(),
            throttled: Counter::default(),
            resting: Gauge::default(),
        }
    }
}

impl WriteMetrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "berth_management_writes",
            "Writes to the management cluster, by kind of object, verb and result",
            self.writes.clone(),
        );
        registry.register(
            "berth_plan_duration_seconds",
            "How long the plan for one Service took to make",
            self.plans.clone(),
        );
        registry.register(
            "berth_work_queue_length",
            "Services that are to be planned, waiting or running",
            self.queue.clone(),
        );
        registry.register(
            "berth_load_balancers_parked",
            "Deleted load balancers whose address is kept for a while",
            self.parked.clone(),
        );
        registry.register(
            "berth_load_balancers_released",
            "Addresses of deleted load balancers that were kept for a while and then given back",
            self.released.clone(),
        );
        registry.register(
            "berth_node_addresses_refused",
            "Addresses of tenants' nodes that were found to be none that may receive traffic, by reason",
            self.refused_addresses.clone(),
        );
        registry.register(
            "berth_services_refused",
            "Refusals that tenants were told of for their Services, by reason: each once, however often it is planned",
            self.refused.clone(),
        );
        registry.register(
            "berth_quota_refusals",
            "Services for which there was no room in their tenants' quotas: they wait (refused), or lost what they had (withdrawn)",
            self.short.clone(),
        );
        registry.register(
            "berth_quota_waiting",
            "Services that wait for room in their tenants' quotas",
            self.waiting.clone(),
        );
        registry.register(
            "berth_load_balancers_withdrawn",
            "Load balancers that were taken away from tenants that want them, for policy does not allow them any more, by reason",
            self.withdrawn.clone(),
        );
        registry.register(
            "berth_tenants_throttled",
            "How often a tenant began to change more in a second than it may, so that its changes wait",
            self.throttled.clone(),
        );
        registry.register(
            "berth_tenants_waiting_for_changes",
            "Tenants whose changes wait now, because they have had as many as they may",
            self.resting.clone(),
        );
    }

    pub(super) fn planned(&self, took: Duration) {
        self.plans.observe(took.as_secs_f64());
    }

    pub(super) fn queued(&self, keys: usize) {
        self.queue.set(i64::try_from(keys).unwrap_or(i64::MAX));
    }

    pub(super) fn parked(&self, keys: usize) {
        self.parked.set(i64::try_from(keys).unwrap_or(i64::MAX));
    }

    pub(super) fn released(&self, keys: usize) {
        self.released.inc_by(keys as u64);
    }

    /// A tenant is told of a refusal, for the first time.
    pub fn refused(&self, reason: &str) {
        let reason = reason.to_owned();
        self.refused.get_or_create(&RefusedLabels { reason }).inc();
    }

    /// Counts what is news of a tenant's nodes, whoever has looked.
    pub fn judged(&self, judged: &Judged) {
        for (_, unfit) in &judged.news {
            let reason = unfit.label();
            let labels = UnfitLabels { reason };
            self.refused_addresses.get_or_create(&labels).inc();
        }
    }

    pub(super) fn short(&self, shortage: Shortage) {
        let labels = QuotaLabels {
            quota: shortage.label(),
            result: match shortage.is_withdrawal() {
                true => "withdrawn",
                false => "refused",
            },
        };
        self.short.get_or_create(&labels).inc();
    }

    pub(super) fn throttled(&self) {
        self.throttled.inc();
    }

    pub(super) fn resting(&self, tenants: usize) {
        self.resting.set(i64::try_from(tenants).unwrap_or(i64::MAX));
    }

    pub(super) fn withdrawn(&self, reason: &'static str) {
        let labels = UnfitLabels { reason };
        self.withdrawn.get_or_create(&labels).inc();
    }

    pub(super) fn waiting(&self, keys: usize) {
        self.waiting.set(i64::try_from(keys).unwrap_or(i64::MAX));
    }

    pub(super) fn wrote(&self, write: &Write, failure: Option<&Failure>) {
        let what = What(write);
        let labels = WriteLabels {
            kind: what.kind().as_str(),
            verb: what.verb(),
            result: failure.map_or("ok", Failure::label),
        };
        self.writes.get_or_create(&labels).inc();
    }
}
