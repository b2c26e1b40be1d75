//! One tenant's state, and the seat that its live session holds. A seat checks with every call that it is still the
//! newest: that is the fence.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use berth_common::{
    identity::TenantName,
    model::{Answer, Generation, Key, ServiceKey},
    session::{
        ProtocolError,
        held::Held,
        hub::{HubSession, Limits},
    },
    wire::{Refusal, key_from_wire},
};
use berth_wire::v1;
use tokio::sync::Notify;

use super::{Fenced, Heard, Refused, Rejected, Standing, Tenants, lock, mark, refused_lines};

/// Why a session ends from the hub's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A newer session took over.
    Fenced,
    /// The tenant may have no session any more.
    Refused(Refused),
    /// The agent has been silent for too long.
    Protocol(ProtocolError),
}

/// What a session's writer does next.
#[derive(Debug)]
pub enum Next {
    /// Send this.
    Message(Box<v1::HubMessage>),
    /// Wait until woken, or until then.
    Wait(Instant),
    /// End the stream.
    End(Ending),
}

/// One tenant.
#[derive(Default)]
pub(super) struct State {
    pub(super) held: Held,
    pub(super) cluster_uid: Option<String>,
    agent_version: Option<String>,
    unsynced: Option<String>,
    /// The latest answer about each Service, told again to every new session.
    answers: BTreeMap<ServiceKey, Answer>,
    live: Option<Live>,
    /// The highest number of a session that was accepted.
    newest: u64,
}

struct Live {
    session: HubSession,
    ending: Option<Ending>,
    wake: Arc<Notify>,
}

impl State {
    pub(super) fn is_live(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.ending.is_none())
    }

    pub(super) fn standing(&self) -> Standing {
        Standing {
            connected: self.is_live(),
            agent_version: self.agent_version.clone(),
            cluster_uid: self.cluster_uid.clone(),
            services: self.held.services(),
            absent: self.held.absent(),
            unsynced: self.unsynced.clone(),
        }
    }

    pub(super) fn end(&mut self, ending: Ending) {
        if let Some(live) = &mut self.live {
            live.ending.get_or_insert(ending);
            live.wake.notify_one();
        }
    }

    pub(super) fn drain(&mut self, within: Duration, reason: &str) {
        if let Some(live) = &mut self.live {
            live.session.drain(within, reason);
            live.wake.notify_one();
        }
    }

    pub(super) fn answer(&mut self, key: &ServiceKey, answer: Answer) {
        if self.answers.get(key) == Some(&answer) {
            return;
        }
        if let Some(live) = &mut self.live {
            live.session.answer(&Key::Service(key.clone()), &answer);
            live.wake.notify_one();
        }
        self.answers.insert(key.clone(), answer);
    }

    pub(super) fn gone(&mut self, key: &ServiceKey) {
        // Also of one that was missed: its address may be somebody else's by the time a session would be told.
        self.answers.remove(key);
        let Some(generation) = self.held.gone(key) else {
            return;
        };
        if let Some(live) = &mut self.live {
            live.session
                .answer(&Key::Service(key.clone()), &Answer::deleted(generation));
            live.wake.notify_one();
        }
    }

    /// Answers what could not be read and is not planned for: nodes, and keys that are none. A Service's refusal is the
    /// planner's to tell, which knows the addresses that an earlier version still has.
    fn refuse(&mut self, refused: Vec<(Option<v1::Key>, Generation, Refusal)>) {
        let Some(live) = &mut self.live else { return };
        for (key, generation, refusal) in refused {
            let read = key.as_ref().map(key_from_wire);
            if !matches!(read, Some(Ok(Key::Service(_)))) {
                live.session.refuse(key, generation, &refusal);
            }
        }
        live.wake.notify_one();
    }
}

/// The place of one session. Dropped, it is free.
pub struct Seat {
    tenants: Arc<Tenants>,
    tenant: TenantName,
    state: Arc<Mutex<State>>,
    number: u64,
    /// Before Hello was accepted the session is not the tenant's: a stranger that fails does not disturb the live one.
    candidate: Mutex<Option<HubSession>>,
    wake: Arc<Notify>,
    deadline: Instant,
}

impl Seat {
    pub(super) fn new(
        tenants: Arc<Tenants>,
        tenant: TenantName,
        state: Arc<Mutex<State>>,
        number: u64,
        limits: Limits,
        now: Instant,
    ) -> Self {
        let session = HubSession::new(number, limits, now);
        Self {
            deadline: session.deadline(),
            tenants,
            tenant,
            state,
            number,
            candidate: Mutex::new(Some(session)),
            wake: Arc::default(),
        }
    }

    /// The session's number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Takes in a message of the agent.
    pub fn receive(&self, message: v1::AgentMessage, now: Instant) -> Result<Heard, Rejected> {
        let mut state = lock(&self.state);
        let state = &mut *state;
        if let Some(candidate) = lock(&self.candidate).take() {
            return self.greet(candidate, message, state, now);
        }
        let live = self.seated(&mut state.live)?;
        let taken = live.session.receive(message, &mut state.held, now)?;
        mark(
            &*self.tenants.marks,
            &self.tenant,
            &state.held,
            &taken.touched,
        );
        // What the tenant wants again, or no more, has no answer until it was planned.
        for key in &taken.touched.services {
            if state.held.is_deleting(key) {
                state.answers.remove(key);
            } else if let Some(answer) = state.answers.get(key)
                && state.held.generation(key) == Some(answer.generation)
            {
                // The same version once more: the agent may have let go of what it was answered when it first told it.
                live.session.answer(&Key::Service(key.clone()), answer);
            }
        }
        if let Some(source) = &taken.source {
            state.unsynced = source.clone().err();
            self.tenants.changed.notify_waiters();
        }
        if taken.touched.completed || !taken.touched.services.is_empty() {
            self.tenants.changed.notify_waiters();
        }
        let refused = refused_lines(&taken.refused);
        if taken.refused.is_empty() {
            self.wake.notify_one();
        } else {
            state.refuse(taken.refused);
        }
        Ok(Heard {
            greeting: None,
            source: taken.source,
            discarded: taken.discarded,
            refused,
        })
    }

    fn greet(
        &self,
        mut session: HubSession,
        message: v1::AgentMessage,
        state: &mut State,
        now: Instant,
    ) -> Result<Heard, Rejected> {
        let taken = session.receive(message, &mut state.held, now)?;
        let greeting = taken
            .greeting
            .ok_or(ProtocolError::OutOfTurn("a message before Hello"))?;
        self.tenants.check(&self.tenant)?;
        self.tenants.accept(&self.tenant, &greeting, state)?;
        // Also when the newer session has gone again: a Hello may come late.
        if state.newest > self.number {
            return Err(Fenced.into());
        }
        state.newest = self.number;
        let spread = self.tenants.reconnect_spread();
        let touched = session.accept(&greeting, spread, &mut state.held, now);
        for (key, answer) in &state.answers {
            session.answer(&Key::Service(key.clone()), answer);
        }
        state.end(Ending::Fenced);
        state.live = Some(Live {
            session,
            ending: None,
            wake: self.wake.clone(),
        });
        state.agent_version = Some(greeting.agent_version.clone());
        state.unsynced =
            (!greeting.synced).then(|| "the agent has not read its cluster yet".into());
        if !greeting.cluster_uid.is_empty() {
            state.cluster_uid = Some(greeting.cluster_uid.clone());
        }
        mark(&*self.tenants.marks, &self.tenant, &state.held, &touched);
        self.wake.notify_one();
        self.tenants.changed.notify_waiters();
        Ok(Heard {
            greeting: Some(greeting),
            ..Heard::default()
        })
    }

    /// What the session's writer does next.
    pub fn next(&self, now: Instant) -> Next {
        let mut state = lock(&self.state);
        if lock(&self.candidate).is_some() {
            return if now >= self.deadline {
                Next::End(Ending::Protocol(ProtocolError::Silent))
            } else {
                Next::Wait(self.deadline)
            };
        }
        let live = match self.seated(&mut state.live) {
            Ok(live) => live,
            Err(Fenced) => return Next::End(Ending::Fenced),
        };
        if let Some(ending) = live.ending.clone() {
            return Next::End(ending);
        }
        if let Err(error) = live.session.check(now) {
            return Next::End(Ending::Protocol(error));
        }
        match live.session.next_message(now) {
            Some(message) => Next::Message(Box::new(message)),
            None => Next::Wait(live.session.deadline()),
        }
    }

    /// Resolves when [`Seat::next`] may have something new to say.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    fn seated<'a>(&self, live: &'a mut Option<Live>) -> Result<&'a mut Live, Fenced> {
        live.as_mut()
            .filter(|live| live.session.number() == self.number)
            .ok_or(Fenced)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if self.seated(&mut state.live).is_ok() {
            state.live = None;
            drop(state);
            self.tenants.changed.notify_waiters();
        }
    }
}
