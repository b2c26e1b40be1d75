//! Every tenant that was heard of: what it wants, and its one live session. The newest session wins, by number; whatever an
//! older one still tries comes back as [`Fenced`] and changes nothing. Sessions put states in, the executor takes wishes
//! out and puts answers in, and neither waits for the other: every call here holds one tenant's lock for microseconds.

mod seat;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use berth_common::{
    identity::TenantName,
    model::{Answer, Generation, ServiceKey},
    session::{
        ProtocolError,
        held::{Held, Nodes, Wanted},
        hub::{Greeting, Limits},
    },
};
use berth_wire::v1;

use seat::State;
pub use seat::{Ending, Next, Seat};

/// What the `Tenant` object says of a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// The operator has suspended the tenant: no session, everything stays as it is.
    pub suspended: bool,
    /// The cluster that was bound to this identity by its first session.
    pub cluster_uid: Option<String>,
}

/// Why a session may not be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no `Tenant` object of that name.
    #[error(
        "tenant {0} is not known to this hub: an operator admits it by creating the Tenant object {0}"
    )]
    Unknown(TenantName),
    /// The `Tenant` object says `suspended: true`.
    #[error(
        "tenant {0} is suspended: its load balancers stay as they are until an operator resumes it"
    )]
    Suspended(TenantName),
    /// Another cluster came first.
    #[error(
        "identity {tenant} already belongs to the cluster with UID {bound}; this one is {other}: \
         give every cluster a certificate of its own, or clear status.clusterUID of the Tenant to rebind it"
    )]
    OtherCluster {
        /// Whose identity it is.
        tenant: TenantName,
        /// The cluster that holds it.
        bound: String,
        /// The cluster that wants it.
        other: String,
    },
}

impl Refused {
    /// The value of the label `reason` of the metric that counts refusals.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown_tenant",
            Self::Suspended(_) => "suspended",
            Self::OtherCluster { .. } => "other_cluster",
        }
    }
}

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
}

/// How a tenant stands, for its status and for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether a session is live.
    pub connected: bool,
    /// The agent's release, of the latest session.
    pub agent_version: Option<String>,
    /// The cluster of the latest session.
    pub cluster_uid: Option<String>,
    /// Services that the tenant wants.
    pub services: usize,
    /// Services that were missed without being deleted.
    pub absent: usize,
    /// Why the agent cannot read its cluster, if so.
    pub unsynced: Option<String>,
}

/// All tenants.
pub struct Tenants {
    tenants: RwLock<BTreeMap<TenantName, Arc<Mutex<State>>>>,
    admissions: RwLock<BTreeMap<TenantName, Admission>>,
    next_session: AtomicU64,
    marks: Arc<dyn Marks>,
    limits: Limits,
    changed: tokio::sync::Notify,
}

impl Tenants {
    /// None yet. `first_session` is higher than any number given out before, also by an earlier process.
    pub fn new(first_session: u64, limits: Limits, marks: Arc<dyn Marks>) -> Self {
        Self {
            tenants: RwLock::default(),
            admissions: RwLock::default(),
            next_session: AtomicU64::new(first_session),
            marks,
            limits,
            changed: tokio::sync::Notify::new(),
        }
    }

    /// What the `Tenant` objects say, all of them. A tenant that lost its admission loses its session.
    pub fn admit(&self, admissions: BTreeMap<TenantName, Admission>) {
        *write(&self.admissions) = admissions.clone();
        for (name, state) in read(&self.tenants).iter() {
            let ending = match admissions.get(name) {
                None => Ending::Refused(Refused::Unknown(name.clone())),
                Some(a) if a.suspended => Ending::Refused(Refused::Suspended(name.clone())),
                Some(_) => continue,
            };
            lock(state).end(ending);
        }
        self.changed.notify_waiters();
    }

    /// Whether a tenant may have a session at all.
    pub fn check(&self, tenant: &TenantName) -> Result<(), Refused> {
        match read(&self.admissions).get(tenant) {
            None => Err(Refused::Unknown(tenant.clone())),
            Some(a) if a.suspended => Err(Refused::Suspended(tenant.clone())),
            Some(_) => Ok(()),
        }
    }

    /// A stream of a tenant is up. It has a number, and nothing else until its Hello was accepted.
    pub fn open(self: &Arc<Self>, tenant: &TenantName, now: Instant) -> Result<Seat, Refused> {
        self.check(tenant)?;
        let number = self.next_session.fetch_add(1, Ordering::Relaxed);
        Ok(Seat::new(
            self.clone(),
            tenant.clone(),
            self.state(tenant),
            number,
            self.limits,
            now,
        ))
    }

    /// What a tenant wants of one Service, and the nodes that serve it.
    pub fn wanted(&self, tenant: &TenantName, key: &ServiceKey) -> (Wanted, Nodes) {
        self.with(tenant, |state| (state.held.wanted(key), state.held.nodes()))
            .unwrap_or((Wanted::Unknown, Nodes::default()))
    }

    /// A load balancer was found that the tenant does not want and did not delete.
    pub fn miss(&self, tenant: &TenantName, key: &ServiceKey) {
        let news = self.with(tenant, |state| {
            let before = state.held.absent();
            state.held.miss(key);
            state.held.absent() != before
        });
        if news == Some(true) {
            self.changed.notify_waiters();
        }
    }

    /// Of a tenant's load balancers, how many are missed without having been deleted, and how many there are with them.
    pub fn missed(&self, tenant: &TenantName) -> (usize, usize) {
        self.with(tenant, |state| {
            let absent = state.held.absent();
            (absent, absent + state.held.services())
        })
        .unwrap_or_default()
    }

    /// What became of a Service. It reaches the live session, if any, and every later one until it is overtaken.
    pub fn answer(&self, tenant: &TenantName, key: &ServiceKey, answer: Answer) {
        self.with(tenant, |state| state.answer(key, answer));
    }

    /// Nothing is left of a load balancer that the tenant deleted, or that was missed.
    pub fn gone(&self, tenant: &TenantName, key: &ServiceKey) {
        self.with(tenant, |state| state.gone(key));
        self.changed.notify_waiters();
    }

    /// How every tenant that was heard of stands.
    pub fn standings(&self) -> BTreeMap<TenantName, Standing> {
        read(&self.tenants)
            .iter()
            .map(|(name, state)| (name.clone(), lock(state).standing()))
            .collect()
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

    fn accept(
        &self,
        tenant: &TenantName,
        greeting: &Greeting,
        state: &mut State,
    ) -> Result<(), Refused> {
        let admissions = read(&self.admissions);
        let bound = admissions
            .get(tenant)
            .and_then(|a| a.cluster_uid.clone())
            .or_else(|| state.cluster_uid.clone().filter(|_| state.is_live()));
        match bound {
            Some(bound) if !greeting.cluster_uid.is_empty() && bound != greeting.cluster_uid => {
                Err(Refused::OtherCluster {
                    tenant: tenant.clone(),
                    bound,
                    other: greeting.cluster_uid.clone(),
                })
            }
            _ => Ok(()),
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

// A panic under one of these locks is a bug in a pure function; what it left behind is still one tenant's last state, and
// going on with it beats taking every other tenant down.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Why a message of a session was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// A newer session took over.
    #[error(transparent)]
    Fenced(#[from] Fenced),
    /// The session may not be.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The agent broke the stream's rules.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

/// What a message did, for the log of the session.
#[derive(Debug, Default)]
pub struct Heard {
    /// Set by Hello.
    pub greeting: Option<Greeting>,
    /// The agent lost its cluster's API server (and why), or has it back.
    pub source: Option<Result<(), String>>,
    /// What was discarded.
    pub discarded: Option<String>,
    /// Resources that could not be read, with why.
    pub refused: Vec<String>,
}

fn refused_lines(
    refused: &[(Option<v1::Key>, Generation, berth_common::wire::Refusal)],
) -> Vec<String> {
    refused
        .iter()
        .map(|(key, _, refusal)| {
            let key = key.as_ref().map(berth_common::wire::printable);
            format!("{}: {refusal}", key.unwrap_or_default())
        })
        .collect()
}

/// Marks everything that a change touched.
fn mark(
    marks: &dyn Marks,
    tenant: &TenantName,
    held: &Held,
    touched: &berth_common::session::held::Touched,
) {
    if touched.nodes {
        for key in held.service_keys() {
            marks.service(tenant, key);
        }
    }
    for key in &touched.services {
        marks.service(tenant, key);
    }
    if touched.completed {
        marks.observed(tenant);
    }
}
