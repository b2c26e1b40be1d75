//! What probing costs and finds.

use berth_common::identity::TenantName;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::node::Outcome;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TenantLabel {
    tenant: String,
}

/// Figures about probes.
#[derive(Clone, Debug, Default)]
pub struct HealthMetrics {
    probes: Family<ResultLabel, Counter>,
    probed: Family<TenantLabel, Gauge>,
    failing: Family<TenantLabel, Gauge>,
}

impl HealthMetrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "berth_health_probes",
            "Probes of tenants' nodes, by what came of them",
            self.probes.clone(),
        );
        registry.register(
            "berth_nodes_probed",
            "Addresses of the tenant's nodes that are probed",
            self.probed.clone(),
        );
        registry.register(
            "berth_nodes_failing",
            "Addresses of the tenant's nodes that fail and get no traffic, unless all do",
            self.failing.clone(),
        );
    }

    pub(super) fn probe(&self, outcome: Outcome) {
        let result = outcome.label();
        self.probes.get_or_create(&ResultLabel { result }).inc();
    }

    /// Probes in all.
    pub fn total(&self) -> u64 {
        let results = Outcome::ALL.iter().map(|outcome| {
            let result = outcome.label();
            self.probes.get_or_create(&ResultLabel { result }).get()
        });
        results.sum()
    }

    pub(super) fn probed(&self, tenant: &TenantName, count: usize) {
        set(&self.probed, tenant, count);
    }

    pub(super) fn failing(&self, tenant: &TenantName, count: usize) {
        set(&self.failing, tenant, count);
    }

    pub(super) fn forget(&self, tenant: &TenantName) {
        let tenant = tenant.to_string();
        self.failing.remove(&TenantLabel {
            tenant: tenant.clone(),
        });
        self.probed.remove(&TenantLabel { tenant });
    }
}

fn set(family: &Family<TenantLabel, Gauge>, tenant: &TenantName, count: usize) {
    let tenant = tenant.to_string();
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    family.get_or_create(&TenantLabel { tenant }).set(count);
}
