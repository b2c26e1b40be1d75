//! An agent as the tests run it: the real broker, link and dialer. What the watch would have read of a cluster is put into
//! the broker's index by hand.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use berth_agent::{
    broker::{Broker, Cache},
    claims::{Claims, STANDARD_FINALIZER},
    dial::Dialer,
    events::Events,
    index::Index,
    link::Link,
    metrics::AgentMetrics,
    project::{AddressType, SeenNode, SeenService},
    settings::AgentSettings,
    status::Step,
};
use berth_common::{
    model::{NodeName, ServiceKey},
    ready::Ready,
    session::agent::{AgentInfo, AgentSession},
    settings::Inputs,
    tls::ClientTls,
};
use k8s_openapi::jiff::Timestamp;
use prometheus_client::{encoding::text, registry::Registry};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The Services of a cluster.
pub(crate) type Services = BTreeMap<ServiceKey, SeenService>;

pub(crate) struct Agent {
    pub(crate) tenant: String,
    pub(crate) broker: Arc<Broker>,
    metrics: AgentMetrics,
    registry: Registry,
    services: Mutex<Services>,
    version: AtomicU64,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The key of the Service of this number.
pub(crate) fn key(number: usize) -> ServiceKey {
    ServiceKey::new("default", format!("web-{number:04}"))
}

/// A Service of a cluster. Its first port tells versions apart; each further one makes it about 40 bytes larger.
pub(crate) fn service(number: usize, port: u16, ports: u16) -> SeenService {
    let ports: Vec<_> = (0..ports)
        .map(|i| {
            json!({"name": format!("port-{i:05}"), "port": port + i, "nodePort": 30_000 + i % 2_700,
                   "appProtocol": "example.com/something"})
        })
        .collect();
    let service = json!({
        "metadata": {"namespace": "default", "name": key(number).name, "uid": format!("uid-{number}"),
                     "resourceVersion": "1", "finalizers": [STANDARD_FINALIZER]},
        "spec": {"type": "LoadBalancer", "ports": ports},
    });
    SeenService::project(serde_json::from_value(service).unwrap())
        .unwrap()
        .1
}

/// So many small Services.
pub(crate) fn services(count: usize) -> Services {
    (0..count).map(|i| (key(i), service(i, 80, 1))).collect()
}

/// The settings of an agent whose hub is there.
pub(crate) fn settings(hub: SocketAddr) -> AgentSettings {
    let inputs = Inputs {
        flags: BTreeMap::from([("hub.address", hub.to_string())]),
        ..Inputs::default()
    };
    berth_common::settings::resolve(&inputs)
        .unwrap()
        .parse()
        .unwrap()
}

impl Agent {
    /// An agent that has read a cluster with these Services and dials `hub`, which may be a proxy.
    pub(crate) fn start(
        tls: Arc<ClientTls>,
        tenant: &str,
        hub: SocketAddr,
        services: Services,
    ) -> Self {
        Self::of_cluster(tls, tenant, hub, services, &format!("cluster-of-{tenant}"))
    }

    /// The same, of a cluster with this UID.
    pub(crate) fn of_cluster(
        tls: Arc<ClientTls>,
        tenant: &str,
        hub: SocketAddr,
        services: Services,
        cluster: &str,
    ) -> Self {
        let mut registry = Registry::default();
        let metrics = AgentMetrics::new(&mut registry);
        let claims = Claims {
            classless: true,
            classes: Default::default(),
        };
        let info = AgentInfo {
            version: "0.1.0".into(),
            instance_id: tenant.into(),
        };
        let broker = Broker::new(
            Index::new(claims, vec![AddressType::InternalIp]),
            AgentSession::new(info),
            Events::new(tenant.into(), metrics.clone()),
            metrics.clone(),
        );
        let now = Instant::now();
        broker.cache_synced(Cache::Nodes, now, |index| {
            index.reset_nodes(BTreeMap::from([node()]))
        });
        let read = services.clone();
        broker.cache_synced(Cache::Services, now, |index| index.reset_services(read));
        broker.cluster_uid(cluster.into());
        let ready = Ready::new();
        let dialer = Dialer::new(&settings(hub).hub, tls).unwrap();
        let link = Link::new(
            Arc::clone(&broker),
            dialer,
            metrics.clone(),
            Some(ready.register("hub")),
        );
        let stop = CancellationToken::new();
        Self {
            tenant: tenant.into(),
            broker,
            metrics,
            registry,
            services: Mutex::new(services),
            version: AtomicU64::new(1),
            task: tokio::spawn(link.run(stop.clone())),
            stop,
        }
    }

    /// The keys of all Services.
    pub(crate) fn services(&self) -> Vec<ServiceKey> {
        self.services.lock().unwrap().keys().cloned().collect()
    }

    /// The cluster has this, new or changed.
    pub(crate) fn want(&self, key: ServiceKey, mut seen: SeenService) {
        let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
        seen.version.0 = version.to_string();
        self.services
            .lock()
            .unwrap()
            .insert(key.clone(), seen.clone());
        self.broker
            .update(Instant::now(), |index| index.apply_service(key, seen, true));
    }

    /// Whether the hub's answer to the present version of a Service is here: the address is to be written.
    pub(crate) fn has_answer(&self, key: &ServiceKey) -> bool {
        let plan = self.broker.plan(key, Timestamp::now());
        matches!(plan.map(|plan| plan.step), Some(Step::Status { ingress, .. }) if !ingress.is_empty())
    }

    /// Whether a session is open, as the agent sees it.
    pub(crate) fn is_up(&self) -> bool {
        self.metrics.session_up.get() == 1
    }

    /// How many sessions, or attempts at one, ended for this reason.
    pub(crate) fn ended(&self, reason: &str) -> u64 {
        let mut page = String::new();
        text::encode(&mut page, &self.registry).unwrap();
        let line = format!("berth_agent_sessions_ended_total{{reason=\"{reason}\"}} ");
        page.lines()
            .find_map(|text| text.strip_prefix(&line))
            .map_or(0, |count| count.parse().unwrap())
    }

    /// Ends the process, orderly.
    pub(crate) async fn finish(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn node() -> (NodeName, SeenNode) {
    let node = json!({"metadata": {"name": "n"}, "status": {
        "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
    let node = serde_json::from_value(node).unwrap();
    let seen = SeenNode::project(&node, &[AddressType::InternalIp]);
    (NodeName("n".into()), seen)
}
