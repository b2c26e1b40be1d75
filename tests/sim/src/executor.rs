//! The hub's executor and watches, as events: the same rounds of planning and writing as in `berth_hub::execute`, around the
//! real queue, cache and planner, with every await a moment at which anything else may happen.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use berth_common::{
    model::{Generation, Ingress, Reason},
    session::held::Wanted,
};
use berth_hub::{
    objects::{Id, Kind},
    observe::{Object, Slot},
    plan::{Plan, REJECTION_STANDS, Rejection, Want, Write},
    work::Done,
};

use crate::{
    bend::{bend, is_pinned},
    hub::{Hub, Run},
    ledger::{FENCED, Violation, broken},
    management::{Reply, Report},
    mutation::Mutation,
    wishes::want,
    world::{Event, KINDS, World},
};

/// As in the executor.
const CONCURRENCY: usize = 32;
/// As in the executor.
const MAX_ROUNDS: usize = 8;
/// As in the executor: for so long something may come of a write whose reply was lost.
const IN_DOUBT: Duration = Duration::from_secs(75);
/// For how long the address of a deleted Service is kept.
pub(crate) const RELEASE_AFTER: Duration = Duration::from_secs(10);

impl World {
    pub(crate) fn start_hub(&mut self) {
        if self.hub.is_some() {
            return;
        }
        self.epoch += 1;
        self.hub = Some(Hub::new(self.epoch, self.now));
        self.newest.clear();
        self.ledger.hub_restarted();
        self.list_tenants();
        self.note(|w| format!("hub {} starts", w.epoch));
        for kind in 0..KINDS.len() {
            let delay = Self::some(&mut self.api, 1, 40);
            self.after(delay, Event::ListRead(self.epoch, kind));
        }
    }

    /// The process ends without a word. What it was writing is done or not, but not later than its successor's start.
    pub(crate) fn kill_hub(&mut self) {
        self.hub = None;
        for (id, write) in self.take_writes() {
            if self.api.bool() && self.now >= self.api_down_until {
                self.stats.effect("write of a dead hub landed");
                self.write(&id, &write);
            }
        }
        // What nobody reads is not written either: the agents' ends find out by themselves.
        for conn in self.conns.values_mut() {
            conn.seat = None;
            conn.up.open = false;
        }
    }

    pub(crate) fn read_list(&mut self, epoch: u32, kind: usize) {
        let (delay, down) = (self.api_latency(), self.now < self.api_down_until);
        if self.hub.as_ref().is_none_or(|hub| hub.epoch != epoch) {
            return;
        }
        if down {
            let delay = Self::some(&mut self.api, 50, 1_500);
            self.after(delay, Event::ListRead(epoch, kind));
            return;
        }
        let objects = self.management.list(KINDS[kind], self.now);
        let started = self.now;
        let when = self.now + delay;
        if let Some(hub) = &mut self.hub {
            hub.watching[kind] = true;
            hub.reported_until[kind] = hub.reported_until[kind].max(when);
            let when = hub.reported_until[kind];
            self.at(when, Event::Listed(epoch, kind, started, objects));
        }
    }

    pub(crate) fn listed(
        &mut self,
        epoch: u32,
        kind: usize,
        started: Instant,
        objects: Vec<(Id, Object)>,
    ) {
        if let Some(hub) = self.hub.as_mut().filter(|hub| hub.epoch == epoch) {
            for id in hub.cache.listed(KINDS[kind], objects, started) {
                hub.queue().add(&id);
            }
        }
    }

    pub(crate) fn report(&mut self, epoch: u32, id: &Id, report: Report) {
        let Some(hub) = self.hub.as_mut().filter(|hub| hub.epoch == epoch) else {
            return;
        };
        let changed = match report {
            Report::Is(object) => hub.cache.reported(id, dated(object, self.now)),
            Report::Gone(slot, uid, version) => hub.cache.reported_gone(id, slot, &uid, version),
        };
        if changed {
            hub.queue().add(id);
        }
    }

    /// The watches and the allocator learn what changed.
    pub(crate) fn pump_management(&mut self) {
        for (id, report) in std::mem::take(&mut self.management.reports) {
            let lag = if self.now < self.watch_lag.0 {
                self.watch_lag.1
            } else {
                Self::some(&mut self.api, 1, 25)
            };
            let kind = KINDS
                .iter()
                .position(|kind| *kind == report.kind())
                .unwrap_or(0);
            let now = self.now;
            if let Some(hub) = &mut self.hub
                && hub.watching[kind]
            {
                hub.reported_until[kind] = hub.reported_until[kind].max(now + lag);
                let (when, epoch) = (hub.reported_until[kind], hub.epoch);
                self.at(when, Event::Report(epoch, id, report));
            }
        }
        for id in std::mem::take(&mut self.management.unsettled) {
            let delay = Self::some(&mut self.api, 2, 120);
            let when = self.now.max(self.allocator_down_until) + delay;
            self.at(when, Event::Allocate(id));
        }
        for (id, uid) in std::mem::take(&mut self.management.leaving) {
            let delay = Self::some(&mut self.api, 5, 3_000);
            self.after(delay, Event::Finalize(id, uid));
        }
    }

    pub(crate) fn allocate(&mut self, id: &Id) {
        if self.now < self.allocator_down_until {
            self.at(self.allocator_down_until, Event::Allocate(id.clone()));
            return;
        }
        for robbed in self.management.allocate(id, self.now) {
            self.stats
                .effect("address taken while its Service was gone");
            self.ledger.robbed(&robbed);
        }
        self.dirty = true;
    }

    /// Hands out keys to plan, as the executor's loop does.
    pub(crate) fn pump_executor(&mut self) -> Result<Option<Instant>, Violation> {
        loop {
            let Some(hub) = self.hub.as_mut().filter(|hub| hub.is_ready()) else {
                return Ok(None);
            };
            if hub.runs.len() >= CONCURRENCY {
                return Ok(None);
            }
            let next = hub.queue().next(self.now);
            let Some(id) = next else {
                let due = hub.queue().due();
                return Ok(due);
            };
            self.line_up(&id)?;
            let Some(hub) = &mut self.hub else {
                return Ok(None);
            };
            hub.runs.insert(
                id.clone(),
                Run {
                    rounds: 0,
                    pending: 0,
                    failed: false,
                    sent: self.now,
                    generation: None,
                    want: None,
                },
            );
            self.plan_round(id)?;
        }
    }

    /// What is held back of what tenants keep changing is planned when its time has come. Returns when that is next.
    pub(crate) fn pump_planned(&self) -> Option<Instant> {
        self.hub.as_ref()?.tenants.pass(self.now)
    }

    /// Lets those parked go whose time is up, as the task beside the executor does. Returns when to look again.
    pub(crate) fn pump_parking(&mut self) -> Result<Option<Instant>, Violation> {
        let Some(hub) = self.hub.as_mut().filter(|hub| hub.is_ready()) else {
            return Ok(None);
        };
        let (services, gave) = (hub.cache.services(), hub.cache.allocator_gave());
        let (due, next) = hub.parking.due(services, gave, self.now);
        if self.mutation == Some(Mutation::NeverReleased) {
            return Ok(next);
        }
        for id in due {
            self.ledger.released(&id, self.now)?;
            hub.cache.release(&id);
            hub.queue().add(&id);
            self.stats.effect("released");
        }
        Ok(next)
    }

    fn plan_round(&mut self, id: Id) -> Result<(), Violation> {
        let brake_works = !self.is_released(&id);
        let Some(hub) = &mut self.hub else {
            return Ok(());
        };
        let want = want(hub, &id, brake_works, self.mutation, self.now);
        let generation = match &want {
            Want::Present { generation, .. } | Want::Unreadable { generation, .. } => {
                Some(*generation)
            }
            Want::Deleted
            | Want::Absent { .. }
            | Want::Unknown
            | Want::TenantDeleted
            | Want::NoTenant => None,
        };
        let (observed, mut planned) = self.plan(&id, &want)?;
        let Some(hub) = &mut self.hub else {
            return Ok(());
        };
        if let Some(run) = hub.runs.get_mut(&id) {
            run.rounds += 1;
            run.generation = generation;
            run.want = Some(want.clone());
        }
        let epoch = hub.epoch;
        bend(&mut planned, &want, &observed, self.mutation);
        if planned.parked {
            hub.parking.park(&id, RELEASE_AFTER, self.now);
            hub.cache.parked(&id);
        } else {
            hub.parking.leave(&id);
        }
        hub.parking.starves(&id, planned.starving);
        if planned.ports.is_some() {
            hub.cache.keep(&id);
        }
        if planned.parked && planned.gone {
            self.stats.effect("gone while its address is parked");
        }
        if generation.is_some() && observed.is_cut() && is_pinned(&observed) {
            self.stats.effect("came back to a parked address");
        }
        self.ledger
            .planned(&id, &planned, &self.management, self.now)?;
        self.stats.effect("plan");
        if matches!(want, Want::Absent { held: true, .. }) {
            self.stats.effect("deletion held by the brake");
        }
        self.follow()?;
        self.note(|_| {
            let actions: Vec<_> = planned
                .actions
                .iter()
                .map(|a| (&a.write, a.reason))
                .collect();
            format!(
                "plan {id}: {actions:?} answer {:?} gone {} revisit {:?}",
                planned.answer,
                planned.gone,
                planned.revisit.is_some()
            )
        });
        // Between planning and acting others may run.
        let delay = if self.api.u8(0..4) == 0 {
            Self::some(&mut self.api, 0, 2)
        } else {
            Duration::ZERO
        };
        self.after(
            delay,
            Event::Planned(epoch, id, Box::new(planned), generation),
        );
        Ok(())
    }

    pub(crate) fn is_released(&self, id: &Id) -> bool {
        self.tenants
            .iter()
            .position(|tenant| tenant.name == id.tenant)
            .is_some_and(|t| self.ledger.released[t])
    }

    pub(crate) fn carry_out(
        &mut self,
        epoch: u32,
        id: Id,
        plan: Plan,
        generation: Option<Generation>,
    ) -> Result<(), Violation> {
        let brake_works = !self.is_released(&id);
        let parked = self
            .management
            .objects
            .iter()
            .find_map(|(other, objects)| objects.parked().filter(|_| *other != id));
        let Some(hub) = self.hub.as_mut().filter(|hub| hub.epoch == epoch) else {
            return Ok(());
        };
        if let Some(mut answer) = plan.answer {
            if let (Some(Mutation::ParkedAddressTold), Some(ip)) = (self.mutation, parked) {
                answer.ingress = vec![Ingress::Ip(ip)];
            }
            let to = match self.mutation {
                Some(Mutation::AnswersCross) => self.tenants.last().map(|t| &t.name),
                _ => Some(&id.tenant),
            };
            if let Some(to) = to {
                hub.tenants.answer(to, &id.key, answer);
            }
        }
        if plan.gone {
            hub.tenants.gone(&id.tenant, &id.key);
        }
        if plan.actions.is_empty() {
            if generation.is_none() {
                hub.cache.forget_rejection(&id);
            }
            hub.runs.remove(&id);
            self.follow()?;
            if let Some(hub) = &self.hub {
                hub.queue().done(&id, Done::Settled(plan.revisit), self.now);
            }
            return Ok(());
        }
        let planned = hub.runs.get(&id).and_then(|run| run.want.clone());
        let wants = want(hub, &id, brake_works, self.mutation, self.now);
        if self.mutation != Some(Mutation::OvertakenPlan)
            && planned.is_some_and(|planned| !wants.is(&planned))
        {
            self.stats.effect("plan overtaken");
            return self.plan_round(id);
        }
        let of_tenant = !matches!(wants, Want::TenantDeleted | Want::NoTenant);
        let told = match hub.tenants.wanted(&id.tenant, &id.key).0 {
            Wanted::Present(generation, _) | Wanted::Unreadable { generation, .. } => {
                Some(generation)
            }
            Wanted::Deleted(_) | Wanted::Absent | Wanted::Unknown => None,
        };
        if told != generation && of_tenant {
            let what = format!("{id}: written for {generation:?}, and {told:?} was told since");
            return Err(broken(FENCED, what));
        }
        if let Some(run) = hub.runs.get_mut(&id) {
            run.pending = plan.actions.len();
            run.failed = false;
            run.sent = self.now;
        }
        for action in plan.actions {
            let delay = self.api_latency();
            let land = Event::Land(epoch, id.clone(), Box::new(action.write), generation);
            self.after(delay, land);
        }
        Ok(())
    }

    pub(crate) fn land(
        &mut self,
        epoch: u32,
        id: Id,
        write: &Write,
        generation: Option<Generation>,
    ) {
        // Of a Service it may have come to be.
        let failed = Reply::Failed(matches!(write, Write::Service { .. }));
        let reply = if self.now < self.api_down_until {
            self.stats.effect("write while the API was down");
            failed
        } else if self.fail_writes > 0 {
            self.fail_writes -= 1;
            failed
        } else {
            let reply = self.write(&id, write);
            self.stats.effect(match &reply {
                Reply::Outdated(..) => "write to what was not there",
                Reply::Rejected => "write rejected",
                _ => "write",
            });
            if self.lose_replies > 0 {
                self.lose_replies -= 1;
                failed
            } else {
                reply
            }
        };
        let delay = self.api_latency();
        self.after(delay, Event::Reply(epoch, id, reply, generation));
    }

    pub(crate) fn replied(
        &mut self,
        epoch: u32,
        id: Id,
        reply: Reply,
        generation: Option<Generation>,
    ) -> Result<(), Violation> {
        let now = self.now;
        let Some(hub) = self.hub.as_mut().filter(|hub| hub.epoch == epoch) else {
            return Ok(());
        };
        let cache = Arc::clone(&hub.cache);
        let Some(run) = hub.runs.get_mut(&id) else {
            return Ok(());
        };
        run.pending -= 1;
        match reply {
            Reply::Is(object) => cache.wrote(&id, dated(object, now), run.sent),
            Reply::Gone(slot, uid) | Reply::Outdated(slot, uid) => {
                cache.deleted(&id, slot, &uid, run.sent);
            }
            Reply::Rejected => match generation {
                Some(generation) => cache.rejected(
                    &id,
                    Rejection {
                        generation,
                        field: "spec.ports".into(),
                        why: Reason::new("Rejected", "not here"),
                        until: now + REJECTION_STANDS,
                    },
                ),
                None => run.failed = true,
            },
            Reply::Failed(in_doubt) => {
                run.failed = true;
                if in_doubt {
                    cache.doubt(&id, now + IN_DOUBT);
                    self.ledger.doubted(&id, now + IN_DOUBT);
                }
            }
        }
        if run.pending > 0 {
            return Ok(());
        }
        if run.failed || run.rounds >= MAX_ROUNDS {
            hub.runs.remove(&id);
            let done = if self.mutation == Some(Mutation::FailuresForgotten) {
                Done::Settled(None)
            } else {
                Done::Failed
            };
            self.follow()?;
            if let Some(hub) = &self.hub {
                hub.queue().done(&id, done, now);
            }
            return Ok(());
        }
        self.plan_round(id)
    }

    /// The management API takes a write, and the judge sees what came of it.
    fn write(&mut self, id: &Id, write: &Write) -> Reply {
        let before = self.management.places(&id.tenant);
        let reply = self.management.write(id, write, self.now);
        self.dirty = true;
        let after = self.management.places(&id.tenant);
        if let Err(violation) = self.ledger.wrote(id, before, after) {
            self.broken.get_or_insert(violation);
        }
        reply
    }

    fn api_latency(&mut self) -> Duration {
        let usual = Self::some(&mut self.api, 1, 15);
        if self.now < self.api_slow.0 {
            usual + self.api_slow.1
        } else {
            usual
        }
    }
}

/// An object as this process first sees it now.
fn dated(object: Object, now: Instant) -> Object {
    match object {
        Object::Service(mut seen) => {
            seen.since = now;
            Object::Service(seen)
        }
        Object::Slice(place, mut seen) => {
            seen.since = now;
            Object::Slice(place, seen)
        }
        Object::Record(mut seen) => {
            seen.since = now;
            Object::Record(seen)
        }
    }
}

/// Where an object of a kind stands, for ops.
pub(crate) fn slot(kind: crate::op::Kind) -> Slot {
    match kind {
        crate::op::Kind::Service => Slot::Service,
        crate::op::Kind::Record => Slot::Record,
        crate::op::Kind::Slice => Slot::Slice(berth_hub::objects::backend_slice::Place {
            family: berth_common::model::IpFamily::V4,
            index: 0,
        }),
    }
}

/// The index of a kind among the watches.
pub(crate) fn watch_index(kind: crate::op::Kind) -> usize {
    let kind = match kind {
        crate::op::Kind::Service => Kind::Service,
        crate::op::Kind::Record => Kind::LoadBalancer,
        crate::op::Kind::Slice => Kind::EndpointSlice,
    };
    KINDS.iter().position(|it| *it == kind).unwrap_or(0)
}
