//! `sim`: any number of schedules, with progress and a summary; the first that fails is shrunk and printed.

use std::{
    io::Write as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use berth_sim::{BOUND, Case, Mutation, Schedule, Stats, run, run_traced, seed_of, shrink};
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
    /// With --only: tell everything that happened.
    #[arg(long, requires = "only")]
    trace: bool,
    /// Run a smaller part of the ops of --only: shrink it first.
    #[arg(long, requires = "only")]
    shrink: bool,
    /// Put a bug into the engine, to see it found.
    #[arg(long)]
    mutation: Option<Mutation>,
    /// Pass over nothing that is known to go wrong.
    #[arg(long)]
    strict: bool,
    /// Go on after a failure, and count.
    #[arg(long)]
    keep_going: bool,
}

impl Args {
    fn case(&self) -> Case {
        let case = if self.strict {
            Case::strict()
        } else {
            Case::default()
        };
        Case {
            mutation: self.mutation,
            ..case
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let ok = match args.only {
        Some(seed) => one(seed, &args),
        None => many(&args),
    };
    if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn one(seed: u64, args: &Args) -> bool {
    let mut schedule = Schedule::from_seed(seed);
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
    let mut told = begun;
    let mut total = Stats::default();
    let mut broken = std::collections::BTreeMap::<&str, (u64, u64)>::new();
    for index in 0..args.schedules {
        let seed = seed_of(args.seed, index);
        match run(&Schedule::from_seed(seed), args.case()) {
            Ok(stats) => total.add(&stats),
            Err(failure) if args.keep_going => {
                println!("BROKEN seed {seed}: {}", failure.violation.what);
                broken.entry(failure.violation.rule).or_insert((0, seed)).0 += 1;
            }
            Err(failure) => {
                println!("\nBROKEN by schedule {index}: {failure}\n\nshrinking …");
                println!("BROKEN {}", shrink(*failure, args.case()));
                summary(&total, begun.elapsed());
                return false;
            }
        }
        if told.elapsed() > Duration::from_secs(2) {
            told = Instant::now();
            let rate = (index + 1) as f64 / begun.elapsed().as_secs_f64();
            print!(
                "\r{} of {} schedules, {rate:.0}/s ",
                index + 1,
                args.schedules
            );
            let _ = std::io::stdout().flush();
        }
    }
    println!();
    summary(&total, begun.elapsed());
    for (rule, (count, seed)) in &broken {
        println!("BROKEN {count} times, first by seed {seed}: {rule}");
    }
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
