//! The hub's end of one session. It checks that the peer keeps to the rules of the stream, takes what it tells into
//! [`Held`], and keeps what is to be said in one slot per key, where the latest wins: a reader that stalls costs memory for
//! keys and not for answers. Who may have a session at all, and that a fenced one never gets here, is the caller's.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use berth_wire::v1;
use prost::Message as _;

use super::{
    HEARTBEAT, MESSAGE_BYTES, PAGE_BYTES, PROTOCOL, ProtocolError, SILENCE,
    digest::{Buckets, Digests},
    held::{Held, Received, Touched},
    snapshot::Incoming,
};
use crate::{
    model::{Answer, Generation, Key},
    wire::{
        MAX_PORTS, Refusal, answer_to_wire, key_from_wire, refusal_to_wire, resource_from_wire,
    },
};

/// What a session may tell at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Services of the tenant.
    pub services: usize,
    /// Nodes of the tenant.
    pub nodes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            services: 20_000,
            nodes: 10_000,
        }
    }
}

/// What Hello said, for whoever decides whether the session may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The agent's release.
    pub agent_version: String,
    /// Random, new with every start of the agent.
    pub instance_id: String,
    /// The tenant cluster's UID; empty while the agent has not been able to read it.
    pub cluster_uid: String,
    /// Whether the agent has read its cluster.
    pub synced: bool,
    digests: Option<Digests>,
}

/// What came of a message.
#[derive(Debug, Default)]
pub struct Taken {
    /// Hello: to be checked, and then accepted by [`HubSession::accept`].
    pub greeting: Option<Greeting>,
    /// What has to be planned anew.
    pub touched: Touched,
    /// What could not be read. A Service's refusal is kept in [`Held`]; everything else is to be answered at once, by
    /// [`HubSession::refuse`].
    pub refused: Vec<(Option<v1::Key>, Generation, Refusal)>,
    /// The agent lost its cluster's API server (and why), or has it back.
    pub source: Option<Result<(), String>>,
    /// What was discarded, for the log.
    pub discarded: Option<String>,
}

enum Phase {
    Greeting,
    Deciding,
    Live,
}

/// One live session.
pub struct HubSession {
    number: u64,
    limits: Limits,
    phase: Phase,
    incoming: Option<Incoming<(Generation, Received)>>,
    /// Of the last Delta taken in.
    sequence: u64,
    outbox: Outbox,
    last_sent: Instant,
    last_heard: Instant,
}

#[derive(Default)]
struct Outbox {
    welcome: Option<v1::Welcome>,
    resync: Option<v1::ResyncRequired>,
    answers: BTreeMap<(i32, String, String), v1::Answer>,
    beat: bool,
    drain: Option<v1::Drain>,
}

impl HubSession {
    /// A session that has not heard Hello yet.
    pub fn new(number: u64, limits: Limits, now: Instant) -> Self {
        Self {
            number,
            limits,
            phase: Phase::Greeting,
            incoming: None,
            sequence: 0,
            outbox: Outbox::default(),
            last_sent: now,
            last_heard: now,
        }
    }

    /// The session's number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether Hello was accepted.
    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live)
    }

    /// Takes in a message. An error ends the session; what was held before stays.
    pub fn receive(
        &mut self,
        message: v1::AgentMessage,
        held: &mut Held,
        now: Instant,
    ) -> Result<Taken, ProtocolError> {
        use v1::agent_message::Body as Message;
        self.last_heard = now;
        let message = message.body.ok_or(ProtocolError::Unreadable)?;
        match (&self.phase, message) {
            (Phase::Greeting, Message::Hello(hello)) => self.hello(hello),
            (_, Message::Hello(_)) => Err(ProtocolError::OutOfTurn("a second Hello")),
            (Phase::Greeting | Phase::Deciding, _) => {
                Err(ProtocolError::OutOfTurn("a message before Hello"))
            }
            (Phase::Live, Message::Source(source)) => Ok(Taken {
                source: Some(if source.synced {
                    Ok(())
                } else {
                    Err(source.reason.chars().take(256).collect())
                }),
                ..Taken::default()
            }),
            (Phase::Live, Message::SnapshotBegin(begin)) => self.begin(&begin),
            (Phase::Live, Message::SnapshotPage(page)) => self.page(page),
            (Phase::Live, Message::SnapshotEnd(end)) => Ok(self.end(&end, held, now)),
            (Phase::Live, Message::Delta(delta)) => self.delta(delta, held),
            (Phase::Live, Message::Heartbeat(_)) => Ok(Taken::default()),
        }
    }

    fn hello(&mut self, hello: v1::Hello) -> Result<Taken, ProtocolError> {
        let (min, max) = (hello.protocol_min, hello.protocol_max);
        if !(min..=max).contains(&PROTOCOL) {
            return Err(ProtocolError::Version { min, max });
        }
        for (name, value) in [
            ("agent_version", &hello.agent_version),
            ("instance_id", &hello.instance_id),
            ("cluster_uid", &hello.cluster_uid),
        ] {
            if value.len() > 128 || value.chars().any(|c| !c.is_ascii_graphic()) {
                return Err(ProtocolError::Invalid(format!(
                    "Hello.{name} is not a word of at most 128 ASCII characters"
                )));
            }
        }
        let digests = match hello.digests.len() {
            0 => None,
            _ => Some(Digests::from_bytes(&hello.digests).ok_or_else(|| {
                ProtocolError::Invalid("Hello.digests are not 4096 bytes".into())
            })?),
        };
        if digests.is_some() && hello.cluster_uid.is_empty() {
            return Err(ProtocolError::Invalid("Hello.cluster_uid is empty".into()));
        }
        self.phase = Phase::Deciding;
        Ok(Taken {
            greeting: Some(Greeting {
                agent_version: hello.agent_version,
                instance_id: hello.instance_id,
                cluster_uid: hello.cluster_uid,
                synced: digests.is_some(),
                digests,
            }),
            ..Taken::default()
        })
    }

    /// Welcomes the agent. What both sides are found to hold alike need not be sent again.
    pub fn accept(
        &mut self,
        greeting: &Greeting,
        reconnect_spread: Duration,
        held: &mut Held,
        now: Instant,
    ) -> Touched {
        self.phase = Phase::Live;
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.outbox.welcome = Some(v1::Welcome {
            protocol: PROTOCOL,
            session: self.number,
            limits: Some(v1::Limits {
                message_bytes: clamp(MESSAGE_BYTES),
                page_bytes: clamp(PAGE_BYTES),
                services: clamp(self.limits.services),
                nodes: clamp(self.limits.nodes),
                ports_per_service: clamp(MAX_PORTS),
                heartbeat_ms: clamp(HEARTBEAT.as_millis() as usize),
            }),
            digests: held.digests().to_bytes().into(),
            features: Vec::new(),
            capabilities: Some(v1::Capabilities {
                protocols: vec![v1::Protocol::Tcp.into(), v1::Protocol::Udp.into()],
            }),
            reconnect_spread_ms: clamp(reconnect_spread.as_millis() as usize),
        });
        match &greeting.digests {
            Some(digests) if digests == held.digests() => held.confirm(now),
            _ => Touched::default(),
        }
    }

    fn begin(&mut self, begin: &v1::SnapshotBegin) -> Result<Taken, ProtocolError> {
        let buckets = Buckets::from_bytes(&begin.buckets).ok_or_else(|| {
            ProtocolError::Invalid("SnapshotBegin.buckets are neither 32 bytes nor none".into())
        })?;
        self.incoming = Some(Incoming::new(begin.id, buckets));
        Ok(Taken::default())
    }

    fn page(&mut self, page: v1::SnapshotPage) -> Result<Taken, ProtocolError> {
        let mut taken = Taken::default();
        let most = (self.limits.services + self.limits.nodes) as u64;
        let Some(incoming) = self.incoming.as_mut().filter(|i| i.is(page.id)) else {
            taken.discarded = Some("a page of no snapshot that was begun".into());
            return Ok(taken);
        };
        for resource in page.resources {
            incoming.count(resource.key.as_ref(), Generation(resource.generation));
            if let Some((key, generation, received)) = read(resource, &mut taken.refused) {
                incoming.push(key, (generation, received));
            }
            if incoming.len() > most {
                return Err(ProtocolError::TooMuch(format!(
                    "a snapshot of more than {most} resources"
                )));
            }
        }
        Ok(taken)
    }

    fn end(&mut self, end: &v1::SnapshotEnd, held: &mut Held, now: Instant) -> Taken {
        let verified = match self.incoming.take().filter(|i| i.is(end.id)) {
            Some(incoming) => incoming.verify(end),
            None => Err("the end of no snapshot that was begun".into()),
        };
        match verified {
            Ok((buckets, resources)) => {
                self.outbox.beat = true;
                let resources = resources
                    .into_iter()
                    .map(|(key, (generation, received))| (key, generation, received))
                    .collect();
                Taken {
                    touched: held.replace(&buckets, resources, now),
                    ..Taken::default()
                }
            }
            Err(reason) => self.resync(reason, held),
        }
    }

    fn delta(&mut self, delta: v1::Delta, held: &mut Held) -> Result<Taken, ProtocolError> {
        if delta.sequence <= self.sequence {
            return Ok(Taken {
                discarded: Some(format!("delta {} came again", delta.sequence)),
                ..Taken::default()
            });
        }
        if !held.is_complete() {
            return Ok(self.resync("a delta to a state that was never told".into(), held));
        }
        let gap = delta.sequence != self.sequence + 1;
        let expected = self.sequence + 1;
        self.sequence = delta.sequence;
        let mut taken = Taken::default();
        // What a delta says is right even after a gap: it tells states, not differences.
        for change in delta.changes {
            match change.change {
                Some(v1::change::Change::Upsert(resource)) => {
                    if let Some((key, generation, received)) = read(resource, &mut taken.refused) {
                        merge(&mut taken.touched, held.upsert(key, generation, received));
                    }
                }
                Some(v1::change::Change::Delete(deletion)) => {
                    let generation = Generation(deletion.generation);
                    match key_from_wire(&deletion.key.clone().unwrap_or_default()) {
                        Ok(key) => {
                            // Nothing has to be torn down for a node.
                            if matches!(key, Key::Node(_)) {
                                self.answer(&key, &Answer::deleted(generation));
                            }
                            merge(&mut taken.touched, held.delete(key, generation));
                        }
                        Err(refusal) => taken.refused.push((deletion.key, generation, refusal)),
                    }
                }
                None => taken.discarded = Some("a change that this release does not know".into()),
            }
        }
        if held.services() > self.limits.services || held.nodes().len() > self.limits.nodes {
            return Err(ProtocolError::TooMuch(format!(
                "more than {} Services or {} nodes",
                self.limits.services, self.limits.nodes
            )));
        }
        if gap {
            let reason = format!("delta {} came where {expected} was due", delta.sequence);
            let resync = self.resync(reason, held);
            taken.discarded = resync.discarded;
        }
        Ok(taken)
    }

    fn resync(&mut self, reason: String, held: &Held) -> Taken {
        self.outbox.resync = Some(v1::ResyncRequired {
            reason: reason.clone(),
            digests: held.digests().to_bytes().into(),
        });
        Taken {
            discarded: Some(reason),
            ..Taken::default()
        }
    }

    /// What became of a resource; an earlier answer about it that was not sent yet is overtaken.
    pub fn answer(&mut self, key: &Key, answer: &Answer) {
        self.say(answer_to_wire(key, answer));
    }

    /// Answers what could not be read, under the key as it came.
    pub fn refuse(&mut self, key: Option<v1::Key>, generation: Generation, refusal: &Refusal) {
        self.say(refusal_to_wire(key, generation, refusal));
    }

    fn say(&mut self, answer: v1::Answer) {
        let slot = answer
            .key
            .as_ref()
            .map(|k| (k.kind, k.namespace.clone(), k.name.clone()))
            .unwrap_or_default();
        // Keys that cannot be read are the peer's invention: without a bound they would be its way to our memory.
        if self.outbox.answers.len() < 2 * (self.limits.services + self.limits.nodes)
            || self.outbox.answers.contains_key(&slot)
        {
            self.outbox.answers.insert(slot, answer);
        }
    }

    /// Tells the agent to leave and come back within the time.
    pub fn drain(&mut self, within: Duration, reason: &str) {
        self.outbox.drain = Some(v1::Drain {
            within_ms: u32::try_from(within.as_millis()).unwrap_or(u32::MAX),
            reason: reason.into(),
        });
    }

    /// The next message to send, if any. To be asked whenever the transport has room and something happened, and at
    /// [`HubSession::deadline`].
    pub fn next_message(&mut self, now: Instant) -> Option<v1::HubMessage> {
        use v1::hub_message::Body as Message;
        let beat_due = self.is_live() && now >= self.last_sent + HEARTBEAT;
        let outbox = &mut self.outbox;
        let body = if let Some(welcome) = outbox.welcome.take() {
            Message::Welcome(welcome)
        } else if let Some(drain) = outbox.drain.take() {
            Message::Drain(drain)
        } else if let Some(resync) = outbox.resync.take() {
            Message::ResyncRequired(resync)
        } else if outbox.beat || beat_due {
            outbox.beat = false;
            Message::Heartbeat(v1::Heartbeat {
                sequence: self.sequence,
            })
        } else {
            let mut answers = Vec::new();
            let mut bytes = 0;
            while bytes < PAGE_BYTES
                && let Some((_, answer)) = outbox.answers.pop_first()
            {
                bytes += answer.encoded_len();
                answers.push(answer);
            }
            if answers.is_empty() {
                return None;
            }
            Message::Answers(v1::Answers { answers })
        };
        self.last_sent = now;
        Some(v1::HubMessage { body: Some(body) })
    }

    /// When [`HubSession::next_message`] and [`HubSession::check`] are due although nothing has happened.
    pub fn deadline(&self) -> Instant {
        (self.last_sent + HEARTBEAT).min(self.last_heard + SILENCE)
    }

    /// Whether the agent has been silent for too long.
    pub fn check(&self, now: Instant) -> Result<(), ProtocolError> {
        if now >= self.last_heard + SILENCE {
            Err(ProtocolError::Silent)
        } else {
            Ok(())
        }
    }
}

/// Reads a resource. One with a readable key is kept, even if the rest cannot be read, so that the last good state is not
/// taken for absent.
fn read(
    resource: v1::Resource,
    refused: &mut Vec<(Option<v1::Key>, Generation, Refusal)>,
) -> Option<(Key, Generation, Received)> {
    let generation = Generation(resource.generation);
    match resource_from_wire(&resource) {
        Ok((key, versioned)) => Some((key, generation, Ok(versioned.body))),
        Err(refusal) => {
            let key = resource.key.as_ref().and_then(|k| key_from_wire(k).ok());
            refused.push((resource.key, generation, refusal.clone()));
            key.map(|key| (key, generation, Err(refusal)))
        }
    }
}

fn merge(into: &mut Touched, more: Touched) {
    into.services.extend(more.services);
    into.nodes |= more.nodes;
    into.completed |= more.completed;
}
