//! What a tenant may make the hub keep: whatever it says, and in whatever pieces, no more than its limits.

use std::time::{Duration, Instant};

use berth_wire::v1::{self, agent_message::Body as Up, change::Change};
use prost::Message as _;

use super::{key, node, service};
use crate::{
    model::{Generation, Key, NodeName, Versioned},
    session::{
        PAGE_BYTES, ProtocolError,
        digest::Buckets,
        held::Held,
        hub::{HubSession, Limits, Taken},
        snapshot::Tally,
    },
    wire::{generation_of, key_to_wire, resource_to_wire},
};

const LIMITS: Limits = Limits {
    services: 10,
    nodes: 2,
};

/// A hub with one agent that keeps to the order of messages and to nothing else.
struct Hub {
    session: HubSession,
    held: Held,
    now: Instant,
    sequence: u64,
}

impl Hub {
    /// Holds a Service `a`.
    fn new() -> Self {
        let mut hub = Self::over(Held::default());
        let told = hub.snapshot(&Buckets::all(), &[resource("a")]);
        assert_eq!(told.unwrap().touched.services.len(), 1);
        hub
    }

    fn over(held: Held) -> Self {
        let now = Instant::now();
        let mut hub = Self {
            session: HubSession::new(1, LIMITS, now),
            held,
            now,
            sequence: 0,
        };
        let hello = Up::Hello(v1::Hello {
            protocol_min: 1,
            protocol_max: 1,
            ..Default::default()
        });
        let greeting = hub.say(hello).unwrap().greeting.unwrap();
        let spread = Duration::ZERO;
        let touched = hub.session.accept(&greeting, spread, &mut hub.held, now);
        assert!(!touched.completed);
        hub
    }

    fn say(&mut self, body: Up) -> Result<Taken, ProtocolError> {
        let message = v1::AgentMessage { body: Some(body) };
        self.session.receive(message, &mut self.held, self.now)
    }

    fn snapshot(
        &mut self,
        buckets: &Buckets,
        resources: &[v1::Resource],
    ) -> Result<Taken, ProtocolError> {
        let mut tally = Tally::default();
        for resource in resources {
            let key = resource.key.as_ref().unwrap();
            tally.add(key, Generation(resource.generation));
        }
        self.say(Up::SnapshotBegin(v1::SnapshotBegin {
            id: 1,
            buckets: buckets.to_bytes().into(),
        }))?;
        self.say(Up::SnapshotPage(v1::SnapshotPage {
            id: 1,
            resources: resources.to_vec(),
        }))?;
        self.say(Up::SnapshotEnd(tally.end(1)))
    }

    fn delta(&mut self, changes: Vec<Change>) -> Result<Taken, ProtocolError> {
        self.sequence += 1;
        let change = |change| v1::Change {
            change: Some(change),
        };
        self.say(Up::Delta(v1::Delta {
            sequence: self.sequence,
            changes: changes.into_iter().map(change).collect(),
        }))
    }
}

fn resource(name: &str) -> v1::Resource {
    let body = service(30_001);
    let generation = generation_of(&body);
    resource_to_wire(&Key::Service(key(name)), &Versioned { generation, body })
}

fn deletion(name: &str) -> Change {
    Change::Delete(v1::Deletion {
        key: Some(key_to_wire(&Key::Service(key(name)))),
        generation: 1,
    })
}

fn too_much(result: Result<Taken, ProtocolError>) {
    assert!(
        matches!(result, Err(ProtocolError::TooMuch(_))),
        "{result:?}"
    );
}

#[test]
fn hostile_40_a_delta_over_the_quota_changes_nothing() {
    let mut hub = Hub::new();
    let before = hub.held.digests().clone();
    let more: Vec<_> = (0..10).map(|i| resource(&format!("s{i}"))).collect();
    let mut changes: Vec<_> = more.into_iter().map(Change::Upsert).collect();
    changes.push(deletion("another"));
    too_much(hub.delta(changes));
    assert_eq!(hub.held.services(), 1);
    assert_eq!(*hub.held.digests(), before);
    assert!(!hub.held.is_deleting(&key("another")));
}

#[test]
fn hostile_40_a_delta_that_exchanges_services_is_within_the_quota() {
    let mut hub = Hub::new();
    let fill: Vec<_> = (0..9).map(|i| resource(&format!("s{i}"))).collect();
    hub.delta(fill.into_iter().map(Change::Upsert).collect())
        .unwrap();
    hub.delta(vec![
        Change::Upsert(resource("new")),
        Change::Upsert(resource("s0")),
        deletion("a"),
    ])
    .unwrap();
    assert_eq!(hub.held.services(), 10);
}

#[test]
fn hostile_40_snapshots_of_one_bucket_after_the_other_do_not_add_up() {
    let mut hub = Hub::new();
    let mut refused = false;
    for i in 0..20 {
        let resource = resource(&format!("s{i}"));
        let mut bucket = Buckets::none();
        bucket.insert_key(&Key::Service(key(&format!("s{i}"))));
        match hub.snapshot(&bucket, &[resource]) {
            Ok(_) => assert!(hub.held.services() <= 10),
            result => {
                too_much(result);
                refused = true;
                break;
            }
        }
    }
    assert!(refused);
    assert_eq!(hub.held.services(), 10, "prior state kept");
}

#[test]
fn hostile_40_nodes_that_cannot_be_read_are_nodes_too() {
    let mut hub = Hub::new();
    let unreadable = |i: u8| {
        let body = node(1);
        let generation = generation_of(&body);
        let key = Key::Node(NodeName(format!("n{i}")));
        let mut resource = resource_to_wire(&key, &Versioned { generation, body });
        resource.body = Some(v1::resource::Body::Node(v1::Node::default()));
        Change::Upsert(resource)
    };
    assert_eq!(
        hub.delta(vec![unreadable(0), unreadable(1)])
            .unwrap()
            .refused
            .len(),
        2
    );
    too_much(hub.delta(vec![unreadable(2)]));
}

#[test]
fn hostile_40_deletions_of_invented_names_are_not_kept_without_end() {
    let mut hub = Hub::new();
    for i in 0..29 {
        hub.delta(vec![deletion(&format!("d{i}"))]).unwrap();
    }
    too_much(hub.delta(vec![deletion("d30")]));
    // What was torn down makes room.
    let mut hub = Hub::over(std::mem::take(&mut hub.held));
    assert!(hub.held.gone(&key("d0")).is_some());
    hub.delta(vec![deletion("d30")]).unwrap();
}

#[test]
fn hostile_44_a_name_without_end_is_not_kept_to_be_answered() {
    let mut hub = Hub::new();
    while hub.session.next_message(hub.now).is_some() {}
    let mut long = resource(&"a".repeat(3 * 1024 * 1024));
    long.key.as_mut().unwrap().kind = 99;
    for taken in [
        hub.delta(vec![Change::Upsert(long)]).unwrap(),
        hub.delta(vec![deletion(&"b".repeat(3 * 1024 * 1024))])
            .unwrap(),
        hub.delta(vec![deletion(&"c".repeat(64))]).unwrap(),
    ] {
        assert_eq!(taken.refused.len(), 1);
        for (key, generation, refusal) in taken.refused {
            hub.session.refuse(key, generation, &refusal);
        }
    }
    let mut answers = 0;
    while let Some(message) = hub.session.next_message(hub.now) {
        assert!(message.encoded_len() < PAGE_BYTES);
        if let Some(v1::hub_message::Body::Answers(page)) = message.body {
            answers += page.answers.len();
        }
    }
    assert_eq!(answers, 1, "a name of 64 letters gets its answer");
}
