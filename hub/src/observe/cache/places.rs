//! What the cache knows of places: it enters into the ledger what is there of each load balancer, in the same moment in which it
//! learns of it, and hands the planner's questions on.

use std::{
    sync::{MutexGuard, PoisonError},
    time::Instant,
};

use berth_common::identity::TenantName;

use super::{Cache, State};
use crate::{
    objects::Id,
    plan::{Observed, POLICY_VIOLATED},
    policy::{Holding, Ledger, Limits, Said, Usage},
};

/// Whom something has become of by somebody else's doing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// To be planned.
    pub plan: Vec<Id>,
    /// To be let go, and planned.
    pub release: Vec<Id>,
}

impl Cache {
    /// A key was planned: with so many ports it is to be there, or (`None`) there is nothing to write for it. `quotas` are the
    /// tenant's, and the version of its object that they are from.
    pub fn ask(&self, id: &Id, ports: Option<usize>, quotas: (u64, Limits), now: Instant) -> Said {
        self.book(|ledger| ledger.ask(&id.tenant, &id.key, ports, quotas, now))
    }

    /// Nothing is decided about a key any more.
    pub fn forget(&self, id: &Id, now: Instant) {
        self.book(|ledger| ledger.forget(&id.tenant, &id.key, now));
    }

    /// What was written for a key may have come to be, or not; by then it will have been seen.
    pub fn doubt(&self, id: &Id, until: Instant) {
        self.ledger().doubt(&id.tenant, &id.key, until);
    }

    /// Only the address of a key is kept, for a while.
    pub fn parked(&self, id: &Id) {
        self.ledger().park(&id.tenant, &id.key);
    }

    /// The quotas of a tenant are these.
    pub fn limit(&self, tenant: &TenantName, quotas: (u64, Limits)) {
        self.book(|ledger| ledger.limit(tenant, quotas.0, quotas.1));
    }

    /// Whom something has become of by somebody else's doing, each told once.
    pub fn take_calls(&self) -> Calls {
        let mut ledger = self.ledger();
        let mut calls = Calls::default();
        if !ledger.has_news() {
            return calls;
        }
        for (tenant, news) in ledger.take_news() {
            let id = |key| Id::new(tenant.clone(), key);
            calls.plan.extend(news.plan.into_iter().map(id));
            calls.release.extend(news.release.into_iter().map(id));
        }
        calls
    }

    /// What a tenant uses of its quotas.
    pub fn usage(&self, tenant: &TenantName) -> Usage {
        self.ledger().usage(tenant)
    }

    /// How many addresses of a tenant's nodes serve although its list does not have them any more, or its quota no room.
    pub fn tolerated(&self, tenant: &TenantName) -> usize {
        self.read().claims.tolerated(tenant)
    }

    /// How many Services of all tenants wait for a place, or for ports.
    pub fn waiting(&self) -> usize {
        self.ledger().waiting()
    }

    /// Enters what is there of a key.
    pub(super) fn enter(&self, state: &State, id: &Id) {
        let observed = state.tenants.get(&id.tenant);
        let observed = observed.and_then(|keys| keys.get(&id.key));
        let holding = observed.and_then(holding);
        self.book(|ledger| ledger.observe(&id.tenant, &id.key, holding));
    }

    /// Resolves when what a tenant uses may have changed since the call.
    pub fn used(&self) -> impl Future<Output = ()> + Send {
        self.used.notified()
    }

    fn book<T>(&self, f: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut ledger = self.ledger();
        let before = ledger.moves();
        let answer = f(&mut ledger);
        if ledger.moves() != before {
            self.used.notify_waiters();
        }
        answer
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // No panic can leave it half changed in a way that another observation would not mend.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What there is that counts.
fn holding(observed: &Observed) -> Option<Holding> {
    let service = observed.service.as_ref().map(|seen| &seen.object);
    let record = observed.record.as_ref().map(|seen| &seen.object);
    let status = record.and_then(|record| record.status.as_ref()?.shape.as_ref());
    // Whichever has more: somebody may have taken ports from the Service, and the hub puts back what is on record.
    let of_service = service.map(|service| service.shape.ports.len());
    let on_record = record.map(|record| record.spec.ports.len());
    Some(Holding {
        ports: of_service.max(on_record)?,
        has_service: service.is_some(),
        since: service.map_or(0, |service| service.created),
        recorded: record.is_some(),
        reserved: record.is_some() && observed.rests(),
        violates: status.is_some_and(|status| status.programmed.reason == POLICY_VIOLATED),
    })
}
