//! Connections of which a direction is dead without anybody having said so: what is sent is acknowledged and never arrives.
//! Each end has to find that out by itself.

use std::time::{Duration, Instant};

use tonic::Code;

use crate::{
    SOON,
    agent::{Agent, key, service, services},
    eventually,
    hub::Hub,
    pki::Pki,
    proxy::{End, Mode, Proxy, Way},
    raw::Raw,
};

/// The promise (DESIGN.md, rule 10), and what a busy machine adds to it.
const FOUND: Duration = Duration::from_secs(30);
const MARGIN: Duration = Duration::from_secs(5);

async fn is_found(pki: &Pki, hub: &Hub, tenant: &str, dead: &[Way]) {
    let proxy = Proxy::start(hub.address).await;
    let agent = Agent::start(pki.client(tenant), tenant, proxy.address(), services(3));
    hub.until_holds(&agent).await;

    // Nobody comes in meanwhile: a new session would tell the hub that the old one is gone.
    proxy.set_open(false);
    for way in dead {
        proxy.set(*way, Mode::Swallow);
    }
    let began = Instant::now();
    let within = FOUND + MARGIN;
    tokio::join!(
        eventually("the agent gives up", within, || !agent.is_up()),
        eventually("the hub gives up", within, || !hub.is_connected(tenant)),
    );
    let took = began.elapsed();
    assert!(took > FOUND / 3, "{took:?}: that was no silence");
    agent.want(key(1), service(1, 8_080, 1));

    proxy.set_open(true);
    hub.until_holds(&agent).await;
    assert_eq!(proxy.lines().len(), 2);
    agent.finish().await;
}

/// One that is dead from the first byte on, when there is no session yet that could be missed.
async fn is_given_up_in_the_handshake(pki: &Pki, hub: &Hub, tenant: &str) {
    let proxy = Proxy::start(hub.address).await;
    proxy.set_default(Mode::Swallow);
    let agent = Agent::start(pki.client(tenant), tenant, proxy.address(), services(3));
    let gave_up = || agent.ended("unreachable") > 0;
    eventually(
        "the agent gives up a handshake",
        Duration::from_secs(5) + MARGIN,
        gave_up,
    )
    .await;
    proxy.set_default(Mode::Pass);
    hub.until_holds(&agent).await;
    agent.finish().await;
}

/// A stream that is open, and on which nobody ever says Hello.
async fn is_ended_without_hello(pki: &Pki, hub: &Hub, tenant: &str) {
    let mut silent = Raw::connect(pki.client(tenant), hub.address).await;
    let began = Instant::now();
    let status = silent.ended().await;
    assert!(began.elapsed() < FOUND + MARGIN, "{:?}", began.elapsed());
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_is_found_by_both_ends_within_30_s_and_the_agent_is_back() {
    let pki = Pki::new();
    let hub = Hub::start(&pki, ["up", "down", "both", "start", "mute"]).await;
    tokio::join!(
        is_found(&pki, &hub, "up", &[Way::Up]),
        is_found(&pki, &hub, "down", &[Way::Down]),
        is_found(&pki, &hub, "both", &[Way::Up, Way::Down]),
        is_given_up_in_the_handshake(&pki, &hub, "start"),
        is_ended_without_hello(&pki, &hub, "mute"),
    );
    hub.planner.assert_nothing_lost();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_found_at_once_by_both_ends() {
    let pki = Pki::new();
    let hub = Hub::start(&pki, ["acme"]).await;
    let proxy = Proxy::start(hub.address).await;
    let agent = Agent::start(pki.client("acme"), "acme", proxy.address(), services(3));
    hub.until_holds(&agent).await;
    proxy.set_open(false);
    proxy.cut_all(End::Rst);
    tokio::join!(
        eventually("the agent is down", SOON, || !agent.is_up()),
        eventually("the hub has noticed", SOON, || !hub.is_connected("acme")),
    );
    proxy.set_open(true);
    hub.until_holds(&agent).await;
    agent.finish().await;
    hub.planner.assert_nothing_lost();
}
