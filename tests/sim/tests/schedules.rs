//! Schedules of a fixed seed, so that a failure is a failure of the change that brought it. `make sim` runs others, and more.

use berth_sim::{Case, shrink, sweep};

/// About a minute on two cores.
const SCHEDULES: u64 = 10_000;

#[test]
fn no_schedule_breaks_an_invariant() {
    let swept = sweep(1, SCHEDULES, Case::default(), false, |_| ());
    if let Some((index, failure)) = swept.failures.into_iter().next() {
        panic!("schedule {index}: {}", shrink(failure, Case::default()));
    }
    assert_eq!(swept.stats.schedules, SCHEDULES);
}
