//! What becomes of a deleted Tenant, as events: the same looks and last steps as in `berth_hub::deletion`, around its real judge.
//! Every await there is a moment here at which anything else may happen, and all of it is lost with the process.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use berth_common::identity::TenantName;
use berth_hub::{
    deletion::{HELD, Judge, Leaver, Verdict},
    objects::{Id, Kind},
    observe::TenantFacts,
    plan::has_departed,
};

use crate::{
    mutation::Mutation,
    world::{Event, KINDS, World},
};

/// As in the hub.
const LOOK: Duration = Duration::from_millis(200);
/// As in the hub, after a failure.
const AGAIN: Duration = Duration::from_secs(5);

/// What one process of the hub remembers of those who leave.
#[derive(Default)]
pub(crate) struct Keeper {
    judge: Judge,
    verdicts: BTreeMap<TenantName, Verdict>,
    /// When it looks next.
    next: Option<Instant>,
    /// When it last looked.
    looked: Option<Instant>,
    /// Writes of this look that are on their way.
    pending: usize,
    failed: bool,
}

/// A step at the management API about one Tenant object, which it names by UID and version.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// The finalizer is put on it.
    Guard,
    /// Whether anything of it is left is asked the API server itself.
    LastLook,
    /// Its finalizer goes.
    LetGo,
    /// Its status says that the deletion is held.
    Note,
}

impl Keeper {
    /// Something has changed among the Tenants. A burst of changes is one look.
    pub(crate) fn wake(&mut self, now: Instant) {
        let at = self
            .looked
            .map_or(now, |looked| (looked + LOOK).max(now + SOON));
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// Whether what a deleted Tenant has goes now.
    pub(crate) fn goes(&self, tenant: &TenantName) -> bool {
        self.verdicts.get(tenant) == Some(&Verdict::Go)
    }

    fn all_held(&self) -> bool {
        let mut verdicts = self.verdicts.values();
        verdicts.all(|it| matches!(it, Verdict::Held(..)))
    }
}

/// No look is due in the very moment in which it is asked for.
const SOON: Duration = Duration::from_micros(1);

impl World {
    /// Looks, if it is time to. Returns when it will be.
    pub(crate) fn pump_departures(&mut self) -> Option<Instant> {
        let hub = self.hub.as_mut().filter(|hub| hub.is_ready())?;
        if hub.keeper.looked.is_none() {
            hub.keeper.next = Some(self.now);
        }
        if hub.keeper.pending > 0 {
            return None;
        }
        match hub.keeper.next {
            Some(next) if next <= self.now => self.look(),
            _ => {}
        }
        let hub = self.hub.as_ref()?;
        hub.keeper.next.filter(|_| hub.keeper.pending == 0)
    }

    fn look(&mut self) {
        let now = self.now;
        let mut steps = Vec::new();
        let Some(hub) = &mut self.hub else { return };
        hub.keeper.looked = Some(now);
        hub.keeper.failed = false;
        let all = hub.directory.all();
        for (name, facts) in &all {
            if !facts.deleting && !facts.is_guarded() {
                steps.push((name.clone(), facts.version, Step::Guard));
            }
        }
        let leaving = |facts: &TenantFacts| facts.deleting && facts.is_guarded();
        let counts = hub.cache.counts(|name| all.contains_key(name));
        let leavers: BTreeMap<TenantName, Leaver> = all
            .iter()
            .filter(|(_, facts)| leaving(facts))
            .map(|(name, facts)| {
                let mut conditions = facts.status.conditions.iter();
                let leaver = Leaver {
                    uid: facts.uid.clone(),
                    confirmed: facts.confirmed,
                    held: conditions.any(|it| it.reason == HELD),
                    load_balancers: counts.get(name).copied().unwrap_or_default(),
                };
                (name.clone(), leaver)
            })
            .collect();
        let others = counts.keys().filter(|name| !leavers.contains_key(*name));
        let (mut verdicts, _) = hub.keeper.judge.judge(&leavers, others.count(), now);
        if self.mutation == Some(Mutation::DeletedTenantRushed) {
            verdicts.values_mut().for_each(|it| *it = Verdict::Go);
        }
        let before = std::mem::replace(&mut hub.keeper.verdicts, verdicts);
        for (name, verdict) in &hub.keeper.verdicts {
            let version = all.get(name).map_or(0, |facts| facts.version);
            let news = before.get(name) != Some(verdict);
            match verdict {
                Verdict::Go if news => {
                    for key in hub.cache.keys_of(name) {
                        hub.queue().add(&Id::new(name.clone(), key));
                    }
                }
                Verdict::Held(..) if news => steps.push((name.clone(), version, Step::Note)),
                _ => {}
            }
            let left = hub.cache.left(name, |it| it.is_empty() || has_departed(it));
            if *verdict == Verdict::Go && left == 0 && !hub.queue().is_busy(name) {
                steps.push((name.clone(), version, Step::LastLook));
            }
        }
        let held = hub.keeper.all_held();
        hub.keeper.next = (!leavers.is_empty()).then(|| now + if held { AGAIN } else { LOOK });
        let epoch = hub.epoch;
        for (name, version, step) in steps {
            // The status is another task's.
            if !matches!(step, Step::Note)
                && let Some(hub) = &mut self.hub
            {
                hub.keeper.pending += 1;
            }
            self.step_at_api(epoch, &name, version, step);
        }
    }

    fn step_at_api(&mut self, epoch: u32, name: &TenantName, version: u64, step: Step) {
        let Some(t) = self.tenants.iter().position(|it| it.name == *name) else {
            return;
        };
        let delay = Self::some(&mut self.operators, 1, 15);
        let slow = if self.now < self.api_slow.0 {
            self.api_slow.1
        } else {
            Duration::ZERO
        };
        let t = u8::try_from(t).unwrap_or(u8::MAX);
        self.after(delay + slow, Event::Departs(epoch, t, version, step));
    }

    /// A step arrives at the API server. Of a process that is dead it does not.
    pub(crate) fn departs(&mut self, epoch: u32, t: u8, version: u64, step: Step) {
        let Some(hub) = self.hub.as_ref().filter(|hub| hub.epoch == epoch) else {
            return;
        };
        let name = self.tenants[usize::from(t)].name.clone();
        let kept = hub.cache.counts(|it| *it == name);
        let kept = kept.get(&name).copied().unwrap_or_default();
        let down = self.now < self.api_down_until;
        let is_it = |object: &&mut crate::tenants::TenantObject| object.version == version;
        let there = self.tenant(t).object.as_mut().filter(is_it).is_some();
        let mut over = true;
        match step {
            _ if down => {}
            // It is another now: the watch tells.
            _ if !there => {}
            Step::Guard => {
                self.change_tenant(t, |object| !std::mem::replace(&mut object.guarded, true));
            }
            Step::Note => {
                self.change_tenant(t, |object| !std::mem::replace(&mut object.held, true));
            }
            Step::LastLook => {
                let left: usize = KINDS.iter().map(|kind| self.left_of(&name, *kind)).sum();
                // Of each that is kept, the Service and the record.
                if left <= 2 * kept {
                    over = false;
                    self.step_at_api(epoch, &name, version, Step::LetGo);
                }
            }
            Step::LetGo => {
                self.stats.effect("deleted Tenant seen off");
                self.tenant(t).object = None;
                self.dirty = true;
                let lag = Self::some(&mut self.operators, 1, 25);
                self.tell_tenant(t, lag);
            }
        }
        let now = self.now;
        let Some(hub) = &mut self.hub else { return };
        if matches!(step, Step::Note) || !over {
            return;
        }
        hub.keeper.pending = hub.keeper.pending.saturating_sub(1);
        hub.keeper.failed |= down;
        if hub.keeper.pending == 0 {
            // What it waited for took time, and the next look is not in the past.
            let next = hub.keeper.next.map(|next| next.max(now + SOON));
            let looked = hub.keeper.looked.unwrap_or(now);
            hub.keeper.next = match hub.keeper.failed {
                true => Some((looked + AGAIN).max(now + SOON)),
                false => next,
            };
        }
    }

    fn left_of(&self, name: &TenantName, kind: Kind) -> usize {
        let all = self.management.list(kind, self.now);
        all.iter().filter(|(id, _)| id.tenant == *name).count()
    }
}
