//! The time from creating a Service to its address: through Berth, and directly in the management cluster with MetalLB alone,
//! in one run on the same lab. Figures, not assertions: a missed target is printed and is no failure. docs/benchmarks.md says how
//! to read them.

// The attacker of the hostile tests, who panics as tests do, and the simulated fleet of the sessions' bench: there is more of them
// than is used here.
#[allow(dead_code, clippy::unwrap_used, clippy::expect_used)]
#[path = "../../tests/hostile/attacker/mod.rs"]
mod attacker;
mod churn;
mod fairness;
#[allow(dead_code)]
#[path = "../session/fleet.rs"]
mod fleet;
mod ground;
mod numbers;
mod phases;
mod report;
mod rest;
mod side;
mod sightings;
mod steps;
mod writes;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use churn::Churn;
use fairness::Fairness;
use ground::Ground;
use report::Report;

/// Compares the time to an address through Berth with MetalLB's own, on a lab of its own.
///
/// Prints figures and whether they meet their targets; a missed target is not a failure.
#[derive(Debug, Parser)]
#[command(name = "time_to_ip")]
struct Options {
    /// How many Services are created one at a time on each side.
    #[arg(long, default_value_t = 30)]
    sequential: usize,
    /// How many are created together, burst after burst.
    #[arg(long, value_delimiter = ',', default_value = "100,1000")]
    burst: Vec<usize>,
    /// For how many seconds one tenant deletes and creates a Service a second, while another's new ones are measured.
    #[arg(long, default_value_t = 60)]
    churn: usize,
    /// How many Services are present meanwhile.
    #[arg(long, default_value_t = 300)]
    present: usize,
    /// How often each has its turn, when new Services are timed alone and beside tenants that misbehave.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How many Services are timed in each turn.
    #[arg(long, default_value_t = 30)]
    each: usize,
    /// Measures nothing but that.
    #[arg(long)]
    only: Option<Phase>,
    /// Measures MetalLB alone: how fast is this machine?
    #[arg(long)]
    without_berth: bool,
    /// What hub and agent log.
    #[arg(long, default_value = "info")]
    log_filter: String,
    /// Where to leave the logs of hub and agent.
    #[arg(long, value_name = "DIRECTORY")]
    logs: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Phase {
    /// One Service at a time.
    Sequential,
    /// Many at once.
    Burst,
    /// New ones beside another tenant's deletions.
    Churn,
    /// New ones beside tenants that misbehave; by itself only.
    Fairness,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    if cfg!(debug_assertions) {
        println!(
            "A debug build: its times and its memory say nothing. `make bench` builds another."
        );
    }
    println!("{}", machine());
    let ground = Ground::start(!options.without_berth, &options.log_filter).await?;
    let measured = measure(&ground, &options).await;
    if let Some(directory) = &options.logs {
        ground.save_logs(directory).await?;
    }
    println!("\n{}", measured?);
    ground.lab.stop().await?;
    Ok(())
}

async fn measure(ground: &Ground, options: &Options) -> Result<Report> {
    let mut report = Report::default();
    let wanted = |phase| options.only.is_none_or(|only| only == phase);
    let mut before = 0;
    if wanted(Phase::Sequential) {
        before = phases::sequential(ground, options.sequential, &mut report).await?;
    }
    if wanted(Phase::Burst) {
        for size in &options.burst {
            phases::burst(ground, *size, before, &mut report).await?;
        }
    }
    if wanted(Phase::Churn) {
        let churn = Churn {
            present: options.present,
            seconds: options.churn,
        };
        churn
            .measure(ground, &options.log_filter, &mut report)
            .await?;
    }
    // Not beside the others: what it leaves would lengthen every list.
    if options.only == Some(Phase::Fairness) {
        let fairness = Fairness {
            rounds: options.rounds,
            each: options.each,
        };
        fairness.measure(ground, &mut report).await?;
    }
    Ok(report)
}

/// What the figures depend on besides the programs: on a busy machine they are not worth much.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    format!("{cores} cores, load before the start {load}")
}
