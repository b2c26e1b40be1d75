//! Whether more than one tenant is busy: has had a key run within the last second. Pure; the time is a parameter.

use std::time::{Duration, Instant};

use berth_common::identity::TenantName;

/// For so long after its last key has begun to run a tenant is busy.
pub(super) const BUSY: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Company {
    /// Whose key began to run last, and when.
    last: Option<(TenantName, Instant)>,
    /// Until when several are busy.
    until: Option<Instant>,
}

impl Company {
    /// A tenant's key begins to run.
    pub(super) fn runs(&mut self, tenant: &TenantName, now: Instant) {
        match &mut self.last {
            Some((last, at)) if last == tenant => *at = now,
            last => {
                if last.as_ref().is_some_and(|(_, at)| now < *at + BUSY) {
                    self.until = Some(now + BUSY);
                }
                *last = Some((tenant.clone(), now));
            }
        }
    }

    /// Whether several tenants are busy.
    pub(super) fn is_there(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}
