//! How long to stay away before the next attempt: exponential backoff with full jitter, so that a fleet which lost its
//! hub in one instant does not come back in one. Pure: the random source is a parameter, and so is everything that
//! happened; the caller sleeps.

use std::time::Duration;

/// No delay of this module's own making is longer than this, refusals apart.
pub const CAP: Duration = Duration::from_secs(60);

/// Who was synced for at least this long starts again from the base.
pub const RESET_AFTER: Duration = Duration::from_secs(60);

/// The longest retry-after that is believed: a hub that says more is wrong, and would keep this tenant away for good.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

/// Between these two a refused identity stays away: nothing changes until a person acts.
pub const REFUSED: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(600));

/// Why the last attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The connection failed, or a live session was lost.
    Lost,
    /// The hub said when to come back; that wins over everything here.
    RetryAfter(Duration),
    /// The hub knows this identity and refuses it (`PERMISSION_DENIED`).
    Refused,
    /// The hub does not know the tenant of this identity: a moment later it may, for the Tenant has just been made.
    Unknown,
}

/// The attempts in a row that did not last.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    failures: u32,
}

impl Backoff {
    /// A backoff whose first delay is at most `base`, the second at most twice that, and so on up to [`CAP`].
    pub fn new(base: Duration) -> Self {
        Self { base, failures: 0 }
    }

    /// The delay before the next attempt. `synced` is how long the attempt that just ended was synced; zero if it never
    /// was.
    ///
    /// Lost: uniform between zero and the present ceiling. Told: the time told (at most [`MAX_RETRY_AFTER`]), never
    /// earlier and at most a tenth later, so that many who were told the same do not arrive as one. Refused: uniform
    /// within [`REFUSED`]. Unknown: as if lost, until that has reached [`CAP`]; then as if refused.
    pub fn next(&mut self, cause: Cause, synced: Duration, random: &mut fastrand::Rng) -> Duration {
        if synced >= RESET_AFTER {
            self.failures = 0;
        }
        match cause {
            Cause::Unknown if self.ceiling() == CAP => self.next(Cause::Refused, synced, random),
            Cause::Lost | Cause::Unknown => {
                let ceiling = self.ceiling();
                self.failures = self.failures.saturating_add(1);
                ceiling.mul_f64(random.f64())
            }
            Cause::RetryAfter(told) => {
                let told = told.min(MAX_RETRY_AFTER);
                told + told.mul_f64(random.f64() / 10.0)
            }
            Cause::Refused => {
                let (least, most) = REFUSED;
                least + (most - least).mul_f64(random.f64())
            }
        }
    }

    /// The longest that the next delay after a loss can be.
    pub fn ceiling(&self) -> Duration {
        // 2^31 already exceeds any ratio of cap to base that makes sense; a larger shift would overflow.
        let factor = 1_u32 << self.failures.min(31);
        self.base.saturating_mul(factor).min(CAP)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BASE: Duration = Duration::from_millis(500);
    const NEVER: Duration = Duration::ZERO;

    #[test]
    fn the_ceiling_doubles_up_to_the_cap() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::new(BASE);
        let ceilings: Vec<f64> = (0..10)
            .map(|_| {
                let ceiling = backoff.ceiling();
                backoff.next(Cause::Lost, NEVER, &mut random);
                ceiling.as_secs_f64()
            })
            .collect();
        assert_eq!(
            ceilings,
            [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
        );
    }

    #[test]
    fn sixty_synced_seconds_reset_and_fewer_do_not() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::new(BASE);
        for _ in 0..10 {
            backoff.next(Cause::Lost, NEVER, &mut random);
        }
        let almost = RESET_AFTER - Duration::from_millis(1);
        backoff.next(Cause::Lost, almost, &mut random);
        assert_eq!(backoff.ceiling(), CAP);
        let delay = backoff.next(Cause::Lost, RESET_AFTER, &mut random);
        assert!(delay <= BASE, "{delay:?}");
        assert_eq!(backoff.ceiling(), BASE * 2);
    }

    #[test]
    fn being_told_when_to_come_back_is_no_failure() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::new(BASE);
        let told = Cause::RetryAfter(Duration::from_secs(3));
        backoff.next(told, NEVER, &mut random);
        assert_eq!(backoff.ceiling(), BASE);
    }

    #[test]
    fn who_is_not_known_yet_comes_back_soon_and_at_last_as_who_is_refused() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::new(BASE);
        let mut ceiling = BASE;
        while ceiling < CAP {
            let delay = backoff.next(Cause::Unknown, NEVER, &mut random);
            assert!(delay <= ceiling, "{delay:?} of {ceiling:?}");
            ceiling = (2 * ceiling).min(CAP);
        }
        for _ in 0..3 {
            let delay = backoff.next(Cause::Unknown, NEVER, &mut random);
            assert!(delay >= REFUSED.0 && delay <= REFUSED.1, "{delay:?}");
        }
    }

    #[test]
    fn a_fleet_spreads_over_the_whole_ceiling() {
        let mut tenths = [0_u32; 10];
        for seed in 0..1000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let delay = Backoff::new(CAP).next(Cause::Lost, NEVER, &mut random);
            tenths[((delay.as_secs_f64() / CAP.as_secs_f64() * 10.0) as usize).min(9)] += 1;
        }
        assert!(
            tenths.iter().all(|&n| (50..=150).contains(&n)),
            "a thousand agents by tenths of the ceiling: {tenths:?}"
        );
    }

    fn causes() -> impl Strategy<Value = Cause> {
        prop_oneof![
            Just(Cause::Lost),
            Just(Cause::Refused),
            Just(Cause::Unknown),
            any::<Duration>().prop_map(Cause::RetryAfter),
        ]
    }

    proptest! {
        #[test]
        fn every_delay_keeps_its_bounds(
            base in 1_u64..120_000,
            seed: u64,
            history in prop::collection::vec((causes(), any::<Duration>()), 1..100),
        ) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut backoff = Backoff::new(Duration::from_millis(base));
            for (cause, synced) in history {
                let before = match synced >= RESET_AFTER {
                    true => Backoff::new(Duration::from_millis(base)).ceiling(),
                    false => backoff.ceiling(),
                };
                let delay = backoff.next(cause, synced, &mut random);
                prop_assert!(backoff.ceiling() <= CAP);
                match cause {
                    Cause::Lost => prop_assert!(delay <= before),
                    Cause::Unknown if before < CAP => prop_assert!(delay <= before),
                    Cause::Refused | Cause::Unknown => prop_assert!(delay >= REFUSED.0 && delay <= REFUSED.1),
                    Cause::RetryAfter(told) => {
                        let told = told.min(MAX_RETRY_AFTER);
                        prop_assert!(delay >= told);
                        // A nanosecond for rounding.
                        prop_assert!(delay <= told + told / 10 + Duration::from_nanos(1));
                    }
                }
            }
        }
    }
}
