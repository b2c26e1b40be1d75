//! `sim`: any number of schedules, with progress and a summary; what fails is shrunk and printed as the file that it is to
//! be kept as.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Mutex,
    time::{Duration, Instant},
};

use berth_sim::{
    BOUND, Case, Failure, Mutation, Saved, Schedule, Stats, run, run_traced, shrink, sweep,
};
use clap::Parser;

/// Tries to break Berth's session engine, in virtual time.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Args {
    /// How many schedules to run.
    #[arg(long, short = 'n', default_value_t = 10_000)]
    schedules: u64,
    /// Which: the same seed gives the same schedules.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run this one schedule alone, by the seed that a failure named.
    #[arg(long)]
    only: Option<u64>,
    /// Run the schedule of this file, as it is kept in tests/sim/regressions.
    #[arg(long, conflicts_with = "only")]
    file: Option<PathBuf>,
    /// With --only or --file: tell everything that happened.
    #[arg(long)]
    trace: bool,
    /// With --only or --file: make it smaller first, if it fails.
    #[arg(long)]
    shrink: bool,
    /// Put a bug into the engine, to see it found.
    #[arg(long)]
    mutation: Option<Mutation>,
    /// Go on after a failure, and count.
    #[arg(long)]
    keep_going: bool,
}

impl Args {
    fn case(&self) -> Case {
        Case {
            mutation: self.mutation,
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let schedule = match (args.only, &args.file) {
        (Some(seed), _) => Some(Schedule::from_seed(seed)),
        (None, Some(file)) => match read(file) {
            Ok(schedule) => Some(schedule),
            Err(error) => {
                eprintln!("{}: {error}", file.display());
                return ExitCode::FAILURE;
            }
        },
        (None, None) => None,
    };
    let ok = match schedule {
        Some(schedule) => one(schedule, &args),
        None => many(&args),
    };
    if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn read(file: &Path) -> std::io::Result<Schedule> {
    let text = std::fs::read_to_string(file)?;
    Ok(Saved::read(&text)?.schedule)
}

fn one(mut schedule: Schedule, args: &Args) -> bool {
    if args.shrink
        && let Err(failure) = run(&schedule, args.case())
    {
        schedule = shrink(*failure, args.case()).schedule;
    }
    let (result, lines) = run_traced(&schedule, args.case(), args.trace);
    for line in lines {
        println!("{line}");
    }
    match result {
        Ok(stats) => {
            summary(&stats, Duration::ZERO);
            true
        }
        Err(failure) => {
            println!("BROKEN {failure}");
            false
        }
    }
}

fn many(args: &Args) -> bool {
    let begun = Instant::now();
    let told = Mutex::new(begun);
    let total = args.schedules;
    let tell = |done: u64| {
        if let Ok(mut told) = told.try_lock()
            && told.elapsed() > Duration::from_secs(2)
        {
            *told = Instant::now();
            let rate = done as f64 / begun.elapsed().as_secs_f64();
            print!("\r{done} of {total} schedules, {rate:.0}/s ");
            let _ = std::io::stdout().flush();
        }
    };
    let swept = sweep(args.seed, total, args.case(), args.keep_going, tell);
    println!();
    let mut broken = BTreeMap::<&str, (u64, &Failure)>::new();
    for (index, failure) in &swept.failures {
        let Failure {
            schedule,
            violation,
            ..
        } = failure;
        println!(
            "BROKEN by schedule {index}, seed {}: {}",
            schedule.seed, violation.what
        );
        broken.entry(violation.rule).or_insert((0, failure)).0 += 1;
    }
    summary(&swept.stats, begun.elapsed());
    for (rule, (count, first)) in &broken {
        println!("\nBROKEN {count} times: {rule}\nshrinking the first of them …");
        println!("{}", shrink((*first).clone(), args.case()));
    }
    println!("{} broken", swept.failures.len());
    broken.is_empty()
}

fn summary(stats: &Stats, took: Duration) {
    let hours = stats.time.as_secs_f64() / 3600.0;
    println!(
        "{} schedules, {} steps, {} checks, {hours:.1} h of virtual time",
        stats.schedules, stats.steps, stats.checks
    );
    if !took.is_zero() {
        let rate = stats.schedules as f64 / took.as_secs_f64();
        println!("{:.1} s, {rate:.0} schedules/s", took.as_secs_f64());
    }
    println!(
        "slowest convergence {:.2} s of at most {} s (seed {})",
        stats.slowest.0.as_secs_f64(),
        BOUND.as_secs(),
        stats.slowest.1
    );
    println!("what happened:");
    for (name, count) in &stats.faults {
        println!("  {count:>9} {name}");
    }
    println!("what followed:");
    for (name, count) in &stats.effects {
        println!("  {count:>9} {name}");
    }
}
