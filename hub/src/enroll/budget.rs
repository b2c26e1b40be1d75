//! How often one tenant may have a certificate: a burst for two replicas and their retries, and then one a second.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use berth_common::identity::TenantName;
use tokio::time::Instant;

/// In a row.
const BURST: f64 = 10.0;
/// And one more each second, which is far more than any of them needs.
const PER_SECOND: f64 = 1.0;

/// What is left of each tenant's burst.
#[derive(Debug, Default)]
pub(super) struct Budgets(Mutex<HashMap<TenantName, Budget>>);

#[derive(Debug)]
struct Budget {
    left: f64,
    at: Instant,
}

impl Budgets {
    /// False where nothing is left.
    pub(super) fn spend(&self, tenant: &TenantName, now: Instant) -> bool {
        let mut budgets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Who has had one long ago has the whole burst, as one who never has. So there are no more than have one at a time.
        let full = Duration::from_secs_f64(BURST / PER_SECOND);
        budgets.retain(|_, budget| now.saturating_duration_since(budget.at) < full);
        let budget = budgets.entry(tenant.clone()).or_insert(Budget {
            left: BURST,
            at: now,
        });
        let since = now.saturating_duration_since(budget.at).as_secs_f64();
        budget.left = (budget.left + since * PER_SECOND).min(BURST);
        budget.at = now;
        let enough = budget.left >= 1.0;
        if enough {
            budget.left -= 1.0;
        }
        enough
    }
}
