//! Peers that are there and do not read. Whoever writes to one gives it up after 15 s, and nobody else waits for it.

use std::time::{Duration, Instant};

use berth_common::model::{Answer, Generation, Outcome, Reason};

use crate::{
    SOON,
    agent::{Agent, Services, key, service, services},
    eventually,
    hub::Hub,
    pki::Pki,
    proxy::{Mode, Proxy, Way},
    raw::{Raw, delta, resource},
};

/// The promise (DESIGN.md, rule 8), and what a busy machine adds to it.
const STALL: Duration = Duration::from_secs(15);
const MARGIN: Duration = Duration::from_secs(5);
/// An exchange with the hub takes milliseconds; this is far from the time for which anybody is stalled.
const NO_DELAY: Duration = Duration::from_secs(5);

/// Answers of 8 KiB, each another one, so that no buffer between hub and agent is large enough for them.
fn flood(hub: &Hub, tenant: &str, count: &mut u64) {
    let tenant = tenant.parse().unwrap();
    for i in 0..100 {
        *count += 1;
        let why = Reason::new("Waiting", format!("{count:08192}"));
        let answer = Answer {
            generation: Generation(1),
            outcome: Outcome::Pending(why),
            ingress: Vec::new(),
        };
        hub.tenants.answer(&tenant, &key(i), answer);
    }
}

/// Makes exchanges until `over`, one after the other, and gives back how many there were.
async fn exchange(hub: &Hub, agent: &Agent, mut over: impl FnMut() -> bool) -> u16 {
    let mut count = 0;
    while !over() {
        count += 1;
        agent.want(key(0), service(0, 1_000 + count % 50_000, 1));
        eventually("another tenant's answer", NO_DELAY, || hub.holds(agent)).await;
    }
    count
}

/// Floods a tenant that does not read until the hub has closed its session, and gives back how long that took. Another
/// tenant goes on as if nothing were.
async fn is_closed(pki: &Pki, hub: &Hub, stalled: &str) -> Duration {
    let other = Agent::start(pki.client("other"), "other", hub.address, services(3));
    hub.until_holds(&other).await;
    let began = Instant::now();
    let mut count = 0;
    let exchanges = exchange(hub, &other, || {
        assert!(
            began.elapsed() < STALL + MARGIN,
            "the stalled session is still there"
        );
        flood(hub, stalled, &mut count);
        !hub.is_connected(stalled)
    });
    let exchanges = exchanges.await;
    assert!(exchanges > 50, "only {exchanges} exchanges");
    other.finish().await;
    began.elapsed()
}

async fn an_agent_that_reads_no_more_is_closed_after_15_s() {
    let pki = Pki::new();
    let hub = Hub::start(&pki, ["stalled", "other"]).await;
    let proxy = Proxy::start(hub.address).await;
    let agent = Agent::start(
        pki.client("stalled"),
        "stalled",
        proxy.address(),
        services(3),
    );
    hub.until_holds(&agent).await;
    proxy.set(Way::Down, Mode::Stall);
    let took = is_closed(&pki, &hub, "stalled").await;
    assert!(took >= STALL, "closed after {took:?} already");
    // It reads again, and is back.
    proxy.set(Way::Down, Mode::Pass);
    agent.want(key(1), service(1, 8_080, 1));
    hub.until_holds(&agent).await;
    agent.finish().await;
}

/// The connection is alive, and answers pings: it is only the stream that nobody reads.
async fn a_stream_that_nobody_reads_is_closed_with_its_connection() {
    let pki = Pki::new();
    let hub = Hub::start(&pki, ["stalled", "other"]).await;
    let proxy = Proxy::start(hub.address).await;
    let raw = Raw::synced(pki.client("stalled"), proxy.address(), "cluster").await;
    raw.say(delta(1, (0..100).map(|i| resource(&key(i), 1))))
        .await;
    is_closed(&pki, &hub, "stalled").await;
    eventually("the connection is closed", MARGIN, || {
        proxy.line().is_over()
    })
    .await;
}

async fn a_hub_that_reads_no_more_is_left_after_15_s() {
    let pki = Pki::new();
    let hub = Hub::start(&pki, ["acme"]).await;
    let proxy = Proxy::start(hub.address).await;
    let agent = Agent::start(pki.client("acme"), "acme", proxy.address(), services(3));
    hub.until_holds(&agent).await;
    proxy.set(Way::Up, Mode::Stall);
    let began = Instant::now();
    // More than all buffers on the way hold; the agent gives up when none of it has left for 15 s.
    let large: Services = (0..60)
        .map(|i| (key(i), service(i, 1_000, 1_000)))
        .collect();
    for (key, service) in large {
        agent.want(key, service);
    }
    let stalled = || agent.ended("stalled") == 1;
    let took = eventually("the agent gives up", STALL + MARGIN, stalled).await;
    assert!(
        took >= STALL - Duration::from_secs(1),
        "given up after {took:?} already"
    );
    eventually("everything is told anew", SOON, || hub.holds(&agent)).await;
    assert_eq!(proxy.lines().len(), 2, "{:?}", began.elapsed());
    agent.finish().await;
    hub.planner.assert_nothing_lost();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_read_is_left_after_15_s_and_nobody_waits_for_it() {
    tokio::join!(
        an_agent_that_reads_no_more_is_closed_after_15_s(),
        a_stream_that_nobody_reads_is_closed_with_its_connection(),
        a_hub_that_reads_no_more_is_left_after_15_s(),
    );
}
