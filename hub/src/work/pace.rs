//! How fast a tenant's changes are carried out. A tenant has a number of changes for each second; what it does not use is kept for a
//! minute, so that a burst goes through at once, and only who changes things without end is slowed down. A change is one round of
//! writes for one Service. Pure: time is a parameter.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

/// For so long what is not used is kept: a burst may have the changes of that time at once.
const KEPT: Duration = Duration::from_secs(60);

/// What one tenant has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// When everything that was used will have come back.
    whole: Instant,
    /// Since when it has been used up, again and again.
    since: Option<Instant>,
}

impl Pace {
    /// Nothing was used.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            whole: now,
            since: None,
        }
    }

    /// One change was carried out. Returns when the next one may be, where that is not now.
    pub(super) fn spend(&mut self, per_second: NonZeroU32, now: Instant) -> Option<Instant> {
        self.recover(now);
        self.whole = self.whole.max(now) + Duration::from_secs(1) / per_second.get();
        let until = self.whole.checked_sub(KEPT).filter(|until| *until > now)?;
        self.since.get_or_insert(now);
        Some(until)
    }

    /// Since when it has been used up, unless half of it has come back.
    pub(super) fn since(&self, now: Instant) -> Option<Instant> {
        let used = self.whole.saturating_duration_since(now);
        self.since.filter(|_| used > KEPT / 2)
    }

    /// Whether it is as if nothing had ever been used.
    pub(super) fn is_whole(&self, now: Instant) -> bool {
        self.whole <= now
    }

    fn recover(&mut self, now: Instant) {
        self.since = self.since(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(per_second: u32) -> NonZeroU32 {
        NonZeroU32::new(per_second).unwrap()
    }

    #[test]
    fn a_minutes_changes_may_come_at_once_and_then_one_at_a_time() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let at_once = (0..).take_while(|_| pace.spend(rate(200), start).is_none());
        assert_eq!(at_once.count(), 12_000);
        let first = pace.spend(rate(200), start).unwrap();
        assert_eq!(first - start, Duration::from_millis(10), "two too many");
        assert_eq!(pace.since(first), Some(start));
        assert!(pace.spend(rate(200), first).is_some(), "one at a time");
        let later = start + KEPT / 2 + Duration::from_secs(1);
        assert_eq!(pace.since(later), None, "half has come back");
        assert!(pace.is_whole(start + KEPT + Duration::from_secs(1)));
    }

    proptest! {
        #[test]
        fn no_tenant_has_more_than_its_rate_and_a_minute(
            per_second in 1_u32..1_000,
            waits in prop::collection::vec(0_u64..50, 1..2_000),
        ) {
            let start = Instant::now();
            let (mut pace, mut now, mut spent) = (Pace::new(start), start, 0_u32);
            for wait in waits {
                now += Duration::from_millis(wait);
                // Whoever is told to wait does.
                if let Some(until) = pace.spend(rate(per_second), now) {
                    prop_assert!(until > now);
                    now = until;
                }
                spent += 1;
            }
            let allowed = (now - start + KEPT).as_secs_f64() * f64::from(per_second);
            prop_assert!(f64::from(spent) <= allowed + 1.0, "{spent} of {allowed}");
        }
    }
}
