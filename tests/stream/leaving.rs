//! Hubs that leave: with a word, so that agents come back spread over time, or without.

use std::time::{Duration, Instant};

use berth_common::session::hub::Limits;
use futures::future::join_all;

use crate::{
    SOON,
    agent::{Agent, key, service, services},
    eventually,
    hub::Hub,
    pki::Pki,
    proxy::{End, Mode, Proxy, Way},
};

const FLEET: usize = 20;

struct Fleet {
    pki: Pki,
    hub: Hub,
    proxy: Proxy,
    agents: Vec<Agent>,
}

impl Fleet {
    async fn start() -> Self {
        let pki = Pki::new();
        let names: Vec<String> = (0..FLEET).map(|i| format!("t{i}")).collect();
        let hub = Hub::start(&pki, names.iter().map(String::as_str)).await;
        let proxy = Proxy::start(hub.address).await;
        let start =
            |name: &String| Agent::start(pki.client(name), name, proxy.address(), services(5));
        let agents = names.iter().map(start).collect();
        let fleet = Self {
            pki,
            hub,
            proxy,
            agents,
        };
        fleet.until_synced().await;
        fleet
    }

    async fn until_synced(&self) {
        join_all(self.agents.iter().map(|agent| self.hub.until_holds(agent))).await;
    }

    async fn finish(self) {
        join_all(self.agents.into_iter().map(Agent::finish)).await;
        self.hub.planner.assert_nothing_lost();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drained_agents_come_back_within_the_time_and_not_in_one_instant() {
    const WITHIN: Duration = Duration::from_secs(2);
    let fleet = Fleet::start().await;
    let began = Instant::now();
    fleet.hub.tenants.drain(WITHIN, "test");
    let back = || fleet.proxy.lines().len() == 2 * FLEET;
    eventually("everybody is back", SOON, back).await;
    let mut after: Vec<Duration> = fleet.proxy.lines()[FLEET..]
        .iter()
        .map(|line| line.since.duration_since(began))
        .collect();
    after.sort();
    let (first, last) = (after[0], after[FLEET - 1]);
    assert!(last <= WITHIN + Duration::from_secs(3), "{after:?}");
    // Of 20 moments drawn evenly from 2 s, all within half a second of each other: once in a trillion runs.
    assert!(last - first >= WITHIN / 4, "{after:?}");
    fleet.until_synced().await;
    for agent in &fleet.agents {
        assert_eq!(agent.ended("drained"), 1);
    }
    fleet.finish().await;
}

/// Agents come back while the hub is still leaving: it must not take them in, or it never gets to leave.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_leaves_waits_for_the_last_agent_and_takes_none_back() {
    let mut fleet = Fleet::start().await;
    // One of them is slow to leave: it has not read yet that it should.
    let slow = fleet.proxy.lines().into_iter().next().unwrap();
    slow.set(Way::Down, Mode::Stall);
    let others_are_back = async {
        let back = || fleet.proxy.lines().len() >= 2 * FLEET - 1;
        eventually("the others come back", SOON, back).await;
        slow.set(Way::Down, Mode::Pass);
    };
    let hub = fleet.hub.replace(&fleet.pki);
    let ((hub, took), ()) = tokio::join!(hub, others_are_back);
    fleet.hub = hub;
    assert!(
        took < Duration::from_secs(4),
        "the hub took {took:?} to leave"
    );
    fleet.until_synced().await;
    for agent in &fleet.agents {
        assert_eq!(agent.ended("drained"), 1, "{} was thrown out", agent.tenant);
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_was_killed_hears_everything_anew_and_deletes_nothing() {
    let mut fleet = Fleet::start().await;
    let pki = &fleet.pki;
    fleet.hub = fleet.hub.restart(pki).await;
    // What changes while nobody listens is told with the rest.
    for agent in &fleet.agents {
        agent.want(key(3), service(3, 8_080, 1));
    }
    fleet.until_synced().await;
    // Restarted once more, this time with nothing changed.
    let lines = fleet.proxy.lines().len();
    fleet.hub = fleet.hub.restart(&fleet.pki).await;
    fleet.until_synced().await;
    assert!(fleet.proxy.lines().len() >= lines + FLEET);
    fleet.finish().await;
}

/// The hub has what the agent has: their digests are equal, and nothing but them moves.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_comes_back_to_a_hub_that_remembers_sends_nothing_again() {
    let pki = Pki::new();
    let hub = Hub::start(&pki, ["acme"]).await;
    let proxy = Proxy::start(hub.address).await;
    let agent = Agent::start(pki.client("acme"), "acme", proxy.address(), services(1_000));
    hub.until_holds(&agent).await;
    let whole = proxy.line().passed(Way::Up);
    let marks = hub.planner.marks();
    proxy.cut_all(End::Fin);
    eventually("a new session", SOON, || {
        proxy.lines().len() == 2 && agent.is_up()
    })
    .await;
    agent.want(key(3), service(3, 8_080, 1));
    hub.until_holds(&agent).await;
    let again = proxy.line().passed(Way::Up);
    assert!(
        again < 16 * 1024 && whole > 64 * 1024,
        "{whole} bytes, then {again}"
    );
    assert_eq!(hub.planner.marks(), marks + 1, "only the change made work");
    agent.finish().await;
}

/// The hub welcomes it each time, and each time it tells too much.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_refused_after_welcome_comes_back_ever_more_rarely() {
    let pki = Pki::new();
    let limits = Limits {
        services: 5,
        nodes: 5,
    };
    let hub = Hub::start_with(&pki, ["acme"], limits).await;
    let agent = Agent::start(pki.client("acme"), "acme", hub.address, services(50));
    let refused = || agent.ended("resource_exhausted") == 6;
    let took = eventually("six attempts", SOON, refused).await;
    // Five delays of at most 0.5, 1, 2, 4 and 8 s: together less than this once in 50,000 runs. They were 0.1 s each.
    assert!(
        took >= Duration::from_millis(600),
        "six attempts in {took:?}"
    );
    agent.finish().await;
}
