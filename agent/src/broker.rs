//! Where the two sides meet: what the cluster has ([`Index`]) goes to the session, what the hub answers becomes work on
//! Services. All state of the agent is in here behind one lock that is never held across an await; whoever has news calls
//! a method, whoever has to act is woken. It decides nothing by itself: the index, the session and the status plan do.

mod source;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use berth_common::{
    model::{Answer, Generation, Key, Outcome, ServiceKey},
    session::{
        ProtocolError,
        agent::{AgentSession, Event, allowed},
    },
};
use berth_wire::v1;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

pub use self::source::Cache;
use self::source::Sources;
use crate::{
    claims::Standing,
    events::Events,
    index::{Change, Effects, Index},
    metrics::AgentMetrics,
    project::SeenService,
    queue::WorkQueue,
    status::{Notice, Plan, Step, View, is_programmed, plan},
};

/// The agent's state.
#[derive(Debug)]
pub struct Broker {
    state: Mutex<State>,
    events: Arc<Events>,
    metrics: AgentMetrics,
    outbound: Notify,
    redial: Notify,
    work: Notify,
    slices_wanted: watch::Sender<bool>,
    source_synced: watch::Sender<bool>,
    uid_wanted: watch::Sender<bool>,
}

struct State {
    index: Index,
    session: AgentSession,
    sources: Sources,
    memos: BTreeMap<ServiceKey, Memo>,
    queue: WorkQueue<ServiceKey>,
    /// The hub does not know this tenant: nothing of it is left there, and nobody will confirm that.
    tenant_unknown: bool,
}

/// What is remembered of one Service besides what the cluster knows.
#[derive(Debug, Default)]
struct Memo {
    answer: Option<Answer>,
    released: bool,
    /// The Service was changed while it was served, and the hub has not answered to that yet.
    updating: bool,
    /// It is being deleted, and was told that the hub cannot be asked.
    stuck: bool,
    /// Since when it has waited for its address; none if it had one when it was first seen.
    waiting_since: Option<Instant>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("memos", &self.memos)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

impl Broker {
    /// A broker between an empty index and a session that has told nothing.
    pub fn new(
        index: Index,
        session: AgentSession,
        events: Arc<Events>,
        metrics: AgentMetrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                index,
                session,
                sources: Sources::default(),
                memos: BTreeMap::new(),
                queue: WorkQueue::new(),
                tenant_unknown: false,
            }),
            events,
            metrics,
            outbound: Notify::new(),
            redial: Notify::new(),
            work: Notify::new(),
            slices_wanted: watch::Sender::new(false),
            source_synced: watch::Sender::new(false),
            uid_wanted: watch::Sender::new(true),
        })
    }

    // From the cluster.

    /// One or more objects of the cluster changed.
    pub fn update(&self, now: Instant, change: impl FnOnce(&mut Index) -> Effects) {
        let mut state = self.lock();
        let effects = change(&mut state.index);
        self.absorb(&mut state, effects, now);
    }

    /// All objects of a kind were read, and changes to them arrive from here on.
    pub fn cache_synced(
        &self,
        cache: Cache,
        now: Instant,
        change: impl FnOnce(&mut Index) -> Effects,
    ) {
        let mut state = self.lock();
        let effects = change(&mut state.index);
        self.absorb(&mut state, effects, now);
        if state.sources.synced(cache) {
            info!("reading {cache}");
            // The API server is there again: whatever it did not take before is tried at once.
            state.queue.expedite();
            self.wake(&state);
        }
        self.refresh_source(&mut state);
    }

    /// Objects of a kind cannot be read. True: that is new.
    pub fn cache_lost(&self, cache: Cache, reason: &str) -> bool {
        let mut state = self.lock();
        let is_new = state.sources.lost(cache, reason);
        self.refresh_source(&mut state);
        is_new
    }

    /// Nobody needs EndpointSlices any more.
    pub fn slices_dropped(&self) {
        let mut state = self.lock();
        state.index.clear_slices();
        state.sources.dropped(Cache::EndpointSlices);
    }

    /// The cluster's UID was read.
    pub fn cluster_uid(&self, uid: String) {
        let mut state = self.lock();
        state.sources.cluster_uid(uid);
        self.refresh_source(&mut state);
    }

    /// Whether EndpointSlices have to be watched.
    pub fn slices_wanted(&self) -> watch::Receiver<bool> {
        self.slices_wanted.subscribe()
    }

    /// Whether the cluster's UID has to be read (again).
    pub fn uid_wanted(&self) -> watch::Receiver<bool> {
        self.uid_wanted.subscribe()
    }

    /// Whether the cluster has been read and is followed.
    pub fn source_synced(&self) -> watch::Receiver<bool> {
        self.source_synced.subscribe()
    }

    // To and from the hub.

    /// A stream is up.
    pub fn connected(&self, now: Instant) {
        self.lock().session.connected(now);
    }

    /// The stream is gone.
    pub fn disconnected(&self) {
        self.lock().session.disconnected();
        self.metrics.session_up.set(0);
    }

    /// Takes in what the hub said, and gives back what concerns the stream itself.
    pub fn received(
        &self,
        message: v1::HubMessage,
        now: Instant,
    ) -> Result<Vec<Event>, ProtocolError> {
        let mut state = self.lock();
        if let Some(allowed) = allowed(&message) {
            let effects = state.index.allow(allowed);
            self.absorb(&mut state, effects, now);
        }
        let mut news = Vec::new();
        for event in state.session.received(message, now)? {
            match event {
                Event::Answer(Key::Service(key), answer) => {
                    if let Some(notice) = state.updated(&key, &answer) {
                        let uid = state
                            .index
                            .service(&key)
                            .map(|entry| entry.seen.uid.clone());
                        self.events.push(&key, &uid.unwrap_or_default(), notice);
                    }
                    state.answered(key, answer);
                }
                Event::Answer(Key::Node(name), answer) => match answer.outcome {
                    Outcome::Refused { why, .. } => {
                        warn!(node = %name, reason = why.reason, "the hub refuses this node: {}", why.message);
                    }
                    outcome => debug!(node = %name, ?outcome, "the hub answered about a node"),
                },
                Event::Welcomed { .. } => {
                    state.tenant_unknown = false;
                    self.metrics.session_up.set(1);
                    news.push(event);
                }
                Event::Synced
                | Event::Waiting { .. }
                | Event::Reissue { .. }
                | Event::Drain { .. }
                | Event::Ignored(_) => news.push(event),
            }
        }
        self.wake(&state);
        // Whatever was received may have made something to say: a snapshot, a delta.
        self.outbound.notify_one();
        Ok(news)
    }

    /// The hub does not know this tenant. Services that wait for its word to go may go (point 7).
    pub fn tenant_unknown(&self) {
        let mut state = self.lock();
        if !std::mem::replace(&mut state.tenant_unknown, true) {
            state.release_leaving();
        }
        self.wake(&state);
    }

    /// The hub cannot be asked. Whoever deletes a Service meanwhile waits for it, and is told once why.
    pub fn unheard(&self, why: &str) {
        let mut state = self.lock();
        for (key, uid) in state.newly_stuck() {
            let note = format!(
                "Error deleting load balancer (will retry): {why}. The Service goes as soon as the hub has confirmed"
            );
            self.events.push(
                &key,
                &uid,
                Notice::warning("DeleteLoadBalancerFailed", note),
            );
        }
    }

    /// The next message for the hub, or until when there is none.
    pub fn next_message(
        &self,
        now: Instant,
    ) -> Result<Result<v1::AgentMessage, Option<Instant>>, ProtocolError> {
        let mut state = self.lock();
        state.session.check(now)?;
        let message = state.session.next_message(now);
        Ok(message.ok_or_else(|| state.session.deadline()))
    }

    /// Returns when there may be something to say.
    pub async fn outbound(&self) {
        self.outbound.notified().await;
    }

    /// Returns when the session was opened for another cluster than this one turned out to be.
    pub async fn redial(&self) {
        self.redial.notified().await;
    }

    // To Services.

    /// A Service that may need a write, now in the caller's hands, or until when there is none.
    pub fn take(&self, now: Instant) -> Result<ServiceKey, Option<Instant>> {
        let mut state = self.lock();
        state.queue.take(now).ok_or_else(|| state.queue.next_due())
    }

    /// Returns when there may be something to take.
    pub async fn work(&self) {
        self.work.notified().await;
    }

    /// The next write to a Service.
    pub fn plan(&self, key: &ServiceKey, now: Timestamp) -> Option<Plan> {
        let state = self.lock();
        let entry = state.index.service(key)?;
        let memo = state.memos.get(key);
        let current = state.session.generation(&Key::Service(key.clone()));
        plan(
            &View {
                claims: state.index.claims(),
                entry,
                problem: state.index.problem(key),
                note: state.index.note(key),
                answer: memo
                    .and_then(|memo| memo.answer.as_ref())
                    .filter(|answer| Some(answer.generation) == current),
                released: memo.is_some_and(|memo| memo.released),
            },
            now,
        )
    }

    /// A write was done, and this is the object after it.
    pub fn wrote(&self, key: &ServiceKey, plan: Plan, after: Option<SeenService>, now: Instant) {
        let mut state = self.lock();
        for notice in plan.notices {
            self.events.push(key, &plan.uid, notice);
        }
        let is_same = |entry: &crate::index::Entry| entry.seen.uid == plan.uid;
        if let Some(after) = after
            && state.index.service(key).is_some_and(is_same)
            && after.uid == plan.uid
        {
            let effects = state.index.apply_service(key.clone(), after, true);
            self.absorb(&mut state, effects, now);
        }
        if let Step::Status {
            ingress,
            conditions,
        } = plan.step
            && !ingress.is_empty()
            && conditions.iter().any(|condition| condition.status)
            && let Some(since) = state
                .memos
                .get_mut(key)
                .and_then(|memo| memo.waiting_since.take())
        {
            let elapsed = now.saturating_duration_since(since);
            self.metrics.time_to_ip(elapsed.as_secs_f64());
            info!(service = %key, ms = elapsed.as_millis(), "the Service has its address");
        }
    }

    /// The caller has done what was to do.
    pub fn done(&self, key: &ServiceKey) {
        let mut state = self.lock();
        state.queue.done(key);
        self.wake(&state);
    }

    /// The caller could not do it.
    pub fn failed(&self, key: &ServiceKey, now: Instant, jitter: f64) {
        let mut state = self.lock();
        state.queue.failed(key, now, jitter);
        self.wake(&state);
    }

    /// How many Services of ours are in which state.
    pub fn count_services(&self) -> BTreeMap<&'static str, i64> {
        let state = self.lock();
        let mut counts = BTreeMap::from([
            ("programmed", 0),
            ("pending", 0),
            ("refused", 0),
            ("leaving", 0),
        ]);
        for (key, entry) in state.index.services() {
            let outcome = state.memos.get(key).and_then(|memo| memo.answer.as_ref());
            let name = match (entry.standing, outcome.map(|answer| &answer.outcome)) {
                (Standing::Leaving | Standing::Foreign, _) => "leaving",
                (Standing::Wanted, Some(Outcome::Refused { .. })) => "refused",
                (Standing::Wanted, _) if is_programmed(entry) => "programmed",
                (Standing::Wanted, _) => "pending",
            };
            *counts.entry(name).or_insert(0) += 1;
        }
        counts
    }

    /// The version of a Service that the hub is asked for.
    pub fn generation(&self, key: &ServiceKey) -> Option<Generation> {
        self.lock().session.generation(&Key::Service(key.clone()))
    }

    fn absorb(&self, state: &mut State, effects: Effects, now: Instant) {
        for key in &effects.gone {
            state.memos.remove(key);
        }
        let mut told = false;
        for change in effects.changes {
            told = true;
            let by_its_owner = matches!(&change, Change::Upsert(Key::Service(key), _) if effects.touched.contains(key));
            state.tell(change, by_its_owner);
        }
        for key in &effects.touched {
            state.begin_waiting(key, now);
            state.queue.push(key.clone());
        }
        for key in &effects.departing {
            if let Some(entry) = state.index.service(key) {
                let notice = Notice::normal("DeletingLoadBalancer", "Deleting load balancer");
                self.events.push(key, &entry.seen.uid, notice);
            }
        }
        let wanted = state.index.wants_slices();
        self.slices_wanted
            .send_if_modified(|now| std::mem::replace(now, wanted) != wanted);
        if told {
            self.outbound.notify_one();
        }
        self.wake(state);
    }

    fn refresh_source(&self, state: &mut State) {
        let source = state.sources.source(state.index.slices_synced());
        let synced = state.sources.is_synced();
        let uid_wanted = state.sources.wants_uid();
        if state.session.set_source(source) {
            self.redial.notify_one();
        }
        self.metrics.source_synced.set(i64::from(synced));
        self.source_synced
            .send_if_modified(|now| std::mem::replace(now, synced) != synced);
        self.uid_wanted
            .send_if_modified(|now| std::mem::replace(now, uid_wanted) != uid_wanted);
        self.outbound.notify_one();
    }

    fn wake(&self, state: &State) {
        if !state.queue.is_empty() {
            self.work.notify_one();
        }
    }

    /// Nothing in here panics while it holds the lock; if something did, the state is as good as before the step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tell(&mut self, change: Change, by_its_owner: bool) {
        match change {
            Change::Upsert(key, body) => {
                let is_new = self.session.upsert(key.clone(), body);
                if let Key::Service(key) = key {
                    let memo = self.memos.entry(key).or_default();
                    memo.released = false;
                    let served = memo.answer.as_ref().is_some_and(is_served);
                    memo.updating |= is_new && by_its_owner && served;
                }
            }
            Change::Remove(key) => {
                if let Key::Service(key) = &key
                    && self.index.service(key).is_some()
                {
                    let memo = self.memos.entry(key.clone()).or_default();
                    memo.released = self.tenant_unknown;
                    memo.answer = None;
                    memo.stuck = false;
                    memo.waiting_since = None;
                }
                self.session.remove(key);
            }
            Change::Forget(key) => self.session.forget(&key),
        }
    }

    fn begin_waiting(&mut self, key: &ServiceKey, now: Instant) {
        let Some(entry) = self.index.service(key) else {
            return;
        };
        let is_new = self.memos.get(key).is_none_or(|memo| {
            memo.waiting_since.is_none() && memo.answer.is_none() && !memo.released
        });
        if entry.standing == Standing::Wanted && is_new && entry.seen.status.ingress.is_empty() {
            self.memos.entry(key.clone()).or_default().waiting_since = Some(now);
        }
    }

    fn answered(&mut self, key: ServiceKey, answer: Answer) {
        let Some(entry) = self.index.service(&key) else {
            return;
        };
        match (entry.standing, &answer.outcome) {
            (Standing::Leaving, Outcome::Deleted) => {
                self.memos.entry(key.clone()).or_default().released = true;
            }
            // The end of something that is wanted again: the hub will answer to that too.
            (_, Outcome::Deleted) | (Standing::Leaving | Standing::Foreign, _) => return,
            (Standing::Wanted, _) => {
                self.memos.entry(key.clone()).or_default().answer = Some(answer);
            }
        }
        self.queue.push(key);
    }

    /// The news that a change of a served Service was taken in. Where the address changed too, the status tells.
    fn updated(&mut self, key: &ServiceKey, answer: &Answer) -> Option<Notice> {
        let status = &self.index.service(key)?.seen.status;
        let memo = self.memos.get_mut(key)?;
        if !is_served(answer) || !std::mem::take(&mut memo.updating) {
            return None;
        }
        let has: Vec<String> = answer.ingress.iter().map(ToString::to_string).collect();
        let had: Vec<&str> = status
            .ingress
            .iter()
            .filter_map(|i| i.ip.as_deref().or(i.hostname.as_deref()))
            .collect();
        (has == had).then(|| {
            let note = format!("Updated load balancer {}", has.join(", "));
            Notice::normal("UpdatedLoadBalancer", note)
        })
    }

    /// Those that wait for the hub's word to go, and the UID of each; each time only those that are new among them.
    fn newly_stuck(&mut self) -> Vec<(ServiceKey, String)> {
        let mut stuck = self.leaving();
        stuck.retain(|(key, _)| {
            let memo = self.memos.entry(key.clone()).or_default();
            !memo.released && !std::mem::replace(&mut memo.stuck, true)
        });
        stuck
    }

    fn leaving(&self) -> Vec<(ServiceKey, String)> {
        self.index
            .services()
            .filter(|(_, entry)| entry.standing == Standing::Leaving)
            .map(|(key, entry)| (key.clone(), entry.seen.uid.clone()))
            .collect()
    }

    fn release_leaving(&mut self) {
        for (key, _) in self.leaving() {
            self.memos.entry(key.clone()).or_default().released = true;
            self.queue.push(key);
        }
    }
}

fn is_served(answer: &Answer) -> bool {
    answer.outcome == Outcome::Programmed
}
