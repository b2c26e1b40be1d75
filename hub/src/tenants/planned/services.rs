//! What a tenant's Services are planned as. It is what was heard of them; but a Service that is changed again and again is held back:
//! it is planned as it was until its tenant has a repetition to spare, and then as it is by that time. So what is changed without end
//! costs its tenant's repetitions and nobody else's time, whatever else makes a Service planned (an address, a node, health), and a
//! change that comes after a quiet time is carried out at once. Those that are held back have their turn in the order of waiting. A
//! tenant that tells of more than it may change at all is slower still, for nearly all of what it tells is overtaken by the next.
//! Pure; time is a parameter.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use berth_common::{
    model::ServiceKey,
    session::held::{Held, Wanted},
};

use crate::policy::CHANGES_PER_SECOND;

/// A change that comes within this time of the one before repeats it.
const AGAIN: Duration = Duration::from_secs(10);
/// For so long repetitions that are not used are kept.
const KEPT: Duration = Duration::from_secs(1);
/// How many times longer a repetition takes while the tenant's changes are a flood.
const FLOODED: u32 = 10;
/// They are one when so much more was told than the tenant may have changes in that time...
const FLOOD: Duration = Duration::from_secs(1);
/// ...and for no longer than this after the last of them.
const EBB: Duration = Duration::from_secs(5);

/// So many Services are remembered after they are gone, among those that are there.
const REMEMBERED: usize = 1_024;

/// How many of a tenant's changes in a second may be for what it has changed just before: a twentieth of those that it may have at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repetitions {
    changes: NonZeroU32,
}

impl Repetitions {
    /// Of one who may have so many changes in a second.
    pub fn of(changes_per_second: NonZeroU32) -> Self {
        Self {
            changes: changes_per_second,
        }
    }

    /// How long a change takes.
    fn change(self) -> Duration {
        Duration::from_secs(1) / self.changes.get()
    }

    /// How long a repetition takes, at most a second without a flood.
    fn one(self, flood: bool) -> Duration {
        let one = Duration::from_secs(1) / (self.changes.get() / 20).max(1);
        if flood { FLOODED * one } else { one }
    }
}

impl Default for Repetitions {
    fn default() -> Self {
        Self::of(CHANGES_PER_SECOND)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct PlannedServices {
    /// Those that were changed in the last [`AGAIN`], and all that are held back.
    recent: BTreeMap<ServiceKey, Recent>,
    /// Those that are held back, by turn: who has waited longest first.
    line: BTreeMap<u64, ServiceKey>,
    turns: u64,
    /// When all repetitions that were used will have come back.
    whole: Option<Instant>,
    /// How far what was told of what had been changed just before reaches, with as many in a second as there may be changes.
    told: Option<Instant>,
    /// Since when somebody has been held back, and when somebody was at last: pauses shorter than [`AGAIN`] are none.
    restless: Option<(Instant, Instant)>,
    /// Nobody was told of that yet.
    news: bool,
    /// When it is to be looked for what is not recent any more.
    prune: Option<Instant>,
}

#[derive(Debug)]
struct Recent {
    changed: Instant,
    planned: Wanted,
    /// Where it stands in the line, if it is held back.
    turn: Option<u64>,
}

impl PlannedServices {
    /// What a Service is planned as.
    pub(super) fn wanted(&self, key: &ServiceKey, held: &Held) -> Wanted {
        match self.recent.get(key).filter(|it| it.turn.is_some()) {
            Some(recent) => recent.planned.clone(),
            None => held.wanted(key),
        }
    }

    /// Since when any has been held back.
    pub(super) fn since(&self, now: Instant) -> Option<Instant> {
        let (since, last) = self.restless?;
        (!self.line.is_empty() || now < last + AGAIN).then_some(since)
    }

    /// Whether that has begun, and was not asked since.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// When [`PlannedServices::pass`] is to be called.
    pub(super) fn due(&self, repetitions: Repetitions, now: Instant) -> Option<Instant> {
        let turn = (!self.line.is_empty()).then(|| self.free(repetitions, now).unwrap_or(now));
        [turn, self.prune].into_iter().flatten().min()
    }

    /// Takes in that a Service was told of. Returns whether it is to be planned now.
    pub(super) fn heard(
        &mut self,
        key: &ServiceKey,
        held: &Held,
        repetitions: Repetitions,
        now: Instant,
    ) -> bool {
        let wanted = held.wanted(key);
        if matches!(wanted, Wanted::Absent | Wanted::Unknown) {
            // Nobody changed it: it is missed, and that has times of its own.
            self.leave_line(key);
            self.recent.remove(key);
            return true;
        }
        if matches!(wanted, Wanted::Deleted(_)) {
            // Nobody waits for an end. That it is made anew soon after is a repetition.
            self.leave_line(key);
            if let Some(recent) = self.recent.get_mut(key) {
                (recent.changed, recent.planned) = (now, wanted);
            }
            return true;
        }
        let repeats = self.recent.get(key).is_some_and(|it| {
            it.turn.is_some() || (it.planned != wanted && now < it.changed + AGAIN)
        });
        if repeats {
            let told = self.told.map_or(now, |at| at.max(now)) + repetitions.change();
            self.told = Some(told.min(now + EBB));
        }
        let may = !repeats || (self.line.is_empty() && self.free(repetitions, now).is_none());
        let Some(recent) = self.recent.get_mut(key) else {
            let recent = Recent {
                changed: now,
                planned: wanted,
                turn: None,
            };
            self.recent.insert(key.clone(), recent);
            self.prune.get_or_insert(now + AGAIN);
            return true;
        };
        recent.changed = now;
        if may {
            recent.planned = wanted;
            if repeats {
                self.spend(repetitions, now);
            }
        } else if recent.turn.is_none() {
            self.turns += 1;
            recent.turn = Some(self.turns);
            let since = self.since(now);
            self.news |= since.is_none();
            self.restless = Some((since.unwrap_or(now), now));
            self.line.insert(self.turns, key.clone());
        }
        may
    }

    /// Nothing is left of a Service. Of names without end nothing is remembered.
    pub(super) fn gone(&mut self, key: &ServiceKey) {
        let is_gone = |it: &Recent| it.turn.is_none() && matches!(it.planned, Wanted::Deleted(_));
        if self.recent.len() > REMEMBERED && self.recent.get(key).is_some_and(is_gone) {
            self.recent.remove(key);
        }
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.recent.len()
    }

    /// Lets go whom there are repetitions for. Returns who is to be planned now.
    pub(super) fn pass(
        &mut self,
        held: &Held,
        repetitions: Repetitions,
        now: Instant,
    ) -> Vec<ServiceKey> {
        let mut passed = Vec::new();
        while self.free(repetitions, now).is_none()
            && let Some((_, key)) = self.line.pop_first()
        {
            if let Some(recent) = self.recent.get_mut(&key) {
                recent.turn = None;
                recent.planned = held.wanted(&key);
            }
            self.spend(repetitions, now);
            passed.push(key);
        }
        if self.prune.is_some_and(|at| at <= now) {
            self.recent
                .retain(|_, it| it.turn.is_some() || now < it.changed + AGAIN);
            self.prune = (!self.recent.is_empty()).then(|| now + AGAIN);
        }
        passed
    }

    fn leave_line(&mut self, key: &ServiceKey) {
        let recent = self.recent.get_mut(key);
        if let Some(turn) = recent.and_then(|it| it.turn.take()) {
            self.line.remove(&turn);
        }
    }

    fn is_flood(&self, now: Instant) -> bool {
        self.told.is_some_and(|told| told > now + FLOOD)
    }

    /// When there is a repetition again, where there is none now.
    fn free(&self, repetitions: Repetitions, now: Instant) -> Option<Instant> {
        let one = repetitions.one(self.is_flood(now));
        let free = (self.whole? + one).checked_sub(KEPT.max(one))?;
        (free > now).then_some(free)
    }

    fn spend(&mut self, repetitions: Repetitions, now: Instant) {
        let one = repetitions.one(self.is_flood(now));
        self.whole = Some(self.whole.map_or(now, |at| at.max(now)) + one);
    }
}
