//! The agent's state machine under an arbitrary hub, while its cluster changes. Whatever a hub says, the tenant's wishes stay
//! what they are; what the agent says is in turn, says only what is true, and in a snapshot everything that is.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use arbitrary::{Arbitrary, Unstructured};
use berth_common::{
    model::{Generation, Key, Outcome},
    session::{
        PAGE_BYTES, TURNS,
        agent::{AgentInfo, AgentSession, Event, Source},
        digest::{Buckets, Digests},
        snapshot::Tally,
    },
    wire::{generation_of, key_from_wire, key_to_wire, resource_from_wire},
};
use berth_wire::v1::{self, agent_message::Body as Up, change::Change, hub_message::Body as Down};
use prost::Message as _;

use crate::say::{GoodName, Named};

#[derive(Arbitrary, Debug)]
enum Op {
    Upsert(GoodName, u8),
    Remove(GoodName),
    Forget(GoodName),
    Source(Cluster),
    Connect,
    /// A stream that is up and welcomed at once.
    Session(Told),
    Cut,
    Hear(Message),
    Bytes(Vec<u8>),
    /// So many messages, where there are as many.
    Speak(u8),
    /// Everything that the agent has to say now.
    Finish,
    Wait(u16),
}

#[derive(Arbitrary, Debug)]
enum Cluster {
    Lost,
    First,
    Second,
}

/// Digests that a hub tells.
#[derive(Arbitrary, Debug)]
enum Told {
    Equal,
    Empty,
    Of(Vec<(GoodName, u8)>),
    Bytes(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
enum Message {
    Welcome(u32, Told, u32),
    Answers(Vec<Answer>),
    Resync(Told),
    Heartbeat(u64),
    Drain(u32, String),
    Empty,
}

#[derive(Arbitrary, Debug)]
struct Answer {
    name: Named,
    /// To what the tenant wants now, if to anything; else to this.
    current: bool,
    generation: u8,
    outcome: i32,
    ip: Option<[u8; 4]>,
    hostname: String,
}

/// A snapshot as it is being told.
struct Telling {
    id: u64,
    buckets: Buckets,
    tally: Tally,
    /// What was there when it began and has not been touched since: it must be in it.
    due: BTreeMap<Key, Generation>,
}

#[derive(Default)]
struct Stream {
    greeted: bool,
    live: bool,
    sequence: u64,
    telling: Option<Telling>,
}

struct World {
    agent: AgentSession,
    /// What the tenant wants.
    wanted: BTreeMap<Key, Generation>,
    /// What it was seen to delete, and has not been told the end of.
    deleted: BTreeSet<Key>,
    synced: bool,
    stream: Option<Stream>,
    now: Instant,
}

/// Takes the bytes for a history.
pub fn run(data: &[u8]) {
    let mut world = World {
        agent: AgentSession::new(AgentInfo {
            version: "1".into(),
            instance_id: "i".into(),
        }),
        wanted: BTreeMap::new(),
        deleted: BTreeSet::new(),
        synced: false,
        stream: None,
        now: Instant::now(),
    };
    let mut unstructured = Unstructured::new(data);
    while !unstructured.is_empty()
        && let Ok(op) = unstructured.arbitrary::<Op>()
    {
        world.step(op);
        world.check();
    }
    world.finish();
    world.check();
}

impl World {
    fn step(&mut self, op: Op) {
        match op {
            Op::Upsert(name, version) => self.upsert(name, version),
            Op::Remove(name) => {
                self.touch(&name.key());
                self.wanted.remove(&name.key());
                self.deleted.insert(name.key());
                self.agent.remove(name.key());
            }
            Op::Forget(name) => {
                self.touch(&name.key());
                self.wanted.remove(&name.key());
                self.agent.forget(&name.key());
            }
            Op::Source(cluster) => self.source(&cluster),
            Op::Connect => self.connect(),
            Op::Session(told) => {
                self.connect();
                self.speak();
                self.hear(Message::Welcome(1, told, 0));
            }
            Op::Cut => {
                self.agent.disconnected();
                self.stream = None;
            }
            Op::Hear(message) => self.hear(message),
            Op::Bytes(bytes) => {
                if let Ok(message) = v1::HubMessage::decode(bytes.as_slice()) {
                    self.receive(message);
                }
            }
            Op::Speak(times) => {
                for _ in 0..times {
                    if !self.speak() {
                        break;
                    }
                }
            }
            Op::Finish => self.finish(),
            Op::Wait(seconds) => self.now += Duration::from_secs(seconds.into()),
        }
    }

    fn upsert(&mut self, name: GoodName, version: u8) {
        let (key, body) = (name.key(), name.body(version));
        let generation = generation_of(&body);
        let news = self.wanted.insert(key.clone(), generation) != Some(generation);
        assert_eq!(self.agent.upsert(key.clone(), body), news);
        if news {
            self.touch(&key);
            self.deleted.remove(&key);
        }
    }

    /// A snapshot on its way may be without what changes while it is told: a delta follows.
    fn touch(&mut self, key: &Key) {
        if let Some(telling) = self.stream.as_mut().and_then(|s| s.telling.as_mut()) {
            telling.due.remove(key);
        }
    }

    fn source(&mut self, cluster: &Cluster) {
        let synced = |uid: &str| Source::Synced {
            cluster_uid: uid.into(),
        };
        let source = match cluster {
            Cluster::Lost => Source::Unsynced {
                reason: "connection refused".into(),
            },
            Cluster::First => synced("first"),
            Cluster::Second => synced("second"),
        };
        self.synced = matches!(source, Source::Synced { .. });
        if !self.synced
            && let Some(stream) = self.stream.as_mut().filter(|stream| stream.live)
        {
            // The snapshot is broken off, and begun again.
            stream.telling = None;
        }
        // Another cluster than the one that Hello named: the shell dials anew.
        if self.agent.set_source(source) {
            self.agent.disconnected();
            self.stream = None;
        }
    }

    fn connect(&mut self) {
        self.agent.disconnected();
        self.agent.connected(self.now);
        self.stream = Some(Stream::default());
    }

    fn digests(&self, told: &Told) -> Vec<u8> {
        let mut digests = Digests::default();
        match told {
            Told::Equal => self.wanted.iter().for_each(|(k, g)| digests.toggle(k, *g)),
            Told::Empty => {}
            Told::Of(entries) => {
                for (name, version) in entries {
                    digests.toggle(&name.key(), generation_of(&name.body(*version)));
                }
            }
            Told::Bytes(bytes) => return bytes.clone(),
        }
        digests.to_bytes()
    }

    fn hear(&mut self, message: Message) {
        let body = match message {
            Message::Welcome(protocol, told, page_bytes) => Some(Down::Welcome(v1::Welcome {
                protocol,
                session: 1,
                digests: self.digests(&told).into(),
                // With and without turns.
                features: self
                    .wanted
                    .keys()
                    .take(self.wanted.len() % 2)
                    .map(|_| TURNS.into())
                    .collect(),
                limits: (page_bytes != 0).then(|| v1::Limits {
                    page_bytes,
                    ..Default::default()
                }),
                ..Default::default()
            })),
            Message::Answers(answers) => Some(Down::Answers(v1::Answers {
                answers: answers.iter().map(|a| self.answer(a)).collect(),
            })),
            Message::Resync(told) => Some(Down::ResyncRequired(v1::ResyncRequired {
                reason: "fuzz".into(),
                digests: self.digests(&told).into(),
            })),
            Message::Heartbeat(sequence) => Some(Down::Heartbeat(v1::Heartbeat { sequence })),
            Message::Drain(within_ms, reason) => Some(Down::Drain(v1::Drain { within_ms, reason })),
            Message::Empty => None,
        };
        self.receive(v1::HubMessage { body });
    }

    fn answer(&self, answer: &Answer) -> v1::Answer {
        let key = answer.name.key();
        let current = key
            .as_ref()
            .filter(|_| answer.current)
            .and_then(|k| key_from_wire(k).ok())
            .and_then(|k| self.wanted.get(&k).copied());
        v1::Answer {
            key,
            generation: current.map_or(answer.generation.into(), |g| g.0),
            outcome: answer.outcome,
            ingress: vec![v1::Ingress {
                ip: answer
                    .ip
                    .map(|a| std::net::IpAddr::from(a).to_string())
                    .unwrap_or_default(),
                hostname: answer.hostname.clone(),
            }],
            ..Default::default()
        }
    }

    fn receive(&mut self, message: v1::HubMessage) {
        let Some(stream) = &mut self.stream else {
            return; // no stream, no message
        };
        let resync = matches!(message.body, Some(Down::ResyncRequired(_)));
        let Ok(events) = self.agent.received(message, self.now) else {
            self.agent.disconnected();
            self.stream = None;
            return;
        };
        if resync {
            stream.telling = None;
        }
        for event in events {
            match event {
                Event::Welcomed { .. } => {
                    assert!(
                        stream.greeted && !stream.live,
                        "welcomed without Hello, or twice"
                    );
                    stream.live = true;
                }
                Event::Answer(key, answer) if answer.outcome == Outcome::Deleted => {
                    assert!(stream.live);
                    assert!(self.deleted.remove(&key), "{key} was not being deleted");
                }
                Event::Answer(key, answer) => {
                    assert_eq!(self.wanted.get(&key), Some(&answer.generation), "history");
                }
                Event::Synced => assert!(stream.live && self.synced),
                Event::Ignored(_) | Event::Drain { .. } | Event::Reissue { .. } => {}
                Event::Waiting { ahead } => {
                    assert!(stream.live && ahead > 0);
                    stream.telling = None;
                }
            }
        }
    }

    fn finish(&mut self) {
        let mut messages = 0;
        while self.speak() {
            messages += 1;
            assert!(messages < 1_000, "it never falls silent");
        }
        let live = self.stream.as_ref().is_some_and(|s| s.live);
        assert_eq!(
            self.agent.is_synced(),
            live && self.synced,
            "nothing is left to tell"
        );
    }

    /// One message, if there is one.
    fn speak(&mut self) -> bool {
        let Some(message) = self.agent.next_message(self.now) else {
            return false;
        };
        let bytes = message.encoded_len();
        assert!(bytes <= PAGE_BYTES + 4096, "a message of {bytes} B");
        let stream = self.stream.as_mut().expect("no word without a stream");
        let body = message.body.expect("a body");
        if matches!(body, Up::Hello(_)) {
            assert!(!stream.greeted, "a second Hello");
            stream.greeted = true;
            return true;
        }
        assert!(stream.live, "only Hello before Welcome");
        match body {
            Up::Hello(_) | Up::Heartbeat(_) => {}
            // It waits, and then has its turn.
            Up::TurnRequest(_) => {
                for ahead in [2, 0] {
                    let body = Some(Down::Turn(v1::Turn { ahead }));
                    self.receive(v1::HubMessage { body });
                }
            }
            Up::Source(state) => assert_eq!(state.synced, self.synced),
            state => {
                assert!(self.synced, "an unsynced source sends nothing of its state");
                stream.told(state, &self.wanted, &self.deleted);
            }
        }
        true
    }

    fn check(&self) {
        for n in 0..12 {
            let key = GoodName::Service(n).key();
            assert_eq!(self.agent.generation(&key).as_ref(), self.wanted.get(&key));
        }
        if self.agent.is_synced() {
            assert!(self.synced && self.stream.as_ref().is_some_and(|s| s.live));
        }
        let _ = (self.agent.deadline(), self.agent.check(self.now));
    }
}

impl Stream {
    fn told(&mut self, state: Up, wanted: &BTreeMap<Key, Generation>, deleted: &BTreeSet<Key>) {
        match state {
            Up::SnapshotBegin(begin) => {
                let buckets = Buckets::from_bytes(&begin.buckets).expect("32 bytes");
                let due = wanted.iter().filter(|(key, _)| buckets.contains(key));
                self.telling = Some(Telling {
                    id: begin.id,
                    buckets,
                    tally: Tally::default(),
                    due: due.map(|(k, g)| (k.clone(), *g)).collect(),
                });
            }
            Up::SnapshotPage(page) => {
                let telling = self.telling.as_mut().expect("a page of a snapshot");
                assert_eq!(page.id, telling.id);
                assert!(!page.resources.is_empty());
                for resource in &page.resources {
                    let key = is_wanted(resource, wanted);
                    assert!(telling.buckets.contains(&key), "{key} in another bucket");
                    let generation = Generation(resource.generation);
                    telling.tally.add(&key_to_wire(&key), generation);
                    telling.due.remove(&key);
                }
            }
            Up::SnapshotEnd(end) => {
                let telling = self.telling.take().expect("an end of a snapshot");
                assert!(telling.due.is_empty(), "left out: {:?}", telling.due);
                assert_eq!(telling.tally.end(telling.id), end);
            }
            Up::Delta(delta) => {
                self.sequence += 1;
                assert_eq!(delta.sequence, self.sequence);
                assert!(self.telling.is_none(), "a delta within a snapshot");
                for change in delta.changes {
                    match change.change.expect("a change") {
                        Change::Upsert(resource) => {
                            is_wanted(&resource, wanted);
                        }
                        Change::Delete(deletion) => {
                            let key = key_from_wire(&deletion.key.expect("a key")).expect("a key");
                            assert!(deleted.contains(&key), "{key} was not deleted");
                            assert!(!wanted.contains_key(&key), "{key} is wanted");
                        }
                    }
                }
            }
            other => panic!("{other:?} is no state"),
        }
    }
}

/// What is told of a resource is what the tenant wants of it now.
fn is_wanted(resource: &v1::Resource, wanted: &BTreeMap<Key, Generation>) -> Key {
    let (key, read) = resource_from_wire(resource).expect("readable");
    assert_eq!(wanted.get(&key), Some(&read.generation), "{key}");
    key
}
