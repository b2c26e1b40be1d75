//! Networks that work, only badly.

use std::time::Duration;

use crate::{
    agent::{Agent, key, service, services},
    hub::Hub,
    pki::Pki,
    proxy::{Mode, Proxy, Way},
};

/// Everything over one kind of network, from the first byte on: a snapshot, a change, and their answers.
async fn works_over(mode: Mode) {
    let pki = Pki::new();
    let hub = Hub::start(&pki, ["acme"]).await;
    let proxy = Proxy::start(hub.address).await;
    proxy.set_default(mode);
    let agent = Agent::start(pki.client("acme"), "acme", proxy.address(), services(100));
    hub.until_holds(&agent).await;
    agent.want(key(7), service(7, 8_080, 3));
    hub.until_holds(&agent).await;
    assert_eq!(proxy.lines().len(), 1, "it took one session");
    assert!(proxy.line().passed(Way::Up) > 10_000);
    agent.finish().await;
    hub.planner.assert_nothing_lost();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_of_single_bytes_carries_a_session() {
    works_over(Mode::Single).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_network_carries_a_session() {
    works_over(Mode::Delay(Duration::from_millis(100))).await;
}
