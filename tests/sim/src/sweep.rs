//! Many schedules, on all cores. Each is run by one thread from beginning to end and knows nothing of the others, so that
//! what comes out does not depend on how many threads there are.

use std::{
    num::NonZeroUsize,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use crate::{
    op::Schedule,
    runner::{Case, Failure, run, seed_of},
    stats::Stats,
};

/// What came of many schedules.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Of those that held.
    pub stats: Stats,
    /// Those that did not, with their numbers, in order. Without `keep_going` it is the first at most.
    pub failures: Vec<(u64, Failure)>,
}

/// Runs the first `count` schedules of a seed. `tell` hears of each that is done how many are.
pub fn sweep(
    base: u64,
    count: u64,
    case: Case,
    keep_going: bool,
    tell: impl Fn(u64) + Sync,
) -> Sweep {
    let next = AtomicU64::new(0);
    let done = AtomicU64::new(0);
    // Schedules from here on need not be run: one before them has failed.
    let end = AtomicU64::new(count);
    let total = Mutex::new(Sweep::default());
    let work = || {
        let mut own = Sweep::default();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= end.load(Ordering::Relaxed) {
                break;
            }
            match run(&Schedule::from_seed(seed_of(base, index)), case) {
                Ok(stats) => own.stats.add(&stats),
                Err(failure) => {
                    own.failures.push((index, *failure));
                    if !keep_going {
                        end.fetch_min(index, Ordering::Relaxed);
                    }
                }
            }
            tell(done.fetch_add(1, Ordering::Relaxed) + 1);
        }
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        total.stats.add(&own.stats);
        total.failures.append(&mut own.failures);
    };
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    total.failures.sort_by_key(|(index, _)| *index);
    if !keep_going {
        total.failures.truncate(1);
    }
    total
}
