//! Runs schedules: one, many, or ever smaller ones of one that failed.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::OnceLock,
    time::{Duration, Instant},
};

use crate::{
    ledger::{PANICS, Violation, broken},
    mutation::Mutation,
    op::{Op, Schedule},
    saved::Saved,
    settle::BOUND,
    stats::Stats,
    world::World,
};

/// A schedule that broke an invariant.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The schedule.
    pub schedule: Schedule,
    /// What broke.
    pub violation: Violation,
    /// When, in virtual time.
    pub at: Duration,
}

impl Failure {
    /// The schedule as it is kept in `tests/sim/regressions`, and under which name.
    pub fn saved(&self) -> (String, Saved) {
        let words: Vec<String> = self
            .violation
            .rule
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_lowercase)
            .collect();
        let name = format!("{}-{:08x}.json", words.join("-"), self.schedule.seed >> 32);
        let saved = Saved {
            shows: format!("{}: {}", self.violation.rule, self.violation.what),
            schedule: self.schedule.clone(),
        };
        (name, saved)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.violation.rule)?;
        writeln!(
            f,
            "  after {:.3} s: {}",
            self.at.as_secs_f64(),
            self.violation.what
        )?;
        let (name, saved) = self.saved();
        let text = saved.text().map_err(|_| fmt::Error)?;
        writeln!(f, "to be kept as tests/sim/regressions/{name}:\n{text}")?;
        write!(
            f,
            "again: cargo run -p berth-sim -- --file tests/sim/regressions/{name} --trace"
        )
    }
}

/// Under which conditions a schedule runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Case {
    /// A bug that is put into the engine.
    pub mutation: Option<Mutation>,
}

impl Case {
    /// With a bug.
    pub fn with(mutation: Mutation) -> Self {
        Self {
            mutation: Some(mutation),
        }
    }
}

/// A point to count virtual time from: the same for the whole process, and never looked at again.
fn base() -> Instant {
    static BASE: OnceLock<Instant> = OnceLock::new();
    *BASE.get_or_init(Instant::now)
}

/// Runs a schedule to its end.
///
/// # Errors
/// The first invariant that broke.
pub fn run(schedule: &Schedule, case: Case) -> Result<Stats, Box<Failure>> {
    run_traced(schedule, case, false).0
}

/// Like [`run`]; the lines are what happened, if asked for.
pub fn run_traced(
    schedule: &Schedule,
    case: Case,
    trace: bool,
) -> (Result<Stats, Box<Failure>>, Vec<String>) {
    let mut world = World::new(schedule, case, base());
    world.trace = trace.then(Vec::new);
    let result = catch_unwind(AssertUnwindSafe(|| whole(&mut world)));
    // Of a world in which something panicked only the clock is read.
    let result = result.unwrap_or_else(|panic| Err(broken(PANICS, words(&*panic))));
    let result = result.map_err(|violation| {
        Box::new(Failure {
            schedule: schedule.clone(),
            violation,
            at: world.elapsed(),
        })
    });
    let lines = world.trace.take().unwrap_or_default();
    let result = result.map(|converged| {
        let mut stats = std::mem::take(&mut world.stats);
        stats.schedules = 1;
        stats.time = world.elapsed();
        stats.slowest = (converged, schedule.seed);
        stats
    });
    (result, lines)
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("without words").to_owned()
}

fn whole(world: &mut World) -> Result<Duration, Violation> {
    world.run_ops()?;
    world.heal();
    let converged = world.converge(BOUND)?;
    world.prove_rest()?;
    // What the brake still holds goes when the operator says so.
    world.release_all();
    world.converge(BOUND)?;
    Ok(converged)
}

/// The smallest schedule found that breaks the same invariant.
pub fn shrink(failure: Failure, case: Case) -> Failure {
    let mut best = failure;
    let fails = |schedule: &Schedule, rule: &str| {
        let failure = run(schedule, case).err()?;
        (failure.violation.rule == rule).then_some(*failure)
    };
    loop {
        let before = (best.schedule.ops.len(), total(&best.schedule));
        let mut size = best.schedule.ops.len().max(1);
        while size > 0 {
            let mut from = 0;
            while from < best.schedule.ops.len() {
                let mut smaller = best.schedule.clone();
                let to = (from + size).min(smaller.ops.len());
                // What follows comes when it came, so that the rest stays as it was; or else sooner.
                let lost: Duration = smaller.ops.drain(from..to).map(|(after, _)| after).sum();
                let mut later = smaller.clone();
                if let Some((after, _)) = later.ops.get_mut(from) {
                    *after += lost;
                }
                match fails(&smaller, best.violation.rule)
                    .or_else(|| fails(&later, best.violation.rule))
                {
                    Some(failure) => best = failure,
                    None => from += size,
                }
            }
            size /= 2;
        }
        for index in 0..best.schedule.ops.len() {
            for divisor in [1_000_000, 10, 2] {
                let mut quicker = best.schedule.clone();
                quicker.ops[index].0 = Duration::from_millis(
                    u64::try_from(quicker.ops[index].0.as_millis()).unwrap_or(0) / divisor,
                );
                if quicker.ops[index].0 < best.schedule.ops[index].0
                    && let Some(failure) = fails(&quicker, best.violation.rule)
                {
                    best = failure;
                    break;
                }
            }
        }
        if (best.schedule.ops.len(), total(&best.schedule)) == before {
            return best;
        }
    }
}

fn total(schedule: &Schedule) -> Duration {
    schedule.ops.iter().map(|(after, _)| *after).sum()
}

/// A schedule by hand: milliseconds after the op before, and the op.
pub fn schedule(seed: u64, tenants: u8, slow_deletion: bool, ops: &[(u64, Op)]) -> Schedule {
    Schedule {
        seed,
        tenants,
        slow_deletion,
        ops: ops
            .iter()
            .map(|(ms, op)| (Duration::from_millis(*ms), *op))
            .collect(),
    }
}

/// The seed of the `index`th schedule of a run: neighbours have nothing in common.
pub fn seed_of(base: u64, index: u64) -> u64 {
    let mut z = base.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
