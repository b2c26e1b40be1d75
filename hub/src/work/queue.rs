//! The queue itself: keys and times in, the next key out.

use std::{
    collections::{BTreeSet, HashMap, VecDeque, hash_map::Entry},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use berth_common::{identity::TenantName, model::ServiceKey};

use super::pace::Pace;
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

/// Who has had a key run within this time is busy.
const BUSY: Duration = Duration::from_secs(1);
/// Where several are, each has this part of what one has that is alone.
const SHARE: usize = 4;

/// So many tenants' paces are kept before those are looked for that say nothing.
const PACES: usize = 64;

/// Deduplicated keys; tenants take turns.
#[derive(Debug)]
pub struct Queue {
    /// At most so many keys of one tenant run at the same time while no other is busy.
    per_tenant: usize,
    /// Whose key was handed out last, and when.
    last: Option<(TenantName, Instant)>,
    /// Until when more than one tenant is busy.
    company: Option<Instant>,
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
            last: None,
            company: None,
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
        self.note_busy(&name, now);
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

    /// Somebody has a key run.
    fn note_busy(&mut self, name: &TenantName, now: Instant) {
        if let Some((last, at)) = &mut self.last {
            if last == name {
                *at = now;
                return;
            }
            if now < *at + BUSY {
                self.company = Some(now + BUSY);
            }
        }
        self.last = Some((name.clone(), now));
    }

    /// How many keys of one tenant may run at the same time.
    fn width(&self, now: Instant) -> usize {
        match self.company.is_some_and(|until| now < until) {
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(tenant: &str, name: &str) -> Id {
        Id::new(
            TenantName::parse(tenant).unwrap(),
            ServiceKey::new("default", name),
        )
    }

    fn drain(queue: &mut Queue, now: Instant) -> Vec<Id> {
        std::iter::from_fn(|| queue.next(now)).collect()
    }

    #[test]
    fn hostile_41_ten_thousand_changes_of_one_key_are_one_entry() {
        let mut queue = Queue::new(8);
        for _ in 0..10_000 {
            queue.add(&id("acme", "a"));
        }
        assert_eq!(queue.len(), 1);
        assert_eq!(drain(&mut queue, Instant::now()), [id("acme", "a")]);
    }

    #[test]
    fn tenants_take_turns_however_much_one_has() {
        let mut queue = Queue::new(100);
        for n in 0..50 {
            queue.add(&id("loud", &format!("s{n}")));
        }
        queue.add(&id("quiet", "s"));
        let order = drain(&mut queue, Instant::now());
        assert_eq!(order[1], id("quiet", "s"));
        assert_eq!(order.len(), 26, "a quarter of the slots, beside another");
    }

    #[test]
    fn one_tenant_never_takes_all_slots() {
        let now = Instant::now();
        let mut queue = Queue::new(2);
        for n in 0..5 {
            queue.add(&id("loud", &format!("s{n}")));
        }
        let running = drain(&mut queue, now);
        assert_eq!(running.len(), 2);
        queue.done(&running[0], Done::Settled(None), now);
        assert_eq!(drain(&mut queue, now).len(), 1);
    }

    #[test]
    fn who_is_alone_has_more_slots_than_who_has_company() {
        let mut now = Instant::now();
        let mut queue = Queue::new(8);
        for n in 0..30 {
            queue.add(&id("loud", &format!("s{n:02}")));
        }
        let mut running = drain(&mut queue, now);
        assert_eq!(running.len(), 8);
        queue.add(&id("quiet", "s"));
        let other = drain(&mut queue, now);
        assert_eq!(other, [id("quiet", "s")], "it is served beside them");
        queue.done(&other[0], Done::Settled(None), now);
        for left in (0..8).rev() {
            queue.done(&running.pop().unwrap(), Done::Settled(None), now);
            let next = drain(&mut queue, now);
            assert_eq!(next.len(), usize::from(left < 2), "{left} run");
            running.extend(next.into_iter().take(usize::from(left == 0)));
        }
        now += BUSY;
        queue.done(&running.pop().unwrap(), Done::Settled(None), now);
        assert_eq!(drain(&mut queue, now).len(), 7, "one of two runs yet");
    }

    #[test]
    fn a_change_while_running_runs_once_more_and_never_at_the_same_time() {
        let now = Instant::now();
        let mut queue = Queue::new(8);
        let a = id("acme", "a");
        queue.add(&a);
        assert_eq!(queue.next(now), Some(a.clone()));
        queue.add(&a);
        queue.add(&a);
        assert_eq!(queue.next(now), None);
        queue.done(&a, Done::Settled(None), now);
        assert_eq!(queue.next(now), Some(a.clone()));
        queue.done(&a, Done::Settled(None), now);
        assert_eq!(queue.next(now), None);
        assert!(queue.is_empty() && queue.tenants.is_empty() && queue.ring.is_empty());
    }

    #[test]
    fn a_failure_waits_whatever_changes_and_longer_each_time() {
        let mut now = Instant::now();
        let mut queue = Queue::new(8);
        let a = id("acme", "a");
        queue.add(&a);
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert_eq!(queue.next(now), Some(a.clone()));
            queue.done(&a, Done::Failed, now);
            queue.add(&a);
            assert_eq!(queue.next(now), None);
            let due = queue.due().unwrap();
            waits.push(due - now);
            now = due;
        }
        assert!(
            waits[0] <= FIRST_RETRY && waits[7] > LAST_RETRY / 3,
            "{waits:?}"
        );
        assert!(waits.iter().all(|wait| *wait <= LAST_RETRY));
    }

    #[test]
    fn a_rest_ends_by_time_or_by_a_change() {
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        let mut queue = Queue::new(8);
        for change in [false, true] {
            let a = id("acme", "a");
            queue.add(&a);
            queue.next(now);
            queue.done(&a, Done::Settled(Some(later)), now);
            assert_eq!((queue.next(now), queue.due()), (None, Some(later)));
            let woken = if change {
                queue.add(&a);
                queue.next(now)
            } else {
                queue.next(later)
            };
            assert_eq!(woken, Some(a.clone()));
            queue.done(&a, Done::Settled(None), now);
            assert_eq!(queue.due(), None);
        }
    }

    fn one() -> NonZeroU32 {
        NonZeroU32::new(1).unwrap()
    }

    #[test]
    fn hostile_41_who_changes_without_end_waits_in_its_own_line_and_others_do_not() {
        let mut now = Instant::now();
        let mut queue = Queue::new(8);
        let (loud, quiet) = (id("loud", "a"), id("quiet", "a"));
        let mut runs = 0;
        // One a second, and a minute's at once.
        let began = now;
        while now < began + Duration::from_secs(30) {
            queue.add(&loud);
            queue.add(&quiet);
            let mut served = Vec::new();
            while let Some(id) = queue.next(now) {
                if id == loud {
                    runs += 1;
                    queue.spend(&loud.tenant, one(), now);
                }
                queue.done(&id, Done::Settled(None), now);
                served.push(id);
            }
            assert!(served.contains(&quiet), "{served:?}");
            now += Duration::from_millis(50);
        }
        assert!((88..=91).contains(&runs), "{runs}");
        assert!(queue.throttled(&loud.tenant, now).is_some());
        assert_eq!(queue.throttled(&quiet.tenant, now), None);
        // What waits is not lost, and is said to be due.
        queue.add(&loud);
        queue.spend(&loud.tenant, one(), now);
        assert_eq!((queue.next(now), queue.resting()), (None, 1));
        let due = queue.due().unwrap();
        assert_eq!(queue.next(due), Some(loud));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(u8, u8),
        Next,
        Done(usize, u8),
        Spend(u8),
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_u8..3, 0_u8..4).prop_map(|(tenant, key)| Step::Add(tenant, key)),
            Just(Step::Next),
            (any::<usize>(), 0_u8..3).prop_map(|(which, how)| Step::Done(which, how)),
            (0_u8..3).prop_map(Step::Spend),
            (0_u64..3_000).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn no_key_is_lost_doubled_or_run_twice_at_once(steps in prop::collection::vec(steps(), 0..200)) {
            let mut now = Instant::now();
            let mut queue = Queue::new(2);
            let mut running: Vec<Id> = Vec::new();
            let mut owed: std::collections::HashSet<Id> = Default::default();
            for step in steps {
                match step {
                    Step::Add(tenant, key) => {
                        let id = id(&format!("t{tenant}"), &format!("k{key}"));
                        queue.add(&id);
                        owed.insert(id);
                    }
                    Step::Next => if let Some(id) = queue.next(now) {
                        prop_assert!(!running.contains(&id));
                        owed.remove(&id);
                        running.push(id);
                        let tenant = &running[running.len() - 1].tenant;
                        prop_assert!(running.iter().filter(|id| id.tenant == *tenant).count() <= 2);
                    },
                    Step::Done(which, how) if !running.is_empty() => {
                        let id = running.swap_remove(which % running.len());
                        let done = match how {
                            0 => { owed.insert(id.clone()); Done::Failed }
                            1 => Done::Settled(Some(now + Duration::from_millis(500))),
                            _ => Done::Settled(None),
                        };
                        queue.done(&id, done, now);
                    }
                    Step::Done(..) => {}
                    Step::Spend(tenant) => {
                        let tenant = TenantName::parse(&format!("t{tenant}")).unwrap();
                        for _ in 0..20 {
                            queue.spend(&tenant, one(), now);
                        }
                    }
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                }
                prop_assert!(queue.len() <= 12);
            }
            // In the end everything owed is handed out, and the queue is empty of it.
            for _ in 0..1_000 {
                now += Duration::from_secs(5);
                for id in running.drain(..) {
                    queue.done(&id, Done::Settled(None), now);
                }
                while let Some(id) = queue.next(now) {
                    owed.remove(&id);
                    running.push(id);
                }
            }
            prop_assert!(owed.is_empty(), "{owed:?}");
            prop_assert!(queue.is_empty() && queue.times.is_empty() && queue.tenants.is_empty());
        }
    }
}
