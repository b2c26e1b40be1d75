//! What a run did, in numbers.

use std::{collections::BTreeMap, time::Duration};

/// Counted over one schedule, or many.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Schedules that were run to their end.
    pub schedules: u64,
    /// Events.
    pub steps: u64,
    /// Times that the state was looked at because it had changed.
    pub checks: u64,
    /// Virtual time.
    pub time: Duration,
    /// Faults and doings that took effect, by kind.
    pub faults: BTreeMap<String, u64>,
    /// What followed from them, by kind.
    pub effects: BTreeMap<&'static str, u64>,
    /// The slowest convergence after the faults stopped, and its schedule's seed.
    pub slowest: (Duration, u64),
}

impl Stats {
    pub(crate) fn effect(&mut self, what: &'static str) {
        *self.effects.entry(what).or_default() += 1;
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.schedules += other.schedules;
        self.steps += other.steps;
        self.checks += other.checks;
        self.time += other.time;
        for (name, count) in &other.faults {
            *self.faults.entry(name.clone()).or_default() += count;
        }
        for (name, count) in &other.effects {
            *self.effects.entry(name).or_default() += count;
        }
        self.slowest = self.slowest.max(other.slowest);
    }
}
