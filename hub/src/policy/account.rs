//! How much of its quotas one tenant has taken, and who of its Services waits for more. A *place* is what counts as one load
//! balancer: the management Service or the record of one, or a grant for a Service that is being written. A place is taken
//! before the write is sent and given back only when it is known that nothing came of it, so that there is never one too many,
//! whoever fails; and what the management cluster shows is the truth that all of it is rebuilt from after a restart.
//!
//! Whoever has a place keeps it. Who finds none stands in line; what becomes free is the first one's whose need it meets, and
//! that one is called at once. Nobody stands in line whose need is met, so a newcomer passes only those that it takes nothing
//! from. A parked Service (its tenant has deleted it, and only its address is kept) has its place until somebody waits: then the
//! oldest are let go. Every step takes logarithmic time in the tenant's Services.

mod newest;
mod place;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use berth_common::model::ServiceKey;

use super::{
    shortage::Shortage,
    terms::{Holding, Limits, News, Said, Usage, Verdict},
};
use newest::Newest;
use place::{Lack, Place, Standing, Sum, age, lack};

#[derive(Clone, Copy, Debug)]
struct Wait {
    turn: u64,
    ports: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Account {
    limits: Limits,
    places: BTreeMap<ServiceKey, Place>,
    /// Of all places.
    all: Sum,
    /// Of those that are parked, also of those that are let go.
    parked: Sum,
    leaving: Sum,
    withdrawn: Sum,
    /// On record.
    recorded: Sum,
    reserved: usize,
    violating: usize,
    turns: u64,
    /// The parked ones that are not let go yet, the oldest first.
    kept: BTreeMap<u64, ServiceKey>,
    /// The active ones that are there, only while there are quotas. Who of them is beyond these stays while they are not enforced.
    newest: Newest,
    /// The withdrawn ones.
    beyond: BTreeSet<(i64, ServiceKey)>,
    line: BTreeMap<ServiceKey, Wait>,
    /// Those in line whose need can ever be met, by what they lack.
    lacks: BTreeMap<(Lack, usize), BTreeSet<(u64, ServiceKey)>>,
    /// What these lack in all.
    lacking: Sum,
    news: News,
}

impl Account {
    /// Whether nothing is known of the tenant.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty() && self.line.is_empty()
    }

    pub(super) fn has_news(&self) -> bool {
        !self.news.plan.is_empty() || !self.news.release.is_empty()
    }

    pub(super) fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            load_balancers: self.recorded.count,
            ports: self.recorded.ports,
            waiting: self.line.len(),
            beyond: self.newest.beyond().max(self.violating),
        }
    }

    /// What counts against a quota once those that go are gone.
    fn taken(&self, of: impl Fn(Sum) -> usize) -> usize {
        of(self.all) - of(self.parked) - of(self.withdrawn)
    }

    /// Whether these are the quotas.
    pub(super) fn has(&self, limits: Limits) -> bool {
        self.limits == limits
    }

    /// The operator allows so much.
    pub(super) fn limit(&mut self, limits: Limits) {
        let line: Vec<ServiceKey> = self.line.keys().cloned().collect();
        // What can never be met may be now, and the other way round.
        line.iter().for_each(|key| self.step_aside(key));
        let before = std::mem::replace(&mut self.limits, limits);
        line.iter().for_each(|key| self.step_up(key));
        if before.is_bounded() != limits.is_bounded() {
            self.newest = Newest::default();
            for (key, place) in self.places.iter().filter(|_| limits.is_bounded()) {
                if let Some(age) = age(key, place) {
                    self.newest.put(age, place.ports());
                }
            }
        }
        self.settle();
    }

    /// The management cluster has this of a key.
    pub(super) fn observe(&mut self, key: &ServiceKey, seen: Option<Holding>) {
        if self.places.get(key).and_then(|place| place.seen) == seen {
            return;
        }
        self.change(key, |place| {
            let before = std::mem::replace(&mut place.seen, seen);
            let has_service = |seen: Option<Holding>| seen.is_some_and(|seen| seen.has_service);
            // While its record is being written that may come to be, whatever becomes of the Service.
            let unfinished = place.making
                && place.standing == Standing::Active
                && before.is_some_and(|seen| !seen.recorded);
            let lost = has_service(before) && !has_service(seen);
            if lost && place.doubtful.is_none() && !unfinished {
                // It was granted more of what it had. It has to ask anew, for nothing now or for its record alone.
                place.granted = None;
            }
            let news = seen.filter(|seen| {
                seen.has_service
                    && before.is_none_or(|it| !it.has_service || it.ports != seen.ports)
            });
            let came =
                news.is_some_and(|seen| place.granted.is_some_and(|ports| ports <= seen.ports));
            if came {
                place.doubtful = None;
            }
            let whole = place.granted.is_some_and(|ports| place.is_seen_with(ports));
            let recorded = seen.is_some_and(|seen| seen.recorded) || !place.making;
            if place.doubtful.is_none() && (whole || came && recorded) {
                place.granted = None;
            }
            if seen.is_none() {
                place.standing = Standing::Active;
            }
        });
        self.settle();
    }

    /// Whether asking would change nothing, and the answer is yes.
    pub(super) fn is_settled(&self, key: &ServiceKey, ports: Option<usize>) -> bool {
        let place = self.places.get(key);
        let waits = self.line.contains_key(key);
        match (ports, place) {
            _ if waits => false,
            (None, None) => true,
            (None, Some(place)) => place.granted.is_none(),
            (Some(_), None) => false,
            (Some(ports), Some(place)) => {
                place.is_seen_with(ports)
                    && place.granted.is_none()
                    && place.standing == Standing::Active
            }
        }
    }

    /// A key is to have a load balancer with so many ports.
    pub(super) fn ask(&mut self, key: &ServiceKey, ports: usize, now: Instant) -> Said {
        self.forget_doubt(key, now);
        let place = self.places.get(key).cloned().unwrap_or_default();
        if place.standing == Standing::Withdrawn {
            let shortage = self.shortage(key, ports, true);
            if let Some(place) = self.places.get_mut(key) {
                place.told = true;
            }
            self.give_back(key);
            // That may be what somebody waits for, or all that was too much of it.
            self.settle();
            return Said::no(Verdict::Withdrawn(shortage), !place.told);
        }
        let has = !place.is_empty() && place.standing == Standing::Active;
        if has && place.ports() >= ports {
            self.leave_line(key);
            let seen = place.seen.is_some_and(|seen| seen.ports >= ports);
            self.change(key, |place| {
                place.making &= place.granted.is_some();
                place.granted = place.grant_for(ports);
            });
            self.settle();
            return Said {
                again: place.doubtful.filter(|_| seen),
                ..Said::GRANTED
            };
        }
        if self.meets(lack(&place, ports)) {
            self.leave_line(key);
            self.grant(key, ports);
            self.settle();
            return Said::GRANTED;
        }
        // Nothing of it is written now, so that what was granted for less is given back as well.
        self.give_back(key);
        let news = !self.line.contains_key(key) && !place.told;
        self.line_up(key, ports);
        self.settle();
        let is_parked = matches!(place.standing, Standing::Parked { .. });
        let shortage = self.shortage(key, ports, is_parked);
        let verdict = match is_parked {
            true => Verdict::Withdrawn(shortage),
            false => Verdict::Refused(shortage),
        };
        Said {
            again: place.doubtful,
            ..Said::no(verdict, news)
        }
    }

    /// What was granted is not written.
    fn give_back(&mut self, key: &ServiceKey) {
        let place = self.places.get(key);
        if place.is_some_and(|place| place.granted.is_some() && place.doubtful.is_none()) {
            self.change(key, |place| place.granted = None);
        }
    }

    /// What was seen of a key may be there still, although a list does not show it: the list may be older.
    pub(super) fn hold(&mut self, key: &ServiceKey, until: Instant) {
        let place = self.places.get(key);
        if place.is_some_and(|it| it.seen.is_some() && it.standing == Standing::Active) {
            self.change(key, |place| {
                place.granted = Some(place.ports());
                place.doubtful = Some(until);
            });
        }
    }

    /// Whatever was to come of an earlier write has been seen.
    fn forget_doubt(&mut self, key: &ServiceKey, now: Instant) {
        if let Some(place) = self.places.get_mut(key)
            && place.doubtful.is_some_and(|until| until <= now)
        {
            place.doubtful = None;
        }
    }

    /// Nothing is to be written for a key now. Returns when to look again, because something may have come of what was.
    pub(super) fn need_not(&mut self, key: &ServiceKey, now: Instant) -> Option<Instant> {
        self.leave_line(key);
        self.forget_doubt(key, now);
        let place = self.places.get(key);
        let again = place.and_then(|place| place.granted.and(place.doubtful));
        if again.is_none() && place.is_some_and(|place| place.granted.is_some()) {
            self.change(key, |place| place.granted = None);
        }
        self.settle();
        again
    }

    /// What was written for a key may have come to be, or not: it will have been seen by then.
    pub(super) fn doubt(&mut self, key: &ServiceKey, until: Instant) {
        self.change(key, |place| {
            if place.granted.is_some() {
                place.doubtful = Some(until);
            }
        });
    }

    /// Only the address of a key is kept.
    pub(super) fn park(&mut self, key: &ServiceKey) {
        let Some(place) = self.places.get(key).filter(|place| place.seen.is_some()) else {
            return;
        };
        let turn = match place.standing {
            Standing::Parked { leaving: false, .. } => return,
            // Whoever let it go was overtaken by who wanted it, and who wanted it has given it up.
            Standing::Parked { turn, .. } => turn,
            Standing::Active | Standing::Withdrawn => {
                self.turns += 1;
                self.turns
            }
        };
        let leaving = false;
        self.change(key, |place| {
            place.standing = Standing::Parked { turn, leaving };
        });
        self.settle();
    }

    /// A parked one is let go, for whatever reason.
    pub(super) fn leave(&mut self, key: &ServiceKey) {
        let place = self.places.get(key);
        if let Some(Standing::Parked {
            turn,
            leaving: false,
        }) = place.map(|place| place.standing)
        {
            self.change(key, |place| {
                let leaving = true;
                place.standing = Standing::Parked { turn, leaving };
            });
        }
    }

    fn grant(&mut self, key: &ServiceKey, ports: usize) {
        self.change(key, |place| {
            place.making = place.is_empty() || place.standing != Standing::Active;
            place.standing = Standing::Active;
            place.told = false;
            place.granted = place.grant_for(ports);
        });
    }

    fn line_up(&mut self, key: &ServiceKey, ports: usize) {
        self.step_aside(key);
        self.turns += 1;
        let turn = self.turns;
        let wait = self.line.entry(key.clone()).or_insert(Wait { turn, ports });
        wait.ports = ports;
        self.step_up(key);
    }

    fn leave_line(&mut self, key: &ServiceKey) {
        self.step_aside(key);
        self.line.remove(key);
    }

    /// Takes somebody in line out of the count of those that may be served.
    fn step_aside(&mut self, key: &ServiceKey) {
        self.step(key, |account, need, who| {
            let Some(those) = account.lacks.get_mut(&need) else {
                return;
            };
            if those.remove(&who) {
                account
                    .lacking
                    .take(usize::from(need.0 == Lack::Place), need.1);
            }
            if those.is_empty() {
                account.lacks.remove(&need);
            }
        });
    }

    /// Puts somebody in line into it, if its need can ever be met.
    fn step_up(&mut self, key: &ServiceKey) {
        self.step(key, |account, need, who| {
            account
                .lacking
                .add(usize::from(need.0 == Lack::Place), need.1);
            account.lacks.entry(need).or_default().insert(who);
        });
    }

    fn step(
        &mut self,
        key: &ServiceKey,
        f: impl FnOnce(&mut Self, (Lack, usize), (u64, ServiceKey)),
    ) {
        let Some(Wait { turn, ports }) = self.line.get(key).copied() else {
            return;
        };
        let need = lack(self.places.get(key).unwrap_or(&Place::default()), ports);
        // Who lacks nothing but ports needs no place.
        if self.limits.ports.is_some_and(|most| ports > most)
            || self.limits.load_balancers == Some(0) && need.0 != Lack::Ports
        {
            return;
        }
        f(self, need, (turn, key.clone()));
    }

    /// Whether there is room for what somebody lacks.
    fn meets(&self, (what, ports): (Lack, usize)) -> bool {
        let within = |count: usize, most: Option<usize>| most.is_none_or(|most| count <= most);
        let count = match what {
            Lack::Ports => 0,
            Lack::Own => self.all.count,
            Lack::Place => self.all.count + 1,
        };
        within(count, self.limits.load_balancers)
            && (ports == 0 && what == Lack::Ports
                || within(self.all.ports + ports, self.limits.ports))
    }

    /// Brings everything to rest after a change.
    fn settle(&mut self) {
        self.withdraw();
        self.restore();
        self.serve();
        self.evict();
        let (count, ports) = (self.taken(|sum| sum.count), self.taken(|sum| sum.ports));
        self.newest.settle(|gone| {
            self.limits
                .have_room_for(count - gone.count, ports - gone.ports)
        });
    }

    /// The newest beyond a quota that is enforced.
    fn withdraw(&mut self) {
        while self.limits.enforce
            && !self
                .limits
                .have_room_for(self.taken(|sum| sum.count), self.taken(|sum| sum.ports))
        {
            let Some(key) = self.newest.newest().cloned() else {
                return;
            };
            self.change(&key, |place| place.standing = Standing::Withdrawn);
            self.news.plan.insert(key);
        }
    }

    /// The oldest that was beyond a quota and is there still, when there is room again.
    fn restore(&mut self) {
        while let Some((_, key)) = self.beyond.first().cloned() {
            let ports = self.places.get(&key).map_or(0, Place::ports);
            let (count, all) = (self.taken(|sum| sum.count), self.taken(|sum| sum.ports));
            let room = self.limits.have_room_for(count + 1, all + ports);
            if self.limits.enforce && !room {
                return;
            }
            self.change(&key, |place| {
                (place.standing, place.told) = (Standing::Active, false);
            });
            self.news.plan.insert(key);
        }
    }

    /// Those in line whose need is met.
    fn serve(&mut self) {
        loop {
            let met = self.lacks.iter().filter(|(need, _)| self.meets(**need));
            // As many as there are numbers of ports: a handful.
            let Some((_, key)) = met.filter_map(|(_, those)| those.first()).min().cloned() else {
                return;
            };
            let ports = self.line.get(&key).map_or(0, |wait| wait.ports);
            self.leave_line(&key);
            self.grant(&key, ports);
            self.news.release.remove(&key);
            self.news.plan.insert(key);
        }
    }

    /// The oldest parked ones, where somebody waits or there are too many.
    fn evict(&mut self) {
        let short = |most: Option<usize>, taken: usize| most.is_some_and(|most| taken > most);
        while short(
            self.limits.load_balancers,
            self.all.count - self.leaving.count + self.lacking.count,
        ) || short(
            self.limits.ports,
            self.all.ports - self.leaving.ports + self.lacking.ports,
        ) {
            let Some((turn, key)) = self.kept.first_key_value() else {
                return;
            };
            let (turn, key) = (*turn, key.clone());
            self.change(&key, |place| {
                let leaving = true;
                place.standing = Standing::Parked { turn, leaving };
            });
            self.news.release.insert(key);
        }
    }

    /// Why there is no room for a key, as it is told. What was granted and is not seen yet it may not have: were it told by that, it would
    /// be told something else as soon as it is known that nothing came of it.
    fn shortage(&self, key: &ServiceKey, ports: usize, withdrawn: bool) -> Shortage {
        let mut place = self.places.get(key).cloned().unwrap_or_default();
        let mut all = self.all;
        if place.seen.is_none() && place.granted.is_some() {
            all.take(1, place.ports());
            place.granted = None;
        }
        let (what, more) = lack(&place, ports);
        let count = match what {
            Lack::Ports => 0,
            Lack::Own => all.count,
            Lack::Place => all.count + 1,
        };
        let full = self.limits.load_balancers.filter(|most| count > *most);
        match (full, self.limits.ports) {
            (None, Some(most)) if all.ports + more > most => Shortage::Ports {
                most,
                wanted: ports,
                withdrawn,
            },
            _ => Shortage::LoadBalancers {
                most: full.or(self.limits.load_balancers).unwrap_or_default(),
                reserved: self.reserved > 0,
                withdrawn,
            },
        }
    }

    /// Changes a place and all that is counted of it.
    fn change(&mut self, key: &ServiceKey, f: impl FnOnce(&mut Place)) {
        self.step_aside(key);
        let mut place = self.places.remove(key).unwrap_or_default();
        if !place.is_empty() {
            self.count(key, &place, false);
        }
        f(&mut place);
        if !place.is_empty() {
            self.count(key, &place, true);
            self.places.insert(key.clone(), place);
        }
        self.step_up(key);
    }

    fn count(&mut self, key: &ServiceKey, place: &Place, is_there: bool) {
        let add = |sum: &mut Sum, ports| match is_there {
            true => sum.add(1, ports),
            false => sum.take(1, ports),
        };
        let ports = place.ports();
        add(&mut self.all, ports);
        if let Some(seen) = place.seen.filter(|seen| seen.recorded) {
            add(&mut self.recorded, seen.ports);
        }
        let more = |count: &mut usize, does: bool| match is_there {
            true => *count += usize::from(does),
            false => *count -= usize::from(does),
        };
        let seen = place.seen.unwrap_or_default();
        more(&mut self.reserved, seen.reserved);
        more(&mut self.violating, seen.violates);
        match place.standing {
            Standing::Active => {
                if let Some(age) = age(key, place).filter(|_| self.limits.is_bounded()) {
                    match is_there {
                        true => self.newest.put(age, ports),
                        false => self.newest.remove(&age),
                    }
                }
            }
            Standing::Withdrawn => {
                add(&mut self.withdrawn, ports);
                put(&mut self.beyond, (seen.since, key.clone()), is_there);
            }
            Standing::Parked { turn, leaving } => {
                add(&mut self.parked, ports);
                if leaving {
                    add(&mut self.leaving, ports);
                } else if is_there {
                    self.kept.insert(turn, key.clone());
                } else {
                    self.kept.remove(&turn);
                }
            }
        }
    }
}

fn put<T: Ord>(set: &mut BTreeSet<T>, value: T, is_there: bool) {
    if is_there {
        set.insert(value);
    } else {
        set.remove(&value);
    }
}

#[cfg(test)]
mod check;
