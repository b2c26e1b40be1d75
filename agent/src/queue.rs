//! Work as deduplicated keys: each key is at most once in the queue and at most once in somebody's hands; what changes
//! meanwhile is looked at again afterwards; what failed waits for its time. Pure: the time is a parameter.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    hash::Hash,
    time::{Duration, Instant},
};

/// The first delay after a failure; doubled each time.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// No delay is longer.
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// So often a change ends the wait after a failure. Beyond that the change may be our own doing, written again and again.
const PATIENCE: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Queued,
    InHand { again: bool },
    Waiting { due: Instant },
}

#[derive(Debug)]
struct Work {
    place: Place,
    failures: u32,
}

/// A queue of keys.
#[derive(Debug)]
pub struct WorkQueue<K> {
    ready: VecDeque<K>,
    waiting: BTreeSet<(Instant, K)>,
    work: HashMap<K, Work>,
}

impl<K: Clone + Eq + Hash + Ord> WorkQueue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        Self {
            ready: VecDeque::new(),
            waiting: BTreeSet::new(),
            work: HashMap::new(),
        }
    }

    /// There may be something to do for this key. One that waits after its first failures is due at once, for what changed
    /// may be what was missing.
    pub fn push(&mut self, key: K) {
        let Some(work) = self.work.get_mut(&key) else {
            let place = Place::Queued;
            self.work.insert(key.clone(), Work { place, failures: 0 });
            self.ready.push_back(key);
            return;
        };
        match work.place {
            Place::Queued => {}
            Place::InHand { .. } => work.place = Place::InHand { again: true },
            Place::Waiting { .. } if work.failures > PATIENCE => {}
            Place::Waiting { due } => {
                work.place = Place::Queued;
                self.waiting.remove(&(due, key.clone()));
                self.ready.push_back(key);
            }
        }
    }

    /// The next key that is due, now in the caller's hands.
    pub fn take(&mut self, now: Instant) -> Option<K> {
        while let Some((due, key)) = self.waiting.first().cloned()
            && due <= now
        {
            self.waiting.pop_first();
            if let Some(work) = self.work.get_mut(&key) {
                work.place = Place::Queued;
                self.ready.push_back(key);
            }
        }
        let key = self.ready.pop_front()?;
        if let Some(work) = self.work.get_mut(&key) {
            work.place = Place::InHand { again: false };
        }
        Some(key)
    }

    /// Nothing is left to do for this key, unless it was pushed meanwhile.
    pub fn done(&mut self, key: &K) {
        match self.work.get_mut(key) {
            Some(work) if work.place == (Place::InHand { again: true }) => {
                work.place = Place::Queued;
                work.failures = 0;
                self.ready.push_back(key.clone());
            }
            _ => {
                self.work.remove(key);
            }
        }
    }

    /// It failed: to be tried again after a delay that grows; the first times at once if it was pushed meanwhile. `jitter`
    /// is a random number between 0 and 1.
    pub fn failed(&mut self, key: &K, now: Instant, jitter: f64) {
        let Some(work) = self.work.get_mut(key) else {
            return;
        };
        work.failures += 1;
        if work.place == (Place::InHand { again: true }) && work.failures <= PATIENCE {
            work.place = Place::Queued;
            self.ready.push_back(key.clone());
            return;
        }
        let factor = 1_u32 << (work.failures - 1).min(16);
        let delay = FIRST_DELAY.saturating_mul(factor).min(LONGEST_DELAY);
        let due = now + delay.mul_f64(0.5 + jitter / 2.0);
        work.place = Place::Waiting { due };
        self.waiting.insert((due, key.clone()));
    }

    /// Whatever made keys fail is over: all that wait are due at once.
    pub fn expedite(&mut self) {
        for (_, key) in std::mem::take(&mut self.waiting) {
            if let Some(work) = self.work.get_mut(&key) {
                work.place = Place::Queued;
                work.failures = 0;
                self.ready.push_back(key);
            }
        }
    }

    /// When the first of the waiting is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.first().map(|(due, _)| *due)
    }

    /// How many keys are queued, in hand or waiting.
    pub fn len(&self) -> usize {
        self.work.len()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.work.is_empty()
    }
}

impl<K: Clone + Eq + Hash + Ord> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_queued_once_and_in_one_hand() {
        let now = Instant::now();
        let mut queue = WorkQueue::new();
        queue.push("a");
        queue.push("a");
        assert_eq!(queue.take(now), Some("a"));
        assert_eq!(queue.take(now), None);
        queue.done(&"a");
        assert!(queue.is_empty());
    }

    #[test]
    fn what_changes_while_in_hand_is_looked_at_again() {
        let now = Instant::now();
        let mut queue = WorkQueue::new();
        queue.push("a");
        queue.take(now);
        queue.push("a");
        assert_eq!(queue.take(now), None, "it is still in a hand");
        queue.done(&"a");
        assert_eq!(queue.take(now), Some("a"));
    }

    /// Fails a key again and again; gives the delays in milliseconds, and the time after the last.
    fn failing(queue: &mut WorkQueue<&'static str>, times: usize) -> (Vec<u128>, Instant) {
        let mut now = Instant::now();
        let mut delays = Vec::new();
        queue.push("a");
        for _ in 0..times {
            assert_eq!(queue.take(now), Some("a"));
            queue.failed(&"a", now, 1.0);
            let due = queue.next_due().unwrap();
            delays.push((due - now).as_millis());
            assert_eq!(queue.take(due - Duration::from_millis(1)), None);
            now = due;
        }
        (delays, now - Duration::from_millis(1))
    }

    #[test]
    fn a_failure_waits_longer_each_time() {
        let (delays, _) = failing(&mut WorkQueue::new(), 12);
        assert_eq!(delays[..4], [100, 200, 400, 800]);
        assert_eq!(delays[11], 30_000);
    }

    #[test]
    fn a_change_ends_the_wait_after_the_first_failures_only() {
        let mut queue = WorkQueue::new();
        let (_, now) = failing(&mut queue, 3);
        queue.push("a");
        assert_eq!(queue.take(now), Some("a"));
        let mut queue = WorkQueue::new();
        let (_, now) = failing(&mut queue, 4);
        queue.push("a");
        assert_eq!(queue.take(now), None);
    }

    #[test]
    fn everything_that_waits_can_be_made_due() {
        let mut queue = WorkQueue::new();
        let (_, now) = failing(&mut queue, 8);
        queue.expedite();
        assert_eq!((queue.next_due(), queue.take(now)), (None, Some("a")));
    }

    #[test]
    fn a_failure_of_something_pushed_meanwhile_does_not_wait() {
        let now = Instant::now();
        let mut queue = WorkQueue::new();
        queue.push("a");
        queue.take(now);
        queue.push("a");
        queue.failed(&"a", now, 0.5);
        assert_eq!(queue.take(now), Some("a"));
    }
}
