//! What a tenant's Services are planned with: what was heard, less what is held back of it because it keeps changing. A change
//! that comes after a quiet time is planned with at once.

mod nodes;
mod services;

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use berth_common::{
    identity::TenantName,
    model::ServiceKey,
    session::held::{Held, Nodes, Touched, Wanted},
};
use nodes::PlannedNodes;
use services::PlannedServices;
pub use services::Repetitions;
use tokio_util::sync::CancellationToken;

use super::{Tenants, lock};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Planned {
    nodes: PlannedNodes,
    services: PlannedServices,
    repetitions: Repetitions,
    /// When [`Planned::pass`] will be called.
    scheduled: Option<Instant>,
}

impl Planned {
    pub(super) fn nodes(&self) -> Nodes {
        self.nodes.get()
    }

    pub(super) fn wanted(&self, key: &ServiceKey, held: &Held) -> Wanted {
        self.services.wanted(key, held)
    }

    /// Whether Services have begun to be held back, and that was not asked since.
    pub(super) fn take_news(&mut self) -> bool {
        self.services.take_news()
    }

    /// How many repetitions the tenant may have from now on.
    pub(super) fn limit(&mut self, repetitions: Repetitions) {
        self.repetitions = repetitions;
    }

    /// Takes in what a message touched. Returns which Services are to be planned.
    pub(super) fn heard(
        &mut self,
        held: &Held,
        touched: &Touched,
        now: Instant,
    ) -> BTreeSet<ServiceKey> {
        let all = self.nodes.heard(&held.nodes(), touched, now);
        let (services, repetitions) = (&mut self.services, self.repetitions);
        let mut heard: BTreeSet<ServiceKey> = touched
            .services
            .iter()
            .filter(|key| services.heard(key, held, repetitions, now))
            .cloned()
            .collect();
        if all {
            heard.extend(held.service_keys().cloned());
        }
        heard
    }

    /// Nothing is left of a Service.
    pub(super) fn gone(&mut self, key: &ServiceKey) {
        self.services.gone(key);
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.services.remembered()
    }

    /// Plans with what is held back and whose time has come. Returns which Services are to be planned.
    fn pass(&mut self, held: &Held, now: Instant) -> Vec<ServiceKey> {
        let mut passed = self.services.pass(held, self.repetitions, now);
        if self.nodes.pass(&held.nodes(), now) {
            passed.extend(held.service_keys().cloned());
        }
        passed
    }

    /// When [`Planned::pass`] is to be called, if that is not known yet.
    fn schedule(&mut self, now: Instant) -> Option<Instant> {
        let due = [self.nodes.due(), self.services.due(self.repetitions, now)];
        let due = due.into_iter().flatten().min()?;
        if self.scheduled.is_some_and(|at| at <= due) {
            return None;
        }
        self.scheduled = Some(due);
        Some(due)
    }
}

/// Which tenants something is held back of, and until when.
#[derive(Debug, Default)]
pub(super) struct Later(BTreeSet<(Instant, TenantName)>);

impl Tenants {
    /// Sees to it that what is held back of a tenant is planned with when its time has come.
    pub(super) fn schedule(&self, tenant: &TenantName, planned: &mut Planned, now: Instant) {
        if let Some(due) = planned.schedule(now) {
            lock(&self.later).0.insert((due, tenant.clone()));
            self.held_back.notify_one();
        }
    }

    /// Has planned what was held back and whose time has come. Returns when the next time comes, of what is held back now.
    pub fn pass(&self, now: Instant) -> Option<Instant> {
        loop {
            let next = lock(&self.later).0.pop_first();
            let (at, tenant) = next?;
            if at > now {
                lock(&self.later).0.insert((at, tenant));
                return Some(at);
            }
            self.with(&tenant, |state| {
                if state.planned.scheduled != Some(at) {
                    // There was an earlier time, which has seen to it.
                    return;
                }
                state.planned.scheduled = None;
                for key in state.planned.pass(&state.held, now) {
                    self.marks.service(&tenant, &key);
                }
                self.schedule(&tenant, &mut state.planned, now);
            });
        }
    }

    /// Calls [`Tenants::pass`] whenever it is time, until stopped.
    pub async fn keep_passing(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let due = self.pass(Instant::now());
            let due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.held_back.notified() => {}
                () = due => {}
            }
        }
    }

    /// Since when Services of a tenant have been held back, for it changes them again and again.
    pub fn restless(&self, tenant: &TenantName, now: Instant) -> Option<Instant> {
        self.with(tenant, |state| state.planned.services.since(now))
            .flatten()
    }
}
