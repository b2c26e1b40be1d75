//! The measurements, and the order that makes them fair: both ways find the same number of Services and clusters at rest.
//! Knows the targets; must not know how anything is set up.

use std::time::Duration;

use anyhow::Result;

use crate::ground::{Berth, Ground};
use crate::numbers::{Spread, text};
use crate::report::Report;
use crate::rest::{FULL, SHORT, rest};
use crate::side::Burst;
use crate::steps;
use crate::writes::{Marks, PerService};

/// What Berth may add to MetalLB's own time for a single Service: the median, and the slowest.
const MORE: [Duration; 2] = [Duration::from_millis(25), Duration::from_millis(150)];
/// How much longer than MetalLB alone a burst may take.
const LONGER: f64 = 1.1;
/// What the hub may write for a Service, and the agent, and how many events it may send.
const WRITES: [f64; 3] = [5.0, 2.0, 2.0];
/// What hub and agent may hold in memory, in MiB, with so many Services.
const MEMORY: [f64; 2] = [40.0, 15.0];
const MANY: usize = 1_000;

/// How long the hub may keep what belongs to deleted Services.
const PARKED: Duration = Duration::from_secs(300);

/// How long deleting so many together may take, where there is a target.
fn deletion(size: usize) -> Option<Duration> {
    match size {
        100 => Some(Duration::from_millis(1_500)),
        1_000 => Some(Duration::from_secs(6)),
        _ => None,
    }
}

/// One Service at a time, each way in turn. None is deleted, for MetalLB would be busy with that; so both find the same number
/// of Services. Returns how many are there on each side at the end.
pub(crate) async fn sequential(
    ground: &Ground,
    count: usize,
    report: &mut Report,
) -> Result<usize> {
    // What only the first Service pays: connections, and everybody's caches.
    ground.direct.one("warm").await?;
    if let Some(berth) = &ground.berth {
        berth.side.one("warm").await?;
    }
    let names = names("one", count);
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    for (n, name) in names.iter().enumerate() {
        // Whoever goes first finds one Service fewer.
        let first = n % 2 == 0;
        for is_direct in [first, !first] {
            rest(&ground.clusters(), SHORT).await?;
            match (&ground.berth, is_direct) {
                (_, true) => direct.push(ground.direct.one(name).await?),
                (Some(berth), false) => through.push(berth.side.one(name).await?),
                (None, false) => {}
            }
        }
    }
    let (direct, through) = (Spread::new(direct), Spread::new(through));
    println!("\n{count} one at a time");
    println!("  direct  {direct}");
    if let Some(berth) = &ground.berth {
        println!("  Berth   {through}");
        println!("          {}", steps::of(berth, &names));
        let [median, slowest] = MORE;
        report.difference("one at a time, p50", direct.p50(), through.p50(), median);
        report.difference("one at a time, p99", direct.p99(), through.p99(), slowest);
    }
    Ok(count + 1)
}

/// A burst each way. The first is deleted before the second begins, so that both find the same number of Services.
pub(crate) async fn burst(
    ground: &Ground,
    size: usize,
    before: usize,
    report: &mut Report,
) -> Result<()> {
    println!("\n{size} at once");
    let names = names(&format!("burst{size}"), size);
    let direct = create_and_delete(ground, None, &names).await?;
    let Some(berth) = &ground.berth else {
        return Ok(());
    };
    let through = create_and_delete(ground, Some(berth), &names).await?;
    // What the hub keeps for a while must not be released into the next measurement.
    if !berth.managed.count(before, PARKED).await {
        println!("          Services of the burst are still in the management cluster");
    }
    compare(size, &direct, &through, report);
    Ok(())
}

/// What a burst came to.
struct Outcome {
    burst: Burst,
    gone: Duration,
    management: PerService,
    tenant: PerService,
    /// Of hub and agent, in MiB.
    memory: Option<[f64; 2]>,
}

async fn create_and_delete(
    ground: &Ground,
    berth: Option<&Berth>,
    names: &[String],
) -> Result<Outcome> {
    let clusters = ground.clusters();
    let (who, side) = match berth {
        None => ("direct", &ground.direct),
        Some(berth) => ("Berth ", &berth.side),
    };
    rest(&clusters, FULL).await?;
    let before = Marks::now(ground).await?;
    let burst = side.burst(names).await?;
    let (created, last) = (text(burst.created), text(burst.last));
    println!(
        "  {who}  created in {created}, last {last}, {}",
        burst.times
    );
    if burst.missing > 0 {
        println!("          {} got no address", burst.missing);
    }
    if let Some(berth) = berth {
        println!("          {}", steps::of(berth, names));
    }
    rest(&clusters, FULL).await?;
    let (management, tenant) = before.until_now(ground, names.len()).await?;
    println!("          writes per Service, management: {management}");
    let mut resident = None;
    if let Some(berth) = berth {
        println!("          writes per Service, tenant: {tenant}");
        let [hub, agent] = memory(ground, berth).await?;
        println!("          resident: hub {hub:.1} MiB, agent {agent:.1} MiB");
        resident = Some([hub, agent]);
    }
    let before = Marks::now(ground).await?;
    let gone = side.delete(names).await?;
    let (released, freed) = before.until_now(ground, names.len()).await?;
    println!("          all deleted after {}", text(gone));
    println!("          writes per Service until then, management: {released}");
    if berth.is_some() {
        println!("          writes per Service until then, tenant: {freed}");
    }
    Ok(Outcome {
        burst,
        gone,
        management,
        tenant,
        memory: resident,
    })
}

fn compare(size: usize, direct: &Outcome, through: &Outcome, report: &mut Report) {
    let row = |what: &str| format!("burst of {size}, {what}");
    let (theirs, ours) = (&direct.burst, &through.burst);
    report.ratio(&row("last"), theirs.last, ours.last, Some(LONGER));
    report.ratio(&row("p50"), theirs.times.p50(), ours.times.p50(), None);
    report.ratio(&row("p99"), theirs.times.p99(), ours.times.p99(), None);
    if ours.missing > 0 {
        report.failed(&row("without an address"), ours.missing);
    }
    let deleting = format!("deleting {size}");
    report.limit(&deleting, direct.gone, through.gone, deletion(size));

    let [hub, agent, events] = WRITES;
    let row = |who: &str| format!("{who} per Service, of {size}");
    let metallb = |outcome: &Outcome| outcome.management.of("controller", false);
    report.counts(&row("MetalLB's writes"), metallb(direct), metallb(through));
    let count = through.management.of("berth-hub", false);
    report.number(&row("the hub's writes"), count, "", hub);
    let count = through.tenant.of("berth-agent", false);
    report.number(&row("the agent's writes"), count, "", agent);
    let count = through.tenant.of("berth-agent", true);
    report.number(&row("the agent's events"), count, "", events);

    if let (Some([hub, agent]), true) = (through.memory, size >= MANY) {
        let [hub_limit, agent_limit] = MEMORY;
        report.number(&format!("hub's memory at {size}"), hub, " MiB", hub_limit);
        report.number(
            &format!("agent's memory at {size}"),
            agent,
            " MiB",
            agent_limit,
        );
    }
}

/// What hub and agent hold in memory, in MiB.
async fn memory(ground: &Ground, berth: &Berth) -> Result<[f64; 2]> {
    let mebibytes = |kib: u64| kib as f64 / 1024.0;
    let hub = ground.lab.hub().process().resident_kib().await?;
    let agent = berth.tenant.agent().process().resident_kib().await?;
    Ok([mebibytes(hub), mebibytes(agent)])
}

/// So many names.
pub(crate) fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}
