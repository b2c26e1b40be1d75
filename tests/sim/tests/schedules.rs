//! Schedules of a fixed seed, so that a failure is a failure of the change that brought it. `make sim` runs others, and more.

use berth_sim::{Case, Schedule, run, seed_of};

#[test]
fn no_schedule_breaks_an_invariant() {
    for index in 0..300 {
        let seed = seed_of(1, index);
        if let Err(failure) = run(&Schedule::from_seed(seed), Case::default()) {
            panic!(
                "{:?} at {:?}; again with: cargo run -p berth-sim -- --only {seed} --trace",
                failure.violation, failure.at
            );
        }
    }
}
