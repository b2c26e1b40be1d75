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
    ANNOTATIONS, HEARTBEAT, MESSAGE_BYTES, PAGE_BYTES, PROTOCOL, ProtocolError, REISSUE, SILENCE,
    TURNS,
    digest::Buckets,
    duplicates::{self, DUPLICATE},
    greeting::Greeting,
    held::{Held, Load, Received, Touched},
    snapshot::Incoming,
};
use crate::{
    annotations::{self, Allowed},
    model::{Answer, Body, Generation, Key},
    wire::{
        MAX_PORTS, Refusal, answer_to_wire, key_from_wire, key_to_wire, refusal_to_wire,
        resource_from_wire,
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

/// Of how many times as many Services as a tenant may have anything is remembered: those that it has, those being torn
/// down, and those missed. Names cost a peer nothing, so without a bound they would be its way to our memory.
const REMEMBERED: usize = 3;

/// The longest name that Kubernetes knows.
const NAME_BYTES: usize = 253;

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
    /// What became of the session's turn.
    pub turn: Option<TurnNews>,
}

/// What a message means for the session's turn to send a snapshot. Who has one is decided over all sessions, by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnNews {
    /// The agent asks for one.
    Asked,
    /// An agent that knows no turns has begun a snapshot.
    Seized,
    /// A part of the snapshot came.
    Used,
    /// The snapshot has ended, well or not, or its agent cannot go on with it.
    Over,
}

/// Whether this session may send a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The agent knows no turns.
    Unbound,
    No,
    Waits,
    Has,
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
    /// Boxed, as what is rare in the outbox: a session that is idle has none of it.
    incoming: Option<Box<Incoming<(Generation, Received)>>>,
    turn: Turn,
    /// Which annotations of Services may pass.
    allowed: Allowed,
    /// Whether the agent knows [`ANNOTATIONS`].
    tells_annotations: bool,
    /// Whether the agent knows [`REISSUE`].
    renews: bool,
    /// Of the last Delta taken in.
    sequence: u64,
    outbox: Outbox,
    last_sent: Instant,
    last_heard: Instant,
}

#[derive(Default)]
struct Outbox {
    welcome: Option<Box<v1::Welcome>>,
    resync: Option<Box<v1::ResyncRequired>>,
    capabilities: Option<Box<v1::Capabilities>>,
    turn: Option<v1::Turn>,
    reissue: Option<v1::Reissue>,
    answers: BTreeMap<(i32, String, String), Box<v1::Answer>>,
    beat: bool,
    drain: Option<Box<v1::Drain>>,
}

impl HubSession {
    /// A session that has not heard Hello yet.
    pub fn new(number: u64, limits: Limits, now: Instant) -> Self {
        Self {
            number,
            limits,
            phase: Phase::Greeting,
            incoming: None,
            turn: Turn::Unbound,
            allowed: Allowed::default(),
            tells_annotations: false,
            renews: false,
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
        let Some(message) = message.body else {
            return match self.phase {
                // Of a newer release, which can do without an answer to it.
                Phase::Live => Ok(Taken {
                    discarded: Some("a message that this release does not know".into()),
                    ..Taken::default()
                }),
                Phase::Greeting | Phase::Deciding => Err(ProtocolError::Unreadable),
            };
        };
        match (&self.phase, message) {
            (Phase::Greeting, Message::Hello(hello)) => self.hello(hello),
            (_, Message::Hello(_)) => Err(ProtocolError::OutOfTurn("a second Hello")),
            (Phase::Greeting | Phase::Deciding, _) => {
                Err(ProtocolError::OutOfTurn("a message before Hello"))
            }
            (Phase::Live, Message::Source(source)) => Ok(self.source(&source)),
            (Phase::Live, Message::TurnRequest(_)) => Ok(Taken {
                turn: (self.turn != Turn::Unbound).then_some(TurnNews::Asked),
                ..Taken::default()
            }),
            (Phase::Live, Message::SnapshotBegin(begin)) => self.begin(&begin),
            (Phase::Live, Message::SnapshotPage(page)) => self.page(page),
            (Phase::Live, Message::SnapshotEnd(end)) => self.end(&end, held, now),
            (Phase::Live, Message::Delta(delta)) => self.delta(delta, held),
            // Agents acknowledge nothing (0): whoever does has another protocol in mind, and is not believed.
            (Phase::Live, Message::Heartbeat(beat)) => Ok(Taken {
                discarded: (beat.sequence != 0).then(|| {
                    format!(
                        "an acknowledgement of {}, which was never sent",
                        beat.sequence
                    )
                }),
                ..Taken::default()
            }),
        }
    }

    fn hello(&mut self, hello: v1::Hello) -> Result<Taken, ProtocolError> {
        let greeting = Greeting::read(hello)?;
        self.phase = Phase::Deciding;
        Ok(Taken {
            greeting: Some(greeting),
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
        if greeting.features.contains(&TURNS) {
            self.turn = Turn::No;
        }
        self.tells_annotations = greeting.features.contains(&ANNOTATIONS);
        self.renews = greeting.features.contains(&REISSUE);
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.outbox.welcome = Some(Box::new(v1::Welcome {
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
            features: greeting.features.iter().map(ToString::to_string).collect(),
            capabilities: Some(capabilities(&self.allowed)),
            reconnect_spread_ms: clamp(reconnect_spread.as_millis() as usize),
        }));
        match &greeting.digests {
            Some(digests) if digests == held.digests() => held.confirm(now),
            _ => Touched::default(),
        }
    }

    fn source(&mut self, source: &v1::SourceState) -> Taken {
        if source.synced {
            return Taken {
                source: Some(Ok(())),
                ..Taken::default()
            };
        }
        self.incoming = None;
        if self.turn != Turn::Unbound {
            self.turn = Turn::No;
        }
        Taken {
            source: Some(Err(source.reason.chars().take(256).collect())),
            turn: Some(TurnNews::Over),
            ..Taken::default()
        }
    }

    fn begin(&mut self, begin: &v1::SnapshotBegin) -> Result<Taken, ProtocolError> {
        let buckets = Buckets::from_bytes(&begin.buckets).ok_or_else(|| {
            ProtocolError::Invalid("SnapshotBegin.buckets are neither 32 bytes nor none".into())
        })?;
        let turn = match self.turn {
            Turn::Unbound => TurnNews::Seized,
            Turn::Has => TurnNews::Used,
            // It crossed with the message that took the turn away, and comes again in the next one.
            Turn::No | Turn::Waits => {
                return Ok(Taken {
                    discarded: Some("a snapshot out of turn".into()),
                    ..Taken::default()
                });
            }
        };
        self.incoming = Some(Box::new(Incoming::new(begin.id, buckets)));
        Ok(Taken {
            turn: Some(turn),
            ..Taken::default()
        })
    }

    /// So many others send their snapshots first; 0: it is this session's turn.
    pub fn turn(&mut self, ahead: u32) {
        match (self.turn, ahead) {
            (Turn::Unbound, _) => return,
            (_, 0) => self.turn = Turn::Has,
            _ => {
                self.turn = Turn::Waits;
                self.incoming = None;
            }
        }
        self.outbox.turn = Some(v1::Turn { ahead });
    }

    /// Which annotations may pass. Before Welcome it is said in that, and later by itself, to an agent that knows of it.
    pub fn allow(&mut self, allowed: &Allowed) {
        if self.allowed == *allowed {
            return;
        }
        self.allowed = allowed.clone();
        if self.is_live() && self.tells_annotations {
            self.outbox.capabilities = Some(Box::new(capabilities(allowed)));
        }
    }

    /// Whether the agent keeps its certificate by itself.
    pub fn renews(&self) -> bool {
        self.renews
    }

    /// Asks the agent to renew its certificate within the time, if it keeps it by itself.
    pub fn reissue(&mut self, within: Duration) {
        if self.renews {
            let within_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
            self.outbox.reissue = Some(v1::Reissue { within_ms });
        }
    }

    /// Whether the agent waits for its turn.
    pub fn waits_for_turn(&self) -> bool {
        self.turn == Turn::Waits
    }

    fn page(&mut self, page: v1::SnapshotPage) -> Result<Taken, ProtocolError> {
        let mut taken = Taken {
            turn: Some(TurnNews::Used),
            ..Taken::default()
        };
        let most = (self.limits.services + self.limits.nodes) as u64;
        let Some(incoming) = self.incoming.as_mut().filter(|i| i.is(page.id)) else {
            taken.turn = None;
            taken.discarded = Some("a page of no snapshot that was begun".into());
            return Ok(taken);
        };
        for resource in page.resources {
            incoming.count(resource.key.as_ref(), Generation(resource.generation));
            if let Some((key, generation, received)) = read(resource, &mut taken) {
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

    fn end(
        &mut self,
        end: &v1::SnapshotEnd,
        held: &mut Held,
        now: Instant,
    ) -> Result<Taken, ProtocolError> {
        let verified = match self.incoming.take().filter(|i| i.is(end.id)) {
            Some(incoming) => incoming.verify(end),
            None => Err("the end of no snapshot that was begun".into()),
        };
        if self.turn == Turn::Has {
            self.turn = Turn::No;
        }
        let taken = match verified {
            Ok((buckets, resources)) => self.replace(&buckets, resources, held, now)?,
            Err(reason) => self.resync(reason, held),
        };
        Ok(Taken {
            turn: (!self.waits_for_turn()).then_some(TurnNews::Over),
            ..taken
        })
    }

    fn replace(
        &mut self,
        buckets: &Buckets,
        resources: Vec<(Key, (Generation, Received))>,
        held: &mut Held,
        now: Instant,
    ) -> Result<Taken, ProtocolError> {
        let told = || resources.iter().map(|(key, _)| (key, true));
        // Looking for what would be missed reads every key, and is rarely needed to know that there is room.
        if self
            .check_load(held, held.load_after(told(), &Buckets::none()))
            .is_err()
        {
            self.check_load(held, held.load_after(told(), buckets))?;
        }
        self.outbox.beat = true;
        let resources = duplicates::merged(resources);
        let refused = resources.iter().filter_map(|(key, generation, received)| {
            let refusal = received.as_ref().err().filter(|r| r.reason == DUPLICATE)?;
            Some((Some(key_to_wire(key)), *generation, refusal.clone()))
        });
        Ok(Taken {
            refused: refused.collect(),
            touched: held.replace(buckets, resources, now),
            ..Taken::default()
        })
    }

    /// Whether a tenant may have so much. What does not grow is never too much: limits may have been lowered since.
    fn check_load(&self, held: &Held, after: Load) -> Result<(), ProtocolError> {
        let before = held.load();
        let Limits { services, nodes } = self.limits;
        if after.services > services.max(before.services) || after.nodes > nodes.max(before.nodes) {
            return Err(ProtocolError::TooMuch(format!(
                "more than {services} Services or {nodes} nodes"
            )));
        }
        if after.known > (REMEMBERED * services).max(before.known) {
            return Err(ProtocolError::TooMuch(format!(
                "more than {} Services that are there, being deleted, or missed",
                REMEMBERED * services
            )));
        }
        Ok(())
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
        // None: deleted.
        let mut changes: Vec<(Key, Generation, Option<Received>)> = Vec::new();
        for change in delta.changes {
            match change.change {
                Some(v1::change::Change::Upsert(resource)) => {
                    if let Some((key, generation, received)) = read(resource, &mut taken) {
                        changes.push((key, generation, Some(received)));
                    }
                }
                Some(v1::change::Change::Delete(deletion)) => {
                    let generation = Generation(deletion.generation);
                    match key_from_wire(&deletion.key.clone().unwrap_or_default()) {
                        Ok(key) => changes.push((key, generation, None)),
                        Err(refusal) => taken.refused.push((deletion.key, generation, refusal)),
                    }
                }
                None => taken.discarded = Some("a change that this release does not know".into()),
            }
        }
        let told = changes
            .iter()
            .map(|(key, _, received)| (key, received.is_some()));
        self.check_load(held, held.load_after(told, &Buckets::none()))?;
        // What a delta says is right even after a gap: it tells states, not differences.
        for (key, generation, received) in &changes {
            // Nothing has to be torn down for a node.
            if received.is_none() && matches!(key, Key::Node(_)) {
                self.answer(key, &Answer::deleted(*generation));
            }
        }
        taken.touched = held.change(changes);
        if gap {
            let reason = format!("delta {} came where {expected} was due", delta.sequence);
            let resync = self.resync(reason, held);
            taken.discarded = resync.discarded;
        }
        Ok(taken)
    }

    fn resync(&mut self, reason: String, held: &Held) -> Taken {
        self.outbox.resync = Some(Box::new(v1::ResyncRequired {
            reason: reason.clone(),
            digests: held.digests().to_bytes().into(),
        }));
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
        // Nobody in order waits for an answer to such a name, and a page of them could not be sent.
        let long = |key: &v1::Key| key.namespace.len().max(key.name.len()) > NAME_BYTES;
        if answer.key.as_ref().is_some_and(long) {
            return;
        }
        let slot = answer
            .key
            .as_ref()
            .map(|k| (k.kind, k.namespace.clone(), k.name.clone()))
            .unwrap_or_default();
        // Keys that cannot be read are the peer's invention: without a bound they would be its way to our memory.
        if self.outbox.answers.len() < 2 * (self.limits.services + self.limits.nodes)
            || self.outbox.answers.contains_key(&slot)
        {
            self.outbox.answers.insert(slot, Box::new(answer));
        }
    }

    /// Tells the agent to leave and come back within the time.
    pub fn drain(&mut self, within: Duration, reason: &str) {
        self.outbox.drain = Some(Box::new(v1::Drain {
            within_ms: u32::try_from(within.as_millis()).unwrap_or(u32::MAX),
            reason: reason.into(),
        }));
    }

    /// The next message to send, if any. To be asked whenever the transport has room and something happened, and at
    /// [`HubSession::deadline`].
    pub fn next_message(&mut self, now: Instant) -> Option<v1::HubMessage> {
        use v1::hub_message::Body as Message;
        let beat_due = self.is_live() && now >= self.last_sent + HEARTBEAT;
        let outbox = &mut self.outbox;
        let body = if let Some(welcome) = outbox.welcome.take() {
            Message::Welcome(*welcome)
        } else if let Some(drain) = outbox.drain.take() {
            Message::Drain(*drain)
        } else if let Some(resync) = outbox.resync.take() {
            Message::ResyncRequired(*resync)
        } else if let Some(capabilities) = outbox.capabilities.take() {
            Message::Capabilities(*capabilities)
        } else if let Some(turn) = outbox.turn.take() {
            Message::Turn(turn)
        } else if let Some(reissue) = outbox.reissue.take() {
            Message::Reissue(reissue)
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
                answers.push(*answer);
            }
            if answers.is_empty() {
                return None;
            }
            if outbox.answers.is_empty() {
                // An emptied map keeps a node.
                outbox.answers = BTreeMap::new();
            }
            Message::Answers(v1::Answers { answers })
        };
        self.last_sent = now;
        Some(v1::HubMessage { body: Some(body) })
    }

    /// When [`HubSession::next_message`] and [`HubSession::check`] are due although nothing has happened.
    pub fn deadline(&self) -> Instant {
        let silence = self.last_heard + SILENCE;
        // Before Welcome no heartbeat is sent: one that were due would wake the shell for nothing, again and again.
        if self.is_live() {
            silence.min(self.last_sent + HEARTBEAT)
        } else {
            silence
        }
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

fn capabilities(allowed: &Allowed) -> v1::Capabilities {
    v1::Capabilities {
        protocols: vec![v1::Protocol::Tcp.into(), v1::Protocol::Udp.into()],
        annotations: allowed.patterns(),
    }
}

/// Takes away what no tenant may say to an allocator or a cloud (HOSTILE 57, 59), and says so: an agent in order never sends it.
fn strip(key: &Key, body: &mut Body, discarded: &mut Option<String>) {
    if let Body::Service(service) = body {
        let before = service.annotations.len();
        service
            .annotations
            .retain(|key, _| !annotations::never(key));
        let stripped = before - service.annotations.len();
        if stripped > 0 {
            *discarded = Some(format!(
                "{stripped} annotations of {key} that no tenant may set"
            ));
        }
    }
}

/// Reads a resource. One with a readable key is kept, even if the rest cannot be read, so that the last good state is not
/// taken for absent.
fn read(resource: v1::Resource, taken: &mut Taken) -> Option<(Key, Generation, Received)> {
    let generation = Generation(resource.generation);
    match resource_from_wire(&resource) {
        Ok((key, mut versioned)) => {
            strip(&key, &mut versioned.body, &mut taken.discarded);
            Some((key, generation, Ok(versioned.body)))
        }
        Err(refusal) => {
            let key = resource.key.as_ref().and_then(|k| key_from_wire(k).ok());
            taken
                .refused
                .push((resource.key, generation, refusal.clone()));
            key.map(|key| (key, generation, Err(refusal)))
        }
    }
}
