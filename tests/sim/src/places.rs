//! How a plan is made within a tenant's quotas, as the executor does it around the hub's real ledger: lined up by the one who hands
//! out, asked for with each plan, and whom the ledger calls is planned.

use berth_hub::{
    objects::Id,
    plan::{Now, Observed, Plan, Want, plan},
    policy::{Limits, Said, Verdict},
};
use k8s_openapi::jiff::Timestamp;

use crate::{
    ledger::Violation,
    mutation::Mutation,
    wishes::{policy, want},
    world::World,
};

impl World {
    /// Puts a key into its tenant's line for a place, as the one does who hands out.
    pub(crate) fn line_up(&mut self, id: &Id) -> Result<(), Violation> {
        let brake_works = !self.is_released(id);
        let Some(hub) = &self.hub else {
            return Ok(());
        };
        let facts = hub.directory.get(&id.tenant);
        if facts.is_some_and(|it| !it.deleting && it.places.is_bounded()) {
            let want = want(hub, id, brake_works, self.mutation, self.now);
            self.plan(id, &want)?;
        }
        Ok(())
    }

    /// Plans, within the tenant's quotas.
    pub(crate) fn plan(&mut self, id: &Id, want: &Want) -> Result<(Observed, Plan), Violation> {
        let quotas = self.quotas(&id.tenant).unwrap_or_default();
        let Some(hub) = &self.hub else {
            return Ok(Default::default());
        };
        let now = Now {
            instant: self.now,
            // Nothing is decided by it.
            wall: Timestamp::UNIX_EPOCH,
        };
        let policy = policy(hub, id, self.mutation);
        let mut observed = hub.cache.observed(id);
        let there = observed.service.is_some() || observed.record.is_some();
        let mut planned = plan(id, want, &observed, &policy, now);
        let ports = planned.ports;
        let said: Said = hub.cache.ask(id, ports, quotas, now.instant);
        self.ledger
            .asked(id, ports, said.verdict, there, self.now)?;
        if self.mutation == Some(Mutation::LastComeFirstServed) {
            self.turn_the_line(id, ports.filter(|_| said.shortage().is_some()), quotas);
        }
        let Some(hub) = &self.hub else {
            return Ok(Default::default());
        };
        if said.shortage().is_some() {
            self.stats.effect(match said.verdict {
                Verdict::Withdrawn(_) => "withdrawn",
                _ => "no room in a quota",
            });
            observed.room = said.into();
            planned = plan(id, want, &observed, &policy, now);
            match self.mutation {
                Some(Mutation::LineForgotten) => hub.cache.forget(id, now.instant),
                Some(Mutation::TurnForgotten) => {
                    hub.cache.forget(id, now.instant);
                    hub.cache.ask(id, ports, quotas, now.instant);
                }
                _ => {}
            }
        }
        let again = [planned.revisit, said.again].into_iter().flatten().min();
        planned.revisit = again;
        Ok((observed, planned))
    }

    /// A mutation: whoever has been refused before this one lines up again, behind it.
    fn turn_the_line(&mut self, id: &Id, refused: Option<usize>, quotas: (u64, Limits)) {
        let now = self.now;
        let Some(hub) = &mut self.hub else { return };
        let is_known = hub.refused.iter().any(|(it, _)| it == id);
        hub.refused.retain(|(it, _)| it != id || refused.is_some());
        let Some(ports) = refused.filter(|_| !is_known) else {
            return;
        };
        let before = hub.refused.iter().rev();
        for (other, ports) in before.filter(|(it, _)| it.tenant == id.tenant) {
            hub.cache.forget(other, now);
            hub.cache.ask(other, Some(*ports), quotas, now);
        }
        hub.refused.push((id.clone(), ports));
    }

    /// Whom the ledger has called is planned, as the hub does it.
    pub(crate) fn follow(&mut self) -> Result<(), Violation> {
        let Some(hub) = &self.hub else {
            return Ok(());
        };
        let calls = hub.cache.take_calls();
        for id in &calls.release {
            self.ledger.evicted(id)?;
            hub.cache.release(id);
            self.stats.effect("released for one who waits");
        }
        for id in calls.plan.iter().chain(&calls.release) {
            hub.queue().add(id);
        }
        Ok(())
    }
}
