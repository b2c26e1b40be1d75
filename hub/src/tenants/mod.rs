//! Every tenant that was heard of: what it wants, and its one live session. The newest session wins, by number; whatever an
//! older one still tries comes back as [`Fenced`] and changes nothing. Sessions put states in, the executor takes wishes
//! out and puts answers in, and neither waits for the other: every call here holds one tenant's lock for microseconds.

mod admission;
mod contest;
mod credential;
mod heard;
mod planned;
mod seat;
#[cfg(test)]
mod tests;
mod turns;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use berth_common::{
    annotations::Allowed,
    identity::{KeyId, TenantName},
    model::{Answer, Service, ServiceKey},
    session::{
        greeting::Greeting,
        held::{Nodes, Wanted},
        hub::{Limits, TurnNews},
    },
};

use admission::may_be;
pub use admission::{Admission, Refused};
use contest::Contest;
pub use contest::WINDOW as CONTEST_ENDS_AFTER;
pub use credential::{Credential, Revocations, Revoked, Shown};
use heard::mark_all;
pub use heard::{Heard, Rejected};
pub use planned::Repetitions;
use planned::{Later, Planned};
use seat::State;
pub use seat::{Ending, Next, Seat};
pub use turns::TurnGauges;
use turns::{Call, Turns};

/// How many tenants send a snapshot at the same time, unless it is set otherwise.
pub const SNAPSHOTS: usize = 64;

/// A newer session of the tenant took over, or the tenant may have none any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a newer session took over")]
pub struct Fenced;

/// What has to be planned again, told to whoever plans.
pub trait Marks: Send + Sync {
    /// One Service of a tenant.
    fn service(&self, tenant: &TenantName, key: &ServiceKey);
    /// Everything that is observed of a tenant in the management cluster.
    fn observed(&self, tenant: &TenantName);
    /// What of that is more than an address that is kept. Whatever of it a tenant does not want is missed as soon as its state
    /// is whole, all at once: found one by one, the first would be too few for the brake.
    fn keys(&self, _tenant: &TenantName) -> Vec<ServiceKey> {
        Vec::new()
    }
}

/// How a tenant stands, for its status and for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether a session is live.
    pub connected: bool,
    /// The agent's release, of the latest session.
    pub agent_version: Option<String>,
    /// The cluster of the live session, where it takes the identity and the `Tenant` object does not say so yet.
    pub claim: Option<String>,
    /// Whether the tenant has told its whole state to this process. Before, nothing is known to be absent.
    pub complete: bool,
    /// Services that the tenant wants.
    pub services: usize,
    /// Services that were missed without being deleted.
    pub absent: usize,
    /// How many of the absent the brake holds now.
    pub held: usize,
    /// Why the agent cannot read its cluster, if so.
    pub unsynced: Option<String>,
    /// The certificate of the live session.
    pub certificate: Option<Shown>,
    /// Whether the agent of the live session renews its certificate when it is asked to.
    pub renews: bool,
    /// The same two of the latest session, which may have ended before anybody looked.
    pub last: Option<(Shown, bool)>,
}

/// All tenants.
pub struct Tenants {
    tenants: RwLock<BTreeMap<TenantName, Arc<Mutex<State>>>>,
    admissions: RwLock<BTreeMap<TenantName, Admission>>,
    next_session: AtomicU64,
    marks: Arc<dyn Marks>,
    limits: Limits,
    /// Locked by itself, or under one tenant's lock; no tenant is locked under it.
    turns: Mutex<Turns<TenantName>>,
    turn_gauges: TurnGauges,
    /// Locked by itself, or under one tenant's lock.
    later: Mutex<Later>,
    held_back: tokio::sync::Notify,
    /// Authorities that have signed certificates, and are trusted no more since this process began.
    former: RwLock<BTreeSet<KeyId>>,
    changed: tokio::sync::Notify,
    leaving: AtomicBool,
}

impl Tenants {
    /// None yet. `first_session` is higher than any number given out before, also by an earlier process.
    pub fn new(first_session: u64, limits: Limits, marks: Arc<dyn Marks>) -> Self {
        let turn_gauges = TurnGauges::default();
        Self {
            turns: Mutex::new(Turns::new(SNAPSHOTS, turn_gauges.clone())),
            turn_gauges,
            later: Mutex::default(),
            held_back: tokio::sync::Notify::new(),
            tenants: RwLock::default(),
            admissions: RwLock::default(),
            next_session: AtomicU64::new(first_session),
            marks,
            limits,
            former: RwLock::default(),
            changed: tokio::sync::Notify::new(),
            leaving: AtomicBool::new(false),
        }
    }

    /// Lets so many tenants send a snapshot at the same time, and not [`SNAPSHOTS`].
    #[must_use]
    pub fn with_snapshots(mut self, most: usize) -> Self {
        self.turns = Mutex::new(Turns::new(most, self.turn_gauges.clone()));
        self
    }

    /// How many send a snapshot, and how many wait for their turn.
    pub fn turn_gauges(&self) -> &TurnGauges {
        &self.turn_gauges
    }

    /// What the `Tenant` objects say, all of them. A tenant that lost its admission loses its session, and so does a
    /// cluster that the identity was taken from in favour of another. What a tenant wanted is forgotten with its object: one
    /// of the same name is another.
    pub fn admit(&self, mut admissions: BTreeMap<TenantName, Admission>) {
        let mut others = BTreeSet::new();
        {
            let mut known = write(&self.admissions);
            for (name, admission) in &mut admissions {
                if admission.take(known.get(name)) {
                    others.insert(name.clone());
                }
            }
            known.clone_from(&admissions);
        }
        write(&self.tenants).retain(|name, state| {
            let why = match admissions.contains_key(name) {
                true if !others.contains(name) => return true,
                true => Refused::Deleting(name.clone()),
                false => Refused::Unknown(name.clone()),
            };
            lock(state).retire(why);
            false
        });
        for (name, state) in read(&self.tenants).iter() {
            apply(name, admissions.get(name), &mut lock(state));
        }
        self.changed.notify_waiters();
    }

    /// What the `Tenant` object of this name says now; `None`: there is none any more.
    pub fn admit_one(&self, name: &TenantName, admission: Option<Admission>) {
        let (admission, over) = {
            let mut known = write(&self.admissions);
            match admission {
                Some(mut admission) => {
                    let other = admission.take(known.get(name));
                    known.insert(name.clone(), admission.clone());
                    let deleted = || Refused::Deleting(name.clone());
                    (Some(admission), other.then(deleted))
                }
                None => {
                    known.remove(name);
                    (None, Some(Refused::Unknown(name.clone())))
                }
            }
        };
        match over {
            Some(why) => {
                if let Some(state) = write(&self.tenants).remove(name) {
                    lock(&state).retire(why);
                }
            }
            None => {
                self.with(name, |state| apply(name, admission.as_ref(), state));
            }
        }
        self.changed.notify_waiters();
    }

    /// The `Tenant` object says since this version of it that the identity is bound to the cluster that claimed it.
    pub fn recorded(&self, tenant: &TenantName, cluster: &str, version: u64) {
        self.with(tenant, |state| state.recorded(cluster, version));
    }

    /// Takes no session any more: agents that were told to leave would come back before the last has gone.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether the `Tenant` object of this UID is the one by which a tenant of this name is admitted.
    pub fn is_admitted(&self, tenant: &TenantName, uid: &str) -> bool {
        let admissions = read(&self.admissions);
        admissions.get(tenant).is_some_and(|it| it.uid == uid)
    }

    /// Whether a tenant may have a session with that certificate at all.
    pub fn check(&self, tenant: &TenantName, credential: &Credential) -> Result<(), Refused> {
        if self.leaving.load(Ordering::Relaxed) {
            return Err(Refused::Leaving);
        }
        may_be(tenant, read(&self.admissions).get(tenant), [credential]).map(drop)
    }

    /// A certificate was issued to whoever holds `former`, over its connection, with these to trust: a session on that lives by both.
    pub fn renewed(
        &self,
        tenant: &TenantName,
        former: &Credential,
        new: Credential,
        trusts: Vec<KeyId>,
    ) {
        let new = Shown {
            credential: new,
            trusts: Some(trusts),
        };
        self.with(tenant, |state| state.renewed(former, new));
        self.changed.notify_waiters();
    }

    /// These authorities are trusted no more. TLS lets in nobody who comes with a certificate of theirs; who is in already, and was given no
    /// other since, goes.
    pub fn distrust(&self, authorities: impl IntoIterator<Item = KeyId>) {
        write(&self.former).extend(authorities);
        for (name, state) in read(&self.tenants).iter() {
            let mut state = lock(state);
            let newest = state.certificate();
            if let Some(shown) = newest.filter(|it| self.is_former(it.credential.signed_by)) {
                state.end(Ending::Refused(former(name, &shown.credential)));
            }
        }
    }

    /// Whether that authority was trusted once, and is no more.
    pub fn is_former(&self, authority: Option<KeyId>) -> bool {
        authority.is_some_and(|key| read(&self.former).contains(&key))
    }

    /// Asks a tenant's agent for the renewal of its certificate, once in a session for each version of what it would be given. A renewal costs
    /// a signature and a write of a status, and a fleet spreads over the time that this takes.
    pub fn reissue(&self, tenant: &TenantName, version: u64) {
        let fleet = u32::try_from(read(&self.admissions).len()).unwrap_or(u32::MAX);
        let within = Duration::from_millis(20).saturating_mul(fleet);
        let within = within.clamp(Duration::from_secs(1), Duration::from_secs(600));
        self.with(tenant, |state| state.reissue(version, within));
    }

    /// A stream of a tenant is up. It has a number, and nothing else until its Hello was accepted.
    pub fn open(
        self: &Arc<Self>,
        tenant: &TenantName,
        credential: Credential,
        now: Instant,
    ) -> Result<Seat, Refused> {
        self.check(tenant, &credential)?;
        if self.is_former(credential.signed_by) {
            return Err(former(tenant, &credential));
        }
        let number = self.next_session.fetch_add(1, Ordering::Relaxed);
        Ok(Seat::new(
            self.clone(),
            tenant.clone(),
            credential,
            self.state(tenant),
            number,
            self.limits,
            now,
        ))
    }

    /// From when on a tenant's certificates have to be valid, as far as anything was revoked.
    pub fn not_earlier(&self, tenant: &TenantName) -> Option<SystemTime> {
        let admissions = read(&self.admissions);
        admissions.get(tenant)?.revoked.not_earlier()
    }

    /// What a tenant wants of one Service, and the nodes that serve it.
    pub fn wanted(&self, tenant: &TenantName, key: &ServiceKey) -> (Wanted, Nodes) {
        self.with(tenant, |state| (state.wanted(key), state.planned.nodes()))
            .unwrap_or((Wanted::Unknown, Nodes::default()))
    }

    /// All that a tenant wants is to be planned again.
    pub fn replan(&self, tenant: &TenantName) {
        self.with(tenant, |state| mark_all(&*self.marks, tenant, &state.held));
    }

    /// A load balancer was found that the tenant does not want and did not delete. Returns since when it is missed; `None`:
    /// it is wanted again.
    pub fn miss(&self, tenant: &TenantName, key: &ServiceKey, now: Instant) -> Option<Instant> {
        let (since, news) = self.with(tenant, |state| {
            let before = state.held.absent();
            let since = state.held.miss(key, now);
            (since, state.held.absent() != before)
        })?;
        if news {
            self.changed.notify_waiters();
        }
        since
    }

    /// Of a tenant's load balancers, how many are missed without having been deleted or released, and how many there are
    /// with them.
    pub fn missed(&self, tenant: &TenantName) -> (usize, usize) {
        self.with(tenant, |state| state.missed())
            .unwrap_or_default()
    }

    /// Whether the brake holds the deletion of a load balancer that is absent.
    pub fn holds(&self, tenant: &TenantName, key: &ServiceKey) -> bool {
        self.with(tenant, |state| state.holds(key))
            .unwrap_or_default()
    }

    /// What the brake holds of a tenant now: nothing while it does not hold.
    pub fn held(&self, tenant: &TenantName) -> BTreeSet<ServiceKey> {
        self.with(tenant, |state| state.all_held())
            .unwrap_or_default()
    }

    /// An operator lets these go. It is for this absence only: what comes back, or is missed later, is held again.
    pub fn release(&self, tenant: &TenantName, keys: BTreeSet<ServiceKey>) -> usize {
        let released = self
            .with(tenant, |state| state.release(keys))
            .unwrap_or_default();
        for key in &released {
            self.marks.service(tenant, key);
        }
        self.changed.notify_waiters();
        released.len()
    }

    /// What became of a Service. It reaches the live session, if any, and every later one until it is overtaken.
    /// Returns whether it is a refusal that the tenant was not told of before.
    pub fn answer(&self, tenant: &TenantName, key: &ServiceKey, answer: Answer) -> bool {
        self.with(tenant, |state| state.answer(key, answer))
            .unwrap_or_default()
    }

    /// Nothing is left but an address, if that, of a load balancer that the tenant deleted, or that was missed.
    pub fn gone(&self, tenant: &TenantName, key: &ServiceKey) {
        self.with(tenant, |state| state.gone(key));
        self.changed.notify_waiters();
    }

    /// All Services that a tenant wants, and its nodes.
    pub fn services(&self, tenant: &TenantName) -> (Vec<Arc<Service>>, Nodes) {
        self.with(tenant, |state| {
            let service = |key| match state.wanted(key) {
                Wanted::Present(_, service)
                | Wanted::Unreadable {
                    last: Some(service),
                    ..
                } => Some(service),
                _ => None,
            };
            (
                state.held.service_keys().filter_map(service).collect(),
                state.planned.nodes(),
            )
        })
        .unwrap_or_default()
    }

    /// How every tenant that was heard of stands.
    pub fn standings(&self) -> BTreeMap<TenantName, Standing> {
        read(&self.tenants)
            .iter()
            .map(|(name, state)| (name.clone(), lock(state).standing()))
            .collect()
    }

    /// When it is over that agents throw each other out under a tenant's identity, if they do and nothing more of it happens.
    pub fn contested(&self, tenant: &TenantName, now: Instant) -> Option<Instant> {
        self.with(tenant, |state| state.contest.ends(now)).flatten()
    }

    /// Resolves when a standing may have changed since the call.
    pub fn changed(&self) -> impl Future<Output = ()> + Send {
        self.changed.notified()
    }

    /// How many sessions are live.
    pub fn live(&self) -> usize {
        read(&self.tenants)
            .values()
            .filter(|state| lock(state).is_live())
            .count()
    }

    /// Tells every agent to leave and to come back within the time.
    pub fn drain(&self, within: Duration, reason: &str) {
        for state in read(&self.tenants).values() {
            lock(state).drain(within, reason);
        }
    }

    /// How long the fleet should spread its return: a handshake costs the hub about half a millisecond of one core. The fleet
    /// is everybody who may come, for right after a start nobody has.
    fn reconnect_spread(&self) -> Duration {
        let fleet = u32::try_from(read(&self.admissions).len()).unwrap_or(u32::MAX);
        (Duration::from_millis(1) * fleet)
            .clamp(Duration::from_millis(100), Duration::from_secs(10))
    }

    /// What a message meant for a session's turn.
    fn turn(&self, tenant: &TenantName, number: u64, news: TurnNews, now: Instant) {
        let mut turns = lock(&self.turns);
        let calls = match news {
            TurnNews::Asked => turns.ask(number, tenant.clone()),
            TurnNews::Seized => {
                turns.seize(number, tenant.clone());
                Vec::new()
            }
            TurnNews::Used => {
                turns.used(number, now);
                Vec::new()
            }
            TurnNews::Over => turns.leave(number),
        };
        drop(turns);
        self.call(calls);
    }

    /// A session is gone, or is none of its tenant's any more.
    fn leave_turn(&self, number: u64) {
        let calls = lock(&self.turns).leave(number);
        self.call(calls);
    }

    /// Gives turns that are not used to those who wait, and says when to look again.
    fn pass_turns(&self, now: Instant) -> Option<Instant> {
        let (calls, due) = lock(&self.turns).pass(now);
        self.call(calls);
        due
    }

    fn call(&self, calls: Vec<Call<TenantName>>) {
        for call in calls {
            self.with(&call.whose, |state| state.turn(call.number, call.ahead));
        }
    }

    /// How many repetitions a tenant may have.
    fn repetitions(&self, tenant: &TenantName) -> Repetitions {
        let admissions = read(&self.admissions);
        let admission = admissions.get(tenant);
        admission.map(|it| it.repetitions).unwrap_or_default()
    }

    /// Which annotations of a tenant's Services may pass.
    fn allowed(&self, tenant: &TenantName) -> Allowed {
        let admissions = read(&self.admissions);
        let admission = admissions.get(tenant);
        admission.map(|it| it.allowed.clone()).unwrap_or_default()
    }

    /// Whether a session of this cluster may be, and whether the identity becomes this cluster's with it.
    fn accept(
        &self,
        tenant: &TenantName,
        greeting: &Greeting,
        state: &State,
    ) -> Result<bool, Refused> {
        let uid = &greeting.cluster_uid;
        if uid.is_empty() {
            return match state.live_cluster() {
                Some(holder) => Err(Refused::ClusterUnknown {
                    tenant: tenant.clone(),
                    holder: holder.to_owned(),
                }),
                None => Ok(false),
            };
        }
        let admissions = read(&self.admissions);
        let admission = admissions.get(tenant);
        let bound = admission
            .and_then(|a| a.cluster_uid.as_deref())
            .or_else(|| state.claimed_by());
        match bound {
            Some(bound) if bound != uid => Err(Refused::OtherCluster {
                tenant: tenant.clone(),
                bound: bound.to_owned(),
                other: uid.clone(),
            }),
            _ => {
                let is_said = admission.is_some_and(|a| a.cluster_uid.is_some());
                let is_former = admission.is_some_and(|a| a.former_cluster.as_deref() == Some(uid));
                Ok(!is_said && !is_former)
            }
        }
    }

    fn state(&self, tenant: &TenantName) -> Arc<Mutex<State>> {
        if let Some(state) = read(&self.tenants).get(tenant) {
            return state.clone();
        }
        write(&self.tenants)
            .entry(tenant.clone())
            .or_default()
            .clone()
    }

    fn with<T>(&self, tenant: &TenantName, f: impl FnOnce(&mut State) -> T) -> Option<T> {
        let state = read(&self.tenants).get(tenant)?.clone();
        let mut state = lock(&state);
        Some(f(&mut state))
    }
}

/// A tenant that lost its admission loses its session.
fn apply(name: &TenantName, admission: Option<&Admission>, state: &mut State) {
    match may_be(name, admission, state.credentials()) {
        Err(refused) => state.end(Ending::Refused(refused)),
        Ok(admission) => {
            state.allow(&admission.allowed);
            state.planned.limit(admission.repetitions);
            state.rebind(name, admission);
        }
    }
}

// A panic under one of these locks is a bug in a pure function; what it left behind is still one tenant's last state, and
// going on with it beats taking every other tenant down.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn former(tenant: &TenantName, credential: &Credential) -> Refused {
    Refused::FormerAuthority {
        tenant: tenant.clone(),
        serial: credential.serial.clone(),
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
