//! A hub as the tests run it: the real listener, server, sessions and tenants on a runtime of their own, so that it can be
//! killed like a process. Where the executor would write to a management cluster, a planner notes what it would have
//! done there; that cluster outlives the hub.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use berth_common::{
    identity::{TenantName, TrustDomain},
    model::{Answer, Generation, Ingress, Outcome, Reason, ServiceKey},
    session::{held::Wanted, hub::Limits},
    wire::Refusal,
};
use berth_hub::{
    listen::{self, Clients, ListenLimits, ListenMetrics},
    metrics::SessionMetrics,
    serve,
    session::Sessions,
    tenants::{Admission, Marks, Standing, Tenants},
};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{Notify, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{SOON, agent::Agent, eventually, pki::Pki};

type Id = (TenantName, ServiceKey);

/// What stands in the management cluster, by the generation that was programmed last.
type Cluster = Arc<Mutex<BTreeMap<Id, Generation>>>;

pub(crate) struct Hub {
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) planner: Arc<Planner>,
    pub(crate) address: SocketAddr,
    rest: Rest,
    sessions: CancellationToken,
    runtime: Option<Runtime>,
}

/// What is there when a hub was killed.
#[derive(Clone)]
struct Rest {
    names: Vec<TenantName>,
    limits: Limits,
    cluster: Cluster,
    /// How many hubs there were.
    hubs: u64,
}

impl Hub {
    /// On a free port, with these tenants.
    pub(crate) async fn start<'a>(pki: &Pki, names: impl IntoIterator<Item = &'a str>) -> Self {
        Self::start_with(pki, names, Limits::default()).await
    }

    /// The same, with these limits to what each may tell.
    pub(crate) async fn start_with<'a>(
        pki: &Pki,
        names: impl IntoIterator<Item = &'a str>,
        limits: Limits,
    ) -> Self {
        let names = names.into_iter().map(|name| name.parse().unwrap());
        let rest = Rest {
            names: names.collect(),
            limits,
            cluster: Cluster::default(),
            hubs: 1,
        };
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(pki, socket.into_std().unwrap(), rest)
    }

    /// Ends at once, as by SIGKILL, and comes back on the same port without its memory.
    pub(crate) async fn restart(mut self, pki: &Pki) -> Self {
        self.kill().await;
        self.next(pki)
    }

    /// Leaves as by SIGTERM, and another hub comes to the same port. Told too: how long agents took to leave.
    pub(crate) async fn replace(mut self, pki: &Pki) -> (Self, Duration) {
        let began = Instant::now();
        berth_hub::shutdown::drain(&self.tenants, &self.sessions).await;
        let took = began.elapsed();
        self.kill().await;
        (self.next(pki), took)
    }

    fn next(&self, pki: &Pki) -> Self {
        let socket = std::net::TcpListener::bind(self.address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut rest = self.rest.clone();
        rest.hubs += 1;
        Self::serve(pki, socket, rest)
    }

    async fn kill(&mut self) {
        let runtime = self.runtime.take().unwrap();
        let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(SOON));
        ended.await.unwrap();
    }

    fn serve(pki: &Pki, socket: std::net::TcpListener, rest: Rest) -> Self {
        // One thread, so that a session that held it would be felt by all others.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let entered = runtime.enter();
        let planner = Arc::new(Planner::new(Arc::clone(&rest.cluster)));
        let marks = Arc::clone(&planner) as Arc<dyn Marks>;
        let tenants = Arc::new(Tenants::new(rest.hubs << 20, rest.limits, marks));
        let admitted = rest
            .names
            .iter()
            .map(|name| (name.clone(), Admission::default()));
        tenants.admit(admitted.collect());
        let address = socket.local_addr().unwrap();
        let incoming = listen::listen(
            TcpListener::from_std(socket).unwrap(),
            pki.server(),
            Clients::Named(TrustDomain::default()),
            ListenLimits::default(),
            ListenMetrics::default(),
        )
        .unwrap();
        let stop = CancellationToken::new();
        let service = Sessions::new(
            Arc::clone(&tenants),
            SessionMetrics::default(),
            stop.clone(),
        );
        let (_, health) = tonic_health::server::health_reporter();
        runtime.spawn(serve::serve(incoming, service, None, health, stop.clone()));
        runtime.spawn(Arc::clone(&planner).run(Arc::clone(&tenants)));
        runtime.spawn(Arc::clone(&tenants).keep_passing(stop.clone()));
        drop(entered);
        Self {
            tenants,
            planner,
            address,
            rest,
            sessions: stop,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn standing(&self, tenant: &str) -> Standing {
        let name: TenantName = tenant.parse().unwrap();
        self.tenants.standings().remove(&name).unwrap_or_default()
    }

    pub(crate) fn is_connected(&self, tenant: &str) -> bool {
        self.standing(tenant).connected
    }

    /// What is held of a Service.
    pub(crate) fn generation(&self, tenant: &str, key: &ServiceKey) -> Option<Generation> {
        match self.tenants.wanted(&tenant.parse().unwrap(), key).0 {
            Wanted::Present(generation, _) => Some(generation),
            Wanted::Unreadable { .. } | Wanted::Deleted(_) | Wanted::Absent | Wanted::Unknown => {
                None
            }
        }
    }

    /// Whether the hub holds exactly what the agent wants, has told it so, and holds nothing for missed.
    pub(crate) fn holds(&self, agent: &Agent) -> bool {
        let wanted = agent.services();
        let told = |key: &ServiceKey| {
            let generation = agent.broker.generation(key);
            generation.is_some()
                && generation == self.generation(&agent.tenant, key)
                && generation == self.planner.programmed(&agent.tenant, key)
                && agent.has_answer(key)
        };
        wanted.iter().all(told) && {
            let standing = self.standing(&agent.tenant);
            standing.connected && standing.services == wanted.len() && standing.absent == 0
        }
    }

    pub(crate) async fn until_holds(&self, agent: &Agent) {
        let what = format!("the hub holds what {} wants", agent.tenant);
        eventually(&what, SOON, || self.holds(agent)).await;
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Takes what sessions touch, each key at most once, and does what the executor would.
pub(crate) struct Planner {
    dirty: Mutex<BTreeSet<Id>>,
    wake: Notify,
    running: watch::Sender<bool>,
    cluster: Cluster,
    marks: AtomicU64,
    plans: AtomicU64,
    /// Load balancers that stood there and that a plan would have taken for deleted by implication.
    missed: Mutex<BTreeSet<Id>>,
    deleted: Mutex<BTreeSet<Id>>,
}

impl Planner {
    fn new(cluster: Cluster) -> Self {
        Self {
            dirty: Mutex::default(),
            wake: Notify::new(),
            running: watch::Sender::new(true),
            cluster,
            marks: AtomicU64::new(0),
            plans: AtomicU64::new(0),
            missed: Mutex::default(),
            deleted: Mutex::default(),
        }
    }

    /// Whether it plans, as opposed to an executor that waits for the management API.
    pub(crate) fn set_running(&self, running: bool) {
        self.running.send_replace(running);
    }

    /// How often a session asked for a plan.
    pub(crate) fn marks(&self) -> u64 {
        self.marks.load(Ordering::SeqCst)
    }

    /// How many plans were made.
    pub(crate) fn plans(&self) -> u64 {
        self.plans.load(Ordering::SeqCst)
    }

    /// How many keys wait.
    pub(crate) fn waiting(&self) -> usize {
        self.dirty.lock().unwrap().len()
    }

    pub(crate) fn programmed(&self, tenant: &str, key: &ServiceKey) -> Option<Generation> {
        let id = (tenant.parse().unwrap(), key.clone());
        self.cluster.lock().unwrap().get(&id).copied()
    }

    /// That no load balancer was ever deleted, nor missed.
    pub(crate) fn assert_nothing_lost(&self) {
        assert_eq!(
            *self.missed.lock().unwrap(),
            BTreeSet::new(),
            "taken for deleted by implication"
        );
        assert_eq!(*self.deleted.lock().unwrap(), BTreeSet::new(), "deleted");
    }

    fn add(&self, id: Id) {
        self.marks.fetch_add(1, Ordering::SeqCst);
        self.dirty.lock().unwrap().insert(id);
        self.wake.notify_one();
    }

    async fn run(self: Arc<Self>, tenants: Arc<Tenants>) {
        let mut running = self.running.subscribe();
        loop {
            if running.wait_for(|running| *running).await.is_err() {
                return;
            }
            // All that wait now, so that no tenant's next change overtakes another's.
            let round = std::mem::take(&mut *self.dirty.lock().unwrap());
            if round.is_empty() {
                self.wake.notified().await;
            }
            for id in round {
                self.plan(&tenants, id);
                tokio::task::consume_budget().await;
            }
        }
    }

    fn plan(&self, tenants: &Tenants, id: Id) {
        self.plans.fetch_add(1, Ordering::SeqCst);
        let (tenant, key) = &id;
        match tenants.wanted(tenant, key).0 {
            Wanted::Present(generation, _) => {
                self.cluster.lock().unwrap().insert(id.clone(), generation);
                tenants.answer(tenant, key, programmed(generation));
            }
            Wanted::Deleted(_) => {
                self.cluster.lock().unwrap().remove(&id);
                tenants.gone(tenant, key);
                self.deleted.lock().unwrap().insert(id);
            }
            Wanted::Absent => {
                if self.cluster.lock().unwrap().contains_key(&id) {
                    tenants.miss(tenant, key, Instant::now());
                    self.missed.lock().unwrap().insert(id);
                }
            }
            Wanted::Unreadable {
                generation,
                refusal,
                ..
            } => {
                tenants.answer(tenant, key, refused(generation, refusal));
            }
            Wanted::Unknown => {}
        }
    }
}

impl Marks for Planner {
    fn service(&self, tenant: &TenantName, key: &ServiceKey) {
        self.add((tenant.clone(), key.clone()));
    }

    fn observed(&self, tenant: &TenantName) {
        let ids: Vec<Id> = {
            let cluster = self.cluster.lock().unwrap();
            cluster
                .keys()
                .filter(|(of, _)| of == tenant)
                .cloned()
                .collect()
        };
        ids.into_iter().for_each(|id| self.add(id));
    }
}

/// The answer that a version is served.
fn refused(generation: Generation, refusal: Refusal) -> Answer {
    Answer {
        generation,
        outcome: Outcome::Refused {
            field: refusal.field,
            why: Reason::new(refusal.reason, refusal.message),
        },
        ingress: Vec::new(),
    }
}

pub(crate) fn programmed(generation: Generation) -> Answer {
    Answer {
        generation,
        outcome: Outcome::Programmed,
        ingress: vec![Ingress::Ip([192, 0, 2, 1].into())],
    }
}
