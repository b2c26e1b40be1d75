//! The queue itself: keys and times in, the next key out.

use std::{
    collections::{BTreeSet, HashMap, VecDeque, hash_map::Entry},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use berth_common::{identity::TenantName, model::ServiceKey};

use super::{company::Company, pace::Pace};
use crate::objects::Id;

/// The first wait after a failure.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// The longest wait after a failure: below the two seconds within which everything is to be done once the management API
/// is back.
const LAST_RETRY: Duration = Duration::from_millis(1_500);

/// How the run of a key ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// There is nothing left to do; plan again at this time, or when something changes.
    Settled(Option<Instant>),
    /// Something failed that may work later.
    Failed,
}

#[derive(Debug)]
enum State {
    /// In its tenant's line.
    Ready,
    /// Not before this time; a change makes it ready at once.
    Resting(Instant),
    /// Not before its time, whatever changes: a key whose writes fail must not be retried at the pace of its changes.
    BackingOff,
    /// Handed out; `again` if something changed meanwhile.
    Running { again: bool },
}

#[derive(Debug)]
struct Key {
    state: State,
    failures: u32,
}

#[derive(Debug, Default)]
struct Tenant {
    ready: VecDeque<ServiceKey>,
    running: usize,
    /// In the ring of tenants whose turn comes.
    in_ring: bool,
}

/// Where others are busy, each tenant has this part of the slots that it has alone.
const SHARE: usize = 4;

/// So many tenants' paces are kept before those are looked for that say nothing.
const PACES: usize = 64;

/// Deduplicated keys; tenants take turns.
#[derive(Debug)]
pub struct Queue {
    /// At most so many keys of one tenant run at the same time while no other is busy.
    per_tenant: usize,
    company: Company,
    keys: HashMap<Id, Key>,
    tenants: HashMap<TenantName, Tenant>,
    ring: VecDeque<TenantName>,
    times: BTreeSet<(Instant, Id)>,
    /// How much of its changes each tenant has used, where that is any.
    paces: HashMap<TenantName, Pace>,
    /// Who has used all of them, until when.
    resting: HashMap<TenantName, Instant>,
    rests: BTreeSet<(Instant, TenantName)>,
    prune_at: usize,
}

impl Queue {
    /// An empty queue; at most `per_tenant` keys of one tenant (at least one) run at the same time, and a quarter of them where
    /// others are busy: whoever comes finds few writes in its way, and who is alone waits for nobody.
    pub fn new(per_tenant: usize) -> Self {
        Self {
            per_tenant: per_tenant.max(1),
            company: Company::default(),
            keys: HashMap::new(),
            tenants: HashMap::new(),
            ring: VecDeque::new(),
            times: BTreeSet::new(),
            paces: HashMap::new(),
            resting: HashMap::new(),
            rests: BTreeSet::new(),
            prune_at: PACES,
        }
    }

    /// A tenant's change was carried out, of which it may have so many in a second. Its keys wait in its own line while it has
    /// used them up. Returns whether that begins now.
    pub fn spend(&mut self, tenant: &TenantName, per_second: NonZeroU32, now: Instant) -> bool {
        if self.paces.len() >= self.prune_at {
            self.paces.retain(|_, pace| !pace.is_whole(now));
            self.prune_at = 2 * self.paces.len() + PACES;
        }
        let pace = self
            .paces
            .entry(tenant.clone())
            .or_insert_with(|| Pace::new(now));
        let before = pace.since(now).is_some();
        let Some(until) = pace.spend(per_second, now) else {
            return false;
        };
        let begins = !before;
        if let Some(former) = self.resting.insert(tenant.clone(), until) {
            self.rests.remove(&(former, tenant.clone()));
        }
        self.rests.insert((until, tenant.clone()));
        begins
    }

    /// Since when a tenant has been using up its changes.
    pub fn throttled(&self, tenant: &TenantName, now: Instant) -> Option<Instant> {
        self.paces.get(tenant)?.since(now)
    }

    /// How many tenants wait for changes to come back.
    pub fn resting(&self) -> usize {
        self.resting.len()
    }

    /// Something about this key has changed. Returns whether that makes a difference now.
    pub fn add(&mut self, id: &Id) -> bool {
        match self.keys.entry(id.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(Key {
                    state: State::Ready,
                    failures: 0,
                });
            }
            Entry::Occupied(mut entry) => match &mut entry.get_mut().state {
                State::Ready | State::BackingOff => return false,
                State::Running { again } => {
                    *again = true;
                    return false;
                }
                State::Resting(at) => {
                    self.times.remove(&(*at, id.clone()));
                    entry.get_mut().state = State::Ready;
                }
            },
        }
        self.line_up(id);
        true
    }

    /// Hands out the next key.
    pub fn next(&mut self, now: Instant) -> Option<Id> {
        self.wake(now);
        let name = loop {
            let name = self.ring.pop_front()?;
            let width = self.width(now);
            let tenant = self.tenants.get_mut(&name)?;
            tenant.in_ring = false;
            // It may have used up its changes since it stands there, and another may have come.
            if !self.resting.contains_key(&name) && tenant.running < width {
                break name;
            }
        };
        self.company.runs(&name, now);
        // Who is in the ring has a key ready.
        let tenant = self.tenants.get_mut(&name)?;
        let key = tenant.ready.pop_front()?;
        tenant.running += 1;
        let id = Id::new(name, key);
        if let Some(key) = self.keys.get_mut(&id) {
            key.state = State::Running { again: false };
        }
        self.enter_ring(&id.tenant);
        Some(id)
    }

    /// Whether anything of a tenant is ready, running or to be tried again.
    pub fn is_busy(&self, tenant: &TenantName) -> bool {
        let mut keys = self.keys.iter().filter(|(id, _)| id.tenant == *tenant);
        keys.any(|(_, key)| !matches!(key.state, State::Resting(_)))
    }

    /// When the next key becomes ready by time alone.
    pub fn due(&self) -> Option<Instant> {
        let key = self.times.first().map(|(at, _)| *at);
        let rest = self.rests.first().map(|(at, _)| *at);
        key.into_iter().chain(rest).min()
    }

    /// The run of a key that [`Queue::next`] handed out has ended.
    pub fn done(&mut self, id: &Id, done: Done, now: Instant) {
        let Some(key) = self.keys.get_mut(id) else {
            return;
        };
        let State::Running { again } = key.state else {
            return;
        };
        match done {
            Done::Failed => {
                let at = now + retry_after(key.failures);
                key.failures = key.failures.saturating_add(1);
                key.state = State::BackingOff;
                self.times.insert((at, id.clone()));
            }
            Done::Settled(_) if again => {
                key.failures = 0;
                key.state = State::Ready;
            }
            Done::Settled(Some(at)) => {
                key.failures = 0;
                key.state = State::Resting(at);
                self.times.insert((at, id.clone()));
            }
            Done::Settled(None) => {
                self.keys.remove(id);
            }
        }
        if let Some(tenant) = self.tenants.get_mut(&id.tenant) {
            tenant.running -= 1;
        }
        if self
            .keys
            .get(id)
            .is_some_and(|key| matches!(key.state, State::Ready))
        {
            self.line_up(id);
        }
        self.enter_ring(&id.tenant);
        self.forget_if_idle(&id.tenant);
    }

    /// Whether a key is ready that could run if this one's place were free.
    pub fn is_waited_for(&self, id: &Id) -> bool {
        let of_tenant = self.tenants.get(&id.tenant);
        !self.ring.is_empty() || of_tenant.is_some_and(|tenant| !tenant.ready.is_empty())
    }

    /// How many keys are ready, waiting or running.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is nothing to do at all.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn wake(&mut self, now: Instant) {
        while let Some((at, name)) = self.rests.pop_first() {
            if at > now {
                self.rests.insert((at, name));
                break;
            }
            self.resting.remove(&name);
            self.enter_ring(&name);
        }
        while let Some((at, id)) = self.times.pop_first() {
            if at > now {
                self.times.insert((at, id));
                return;
            }
            if let Some(key) = self.keys.get_mut(&id) {
                key.state = State::Ready;
                self.line_up(&id);
            }
        }
    }

    /// How many keys of one tenant may run at the same time.
    fn width(&self, now: Instant) -> usize {
        match self.company.is_there(now) {
            true => self.per_tenant.div_ceil(SHARE),
            false => self.per_tenant,
        }
    }

    fn line_up(&mut self, id: &Id) {
        let tenant = self.tenants.entry(id.tenant.clone()).or_default();
        tenant.ready.push_back(id.key.clone());
        self.enter_ring(&id.tenant);
    }

    fn enter_ring(&mut self, name: &TenantName) {
        if let Some(tenant) = self.tenants.get_mut(name)
            && !tenant.in_ring
            && !tenant.ready.is_empty()
            && tenant.running < self.per_tenant
            && !self.resting.contains_key(name)
        {
            tenant.in_ring = true;
            self.ring.push_back(name.clone());
        }
    }

    fn forget_if_idle(&mut self, name: &TenantName) {
        if self
            .tenants
            .get(name)
            .is_some_and(|tenant| tenant.running == 0 && tenant.ready.is_empty())
        {
            self.tenants.remove(name);
        }
    }
}

/// Doubling, with up to half of it taken off at random, so that what failed together does not come back together.
fn retry_after(failures: u32) -> Duration {
    let ceiling = FIRST_RETRY
        .saturating_mul(1 << failures.min(10))
        .min(LAST_RETRY);
    ceiling.mul_f64(1.0 - fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests;
