//! What sessions cost a hub: a real hub process over a real management cluster, and a simulated fleet of agents beside it
//! (`berth-agent simulate`). Figures, not assertions: a missed target is printed and is no failure. docs/benchmarks.md says how
//! to read them.

mod allocator;
mod fleet;
mod ground;
mod phases;
mod probe;
mod report;

use anyhow::Result;
use clap::Parser;

use ground::Ground;
use report::Report;

/// Measures sessions on a hub with a fleet of simulated agents, on a lab of its own.
///
/// Prints figures and whether they meet their targets; a missed target is not a failure.
#[derive(Debug, Parser)]
#[command(name = "session")]
struct Options {
    /// How many agents; several numbers, each larger than the one before, are measured in turn.
    #[arg(long, value_delimiter = ',', default_value = "5000")]
    tenants: Vec<u32>,
    /// For how many seconds one session is kept busy.
    #[arg(long, default_value_t = 10)]
    busy: u64,
    /// Whether the fleet's Services are refused: without their objects in the management cluster, which take minutes to be made,
    /// what is measured is the sessions alone.
    #[arg(long)]
    refused: bool,
    /// What the hub logs.
    #[arg(long, default_value = "info")]
    log_filter: String,
    /// A variable of the hub's environment, NAME=VALUE: for comparing allocators' settings.
    #[arg(long, value_name = "NAME=VALUE")]
    hub_env: Vec<String>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    if cfg!(debug_assertions) {
        println!(
            "A debug build: its times and its memory say nothing. `make bench-session` builds another."
        );
    }
    println!("{}", probe::machine());
    let mut ground = Ground::start(&options.log_filter, &options.hub_env).await?;
    let mut report = Report::default();
    let measured = measure(&mut ground, &options, &mut report).await;
    println!("\n{report}");
    if let Err(error) = measured {
        println!("the hub's last words:\n{}", ground.last_words().await?);
        return Err(error);
    }
    ground.lab.stop().await?;
    Ok(())
}

async fn measure(ground: &mut Ground, options: &Options, report: &mut Report) -> Result<()> {
    phases::busy(ground, options.busy, report).await?;
    for tenants in &options.tenants {
        phases::fleet(ground, *tenants, options.refused, report).await?;
    }
    Ok(())
}
