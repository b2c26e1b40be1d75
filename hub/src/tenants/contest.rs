//! Whether agents throw each other out again and again under one identity. Pure: the time is a parameter.
//!
//! The newest session wins, so each of two agents ends the other's session when it comes, and comes back half a minute after it was
//! thrown out. An agent that takes over from itself has lost its connection where the hub has not noticed, and is none of this; one
//! that takes the place of another, in a rolling update, does so once.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// So many take-overs within [`WINDOW`] are a contest. Two agents of this release reach it in a minute and a half.
const FEW: usize = 4;

/// Without a take-over for so long, the contest is over.
pub const WINDOW: Duration = Duration::from_secs(120);

/// One tenant's take-overs.
#[derive(Debug, Default)]
pub(super) struct Contest {
    /// The last ones, at most [`FEW`].
    times: VecDeque<Instant>,
    stands: bool,
}

impl Contest {
    /// A session of one start of an agent has ended the live one of another's. Returns whether that makes it a contest.
    pub(super) fn taken_over(&mut self, now: Instant) -> bool {
        if self.is_quiet(now) {
            *self = Self::default();
        }
        if self.times.len() == FEW {
            self.times.pop_front();
        }
        self.times.push_back(now);
        let first = self.times.front().filter(|_| self.times.len() == FEW);
        let many = first.is_some_and(|first| now.saturating_duration_since(*first) <= WINDOW);
        many && !std::mem::replace(&mut self.stands, true)
    }

    /// When it will be over, if there is one and nothing more happens.
    pub(super) fn ends(&self, now: Instant) -> Option<Instant> {
        let last = self.times.back().filter(|_| self.stands)?;
        (!self.is_quiet(now)).then(|| *last + WINDOW)
    }

    fn is_quiet(&self, now: Instant) -> bool {
        let last = self.times.back();
        last.is_some_and(|last| now.saturating_duration_since(*last) >= WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn two_agents_that_throw_each_other_out_are_a_contest_until_it_is_quiet() {
        let (mut contest, start) = (Contest::default(), Instant::now());
        // As agents come back after they were thrown out: 30 s later, and up to a tenth more.
        for n in 0..20 {
            let now = start + 33 * SECOND * n;
            assert_eq!(contest.taken_over(now), n == 3, "after {n}");
            assert_eq!(contest.ends(now), (n >= 3).then_some(now + WINDOW));
        }
        let last = start + 33 * SECOND * 19;
        assert!(contest.ends(last + WINDOW - SECOND).is_some());
        assert_eq!(contest.ends(last + WINDOW), None);
        // And what comes much later begins anew.
        for n in 0..3 {
            assert!(!contest.taken_over(last + 2 * WINDOW + SECOND * n));
            assert_eq!(contest.ends(last + 2 * WINDOW + SECOND * n), None);
        }
        assert!(contest.taken_over(last + 2 * WINDOW + 4 * SECOND));
    }

    #[test]
    fn a_few_updates_in_a_row_and_one_now_and_then_are_none() {
        let (mut contest, start) = (Contest::default(), Instant::now());
        for n in 0..3 {
            assert!(!contest.taken_over(start + SECOND * n));
        }
        assert_eq!(contest.ends(start + 3 * SECOND), None);
        for n in 1..100 {
            let now = start + 2 * WINDOW + WINDOW * n / 2;
            assert!(!contest.taken_over(now), "{n}");
            assert_eq!(contest.ends(now), None);
        }
    }
}
