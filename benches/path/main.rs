//! What clients of an address notice, measured with packets: how long until the first one is answered, what a changed port, a cut
//! node and a rolling update cost them, and whether an address stays and ranges are kept. Figures, not assertions: a missed
//! target is printed and is no failure. docs/benchmarks.md says how to read them.

mod changes;
mod first;
mod ground;
#[path = "../time_to_ip/numbers.rs"]
mod numbers;
mod report;
#[path = "../time_to_ip/rest.rs"]
mod rest;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};

use ground::Ground;
use report::Report;

/// Measures what clients of a Service notice, with packets, on a lab of its own.
///
/// Prints figures and whether they meet their targets; a missed target is not a failure.
#[derive(Debug, Parser)]
#[command(name = "path")]
struct Options {
    /// How many Services are created on each side for the time to the first packet, one at a time.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// How often a port is changed, each way.
    #[arg(long, default_value_t = 5)]
    changes: usize,
    /// How often a node is cut off, each way.
    #[arg(long, default_value_t = 3)]
    cuts: usize,
    /// Measures nothing but that.
    #[arg(long)]
    only: Option<Phase>,
    /// What hub and agent log.
    #[arg(long, default_value = "info")]
    log_filter: String,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Phase {
    /// Creation to first packet.
    First,
    /// Changed ports.
    Ports,
    /// Nodes that are cut off.
    Cut,
    /// Rolling updates.
    Rolling,
    /// A Service that comes back.
    Back,
    /// Source ranges.
    Ranges,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    if cfg!(debug_assertions) {
        println!("A debug build: its times say little. `make bench-path` builds another.");
    }
    println!("{}", machine());
    let ground = Ground::start(&options.log_filter).await?;
    ensure!(
        ground.lab.has_packets(),
        "without namespaces there are no packets to measure"
    );
    let mut report = Report::default();
    for phase in Phase::value_variants() {
        if options.only.is_none_or(|only| only == *phase) {
            measure(&ground, &options, *phase, &mut report).await?;
        }
    }
    println!("\n{report}");
    ground.lab.stop().await?;
    Ok(())
}

async fn measure(
    ground: &Ground,
    options: &Options,
    phase: Phase,
    report: &mut Report,
) -> Result<()> {
    match phase {
        Phase::First => first::packet(ground, options.rounds, report).await,
        Phase::Ports => changes::ports(ground, options.changes, report).await,
        Phase::Cut => changes::cut(ground, options.cuts, report).await,
        Phase::Rolling => changes::rolling_update(ground, report).await,
        Phase::Back => changes::comes_back(ground, report).await,
        Phase::Ranges => changes::source_ranges(ground, report).await,
    }
}

/// What the figures depend on besides the programs: on a busy machine they are not worth much.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    format!("{cores} cores, load before the start {load}")
}
