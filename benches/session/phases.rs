//! The measurements, and their targets. Must not know how anything is set up.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::fleet::Fleet;
use crate::ground::Ground;
use crate::probe::{cpu, loopback, resident};
use crate::report::Report;

/// What a synced, idle session may cost the hub in memory, in KiB.
const SESSION_KIB: f64 = 48.0;
/// How many seconds beyond the deliberate spread a fleet may take to come back, by its size.
const BACK: [(u32, f64); 2] = [(5_000, 6.0), (10_000, 10.0)];
/// Each Service asks for an address that its Tenant may not have: refused, and never written anywhere.
const REFUSED: &str = "192.0.2.1";
/// For the slowest of the steps: the API server makes a load balancer's objects, a few milliseconds each.
const SETUP: Duration = Duration::from_secs(1_800);
/// A quiet time after which nobody has anything left to write.
const QUIET: Duration = Duration::from_secs(3);
/// How long idle processes are looked at.
const IDLE: Duration = Duration::from_secs(10);

/// One session, as busy as it can be.
pub(crate) async fn busy(ground: &Ground, seconds: u64, report: &mut Report) -> Result<()> {
    println!("\none session");
    let hub = ground.lab.hub();
    let arguments = [
        "--tenants",
        "1",
        "--services",
        "100",
        "--churn",
        "max",
        "--request-ip",
        REFUSED,
    ];
    let fleet = Fleet::start(hub, &arguments).await?;
    let busy = |look: &berth_agent::simulate::Look| look.synced == 1 && look.refused > 1_000;
    fleet.until("the session is busy", SETUP, busy).await?;
    let before = ground.writes().await?.0.len();
    let probe = async || {
        let (ours, theirs) = (
            cpu(hub, &ground.hub).await?,
            cpu(hub, fleet.process()).await?,
        );
        let bytes = loopback(hub).await?;
        anyhow::Ok((fleet.look().await?.unwrap_or_default(), ours, theirs, bytes))
    };
    let (first, hub_first, agent_first, bytes_first) = probe().await?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (last, hub_last, agent_last, bytes_last) = probe().await?;
    let written = ground.writes().await?.0.len() - before;
    fleet.stop().await?;

    let took = last.seconds - first.seconds;
    let deltas = (last.deltas - first.deltas) as f64;
    let answers = (last.answers - first.answers) as f64;
    report.figure(
        "deltas through one session, with a change each",
        deltas / took,
        "/s",
    );
    report.figure("answers through it", answers / took, "/s");
    let each = |total: f64, scale: f64| total * scale / deltas.max(1.0);
    report.figure(
        "the hub's processor time for a delta",
        each(hub_last - hub_first, 1e6),
        "µs",
    );
    report.figure("the agent's", each(agent_last - agent_first, 1e6), "µs");
    report.figure(
        "bytes on the wire for a delta, its answer and all headers",
        each(bytes_last - bytes_first, 1.0),
        "B",
    );
    report.limit("API writes by the hub meanwhile", written as f64, "", 0.0);
    Ok(())
}

/// A fleet of this size: memory, the return after a crash, rest.
pub(crate) async fn fleet(
    ground: &mut Ground,
    tenants: u32,
    refused: bool,
    report: &mut Report,
) -> Result<()> {
    println!("\n{tenants} agents, each with one Service");
    ground.admit(tenants).await?;
    ground.restart_hub().await?;
    let empty = resident(&ground.hub).await?;
    let number = tenants.to_string();
    let mut arguments = vec!["--tenants", number.as_str()];
    if refused {
        arguments.extend(["--request-ip", REFUSED]);
    }
    let all = tenants as usize;
    let whole = |look: &berth_agent::simulate::Look| look.synced == all;

    let fleet = Fleet::start(ground.lab.hub(), &arguments).await?;
    let started = Instant::now();
    // The first answers may say that an address is awaited.
    let answered = |look: &berth_agent::simulate::Look| {
        whole(look) && look.programmed + look.refused >= all as u64
    };
    fleet
        .until("every Service is served, or refused", SETUP, answered)
        .await?;
    rest(ground).await?;
    println!("(set up in {:.0} s)", started.elapsed().as_secs_f64());
    let kib = (resident(&ground.hub).await? - empty) / f64::from(tenants);
    report.figure(
        format!("hub's memory for each of {tenants}, with everything it has"),
        kib,
        "KiB",
    );
    let kib = resident(fleet.process()).await? / f64::from(tenants);
    report.figure("the simulated agent's own", kib, "KiB");

    crash(ground, &fleet, tenants, report).await?;
    fleet.stop().await?;

    // The same objects, and nobody connected: what sessions add to this is theirs alone.
    ground.restart_hub().await?;
    let loaded = resident(&ground.hub).await?;
    let fleet = Fleet::start(ground.lab.hub(), &arguments).await?;
    let look = fleet.until("all are synced", SETUP, whole).await?;
    report.figure(
        format!("first dial of {tenants}, until all are synced"),
        look.all_synced_seconds.unwrap_or(f64::NAN),
        "s",
    );
    rest(ground).await?;
    let kib = (resident(&ground.hub).await? - loaded) / f64::from(tenants);
    report.limit(
        format!("hub's memory for an idle, synced session, of {tenants}"),
        kib,
        "KiB",
        SESSION_KIB,
    );
    let before = cpu(ground.lab.hub(), &ground.hub).await?;
    tokio::time::sleep(IDLE).await;
    let used = cpu(ground.lab.hub(), &ground.hub).await? - before;
    let percent = used / IDLE.as_secs_f64() * 100.0;
    report.figure(
        format!("hub's processor time with {tenants} idle"),
        percent,
        "%",
    );
    fleet.stop().await
}

/// The hub is killed, and all come back.
async fn crash(ground: &Ground, fleet: &Fleet, tenants: u32, report: &mut Report) -> Result<()> {
    let before = ground.writes().await?.0.len();
    let round = fleet.look().await?.unwrap_or_default().round + 1;
    let killed = Instant::now();
    ground.crash_hub().await?;
    let away = killed.elapsed().as_secs_f64();
    let back =
        |look: &berth_agent::simulate::Look| look.round >= round && look.synced == tenants as usize;
    let look = fleet.until("all are back", SETUP, back).await?;
    rest(ground).await?;
    let written = ground.writes().await?.0.len() - before;
    let took = look.all_synced_seconds.unwrap_or(f64::NAN);
    let row = |what: &str| format!("{tenants} back after SIGKILL of the hub: {what}");
    report.figure(row("until it was ready again"), away, "s");
    report.figure(row("the spread it had told"), look.spread_seconds, "s");
    report.figure(row("until all are synced"), took, "s");
    let beyond = (took - look.spread_seconds).max(0.0);
    match BACK.iter().find(|(size, _)| *size == tenants) {
        Some((_, most)) => report.limit(row("beyond the spread"), beyond, "s", *most),
        None => report.figure(row("beyond the spread"), beyond, "s"),
    }
    report.figure(row("failed attempts"), look.failed_attempts as f64, "");
    report.limit(row("API writes by the hub"), written as f64, "", 0.0);
    let peak = ground
        .lab
        .hub()
        .metric("berth_handshakes_in_progress_peak", &[])
        .await?;
    report.limit(row("handshakes at once"), peak, "", 256.0);
    Ok(())
}

/// Waits until nobody writes to the management cluster any more.
async fn rest(ground: &Ground) -> Result<()> {
    let end = Instant::now() + SETUP;
    let mut size = ground.audited().await?;
    loop {
        tokio::time::sleep(QUIET).await;
        let now = ground.audited().await?;
        if now == size {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < end, "the cluster does not come to rest");
        size = now;
    }
}
