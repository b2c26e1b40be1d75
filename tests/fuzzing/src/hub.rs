//! The hub's state machine under arbitrary agents: several sessions over one [`Held`], whose messages come in any order and
//! with any content, between accepting, sending, time, and what an executor reports. Nothing may be held but what follows
//! from what was said, and nothing may be kept beyond the limits.

use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use berth_common::{
    model::{Answer, Generation, Ingress, Outcome, ServiceKey},
    session::{
        PAGE_BYTES, TURNS,
        digest::{Buckets, Digests},
        greeting::Greeting,
        held::Held,
        hub::{HubSession, Limits, Taken},
        snapshot::Tally,
    },
};
use berth_wire::v1::{self, agent_message::Body as Up, hub_message::Body as Down};
use prost::{Message as _, bytes::Bytes};

use crate::{
    model::Model,
    say::{GoodName, Named, Say},
};

/// So small that arbitrary input reaches them.
const LIMITS: Limits = Limits {
    services: 6,
    nodes: 3,
};
const SESSIONS: usize = 3;
/// An answer with the longest key that is one, and the longest sentence.
const ANSWER_BYTES: usize = 4096;

#[derive(Arbitrary, Debug)]
enum Op {
    /// A session begins, in the place of whichever was there.
    Open(u8),
    /// Hello as it should be, and its acceptance.
    Greet(u8, HelloDigests),
    Accept(u8),
    Say(u8, Message),
    /// Begin, one page and the end, at once.
    Snapshot(u8, Vec<u8>, Vec<Say>),
    Bytes(u8, Vec<u8>),
    /// Everything that the hub has to say now.
    Listen(u8),
    Wait(u16),
    Drain(u8),
    Answer(u8, GoodName, u8),
    /// The executor: nothing is left of a load balancer.
    Gone(u8),
    /// The planner: a load balancer is there that nobody wants.
    Miss(u8),
}

#[derive(Arbitrary, Debug)]
enum HelloDigests {
    None,
    Equal,
    Empty,
    Bytes(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
enum Message {
    Hello(u32, u32, String, HelloDigests),
    Source(bool, String),
    Begin(u8, Vec<u8>),
    Page(u8, Vec<Say>),
    /// The right end, or one with another count or hash.
    End(u8, Option<(u64, Vec<u8>)>),
    Delta(Sequence, Vec<Change>),
    Heartbeat(u64),
    Empty,
}

#[derive(Arbitrary, Debug)]
enum Sequence {
    Next,
    Again,
    Any(u64),
}

#[derive(Arbitrary, Debug)]
enum Change {
    Upsert(Say),
    Delete(Named, u8),
    Unknown,
}

/// What must come of a message.
enum Expected {
    Taken(Model),
    End,
    /// Of a first Hello: whether it is readable is not the model's to say.
    Either,
}

enum Phase {
    Fresh,
    /// With the digests of Hello.
    Greeted(Box<Greeting>, Bytes),
    Live,
}

struct Staged {
    id: u64,
    buckets: Buckets,
    resources: Vec<v1::Resource>,
}

struct Session {
    hub: HubSession,
    phase: Phase,
    welcomed: bool,
    sequence: u64,
    staged: Option<Staged>,
    /// Its agent knows of turns: every other one does.
    turns: bool,
    has_turn: bool,
}

struct World {
    held: Held,
    model: Model,
    sessions: [Option<Session>; SESSIONS],
    opened: u64,
    now: Instant,
}

/// Takes the bytes for a history.
pub fn run(data: &[u8]) {
    let mut world = World {
        held: Held::default(),
        model: Model::default(),
        sessions: [const { None }; SESSIONS],
        opened: 0,
        now: Instant::now(),
    };
    let mut unstructured = Unstructured::new(data);
    while !unstructured.is_empty()
        && let Ok(op) = unstructured.arbitrary::<Op>()
    {
        world.step(op);
        world.model.compare(&world.held);
    }
    for at in 0..SESSIONS {
        world.listen(at);
    }
}

fn place(session: u8) -> usize {
    usize::from(session) % SESSIONS
}

fn service(n: u8) -> ServiceKey {
    ServiceKey::new("default", format!("s{}", n % 12))
}

impl World {
    fn step(&mut self, op: Op) {
        match op {
            Op::Open(at) => self.open(place(at)),
            Op::Greet(at, digests) => {
                self.open(place(at));
                let hello = self.hello(place(at), 1, 1, "c".into(), &digests);
                self.say(place(at), Up::Hello(hello));
                self.accept(place(at));
            }
            Op::Accept(at) => self.accept(place(at)),
            Op::Say(at, message) => {
                if let Some(message) = self.message(place(at), message) {
                    self.receive(place(at), v1::AgentMessage { body: message });
                }
            }
            Op::Snapshot(at, buckets, say) => {
                // One byte is no set of buckets: taken for all of them, and for a wrong hash at the end.
                let (buckets, end) = match buckets.len() {
                    1 => (Vec::new(), Some((0, Vec::new()))),
                    _ => (buckets, None),
                };
                let begin = Message::Begin(1, buckets);
                for message in [begin, Message::Page(1, say), Message::End(1, end)] {
                    if let Some(body) = self.message(place(at), message) {
                        self.receive(place(at), v1::AgentMessage { body });
                    }
                }
            }
            Op::Bytes(at, bytes) => {
                if let Ok(message) = v1::AgentMessage::decode(bytes.as_slice()) {
                    self.receive(place(at), message);
                }
            }
            Op::Listen(at) => self.listen(place(at)),
            Op::Wait(seconds) => self.now += Duration::from_secs(seconds.into()),
            Op::Drain(at) => {
                if let Some(session) = &mut self.sessions[place(at)] {
                    session.hub.drain(Duration::from_secs(1), "leaving");
                }
            }
            Op::Answer(at, name, generation) => {
                let answer = Answer {
                    generation: Generation(generation.into()),
                    outcome: Outcome::Programmed,
                    ingress: vec![Ingress::Ip([192, 0, 2, generation].into())],
                };
                if let Some(session) = &mut self.sessions[place(at)] {
                    session.hub.answer(&name.key(), &answer);
                }
            }
            Op::Gone(n) => {
                let key = service(n);
                assert_eq!(self.held.gone(&key), self.model.gone(&key));
            }
            Op::Miss(n) => {
                self.held.miss(&service(n), self.now);
                self.model.miss(&service(n));
            }
        }
    }

    fn open(&mut self, at: usize) {
        self.opened += 1;
        self.sessions[at] = Some(Session {
            hub: HubSession::new(self.opened, LIMITS, self.now),
            phase: Phase::Fresh,
            welcomed: false,
            sequence: 0,
            staged: None,
            turns: self.opened.is_multiple_of(2),
            has_turn: false,
        });
    }

    fn hello(
        &self,
        at: usize,
        min: u32,
        max: u32,
        uid: String,
        digests: &HelloDigests,
    ) -> v1::Hello {
        let digests = match digests {
            HelloDigests::None => Vec::new(),
            HelloDigests::Equal => self.held.digests().to_bytes(),
            HelloDigests::Empty => Digests::default().to_bytes(),
            HelloDigests::Bytes(bytes) => bytes.clone(),
        };
        v1::Hello {
            protocol_min: min,
            protocol_max: max,
            cluster_uid: uid,
            digests: digests.into(),
            features: match &self.sessions[at] {
                Some(session) if session.turns => vec![TURNS.into()],
                _ => Vec::new(),
            },
            ..Default::default()
        }
    }

    /// A message as its session would have to send it; None where there is no session.
    fn message(&self, at: usize, message: Message) -> Option<Option<Up>> {
        let session = self.sessions[at].as_ref()?;
        Some(Some(match message {
            Message::Hello(min, max, uid, digests) => {
                Up::Hello(self.hello(at, min, max, uid, &digests))
            }
            Message::Source(synced, reason) => Up::Source(v1::SourceState { synced, reason }),
            Message::Begin(id, buckets) => Up::SnapshotBegin(v1::SnapshotBegin {
                id: id.into(),
                buckets: buckets.into(),
            }),
            Message::Page(id, resources) => Up::SnapshotPage(v1::SnapshotPage {
                id: id.into(),
                resources: resources.iter().map(Say::resource).collect(),
            }),
            Message::End(id, None) => Up::SnapshotEnd(session.right_end(id.into())),
            // The right count, and a wrong hash.
            Message::End(id, Some((_, sha256))) if sha256.is_empty() => {
                Up::SnapshotEnd(v1::SnapshotEnd {
                    sha256: vec![0; 32].into(),
                    ..session.right_end(id.into())
                })
            }
            Message::End(id, Some((count, sha256))) => Up::SnapshotEnd(v1::SnapshotEnd {
                id: id.into(),
                count,
                sha256: sha256.into(),
            }),
            // As many Services or nodes as reach the limits, which one by one would take a long input.
            Message::Delta(Sequence::Any(n), changes) if changes.is_empty() => {
                let named = |i| {
                    if n & 16 == 0 {
                        Named::Service(i)
                    } else {
                        Named::Node(i)
                    }
                };
                let many = (0..(n % 12) as u8).map(|i| Change::Upsert(Say::good(named(i))));
                Up::Delta(v1::Delta {
                    sequence: session.sequence.saturating_add(1),
                    changes: many.map(|c| c.wire()).collect(),
                })
            }
            Message::Delta(sequence, changes) => Up::Delta(v1::Delta {
                sequence: match sequence {
                    Sequence::Next => session.sequence.saturating_add(1),
                    Sequence::Again => session.sequence,
                    Sequence::Any(n) => n,
                },
                changes: changes.iter().map(Change::wire).collect(),
            }),
            Message::Heartbeat(sequence) => Up::Heartbeat(v1::Heartbeat { sequence }),
            Message::Empty => return Some(None),
        }))
    }

    fn say(&mut self, at: usize, body: Up) {
        self.receive(at, v1::AgentMessage { body: Some(body) });
    }

    fn receive(&mut self, at: usize, message: v1::AgentMessage) {
        let Some(session) = &mut self.sessions[at] else {
            return;
        };
        let before = self.model.clone();
        if let (Some(Up::SnapshotBegin(begin)), Phase::Live) = (&message.body, &session.phase) {
            session.take_turn(begin.id);
        }
        let expected = match &message.body {
            None if matches!(session.phase, Phase::Live) => Expected::Taken(before.clone()),
            Some(body) if matches!(session.phase, Phase::Live) => {
                match session.expect(body, &self.model) {
                    Some(after) => Expected::Taken(after),
                    None => Expected::End,
                }
            }
            Some(Up::Hello(_)) => Expected::Either,
            _ => Expected::End,
        };
        let digests = match &message.body {
            Some(Up::Hello(hello)) => hello.digests.clone(),
            _ => Default::default(),
        };
        let result = session.hub.receive(message, &mut self.held, self.now);
        match expected {
            Expected::Taken(after) => {
                let taken = result.as_ref().unwrap_or_else(|e| panic!("refused: {e}"));
                changed_is_planned(&before, &after, taken);
                self.model = after;
            }
            Expected::End => assert!(result.is_err(), "taken: {result:?}"),
            Expected::Either => {}
        }
        match result {
            Err(_) => self.sessions[at] = None,
            Ok(taken) => {
                if let Some(greeting) = taken.greeting {
                    assert!(matches!(session.phase, Phase::Fresh), "a second Hello");
                    session.phase = Phase::Greeted(Box::new(greeting), digests);
                }
                for (key, generation, refusal) in taken.refused {
                    session.hub.refuse(key, generation, &refusal);
                }
            }
        }
    }

    fn accept(&mut self, at: usize) {
        let Some(session) = &mut self.sessions[at] else {
            return;
        };
        let Phase::Greeted(greeting, digests) = &session.phase else {
            return;
        };
        // Compared now: another session may have told something since Hello.
        let equal = *digests == self.held.digests().to_bytes();
        let touched =
            session
                .hub
                .accept(greeting, Duration::from_secs(1), &mut self.held, self.now);
        assert_eq!(touched.completed, equal && !self.model.complete);
        self.model.complete |= equal;
        session.phase = Phase::Live;
        assert!(session.hub.is_live());
    }

    fn listen(&mut self, at: usize) {
        let Some(session) = &mut self.sessions[at] else {
            return;
        };
        let mut answers = 0;
        let mut messages = 0;
        while let Some(message) = session.hub.next_message(self.now) {
            messages += 1;
            assert!(messages < 100, "it never falls silent");
            let bytes = message.encoded_len();
            assert!(bytes <= PAGE_BYTES + ANSWER_BYTES, "a message of {bytes} B");
            match message.body {
                Some(Down::Welcome(_)) => {
                    assert!(!session.welcomed, "a second Welcome");
                    session.welcomed = true;
                }
                Some(Down::Answers(page)) => {
                    answers += page.answers.len();
                }
                Some(Down::Heartbeat(beat)) => assert_eq!(beat.sequence, session.sequence),
                Some(Down::ResyncRequired(resync)) => assert_eq!(resync.digests.len(), 4096),
                Some(Down::Drain(_)) => {}
                Some(Down::Turn(_)) => assert!(session.turns, "what its agent does not know"),
                Some(Down::Capabilities(_)) => panic!("nobody has changed what may pass"),
                Some(Down::Reissue(_)) => panic!("no authority has changed"),
                None => panic!("a message without a body"),
            }
        }
        assert!(
            answers <= 2 * (LIMITS.services + LIMITS.nodes),
            "{answers} answers"
        );
        assert!(session.hub.deadline() > self.now || session.hub.check(self.now).is_err());
    }
}

impl Session {
    /// Before a snapshot its session has a turn, or not, or has lost it.
    fn take_turn(&mut self, id: u64) {
        let ahead = match id % 4 {
            1 | 3 => 0,
            2 => 3,
            _ => return,
        };
        self.hub.turn(ahead);
        if self.turns {
            self.has_turn = ahead == 0;
            if ahead > 0 {
                self.staged = None;
            }
        }
    }

    fn right_end(&self, id: u64) -> v1::SnapshotEnd {
        let mut tally = Tally::default();
        for resource in self.staged.iter().flat_map(|s| &s.resources) {
            let key = resource.key.clone().unwrap_or_default();
            tally.add(&key, Generation(resource.generation));
        }
        tally.end(id)
    }

    /// What is held after a message of a live session; None: the session ends.
    fn expect(&mut self, body: &Up, model: &Model) -> Option<Model> {
        let mut after = model.clone();
        match body {
            Up::Hello(_) => return None,
            Up::Source(source) => {
                if !source.synced {
                    self.staged = None;
                    self.has_turn = false;
                }
            }
            Up::Heartbeat(_) | Up::TurnRequest(_) => {}
            Up::SnapshotBegin(begin) if self.turns && !self.has_turn => {
                Buckets::from_bytes(&begin.buckets)?;
            }
            Up::SnapshotBegin(begin) => {
                self.staged = Some(Staged {
                    id: begin.id,
                    buckets: Buckets::from_bytes(&begin.buckets)?,
                    resources: Vec::new(),
                });
            }
            Up::SnapshotPage(page) => {
                if let Some(staged) = self.staged.as_mut().filter(|s| s.id == page.id) {
                    staged.resources.extend(page.resources.iter().cloned());
                    if staged.resources.len() > LIMITS.services + LIMITS.nodes {
                        return None;
                    }
                }
            }
            Up::SnapshotEnd(end) => {
                let right = self.right_end(end.id) == *end;
                self.has_turn = false;
                if let Some(staged) = self.staged.take().filter(|s| s.id == end.id)
                    && right
                    && staged.is_inside()
                {
                    after.replace(&staged.buckets, &staged.resources);
                }
            }
            Up::Delta(delta) if delta.sequence > self.sequence && model.complete => {
                delta.changes.iter().for_each(|c| after.change(c));
                self.sequence = delta.sequence;
            }
            Up::Delta(_) => {}
        }
        (!after.is_too_much(model, &LIMITS)).then_some(after)
    }
}

impl Staged {
    /// Whether everything that can be read of it lies in its buckets.
    fn is_inside(&self) -> bool {
        let keys = self.resources.iter().filter_map(|r| r.key.as_ref());
        keys.filter_map(|key| berth_common::wire::key_from_wire(key).ok())
            .all(|key| self.buckets.contains(&key))
    }
}

impl Change {
    fn wire(&self) -> v1::Change {
        use v1::change::Change as Wire;
        v1::Change {
            change: match self {
                Self::Upsert(say) => Some(Wire::Upsert(say.resource())),
                Self::Delete(named, generation) => Some(Wire::Delete(v1::Deletion {
                    key: named.key(),
                    generation: (*generation).into(),
                })),
                Self::Unknown => None,
            },
        }
    }
}

/// Whatever a message changed is told to the planner.
fn changed_is_planned(before: &Model, after: &Model, taken: &Taken) {
    for key in before.differing(after) {
        assert!(
            taken.touched.services.contains(&key),
            "{key} is not planned"
        );
    }
    assert_eq!(taken.touched.completed, after.complete && !before.complete);
}
