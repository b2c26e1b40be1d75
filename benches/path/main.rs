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
use clap::Parser;

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
    /// What hub and agent log.
    #[arg(long, default_value = "info")]
    log_filter: String,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
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
    first::packet(&ground, options.rounds, &mut report).await?;
    changes::ports(&ground, options.changes, &mut report).await?;
    changes::cut(&ground, &mut report).await?;
    changes::rolling_update(&ground, &mut report).await?;
    changes::comes_back(&ground, &mut report).await?;
    changes::source_ranges(&ground, &mut report).await?;
    println!("\n{report}");
    ground.lab.stop().await?;
    Ok(())
}

/// What the figures depend on besides the programs: on a busy machine they are not worth much.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    format!("{cores} cores, load before the start {load}")
}
