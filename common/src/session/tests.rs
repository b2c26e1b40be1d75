//! Both ends of the session against each other, through a pipe that may be cut between any two messages.

mod convergence;
mod limits;
mod reconnect;
mod turns;
mod versions;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use berth_wire::v1;

use super::{
    HEARTBEAT, SILENCE,
    agent::{AgentInfo, AgentSession, Event, Source},
    held::{Held, Wanted},
    hub::{HubSession, Limits, Taken, TurnNews},
};
use crate::model::{
    Answer, Body, IpFamily, Key, Node, NodeName, Outcome, Port, Protocol, Service, ServiceKey,
    TrafficPolicy,
};

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

fn service(node_port: u16) -> Body {
    Body::Service(Service {
        uid: "u".into(),
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

fn node(last: u8) -> Body {
    Body::Node(Node {
        addresses: BTreeSet::from([[10, 0, 0, last].into()]),
    })
}

/// An agent, a hub, and what the hub remembers.
struct Pair {
    agent: AgentSession,
    hub: HubSession,
    held: Held,
    now: Instant,
    sessions: u64,
    events: Vec<Event>,
    /// Messages of the agent in this session, by their kind.
    sent: Vec<v1::AgentMessage>,
    discarded: Vec<String>,
    /// So many others come first whenever the agent asks for its turn.
    ahead: u32,
    /// What became of turns.
    turns: Vec<TurnNews>,
    /// The last Welcome.
    welcome: v1::Welcome,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let mut agent = AgentSession::new(AgentInfo {
            version: "1".into(),
            instance_id: "i".into(),
        });
        assert!(!agent.set_source(synced()));
        Self {
            agent,
            hub: HubSession::new(0, Limits::default(), now),
            held: Held::default(),
            now,
            sessions: 0,
            events: Vec::new(),
            sent: Vec::new(),
            discarded: Vec::new(),
            ahead: 0,
            turns: Vec::new(),
            welcome: v1::Welcome::default(),
        }
    }

    fn connect(&mut self) {
        self.sessions += 1;
        self.hub = HubSession::new(self.sessions, Limits::default(), self.now);
        self.agent.disconnected();
        self.agent.connected(self.now);
        self.sent.clear();
        self.events.clear();
    }

    /// One message of each side, if there is one. False when both had nothing to say.
    fn step(&mut self) -> bool {
        let up = self.agent.next_message(self.now);
        if let Some(message) = up.clone() {
            self.sent.push(message.clone());
            self.tell_hub(message);
        }
        let down = self.hub.next_message(self.now);
        if let Some(message) = down.clone() {
            if let Some(v1::hub_message::Body::Welcome(welcome)) = &message.body {
                self.welcome = welcome.clone();
            }
            let events = self.agent.received(message, self.now).unwrap();
            self.events.extend(events);
        }
        up.is_some() || down.is_some()
    }

    fn tell_hub(&mut self, message: v1::AgentMessage) {
        self.try_hub(message).unwrap();
    }

    fn try_hub(&mut self, message: v1::AgentMessage) -> Result<(), super::ProtocolError> {
        let taken = self.hub.receive(message, &mut self.held, self.now)?;
        let Taken {
            greeting,
            discarded,
            turn,
            ..
        } = taken;
        self.discarded.extend(discarded);
        self.turns.extend(turn);
        if turn == Some(TurnNews::Asked) {
            self.hub.turn(self.ahead);
        }
        if let Some(greeting) = greeting {
            let spread = Duration::from_secs(1);
            self.hub.accept(&greeting, spread, &mut self.held, self.now);
        }
        Ok(())
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the two sides never fall silent");
    }

    fn port_held(&self, name: &str) -> Option<u16> {
        match self.held.wanted(&key(name)) {
            Wanted::Present(_, service)
            | Wanted::Unreadable {
                last: Some(service),
                ..
            } => service.ports[0].node_port,
            _ => None,
        }
    }

    /// How many messages of the session carried resources.
    fn loads(&self) -> usize {
        use v1::agent_message::Body as Message;
        self.sent
            .iter()
            .filter(|m| {
                matches!(
                    m.body,
                    Some(Message::SnapshotPage(_) | Message::Delta(_) | Message::SnapshotEnd(_))
                )
            })
            .count()
    }
}

fn synced() -> Source {
    Source::Synced {
        cluster_uid: "c".into(),
    }
}

#[test]
fn rule_2_equal_digests_move_nothing_also_after_the_agent_was_restarted() {
    let mut pair = Pair::new();
    pair.agent.upsert(Key::Service(key("a")), service(30_001));
    pair.connect();
    pair.settle();
    assert_eq!(pair.port_held("a"), Some(30_001));

    let mut restarted = Pair::new();
    restarted.held = std::mem::take(&mut pair.held);
    restarted
        .agent
        .upsert(Key::Service(key("a")), service(30_001));
    restarted.connect();
    restarted.settle();
    assert_eq!(restarted.loads(), 0);
    assert!(restarted.events.contains(&Event::Synced));
}

#[test]
fn rule_2_a_reconnect_after_a_small_change_moves_one_bucket() {
    let mut pair = Pair::new();
    for i in 0..2_000 {
        let port = 20_000 + i;
        pair.agent
            .upsert(Key::Service(key(&format!("s{i}"))), service(port));
    }
    pair.connect();
    pair.settle();
    pair.agent.disconnected();
    pair.agent.upsert(Key::Service(key("s7")), service(30_007));
    pair.connect();
    pair.settle();
    assert_eq!(pair.port_held("s7"), Some(30_007));
    assert_eq!(pair.held.services(), 2_000);
    let bytes: usize = pair.sent.iter().map(prost::Message::encoded_len).sum();
    assert!(bytes < 8 * 1024, "{bytes} bytes");
}

#[test]
fn rule_3_a_snapshot_cut_short_deletes_nothing() {
    let mut pair = Pair::new();
    pair.agent.upsert(Key::Service(key("a")), service(30_001));
    pair.agent.upsert(Key::Service(key("b")), service(30_002));
    pair.connect();
    pair.settle();
    pair.agent.disconnected();
    pair.agent.forget(&Key::Service(key("a")));
    pair.agent.forget(&Key::Service(key("b")));
    pair.connect();
    loop {
        pair.step();
        let begun = pair
            .sent
            .last()
            .is_some_and(|m| matches!(m.body, Some(v1::agent_message::Body::SnapshotBegin(_))));
        if begun {
            break;
        }
    }
    pair.connect();
    assert_eq!(pair.held.services(), 2);
    pair.settle();
    assert!(matches!(pair.held.wanted(&key("a")), Wanted::Absent));
}

#[test]
fn rule_3_a_snapshot_leaves_out_nothing_that_waits_to_be_told() {
    let mut pair = Pair::new();
    pair.agent.upsert(Key::Service(key("a")), service(30_001));
    let lost = Source::Unsynced {
        reason: "connection refused".into(),
    };
    assert!(!pair.agent.set_source(lost));
    pair.connect();
    pair.settle();
    // Read anew, the cluster turns out to have a second Service, of which Welcome's digests knew nothing.
    pair.agent.upsert(Key::Service(key("b")), service(30_002));
    assert!(!pair.agent.set_source(synced()));
    while !pair.held.is_complete() {
        assert!(pair.step());
    }
    assert_eq!(pair.port_held("b"), Some(30_002), "not absent for a moment");
}

#[test]
fn rule_4_an_empty_cluster_with_a_deletion_to_tell_does_not_resync_for_ever() {
    let mut pair = Pair::new();
    let lost = Source::Unsynced {
        reason: "connection refused".into(),
    };
    assert!(!pair.agent.set_source(lost));
    pair.connect();
    pair.settle();
    // Nothing is there but a Service that is being deleted: both sides' digests are those of nothing.
    pair.agent.remove(Key::Service(key("a")));
    assert!(!pair.agent.set_source(synced()));
    pair.settle();
    assert!(pair.held.is_complete());
    assert!(matches!(pair.held.wanted(&key("a")), Wanted::Deleted(_)));
    assert!(pair.events.contains(&Event::Synced));
}

#[test]
fn rule_4_a_gap_is_answered_by_a_resync_and_a_repetition_by_nothing() {
    let mut pair = Pair::new();
    pair.connect();
    pair.settle();
    pair.agent
        .upsert(Key::Service(key("lost")), service(30_001));
    let lost = pair.agent.next_message(pair.now).unwrap();
    pair.agent.upsert(Key::Service(key("b")), service(30_002));
    pair.settle();
    assert_eq!(pair.port_held("b"), Some(30_002));
    assert_eq!(pair.port_held("lost"), Some(30_001), "resync brought it");
    let before = pair.discarded.len();
    pair.tell_hub(lost);
    assert_eq!(pair.discarded.len(), before + 1);
    assert!(!pair.step(), "no word about a repetition");
}

#[test]
fn rule_5_an_explicit_deletion_acts_at_once_and_is_confirmed_under_its_number() {
    let mut pair = Pair::new();
    pair.agent.upsert(Key::Service(key("a")), service(30_001));
    pair.connect();
    pair.settle();
    pair.agent.remove(Key::Service(key("a")));
    pair.settle();
    let Wanted::Deleted(generation) = pair.held.wanted(&key("a")) else {
        panic!("a deletion")
    };
    // The session breaks before the answer: the next one asks again.
    pair.connect();
    pair.settle();
    assert_eq!(pair.held.wanted(&key("a")), Wanted::Deleted(generation));
    assert_eq!(pair.held.gone(&key("a")), Some(generation));
    pair.hub
        .answer(&Key::Service(key("a")), &Answer::deleted(generation));
    pair.settle();
    assert!(
        pair.events
            .iter()
            .any(|e| matches!(e, Event::Answer(_, answer) if answer.outcome == Outcome::Deleted))
    );
}

#[test]
fn rule_6_an_answer_to_an_older_generation_is_history() {
    let mut pair = Pair::new();
    let service_key = Key::Service(key("a"));
    pair.agent.upsert(service_key.clone(), service(30_001));
    pair.connect();
    pair.settle();
    let old = pair.agent.generation(&service_key).unwrap();
    pair.agent.upsert(service_key.clone(), service(30_002));
    let answer = |generation| Answer {
        generation,
        outcome: Outcome::Programmed,
        ingress: Vec::new(),
    };
    pair.events.clear();
    pair.hub.answer(&service_key, &answer(old));
    pair.settle();
    assert_eq!(pair.events, vec![]);
    let new = pair.agent.generation(&service_key).unwrap();
    pair.hub.answer(&service_key, &answer(new));
    pair.settle();
    assert_eq!(pair.events.len(), 1);
}

#[test]
fn rule_7_an_unsynced_source_says_so_and_sends_no_empty_lists() {
    let mut pair = Pair::new();
    pair.agent.upsert(Key::Service(key("a")), service(30_001));
    pair.connect();
    pair.settle();
    let lost = Source::Unsynced {
        reason: "connection refused".into(),
    };
    assert!(!pair.agent.set_source(lost));
    pair.agent.forget(&Key::Service(key("a")));
    pair.settle();
    pair.connect();
    pair.settle();
    assert_eq!(pair.port_held("a"), Some(30_001));
    pair.agent.upsert(Key::Service(key("a")), service(30_001));
    assert!(!pair.agent.set_source(synced()));
    pair.settle();
    assert_eq!(pair.port_held("a"), Some(30_001));
    let other = Source::Synced {
        cluster_uid: "another".into(),
    };
    assert!(pair.agent.set_source(other), "must be dialled anew");
}

#[test]
fn rule_8_what_is_overtaken_before_it_is_sent_is_never_sent() {
    let mut pair = Pair::new();
    pair.connect();
    pair.settle();
    pair.sent.clear();
    for port in 1..=10_000 {
        pair.agent.upsert(Key::Service(key("a")), service(port));
    }
    pair.settle();
    assert_eq!(pair.loads(), 1);
    assert_eq!(pair.port_held("a"), Some(10_000));
}

#[test]
fn rule_10_both_sides_beat_and_give_up_a_silent_peer() {
    let mut pair = Pair::new();
    pair.connect();
    pair.settle();
    assert!(pair.agent.next_message(pair.now).is_none());
    pair.now += HEARTBEAT;
    assert_eq!(pair.agent.deadline(), Some(pair.now));
    assert!(pair.agent.next_message(pair.now).is_some());
    assert!(pair.hub.next_message(pair.now).is_some());
    pair.now += SILENCE;
    assert!(pair.agent.check(pair.now).is_err());
    assert!(pair.hub.check(pair.now).is_err());
}

#[test]
fn rule_10_before_welcome_only_the_silence_is_waited_for() {
    let mut pair = Pair::new();
    pair.agent.connected(pair.now);
    assert!(pair.agent.next_message(pair.now).is_some(), "Hello");
    pair.now += HEARTBEAT;
    assert!(pair.agent.next_message(pair.now).is_none());
    // A deadline that had passed would make the shell spin until the hub answers.
    assert!(pair.agent.deadline().unwrap() > pair.now);
    assert!(pair.hub.next_message(pair.now).is_none());
    assert!(pair.hub.deadline() > pair.now);
}

#[test]
fn hostile_36_a_message_before_hello_and_a_second_hello_end_the_session() {
    let mut pair = Pair::new();
    let beat = v1::AgentMessage {
        body: Some(v1::agent_message::Body::Heartbeat(v1::Heartbeat {
            sequence: 0,
        })),
    };
    assert!(pair.hub.receive(beat, &mut pair.held, pair.now).is_err());
    pair.agent.connected(pair.now);
    let hello = pair.agent.next_message(pair.now).unwrap();
    pair.hub = HubSession::new(1, Limits::default(), pair.now);
    pair.tell_hub(hello.clone());
    assert!(pair.hub.receive(hello, &mut pair.held, pair.now).is_err());
}

#[test]
fn hostile_35_a_version_outside_the_range_is_told_the_range() {
    let mut pair = Pair::new();
    let hello = v1::Hello {
        protocol_min: 2,
        protocol_max: 3,
        ..Default::default()
    };
    let message = v1::AgentMessage {
        body: Some(v1::agent_message::Body::Hello(hello)),
    };
    let error = pair
        .hub
        .receive(message, &mut pair.held, pair.now)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "this side speaks protocol 1, the peer speaks 2 to 3: upgrade the older of the two"
    );
}

#[test]
fn hostile_40_a_snapshot_over_the_quota_ends_the_session_and_the_prior_state_stays() {
    let mut pair = Pair::new();
    pair.agent.upsert(Key::Service(key("a")), service(30_001));
    pair.connect();
    pair.settle();
    let limits = Limits {
        services: 2,
        nodes: 1,
    };
    for i in 0..8 {
        pair.agent
            .upsert(Key::Service(key(&format!("more{i}"))), service(30_010));
    }
    pair.agent.disconnected();
    pair.agent.connected(pair.now);
    pair.hub = HubSession::new(9, limits, pair.now);
    let error = loop {
        let Some(message) = pair.agent.next_message(pair.now) else {
            let down = pair.hub.next_message(pair.now).unwrap();
            pair.agent.received(down, pair.now).unwrap();
            continue;
        };
        if let Err(error) = pair.try_hub(message) {
            break error;
        }
    };
    assert!(matches!(error, super::ProtocolError::TooMuch(_)));
    assert_eq!(pair.held.services(), 1);
}

#[test]
fn what_cannot_be_read_keeps_its_last_good_state_and_is_not_sent_again() {
    let mut pair = Pair::new();
    let service_key = Key::Service(key("a"));
    pair.agent.upsert(service_key.clone(), service(30_001));
    pair.connect();
    pair.settle();
    let Body::Service(mut broken) = service(30_002) else {
        unreachable!()
    };
    broken.ports.clear();
    pair.agent
        .upsert(service_key.clone(), Body::Service(broken));
    pair.settle();
    assert_eq!(pair.port_held("a"), Some(30_001));
    pair.connect();
    pair.settle();
    assert_eq!(pair.loads(), 0);
    assert_eq!(pair.port_held("a"), Some(30_001));
}
