//! How often something may be told that may change all the time: what comes after a quiet time at once, a few more in a row, and
//! in the long run one a second. Pure; time is a parameter.

use std::time::{Duration, Instant};

/// Between two tellings at least.
const SPACING: Duration = Duration::from_millis(400);
/// Tellings in the long run.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Tellings that may come in a row, beyond the first: the nodes of a rack are not found dead in the same moment.
const BURST: u32 = 2;

/// How often one tenant's news is told.
#[derive(Debug, Default)]
pub struct Pace {
    told: Option<Instant>,
    /// Up to when the tellings are used up, at one in [`TELL_EVERY`].
    used_until: Option<Instant>,
}

impl Pace {
    /// When the next may be told: `now`, or later.
    pub fn next(&self, now: Instant) -> Instant {
        let times = [
            self.told.map(|at| at + SPACING),
            self.used_until
                .and_then(|at| at.checked_sub(TELL_EVERY * BURST)),
        ];
        times.into_iter().flatten().fold(now, Instant::max)
    }

    /// It is told.
    pub fn tell(&mut self, now: Instant) {
        self.told = Some(now);
        self.used_until = Some(self.used_until.map_or(now, |at| at.max(now)) + TELL_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_a_few_more_soon_and_then_one_a_second() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let mut now = start;
        let mut told = Vec::new();
        while told.len() < 6 {
            now = pace.next(now);
            pace.tell(now);
            told.push(now.duration_since(start).as_millis());
        }
        assert_eq!(told, [0, 400, 800, 1_200, 2_000, 3_000]);
        let later = now + Duration::from_secs(10);
        assert_eq!(pace.next(later), later);
    }
}
