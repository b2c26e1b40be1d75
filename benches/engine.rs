//! The session's two state machines and their digests, without a socket between them: what a message costs before anybody sends
//! it. `cargo bench --bench engine`; docs/benchmarks.md has the figures.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use berth_common::{
    model::{
        Body, Generation, IpFamily, Key, Node, NodeName, Port, Protocol, Service, ServiceKey,
        TrafficPolicy,
    },
    session::{
        agent::{AgentInfo, AgentSession, Source},
        digest::Digests,
        held::Held,
        hub::{HubSession, Limits, TurnNews},
    },
};
use divan::{Bencher, counter::ItemsCount};

const MANY: usize = 10_000;

fn main() {
    divan::main();
}

fn key(index: usize) -> Key {
    Key::Service(ServiceKey::new("default", format!("app-{index:05}")))
}

fn service(index: usize, node_port: u16) -> Body {
    Body::Service(Service {
        uid: format!("6c84fb90-12c4-11e1-840d-{index:012}"),
        ports: vec![Port {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(node_port),
            app_protocol: None,
        }],
        families: vec![IpFamily::V4],
        require_dual_stack: false,
        affinity_seconds: None,
        source_ranges: BTreeSet::new(),
        traffic_policy: TrafficPolicy::Cluster,
        local_nodes: BTreeSet::new(),
        health_check_node_port: None,
        requested_ips: Vec::new(),
        annotations: BTreeMap::new(),
    })
}

/// An agent that wants so many Services, and has one node.
fn agent(services: usize) -> AgentSession {
    let mut agent = AgentSession::new(AgentInfo {
        version: "0.1.0".into(),
        instance_id: "i".into(),
    });
    let addresses = BTreeSet::from([Ipv4Addr::new(10, 0, 0, 1).into()]);
    agent.upsert(
        Key::Node(NodeName("n".into())),
        Body::Node(Node { addresses }),
    );
    for index in 0..services {
        agent.upsert(key(index), service(index, 30_080));
    }
    let _ = agent.set_source(Source::Synced {
        cluster_uid: "c".into(),
    });
    agent
}

/// Both ends of one session.
struct Pair {
    agent: AgentSession,
    hub: HubSession,
    held: Held,
    now: Instant,
}

impl Pair {
    fn new(agent: AgentSession, held: Held) -> Self {
        let now = Instant::now();
        Self {
            agent,
            hub: HubSession::new(1, Limits::default(), now),
            held,
            now,
        }
    }

    /// Moves messages until neither side has anything to say.
    fn talk(&mut self) {
        let now = self.now;
        loop {
            let mut spoke = false;
            while let Some(message) = self.agent.next_message(now) {
                spoke = true;
                let taken = self.hub.receive(message, &mut self.held, now);
                let taken =
                    taken.unwrap_or_else(|error| panic!("the hub ends the session: {error}"));
                if let Some(greeting) = taken.greeting {
                    self.hub
                        .accept(&greeting, Duration::from_secs(1), &mut self.held, now);
                }
                // There is nobody else to wait for.
                if taken.turn == Some(TurnNews::Asked) {
                    self.hub.turn(0);
                }
            }
            while let Some(message) = self.hub.next_message(now) {
                spoke = true;
                let heard = self.agent.received(message, now);
                heard.unwrap_or_else(|error| panic!("the agent ends the session: {error}"));
            }
            if !spoke {
                return;
            }
        }
    }

    fn connect(mut self) -> Self {
        self.agent.disconnected();
        self.agent.connected(self.now);
        self.talk();
        assert!(self.agent.is_synced());
        self
    }
}

#[divan::bench]
fn snapshot_of_10_000_services(bencher: Bencher<'_, '_>) {
    bencher
        .counter(ItemsCount::new(MANY))
        .with_inputs(|| Pair::new(agent(MANY), Held::default()))
        .bench_values(Pair::connect);
}

#[divan::bench]
fn reconnect_with_10_000_services_unchanged(bencher: Bencher<'_, '_>) {
    bencher
        .with_inputs(|| {
            let Pair { agent, held, .. } = Pair::new(agent(MANY), Held::default()).connect();
            Pair::new(agent, held)
        })
        .bench_values(Pair::connect);
}

#[divan::bench(args = [1, MANY])]
fn one_delta_among(bencher: Bencher<'_, '_>, services: usize) {
    let mut pair = Pair::new(agent(services), Held::default()).connect();
    let mut port = 30_000;
    bencher.bench_local(|| {
        port = 30_000 + (port + 1) % 2_000;
        pair.agent.upsert(key(0), service(0, port));
        pair.talk();
    });
}

#[divan::bench]
fn digest_toggle(bencher: Bencher<'_, '_>) {
    let mut digests = Digests::default();
    let key = key(1);
    let mut generation = 0;
    bencher.bench_local(|| {
        generation += 1;
        digests.toggle(divan::black_box(&key), Generation(generation));
    });
}

#[divan::bench]
fn digest_difference(bencher: Bencher<'_, '_>) {
    let (mut one, mut other) = (Digests::default(), Digests::default());
    for index in 0..MANY {
        one.toggle(&key(index), Generation(1));
        other.toggle(&key(index), Generation(u64::from(index == 7) + 1));
    }
    bencher.bench_local(|| divan::black_box(&one).difference(divan::black_box(&other)));
}
