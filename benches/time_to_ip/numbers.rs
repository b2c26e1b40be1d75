//! Percentiles, and times as a person reads them. Pure.

use std::fmt;
use std::time::Duration;

/// Times in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spread(Vec<Duration>);

impl Spread {
    /// From times in any order.
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// The time that this percentage of them do not exceed (nearest rank), so that the 99th of 30 is the longest. Zero where
    /// there is none.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    /// The median.
    pub(crate) fn p50(&self) -> Duration {
        self.percentile(50)
    }

    /// What only the slowest in a hundred exceed.
    pub(crate) fn p99(&self) -> Duration {
        self.percentile(99)
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {}, p99 {}", text(self.p50()), text(self.p99()))
    }
}

/// Milliseconds, as a signed number.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A time with the unit and the digits that suit it.
pub(crate) fn text(time: Duration) -> String {
    match time.as_millis() {
        0..100 => format!("{:.1} ms", millis(time)),
        100..1000 => format!("{:.0} ms", millis(time)),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}
