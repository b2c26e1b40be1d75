//! The agent's end of the session: what the tenant wants, in one slot per key where the latest wins, and what of it the
//! hub has still to hear. It outlives connections. The shell calls [`AgentSession::next_message`] whenever the transport
//! has room: what was overtaken meanwhile is never sent, so a slow hub costs memory for keys and not for changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use berth_wire::v1;
use prost::Message as _;

use super::{
    FEATURES, HEARTBEAT, PAGE_BYTES, PROTOCOL, ProtocolError, REISSUE, SILENCE, TURNS,
    digest::{Buckets, Digests},
    snapshot::Outgoing,
};
use crate::{
    annotations::Allowed,
    model::{Answer, Body, Generation, Key, Outcome, Versioned},
    wire::{answer_from_wire, generation_of, key_to_wire, resource_to_wire},
};

/// Who the agent is, for Hello.
#[derive(Clone, Debug)]
pub struct AgentInfo {
    /// The agent's release.
    pub version: String,
    /// Random, new with every start of the process.
    pub instance_id: String,
}

/// The state of the agent's source, its cluster's API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Everything has been read, and changes arrive.
    Synced {
        /// The UID of the kube-system namespace.
        cluster_uid: String,
    },
    /// Silence and absence mean nothing.
    Unsynced {
        /// Why, for people.
        reason: String,
    },
}

/// What the shell should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The hub has accepted this session.
    Welcomed {
        /// The session's number.
        session: u64,
        /// How long at most to wait before the first attempt to come back after losing it.
        reconnect_spread: Duration,
    },
    /// So many other tenants tell the hub their state first. What is served stays as it is.
    Waiting {
        /// How many.
        ahead: u32,
    },
    /// The hub holds everything that the tenant wants; told once per session.
    Synced,
    /// The hub's answer to what the tenant wants now: answers to anything older never come out here.
    Answer(Key, Answer),
    /// Something that the hub said cannot be read by this release; it was ignored.
    Ignored(String),
    /// The hub asks for the certificate to be renewed, at a random moment within the time.
    Reissue {
        /// How long the fleet's renewals are spread.
        within: Duration,
    },
    /// The hub is leaving: close, and come back at a random moment within the time.
    Drain {
        /// How long the return is spread.
        within: Duration,
        /// Why, for people.
        reason: String,
    },
}

enum Phase {
    Down,
    /// Connected; Hello is still to be sent.
    Greeting,
    /// Hello was sent.
    Waiting,
    Live(Live),
}

struct Live {
    /// Of the last Delta sent.
    sequence: u64,
    page_bytes: usize,
    snapshots: u64,
    turn: Turn,
    outgoing: Option<Box<Outgoing>>,
    /// The hub waits for a verified end, even if nothing differs: until it has one it takes no delta.
    must_tell: bool,
    /// Whether Synced was told.
    synced: bool,
}

/// The right to send a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The hub does not bound how many send one.
    NotNeeded,
    /// Not asked for.
    None,
    Asked,
    Mine,
}

impl Live {
    /// Whatever was sent of a snapshot does not count: it is to be sent anew, whole, in a turn of its own.
    fn break_off(&mut self, owed: &mut Buckets) {
        if let Some(outgoing) = self.outgoing.take() {
            owed.merge(&outgoing.buckets);
            self.must_tell = true;
        }
    }
}

/// Which annotations may pass from now on, where a message says so. To be taken in before the message itself: what the
/// tenant wants depends on it, and Welcome's digests are compared with that.
pub fn allowed(message: &v1::HubMessage) -> Option<Allowed> {
    use v1::hub_message::Body as Message;
    let capabilities = match message.body.as_ref()? {
        Message::Welcome(welcome) => welcome.capabilities.as_ref(),
        Message::Capabilities(capabilities) => Some(capabilities),
        _ => return None,
    };
    // A hub that says nothing of them lets none pass.
    Some(capabilities.map_or_else(Allowed::default, |it| Allowed::new(&it.annotations)))
}

/// The agent's state machine.
pub struct AgentSession {
    info: AgentInfo,
    /// Whether the certificate is kept by the agent itself.
    renews: bool,
    source: Source,
    table: BTreeMap<Key, Versioned<Body>>,
    digests: Digests,
    /// Deletions that the hub has not confirmed yet.
    tombstones: BTreeMap<Key, Generation>,
    next_tombstone: u64,
    phase: Phase,
    /// Keys whose latest state this session has not sent.
    dirty: BTreeSet<Key>,
    /// The part of `dirty` that is being sent: emptied before `dirty` is looked at again, so that no key starves.
    sending: BTreeSet<Key>,
    /// Buckets of which the hub must get a snapshot.
    owed: Buckets,
    /// The cluster that was read last.
    known_uid: String,
    /// The cluster that Hello named.
    greeted_uid: String,
    /// Whether Hello carried digests.
    greeted_synced: bool,
    source_untold: bool,
    last_sent: Option<Instant>,
    last_heard: Option<Instant>,
}

impl AgentSession {
    /// A machine that wants nothing yet and has not read its source.
    pub fn new(info: AgentInfo) -> Self {
        Self {
            info,
            renews: false,
            source: Source::Unsynced {
                reason: "starting".into(),
            },
            table: BTreeMap::new(),
            digests: Digests::default(),
            tombstones: BTreeMap::new(),
            next_tombstone: 1,
            phase: Phase::Down,
            dirty: BTreeSet::new(),
            sending: BTreeSet::new(),
            owed: Buckets::none(),
            known_uid: String::new(),
            greeted_uid: String::new(),
            greeted_synced: false,
            source_untold: false,
            last_sent: None,
            last_heard: None,
        }
    }

    /// The same, of an agent that keeps its certificate by itself and may be asked to renew it.
    #[must_use]
    pub fn renewing(mut self) -> Self {
        self.renews = true;
        self
    }

    /// The tenant wants this. False: it already did, and there is nothing to send.
    pub fn upsert(&mut self, key: Key, body: Body) -> bool {
        let generation = generation_of(&body);
        match self.table.get(&key).map(|v| v.generation) {
            Some(known) if known == generation => return false,
            Some(known) => self.digests.toggle(&key, known),
            None => {}
        }
        self.digests.toggle(&key, generation);
        self.tombstones.remove(&key);
        self.table
            .insert(key.clone(), Versioned { generation, body });
        self.mark(key);
        true
    }

    /// The tenant was seen to delete this, or to want it no more. Also for keys that were never here, for instance when
    /// the agent was restarted in the middle of a deletion: the hub's Deleted comes in any case.
    pub fn remove(&mut self, key: Key) {
        let known = self.drop_from_table(&key);
        if !known && self.tombstones.contains_key(&key) {
            return;
        }
        self.tombstones
            .insert(key.clone(), Generation(self.next_tombstone));
        self.next_tombstone += 1;
        self.mark(key);
    }

    /// This is not there any more, but nobody saw it being deleted (a re-read of the source came without it). The hub
    /// hears of it by a snapshot without it, and waits before it takes that for a deletion.
    pub fn forget(&mut self, key: &Key) {
        if self.drop_from_table(key) {
            self.dirty.remove(key);
            self.sending.remove(key);
            self.owed.insert_key(key);
        }
    }

    /// The version of a resource that the tenant wants now.
    pub fn generation(&self, key: &Key) -> Option<Generation> {
        self.table.get(key).map(|v| v.generation)
    }

    /// The source was lost, or has been read. True: it is another cluster than the one that the session was opened for,
    /// and the session must be closed and dialled anew.
    #[must_use]
    pub fn set_source(&mut self, source: Source) -> bool {
        if self.source == source {
            return false;
        }
        let mut other = false;
        match (&source, &mut self.phase) {
            (Source::Synced { cluster_uid }, phase) => {
                self.known_uid.clone_from(cluster_uid);
                other = matches!(phase, Phase::Waiting | Phase::Live(_))
                    && *cluster_uid != self.greeted_uid;
            }
            // The hub gives a turn to others when it hears of this.
            (Source::Unsynced { .. }, Phase::Live(live)) => {
                live.break_off(&mut self.owed);
                if live.turn != Turn::NotNeeded {
                    live.turn = Turn::None;
                }
            }
            (Source::Unsynced { .. }, _) => {}
        }
        self.source = source;
        self.source_untold = true;
        other
    }

    /// Whether the hub has been sent everything that the tenant wants.
    pub fn is_synced(&self) -> bool {
        matches!(&self.phase, Phase::Live(live) if live.outgoing.is_none() && !live.must_tell)
            && matches!(self.source, Source::Synced { .. })
            && self.owed.is_empty()
            && self.dirty.is_empty()
            && self.sending.is_empty()
    }

    /// A new stream is up.
    pub fn connected(&mut self, now: Instant) {
        self.phase = Phase::Greeting;
        self.last_sent = Some(now);
        self.last_heard = Some(now);
        self.source_untold = false;
    }

    /// The stream is gone.
    pub fn disconnected(&mut self) {
        self.phase = Phase::Down;
        self.dirty.clear();
        self.sending.clear();
        self.owed = Buckets::none();
    }

    /// Takes in a message. An error ends the session.
    pub fn received(
        &mut self,
        message: v1::HubMessage,
        now: Instant,
    ) -> Result<Vec<Event>, ProtocolError> {
        use v1::hub_message::Body as Message;
        self.last_heard = Some(now);
        let Some(message) = message.body else {
            return Ok(vec![Event::Ignored(ProtocolError::Unreadable.to_string())]);
        };
        match (message, &mut self.phase) {
            (Message::Welcome(welcome), Phase::Waiting) => self.welcomed(&welcome),
            (Message::Welcome(_), _) => Err(ProtocolError::OutOfTurn("Welcome")),
            (Message::Drain(drain), _) => Ok(vec![Event::Drain {
                within: Duration::from_millis(drain.within_ms.into()),
                reason: drain.reason,
            }]),
            (Message::Reissue(reissue), Phase::Live(_)) => Ok(vec![Event::Reissue {
                within: Duration::from_millis(reissue.within_ms.into()),
            }]),
            (_, Phase::Down | Phase::Greeting | Phase::Waiting) => {
                Err(ProtocolError::OutOfTurn("a message before Welcome"))
            }
            (Message::Answers(answers), Phase::Live(_)) => Ok(answers
                .answers
                .iter()
                .filter_map(|answer| self.answered(answer))
                .collect()),
            (Message::ResyncRequired(resync), Phase::Live(live)) => {
                live.outgoing = None;
                live.must_tell = true;
                live.synced = false;
                self.owed = self.digests.difference(&digests(&resync.digests)?);
                self.mark_tombstones();
                Ok(self.maybe_synced())
            }
            (Message::Heartbeat(_), Phase::Live(_)) => Ok(self.maybe_synced()),
            (Message::Turn(turn), Phase::Live(live)) => Ok(match (live.turn, turn.ahead) {
                (Turn::Asked, 0) => {
                    live.turn = Turn::Mine;
                    Vec::new()
                }
                (Turn::Asked | Turn::Mine, ahead) if ahead > 0 => {
                    live.turn = Turn::Asked;
                    live.break_off(&mut self.owed);
                    vec![Event::Waiting { ahead }]
                }
                // Of a turn that was given up meanwhile.
                _ => Vec::new(),
            }),
            // What it means for what is wanted came before it: see `allowed`.
            (Message::Capabilities(_), Phase::Live(_)) => Ok(Vec::new()),
        }
    }

    fn welcomed(&mut self, welcome: &v1::Welcome) -> Result<Vec<Event>, ProtocolError> {
        if welcome.protocol != PROTOCOL {
            return Err(ProtocolError::Version {
                min: welcome.protocol,
                max: welcome.protocol,
            });
        }
        self.owed = self.digests.difference(&digests(&welcome.digests)?);
        let page_bytes = welcome
            .limits
            .as_ref()
            .map_or(PAGE_BYTES, |l| l.page_bytes as usize);
        self.phase = Phase::Live(Live {
            sequence: 0,
            page_bytes: page_bytes.clamp(1024, PAGE_BYTES),
            snapshots: 0,
            turn: if welcome.features.iter().any(|feature| feature == TURNS) {
                Turn::None
            } else {
                Turn::NotNeeded
            },
            outgoing: None,
            must_tell: !self.greeted_synced,
            synced: false,
        });
        // Whatever changed since Hello is in the table, and so in the difference.
        self.dirty.clear();
        self.sending.clear();
        self.mark_tombstones();
        let mut events = vec![Event::Welcomed {
            session: welcome.session,
            reconnect_spread: Duration::from_millis(welcome.reconnect_spread_ms.into()),
        }];
        events.extend(self.maybe_synced());
        Ok(events)
    }

    fn answered(&mut self, answer: &v1::Answer) -> Option<Event> {
        let (key, answer) = match answer_from_wire(answer) {
            Ok(read) => read,
            Err(refusal) => return Some(Event::Ignored(refusal.to_string())),
        };
        let current = if answer.outcome == Outcome::Deleted {
            self.tombstones.get(&key).copied()
        } else {
            self.generation(&key)
        };
        if current != Some(answer.generation) {
            return None;
        }
        if answer.outcome == Outcome::Deleted {
            self.tombstones.remove(&key);
            self.dirty.remove(&key);
            self.sending.remove(&key);
        }
        Some(Event::Answer(key, answer))
    }

    /// The next message to send, if any. To be asked again after every change, every received message, and at
    /// [`AgentSession::deadline`].
    pub fn next_message(&mut self, now: Instant) -> Option<v1::AgentMessage> {
        let body = self.next_body(now)?;
        self.last_sent = Some(now);
        Some(v1::AgentMessage { body: Some(body) })
    }

    fn next_body(&mut self, now: Instant) -> Option<v1::agent_message::Body> {
        use v1::agent_message::Body as Message;
        match &mut self.phase {
            Phase::Down => None,
            Phase::Greeting => {
                self.phase = Phase::Waiting;
                Some(Message::Hello(self.hello()))
            }
            Phase::Waiting => None,
            Phase::Live(live) => {
                let synced = matches!(self.source, Source::Synced { .. });
                if self.source_untold {
                    self.source_untold = false;
                    return Some(Message::Source(source_state(&self.source)));
                }
                if synced {
                    if let Some(outgoing) = &mut live.outgoing {
                        let page = outgoing.next_page(&self.table, live.page_bytes, |key| {
                            self.dirty.remove(key);
                            self.sending.remove(key);
                        });
                        if let Some(page) = page {
                            return Some(Message::SnapshotPage(page));
                        }
                        if live.turn != Turn::NotNeeded {
                            live.turn = Turn::None;
                        }
                        return live.outgoing.take().map(|o| Message::SnapshotEnd(o.end()));
                    }
                    if live.must_tell || !self.owed.is_empty() {
                        match live.turn {
                            Turn::NotNeeded | Turn::Mine => return Some(self.begin_snapshot()),
                            Turn::None => {
                                live.turn = Turn::Asked;
                                return Some(Message::TurnRequest(v1::TurnRequest {}));
                            }
                            Turn::Asked => {}
                        }
                    } else if let Some(delta) = self.next_delta() {
                        return Some(delta);
                    }
                }
                (self.last_sent.is_none_or(|sent| now >= sent + HEARTBEAT))
                    .then(|| Message::Heartbeat(v1::Heartbeat { sequence: 0 }))
            }
        }
    }

    fn hello(&mut self) -> v1::Hello {
        let digests = match &self.source {
            Source::Synced { .. } => self.digests.to_bytes(),
            Source::Unsynced { .. } => {
                self.source_untold = true;
                Vec::new()
            }
        };
        self.greeted_uid.clone_from(&self.known_uid);
        self.greeted_synced = matches!(self.source, Source::Synced { .. });
        v1::Hello {
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            features: FEATURES
                .iter()
                .filter(|&&feature| self.renews || feature != REISSUE)
                .map(ToString::to_string)
                .collect(),
            agent_version: self.info.version.clone(),
            instance_id: self.info.instance_id.clone(),
            cluster_uid: self.known_uid.clone(),
            digests: digests.into(),
        }
    }

    fn begin_snapshot(&mut self) -> v1::agent_message::Body {
        let mut buckets = std::mem::replace(&mut self.owed, Buckets::none());
        // With its end the hub takes everything outside the snapshot for told. What has changed since Welcome and waits to be
        // told must therefore be in it: it would count as absent until its delta came, and there may be none.
        for key in self.dirty.iter().chain(&self.sending) {
            buckets.insert_key(key);
        }
        let keys: Vec<Key> = self
            .table
            .keys()
            .rev()
            .filter(|key| buckets.contains(key))
            .cloned()
            .collect();
        let mut id = 0;
        if let Phase::Live(live) = &mut self.phase {
            live.snapshots += 1;
            live.must_tell = false;
            id = live.snapshots;
            live.outgoing = Some(Box::new(Outgoing::new(id, buckets, keys)));
        }
        v1::agent_message::Body::SnapshotBegin(v1::SnapshotBegin {
            id,
            buckets: buckets.to_bytes().into(),
        })
    }

    fn next_delta(&mut self) -> Option<v1::agent_message::Body> {
        let Phase::Live(live) = &mut self.phase else {
            return None;
        };
        if self.sending.is_empty() {
            std::mem::swap(&mut self.sending, &mut self.dirty);
        }
        let mut changes = Vec::new();
        let mut bytes = 0;
        while bytes < live.page_bytes {
            let Some(key) = self.sending.pop_first() else {
                break;
            };
            let change = if let Some(resource) = self.table.get(&key) {
                v1::change::Change::Upsert(resource_to_wire(&key, resource))
            } else if let Some(generation) = self.tombstones.get(&key) {
                v1::change::Change::Delete(v1::Deletion {
                    key: Some(key_to_wire(&key)),
                    generation: generation.0,
                })
            } else {
                continue;
            };
            let change = v1::Change {
                change: Some(change),
            };
            bytes += change.encoded_len();
            changes.push(change);
        }
        if changes.is_empty() {
            return None;
        }
        live.sequence += 1;
        Some(v1::agent_message::Body::Delta(v1::Delta {
            sequence: live.sequence,
            changes,
        }))
    }

    /// When [`AgentSession::next_message`] and [`AgentSession::check`] are due although nothing has happened.
    pub fn deadline(&self) -> Option<Instant> {
        let silence = self.last_heard.map(|at| at + SILENCE);
        match self.phase {
            Phase::Down => None,
            // Before Welcome no heartbeat is sent: one that were due would wake the shell for nothing, again and again.
            Phase::Greeting | Phase::Waiting => silence,
            Phase::Live(_) => {
                let beat = self.last_sent.map(|at| at + HEARTBEAT);
                beat.into_iter().chain(silence).min()
            }
        }
    }

    /// Whether the hub has been silent for too long.
    pub fn check(&self, now: Instant) -> Result<(), ProtocolError> {
        match self.last_heard {
            Some(heard) if !matches!(self.phase, Phase::Down) && now >= heard + SILENCE => {
                Err(ProtocolError::Silent)
            }
            _ => Ok(()),
        }
    }

    fn maybe_synced(&mut self) -> Vec<Event> {
        let all_told = self.owed.is_empty() && matches!(self.source, Source::Synced { .. });
        match &mut self.phase {
            Phase::Live(live)
                if all_told && live.outgoing.is_none() && !live.must_tell && !live.synced =>
            {
                live.synced = true;
                vec![Event::Synced]
            }
            _ => Vec::new(),
        }
    }

    fn drop_from_table(&mut self, key: &Key) -> bool {
        let Some(known) = self.table.remove(key) else {
            return false;
        };
        self.digests.toggle(key, known.generation);
        true
    }

    /// Outside a live session nothing needs marking: Welcome's digests will tell.
    fn mark(&mut self, key: Key) {
        if matches!(self.phase, Phase::Live(_)) {
            self.dirty.insert(key);
        }
    }

    fn mark_tombstones(&mut self) {
        self.dirty.extend(self.tombstones.keys().cloned());
    }
}

fn source_state(source: &Source) -> v1::SourceState {
    match source {
        Source::Synced { .. } => v1::SourceState {
            synced: true,
            reason: String::new(),
        },
        Source::Unsynced { reason } => v1::SourceState {
            synced: false,
            reason: reason.clone(),
        },
    }
}

fn digests(bytes: &[u8]) -> Result<Digests, ProtocolError> {
    Digests::from_bytes(bytes)
        .ok_or_else(|| ProtocolError::Invalid("digests are not 4096 bytes".into()))
}
