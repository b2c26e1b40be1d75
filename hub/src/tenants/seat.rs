//! One tenant's state, and the seat that its live session holds. A seat checks with every call that it is still the
//! newest: that is the fence.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use berth_common::{
    annotations::Allowed,
    identity::TenantName,
    model::{Answer, Generation, Key, Outcome, ServiceKey},
    session::{
        HEARTBEAT, ProtocolError,
        held::{Held, Wanted},
        hub::{HubSession, Limits, TurnNews},
    },
    wire::{Refusal, key_from_wire},
};
use berth_wire::v1;
use tokio::sync::Notify;

use super::{
    Admission, Contest, Credential, Fenced, Heard, Planned, Refused, Rejected, Shown, Standing,
    Tenants,
    heard::{mark, refused_lines},
    lock,
};
use crate::plan::brake;

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
    /// What of it plans are made with.
    pub(super) planned: Planned,
    /// What is absent and may go although the brake would hold it.
    released: BTreeSet<ServiceKey>,
    agent_version: Option<String>,
    /// The certificate that the latest session came with, and whether its agent renews it when it is asked to.
    last: Option<(Shown, bool)>,
    unsynced: Option<String>,
    /// The latest answer about each Service, told again to every new session.
    answers: BTreeMap<ServiceKey, Box<Answer>>,
    live: Option<Box<Live>>,
    /// The highest number of a session that was accepted.
    newest: u64,
    pub(super) contest: Contest,
    /// Why nothing of it counts any more: its `Tenant` object is gone, and another of that name begins anew.
    retired: Option<Refused>,
}

struct Live {
    session: HubSession,
    credential: Credential,
    /// The one that its agent was given meanwhile.
    renewed: Option<Shown>,
    /// For which version of what it would be given its agent was asked to renew.
    asked: Option<u64>,
    /// Which start of an agent it is of.
    instance: String,
    /// Empty while the agent does not know it.
    cluster_uid: String,
    /// The identity becomes this cluster's with this session. None where it is the cluster's already, or was taken from it.
    claim: Option<Claim>,
    ending: Option<Ending>,
    wake: Arc<Notify>,
}

/// Ends when the `Tenant` object is seen to say it, or to have said it and to say it no more.
enum Claim {
    /// To be written.
    Open,
    /// Written, with this version of the object.
    Recorded(u64),
}

impl State {
    pub(super) fn is_live(&self) -> bool {
        self.present().is_some()
    }

    /// What a Service is planned as.
    pub(super) fn wanted(&self, key: &ServiceKey) -> Wanted {
        self.planned.wanted(key, &self.held)
    }

    fn present(&self) -> Option<&Live> {
        self.live.as_deref().filter(|live| live.ending.is_none())
    }

    /// The certificates of the live session.
    pub(super) fn credentials(&self) -> impl Iterator<Item = &Credential> {
        let live = self.present().into_iter();
        live.flat_map(|live| {
            let renewed = live.renewed.as_ref().map(|shown| &shown.credential);
            [Some(&live.credential), renewed]
        })
        .flatten()
    }

    pub(super) fn renewed(&mut self, former: &Credential, new: Shown) {
        if let Some(live) = &mut self.live
            && live.credential == *former
        {
            live.renewed = Some(new);
        }
    }

    pub(super) fn reissue(&mut self, version: u64, within: Duration) {
        if let Some(live) = &mut self.live
            && live.asked != Some(version)
        {
            live.asked = Some(version);
            live.session.reissue(within);
            live.wake.notify_one();
        }
    }

    /// The newest certificate of the live session.
    pub(super) fn certificate(&self) -> Option<Shown> {
        let live = self.present()?;
        let own = || Shown {
            credential: live.credential.clone(),
            trusts: None,
        };
        Some(live.renewed.clone().unwrap_or_else(own))
    }

    /// The cluster of the live session, where it is known.
    pub(super) fn live_cluster(&self) -> Option<&str> {
        self.present()
            .map(|live| live.cluster_uid.as_str())
            .filter(|uid| !uid.is_empty())
    }

    /// The cluster that takes the identity with its live session.
    pub(super) fn claimed_by(&self) -> Option<&str> {
        self.present()
            .filter(|live| live.claim.is_some())
            .map(|live| live.cluster_uid.as_str())
    }

    pub(super) fn recorded(&mut self, cluster: &str, version: u64) {
        if let Some(live) = &mut self.live
            && live.cluster_uid == cluster
            && let Some(claim) = &mut live.claim
        {
            *claim = Claim::Recorded(version);
        }
    }

    /// What the `Tenant` object says of the binding, for the session that is live.
    pub(super) fn rebind(&mut self, name: &TenantName, admission: &Admission) {
        let Some(live) = &mut self.live else { return };
        match &admission.cluster_uid {
            Some(bound) => {
                live.claim = None;
                if !live.cluster_uid.is_empty() && live.cluster_uid != *bound {
                    let ending = Ending::Refused(Refused::OtherCluster {
                        tenant: name.clone(),
                        bound: bound.clone(),
                        other: live.cluster_uid.clone(),
                    });
                    self.end(ending);
                }
            }
            // It was written and is not there any more. An older version only does not know yet.
            None => {
                if matches!(live.claim, Some(Claim::Recorded(version)) if version <= admission.version)
                {
                    live.claim = None;
                }
            }
        }
    }

    /// How many are absent without having been released, and how many there are with them.
    pub(super) fn missed(&self) -> (usize, usize) {
        let absent = self.held.absent().saturating_sub(self.released.len());
        (absent, absent + self.held.services())
    }

    fn brakes(&self) -> bool {
        let (absent, total) = self.missed();
        brake(absent, total)
    }

    pub(super) fn holds(&self, key: &ServiceKey) -> bool {
        self.brakes() && !self.released.contains(key)
    }

    pub(super) fn all_held(&self) -> BTreeSet<ServiceKey> {
        if !self.brakes() {
            return BTreeSet::new();
        }
        let absent = self.held.absent_keys();
        absent
            .filter(|key| !self.released.contains(*key))
            .cloned()
            .collect()
    }

    /// Returns those that are absent still.
    pub(super) fn release(&mut self, keys: BTreeSet<ServiceKey>) -> BTreeSet<ServiceKey> {
        let absent: BTreeSet<ServiceKey> = self
            .held
            .absent_keys()
            .filter(|key| keys.contains(*key))
            .cloned()
            .collect();
        self.released.extend(absent.iter().cloned());
        absent
    }

    pub(super) fn standing(&self) -> Standing {
        Standing {
            connected: self.is_live(),
            agent_version: self.agent_version.clone(),
            claim: self
                .present()
                .filter(|live| matches!(live.claim, Some(Claim::Open)))
                .map(|live| live.cluster_uid.clone()),
            complete: self.held.is_complete(),
            services: self.held.services(),
            absent: self.held.absent(),
            held: if self.brakes() { self.missed().0 } else { 0 },
            unsynced: self.unsynced.clone(),
            certificate: self.certificate(),
            renews: self.present().is_some_and(|live| live.session.renews()),
            last: self.last.clone(),
        }
    }

    pub(super) fn end(&mut self, ending: Ending) {
        if let Some(live) = &mut self.live {
            live.ending.get_or_insert(ending);
            live.wake.notify_one();
        }
    }

    /// Its `Tenant` object is gone.
    pub(super) fn retire(&mut self, why: Refused) {
        self.retired = Some(why.clone());
        self.end(Ending::Refused(why));
    }

    pub(super) fn drain(&mut self, within: Duration, reason: &str) {
        if let Some(live) = &mut self.live {
            live.session.drain(within, reason);
            live.wake.notify_one();
        }
    }

    /// Tells the session which annotations may pass, where that is news.
    pub(super) fn allow(&mut self, allowed: &Allowed) {
        if let Some(live) = &mut self.live {
            live.session.allow(allowed);
            live.wake.notify_one();
        }
    }

    /// Tells a session how many come before it.
    pub(super) fn turn(&mut self, number: u64, ahead: u32) {
        if let Some(live) = &mut self.live
            && live.session.number() == number
        {
            live.session.turn(ahead);
            live.wake.notify_one();
        }
    }

    /// Returns whether it is a refusal that was not told before.
    pub(super) fn answer(&mut self, key: &ServiceKey, answer: Answer) -> bool {
        let said = self.answers.get(key);
        if said.is_some_and(|said| **said == answer) {
            return false;
        }
        let is_refused = matches!(answer.outcome, Outcome::Refused { .. });
        let news = is_refused && said.is_none_or(|said| said.outcome != answer.outcome);
        if let Some(live) = &mut self.live {
            live.session.answer(&Key::Service(key.clone()), &answer);
            live.wake.notify_one();
        }
        self.answers.insert(key.clone(), Box::new(answer));
        news
    }

    pub(super) fn gone(&mut self, key: &ServiceKey) {
        // Also of one that was missed: its address may be somebody else's by the time a session would be told.
        self.answers.remove(key);
        self.released.remove(key);
        self.planned.gone(key);
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
    credential: Credential,
    state: Arc<Mutex<State>>,
    number: u64,
    /// Before Hello was accepted the session is not the tenant's: a stranger that fails does not disturb the live one.
    candidate: Mutex<Option<Box<HubSession>>>,
    wake: Arc<Notify>,
    deadline: Instant,
}

impl Seat {
    pub(super) fn new(
        tenants: Arc<Tenants>,
        tenant: TenantName,
        credential: Credential,
        state: Arc<Mutex<State>>,
        number: u64,
        limits: Limits,
        now: Instant,
    ) -> Self {
        let session = HubSession::new(number, limits, now);
        Self {
            // Hello comes with the stream: who waits for it does so no longer than for a heartbeat.
            deadline: now + HEARTBEAT,
            tenants,
            tenant,
            credential,
            state,
            number,
            candidate: Mutex::new(Some(Box::new(session))),
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
        if let Some(candidate) = lock(&self.candidate).take() {
            let (heard, older) = self.greet(*candidate, message, &mut state, now)?;
            drop(state);
            if let Some(older) = older {
                self.tenants.leave_turn(older);
            }
            return Ok(heard);
        }
        let (heard, turn) = self.take_in(message, &mut state, now)?;
        drop(state);
        if let Some(news) = turn {
            self.tenants.turn(&self.tenant, self.number, news, now);
        }
        Ok(heard)
    }

    fn take_in(
        &self,
        message: v1::AgentMessage,
        state: &mut State,
        now: Instant,
    ) -> Result<(Heard, Option<TurnNews>), Rejected> {
        let braked = state.brakes();
        let live = self.seated(&mut state.live)?;
        let taken = live.session.receive(message, &mut state.held, now)?;
        mark(
            &*self.tenants.marks,
            &self.tenant,
            &mut state.held,
            &mut state.planned,
            &taken.touched,
            now,
        );
        self.tenants.schedule(&self.tenant, &mut state.planned, now);
        // What the tenant wants again, or no more, has no answer until it was planned.
        for key in &taken.touched.services {
            state.released.remove(key);
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
        let held = (!braked && state.brakes()).then(|| state.missed());
        let heard = Heard {
            greeting: None,
            held,
            source: taken.source,
            discarded: taken.discarded,
            refused,
            restless: state.planned.take_news(),
            contested: false,
        };
        Ok((heard, taken.turn))
    }

    /// Takes in Hello. The number of the session that this one took over from comes back as well.
    fn greet(
        &self,
        mut session: HubSession,
        message: v1::AgentMessage,
        state: &mut State,
        now: Instant,
    ) -> Result<(Heard, Option<u64>), Rejected> {
        let taken = session.receive(message, &mut state.held, now)?;
        let greeting = taken
            .greeting
            .ok_or(ProtocolError::OutOfTurn("a message before Hello"))?;
        // What a session told there would be told to nobody.
        if let Some(why) = state.retired.clone() {
            return Err(why.into());
        }
        self.tenants.check(&self.tenant, &self.credential)?;
        let claims = self.tenants.accept(&self.tenant, &greeting, state)?;
        // Also when the newer session has gone again: a Hello may come late.
        if state.newest > self.number {
            return Err(Fenced.into());
        }
        state.newest = self.number;
        let spread = self.tenants.reconnect_spread();
        session.allow(&self.tenants.allowed(&self.tenant));
        let touched = session.accept(&greeting, spread, &mut state.held, now);
        for (key, answer) in &state.answers {
            session.answer(&Key::Service(key.clone()), answer);
        }
        let contested = state
            .present()
            .is_some_and(|live| live.instance != greeting.instance_id)
            && state.contest.taken_over(now);
        state.end(Ending::Fenced);
        let older = state.live.as_ref().map(|live| live.session.number());
        let shown = Shown {
            credential: self.credential.clone(),
            trusts: None,
        };
        state.last = Some((shown, session.renews()));
        state.live = Some(Box::new(Live {
            session,
            credential: self.credential.clone(),
            renewed: None,
            asked: None,
            instance: greeting.instance_id.clone(),
            cluster_uid: greeting.cluster_uid.clone(),
            claim: claims.then_some(Claim::Open),
            ending: None,
            wake: self.wake.clone(),
        }));
        state.agent_version = Some(greeting.agent_version.clone());
        state.planned.limit(self.tenants.repetitions(&self.tenant));
        state.unsynced =
            (!greeting.synced).then(|| "the agent has not read its cluster yet".into());
        mark(
            &*self.tenants.marks,
            &self.tenant,
            &mut state.held,
            &mut state.planned,
            &touched,
            now,
        );
        self.tenants.schedule(&self.tenant, &mut state.planned, now);
        self.wake.notify_one();
        self.tenants.changed.notify_waiters();
        let heard = Heard {
            greeting: Some(greeting),
            contested,
            ..Heard::default()
        };
        Ok((heard, older))
    }

    /// What the session's writer does next.
    pub fn next(&self, now: Instant) -> Next {
        match self.say(now) {
            // Who waits for a turn looks after those who do not use theirs.
            (Next::Wait(until), true) => {
                let due = self.tenants.pass_turns(now);
                Next::Wait(due.map_or(until, |due| due.min(until)))
            }
            (next, _) => next,
        }
    }

    /// Like [`Seat::next`]; and whether the session waits for its turn.
    fn say(&self, now: Instant) -> (Next, bool) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        if lock(&self.candidate).is_some() {
            let next = if now >= self.deadline {
                Next::End(Ending::Protocol(ProtocolError::Silent))
            } else {
                Next::Wait(self.deadline)
            };
            return (next, false);
        }
        let live = match self.seated(&mut state.live) {
            Ok(live) => live,
            Err(Fenced) => return (Next::End(Ending::Fenced), false),
        };
        if let Some(ending) = live.ending.clone() {
            return (Next::End(ending), false);
        }
        if let Err(error) = live.session.check(now) {
            return (Next::End(Ending::Protocol(error)), false);
        }
        let next = match live.session.next_message(now) {
            Some(message) => Next::Message(Box::new(message)),
            None => Next::Wait(live.session.deadline()),
        };
        (next, live.session.waits_for_turn())
    }

    /// Resolves when [`Seat::next`] may have something new to say.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    fn seated<'a>(&self, live: &'a mut Option<Box<Live>>) -> Result<&'a mut Live, Fenced> {
        live.as_deref_mut()
            .filter(|live| live.session.number() == self.number)
            .ok_or(Fenced)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if self.seated(&mut state.live).is_ok() {
            state.live = None;
            self.tenants.changed.notify_waiters();
        }
        drop(state);
        // Also of one that was fenced: it may have asked at that very moment.
        self.tenants.leave_turn(self.number);
    }
}
