//! The task that sends probes, and the place where verdicts lie for whoever plans. It knows timers, sockets by way of
//! [`super::probe`], and how to hear of changes; what to ask and what answers mean is [`super::fleet`]'s.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use berth_common::identity::TenantName;
use tokio::{sync::Notify, task::JoinSet, time::sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Verdicts,
    demand::Demand,
    fleet::{Fleet, Start},
    metrics::HealthMetrics,
    node::Heard,
    probe::probe,
};

/// Between two readings of what is to be probed: a burst of new Services is read once.
const READ_EVERY: Duration = Duration::from_millis(100);

/// What the task asks of the rest of the hub, and tells it.
pub trait Ground: Send + Sync + 'static {
    /// What is to be probed for a tenant; None: nothing.
    fn demand(&self, tenant: &TenantName) -> Option<Demand>;

    /// The verdicts about a tenant's nodes are others: its Services are to be planned again.
    fn changed(&self, tenant: &TenantName);
}

/// Where verdicts lie, and where it is said that something else is to be probed.
#[derive(Debug)]
pub struct Health {
    verdicts: RwLock<BTreeMap<TenantName, Arc<Verdicts>>>,
    touched: Mutex<BTreeSet<TenantName>>,
    arrived: Notify,
    metrics: HealthMetrics,
}

impl Health {
    /// Nothing is probed yet.
    pub fn new(metrics: HealthMetrics) -> Self {
        Self {
            verdicts: RwLock::default(),
            touched: Mutex::default(),
            arrived: Notify::new(),
            metrics,
        }
    }

    /// A tenant's Services, nodes or policy may be others than before. Cheap, and never waits.
    pub fn touch(&self, tenant: &TenantName) {
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        if !touched.contains(tenant) {
            touched.insert(tenant.clone());
            self.arrived.notify_one();
        }
    }

    /// The verdicts about a tenant's nodes, as if they were probed.
    pub fn of(&self, tenant: &TenantName) -> Arc<Verdicts> {
        let verdicts = self.verdicts.read().unwrap_or_else(PoisonError::into_inner);
        verdicts.get(tenant).cloned().unwrap_or_default()
    }

    /// Probes until stopped.
    pub async fn run(self: Arc<Self>, ground: Arc<impl Ground>, stop: CancellationToken) {
        let mut fleet = Fleet::default();
        let mut probes = JoinSet::new();
        let mut read_at = Instant::now();
        let mut unread = false;
        loop {
            let now = Instant::now();
            if unread && read_at <= now {
                unread = false;
                read_at = now + READ_EVERY;
                self.read(&mut fleet, &*ground, now);
            }
            while let Some(start) = fleet.start(now) {
                probes.spawn(ask(start));
            }
            for (tenant, verdicts) in fleet.tell(now) {
                self.told(&tenant, verdicts);
                ground.changed(&tenant);
            }
            let due = fleet
                .due()
                .into_iter()
                .chain(unread.then_some(read_at))
                .min();
            let wake = async {
                match due {
                    Some(at) => sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.arrived.notified() => unread = true,
                Some(heard) = probes.join_next() => self.heard(&mut fleet, heard.ok()),
                () = wake => {}
            }
            while let Some(heard) = probes.try_join_next() {
                self.heard(&mut fleet, heard.ok());
            }
        }
    }

    pub(super) fn take_touched(&self) -> BTreeSet<TenantName> {
        std::mem::take(&mut self.touched.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn read(&self, fleet: &mut Fleet, ground: &impl Ground, now: Instant) {
        for tenant in self.take_touched() {
            fleet.demand(&tenant, ground.demand(&tenant), now, fastrand::f64);
            match fleet.probed(&tenant) {
                0 => {
                    self.metrics.forget(&tenant);
                    self.write(|verdicts| verdicts.remove(&tenant));
                }
                probed => self.metrics.probed(&tenant, probed),
            }
        }
    }

    fn told(&self, tenant: &TenantName, verdicts: Arc<Verdicts>) {
        self.metrics.failing(tenant, verdicts.failing.len());
        let before = self.of(tenant);
        for address in verdicts.failing.difference(&before.failing) {
            warn!(%tenant, %address, "a node fails its health check");
        }
        for address in before.failing.difference(&verdicts.failing) {
            if verdicts.good.contains(address) {
                info!(%tenant, %address, "a node passes its health check again");
            }
        }
        self.write(|all| all.insert(tenant.clone(), verdicts));
    }

    fn heard(&self, fleet: &mut Fleet, heard: Option<(u64, Heard)>) {
        // None: the probe panicked, and its address would not be asked again. Nothing in it can.
        if let Some((id, heard)) = heard {
            self.metrics.probe(heard.outcome);
            fleet.heard(id, heard, fastrand::f64());
        }
    }

    fn write<T>(&self, f: impl FnOnce(&mut BTreeMap<TenantName, Arc<Verdicts>>) -> T) -> T {
        f(&mut self
            .verdicts
            .write()
            .unwrap_or_else(PoisonError::into_inner))
    }
}

async fn ask(start: Start) -> (u64, Heard) {
    let began = Instant::now();
    let outcome = probe(start.address, start.probe, start.timeout).await;
    let heard = Heard {
        probe: start.probe,
        outcome,
        began,
        now: Instant::now(),
    };
    (start.id, heard)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        task::JoinHandle,
        time::timeout,
    };

    use super::{super::Policy, *};

    /// What a node's healthz does.
    #[derive(Clone, Copy)]
    enum Does {
        Says(&'static str),
        SaysLate(&'static str, Duration),
        Nothing,
    }

    /// Healthz of a node, until the handle is aborted; then its port is closed.
    async fn healthz(address: IpAddr, port: u16, does: Does) -> (u16, JoinHandle<()>) {
        let listener = TcpListener::bind((address, port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, does));
            }
        };
        (port, tokio::spawn(task))
    }

    async fn serve(mut stream: TcpStream, does: Does) {
        let mut request = [0; 512];
        let _ = stream.read(&mut request).await;
        let status = match does {
            Does::Says(status) => status,
            Does::SaysLate(status, after) => {
                tokio::time::sleep(after).await;
                status
            }
            Does::Nothing => return pending().await,
        };
        let _ = stream
            .write_all(format!("HTTP/1.1 {status}\r\n\r\n{{}}").as_bytes())
            .await;
    }

    struct Fixed {
        demand: Mutex<Option<Demand>>,
        changed: Notify,
    }

    impl Ground for Fixed {
        fn demand(&self, _: &TenantName) -> Option<Demand> {
            self.demand.lock().unwrap().clone()
        }

        fn changed(&self, _: &TenantName) {
            self.changed.notify_one();
        }
    }

    fn node(last: u8) -> IpAddr {
        Ipv4Addr::new(127, 0, 7, last).into()
    }

    /// Waits until the verdicts are these.
    async fn until(health: &Health, ground: &Fixed, good: &[u8], failing: &[u8]) {
        let set = |last: &[u8]| last.iter().map(|last| node(*last)).collect();
        let wanted = Verdicts {
            good: set(good),
            failing: set(failing),
        };
        let tenant = TenantName::parse("acme").unwrap();
        let reached = async {
            while *health.of(&tenant) != wanted {
                ground.changed.notified().await;
            }
        };
        if timeout(Duration::from_secs(20), reached).await.is_err() {
            panic!("{:?} and not {wanted:?}", health.of(&tenant));
        }
    }

    #[tokio::test]
    async fn point_26_real_nodes_that_answer_drain_refuse_stall_and_dawdle() {
        let (port, _good) = healthz(node(1), 0, Does::Says("200 OK")).await;
        let (_, _draining) = healthz(node(2), port, Does::Says("503 Service Unavailable")).await;
        let (_, stalled) = healthz(node(3), port, Does::Nothing).await;
        let late = Does::SaysLate("200 OK", Duration::from_millis(50));
        let (_, _slow) = healthz(node(4), port, late).await;
        // 5 refuses at healthz and has a node port, 6 refuses at both.
        let (node_port, _connect) = healthz(node(5), 0, Does::Nothing).await;
        let policy = Policy {
            port,
            interval: Duration::from_millis(500),
            timeout: Duration::from_millis(400),
            ..Policy::default()
        };
        let demand = Demand {
            policy,
            addresses: (1..=6).map(node).collect(),
            ports: vec![node_port],
        };
        let ground = Arc::new(Fixed {
            demand: Mutex::new(Some(demand)),
            changed: Notify::new(),
        });
        let metrics = HealthMetrics::default();
        let mut registry = prometheus_client::registry::Registry::default();
        metrics.register(&mut registry);
        let health = Arc::new(Health::new(metrics));
        let stop = CancellationToken::new();
        let running = tokio::spawn(health.clone().run(ground.clone(), stop.clone()));
        let tenant = TenantName::parse("acme").unwrap();
        health.touch(&tenant);
        // The stalled one refuses at the node port, which is a sign of life.
        until(&health, &ground, &[1, 3, 4, 5, 6], &[2]).await;

        let mut without_ports = ground.demand(&tenant).unwrap();
        without_ports.ports.clear();
        *ground.demand.lock().unwrap() = Some(without_ports);
        health.touch(&tenant);
        until(&health, &ground, &[1, 4, 5, 6], &[2, 3]).await;
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "berth_nodes_probed{tenant=\"acme\"} 6",
            "berth_nodes_failing{tenant=\"acme\"} 2",
            "berth_health_probes_total{result=\"draining\"} ",
            "berth_health_probes_total{result=\"silent\"} ",
        ] {
            assert!(text.contains(line), "{text}");
        }

        // It is restarted and answers.
        stalled.abort();
        let _ = stalled.await;
        let (_, _back) = healthz(node(3), port, Does::Says("200 OK")).await;
        until(&health, &ground, &[1, 3, 4, 5, 6], &[2]).await;

        *ground.demand.lock().unwrap() = None;
        health.touch(&tenant);
        stop.cancel();
        running.await.unwrap();
    }
}
