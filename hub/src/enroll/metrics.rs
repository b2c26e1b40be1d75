//! What is counted about certificates that were asked for. Labels come from a closed set.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

/// Answers of both services; clones share their values.
#[derive(Clone, Debug, Default)]
pub struct EnrollMetrics {
    enrollments: Family<Outcome, Counter>,
    renewals: Family<Outcome, Counter>,
}

impl EnrollMetrics {
    /// Registers `berth_enrollments_total{result}` and `berth_renewals_total{result}`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "berth_enrollments",
            "Uses of join tokens, by what came of them",
            self.enrollments.clone(),
        );
        registry.register(
            "berth_renewals",
            "Renewals of agents' certificates, by what came of them",
            self.renewals.clone(),
        );
    }

    pub(super) fn enrolled(&self, result: &'static str) {
        self.enrollments.get_or_create(&Outcome { result }).inc();
    }

    pub(super) fn renewed(&self, result: &'static str) {
        self.renewals.get_or_create(&Outcome { result }).inc();
    }
}
