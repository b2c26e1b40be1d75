//! The link against a hub on loopback: real TCP, real mutual TLS, real gRPC, and a hub whose behaviour is a script.

mod hub;

use std::{collections::BTreeMap, time::SystemTime};

use berth_common::{
    model::{NodeName, ServiceKey},
    ready::Ready,
    session::agent::{AgentInfo, AgentSession},
    tls::ClientTls,
};
use k8s_openapi::jiff::Timestamp;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::task::JoinHandle;
use tonic::Status;

use self::hub::{Scene, TestHub};
use super::*;
use crate::{
    broker::{Broker, Cache},
    claims::{Claims, STANDARD_FINALIZER},
    events::Events,
    index::Index,
    project::{AddressType, SeenNode, SeenService},
    settings::AgentSettings,
    status::Step,
};

/// For levels that come about in milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);

struct Agent {
    broker: Arc<Broker>,
    ready: Ready,
    tls: Arc<ClientTls>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn key() -> ServiceKey {
    ServiceKey::new("ns", "web")
}

fn service(deleting: bool) -> SeenService {
    let mut service = json!({
        "metadata": {"namespace": "ns", "name": "web", "uid": "u", "resourceVersion": "1",
                     "finalizers": [STANDARD_FINALIZER]},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30080}]},
    });
    if deleting {
        service["metadata"]["deletionTimestamp"] = json!("2026-11-01T00:00:00Z");
        service["metadata"]["resourceVersion"] = json!("2");
    }
    SeenService::project(serde_json::from_value(service).unwrap())
        .unwrap()
        .1
}

fn settings(hub: &TestHub) -> AgentSettings {
    let flags = BTreeMap::from([("hub.address", hub.address.to_string())]);
    let inputs = berth_common::settings::Inputs {
        flags,
        ..Default::default()
    };
    berth_common::settings::resolve(&inputs)
        .unwrap()
        .parse()
        .unwrap()
}

fn node() -> (NodeName, SeenNode) {
    let node = json!({"metadata": {"name": "n"}, "status": {
        "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
    let seen = SeenNode::project(
        &serde_json::from_value(node).unwrap(),
        &[AddressType::InternalIp],
    );
    (NodeName("n".into()), seen)
}

impl Agent {
    /// An agent that has read a cluster with one Service.
    fn start(hub: &TestHub) -> Self {
        let settings = settings(hub);
        let tls = ClientTls::client(hub.client_files(), SystemTime::now()).unwrap();
        let metrics = AgentMetrics::new(&mut Registry::default());
        let claims = Claims {
            classless: true,
            classes: Default::default(),
        };
        let info = AgentInfo {
            version: "0".into(),
            instance_id: "i".into(),
        };
        let broker = Broker::new(
            Index::new(claims, vec![AddressType::InternalIp]),
            AgentSession::new(info),
            Events::new("i".into(), metrics.clone()),
            metrics.clone(),
        );
        let now = Instant::now();
        broker.cache_synced(Cache::Nodes, now, |index| {
            index.reset_nodes(BTreeMap::from([node()]))
        });
        broker.cache_synced(Cache::Services, now, |index| {
            index.reset_services(BTreeMap::from([(key(), service(false))]))
        });
        broker.cluster_uid("cluster".into());
        let ready = Ready::new();
        let dialer = Dialer::new(&settings.hub, Arc::clone(&tls)).unwrap();
        let link = Link::new(
            Arc::clone(&broker),
            dialer,
            metrics,
            Some(ready.register("hub")),
        );
        let stop = CancellationToken::new();
        let task = tokio::spawn(link.run(stop.clone()));
        Self {
            broker,
            ready,
            tls,
            stop,
            task,
        }
    }

    fn step(&self) -> Option<Step> {
        self.broker
            .plan(&key(), Timestamp::now())
            .map(|plan| plan.step)
    }

    /// Awaits a level, looked at after every piece of work.
    async fn until(&self, what: &str, level: impl Fn(&Self) -> bool) {
        let reached = timeout(DEADLINE, async {
            while !level(self) {
                // The work's permit may have been taken before the level was reached: look again soon in any case.
                let _ = timeout(Duration::from_millis(10), self.broker.work()).await;
            }
        });
        assert!(reached.await.is_ok(), "{what} within {DEADLINE:?}");
    }

    async fn finish(self) {
        self.stop.cancel();
        timeout(DEADLINE, self.task)
            .await
            .expect("it stops")
            .unwrap();
    }
}

#[tokio::test]
async fn a_service_travels_to_the_hub_and_the_answer_back() {
    let mut hub = TestHub::start(Scene::Serve).await;
    let agent = Agent::start(&hub);
    agent
        .until("an address", |agent| agent.step().is_some())
        .await;
    let Some(Step::Status { ingress, .. }) = agent.step() else {
        panic!("{:?}", agent.step())
    };
    assert_eq!(ingress[0].ip.as_deref(), Some("192.0.2.1"));
    timeout(DEADLINE, agent.ready.wait())
        .await
        .expect("ready once synced");
    agent.finish().await;
    hub.until_sessions_ended(1).await;
    assert_eq!(
        hub.clean_ends(),
        1,
        "the agent ends its stream, it does not just vanish"
    );
}

#[tokio::test]
async fn point_07_a_deletion_is_confirmed_over_the_wire() {
    let hub = TestHub::start(Scene::Serve).await;
    let agent = Agent::start(&hub);
    agent
        .until("an address", |agent| agent.step().is_some())
        .await;
    agent.broker.update(Instant::now(), |index| {
        index.apply_service(key(), service(true), true)
    });
    agent
        .until("the finalizer may go", |agent| {
            matches!(agent.step(), Some(Step::Finalizers { finalizers, .. }) if finalizers.is_empty())
        })
        .await;
    agent.finish().await;
}

#[tokio::test]
async fn a_drained_agent_comes_back_on_a_new_connection() {
    let mut hub = TestHub::start(Scene::DrainFirst).await;
    let agent = Agent::start(&hub);
    hub.until_sessions(2).await;
    agent
        .until("an address", |agent| agent.step().is_some())
        .await;
    assert_eq!(hub.connections(), 2);
    agent.finish().await;
}

#[tokio::test]
async fn a_lost_connection_is_dialled_anew_and_what_is_served_stays() {
    let mut hub = TestHub::start(Scene::DropFirst).await;
    let agent = Agent::start(&hub);
    hub.until_sessions(2).await;
    agent
        .until("an address", |agent| agent.step().is_some())
        .await;
    agent.finish().await;
}

#[tokio::test]
async fn a_refused_agent_stays_away_until_its_certificate_changes() {
    let mut hub = TestHub::start(Scene::Refuse(Status::permission_denied("suspended"))).await;
    let agent = Agent::start(&hub);
    hub.until_sessions(1).await;
    hub.renew_client_certificate();
    agent.tls.reload(SystemTime::now()).unwrap();
    hub.until_sessions(2).await;
    agent.finish().await;
}

#[tokio::test]
async fn point_07_an_unknown_tenant_lets_its_services_go() {
    let mut status = Status::permission_denied("no such tenant");
    status
        .metadata_mut()
        .insert("berth-reason", "tenant-unknown".parse().unwrap());
    let mut hub = TestHub::start(Scene::Refuse(status)).await;
    let agent = Agent::start(&hub);
    hub.until_sessions(1).await;
    agent.broker.update(Instant::now(), |index| {
        index.apply_service(key(), service(true), true)
    });
    agent
        .until("the finalizer may go", |agent| agent.step().is_some())
        .await;
    agent.finish().await;
}

#[tokio::test]
async fn a_certificate_of_a_foreign_authority_is_named_as_the_cause() {
    let (hub, other) = (
        TestHub::start(Scene::Serve).await,
        TestHub::start(Scene::Serve).await,
    );
    let mut files = other.client_files();
    files.ca = hub.client_files().ca;
    let tls = ClientTls::client(files, SystemTime::now()).unwrap();
    let settings = settings(&hub);
    let connection = Dialer::new(&settings.hub, tls).unwrap().dial().await;
    let problem = match connection {
        Err(error) => error.to_string(),
        Ok(Connection { channel, fate }) => {
            let messages = tokio_stream::empty::<v1::AgentMessage>();
            let status = AgentServiceClient::new(channel)
                .sync(messages)
                .await
                .unwrap_err();
            Ending::of_status(&status, &fate).to_string()
        }
    };
    assert!(
        problem.contains("does not trust our certificate"),
        "{problem}"
    );
}

#[tokio::test]
async fn rule_11_the_first_return_is_spread_as_welcome_told_and_the_next_by_the_backoff() {
    let hub = TestHub::start(Scene::Serve).await;
    let settings = settings(&hub);
    let tls = ClientTls::client(hub.client_files(), SystemTime::now()).unwrap();
    let mut tenths = [0_u32; 10];
    for seed in 0..1_000 {
        let dialer = Dialer::new(&settings.hub, Arc::clone(&tls)).unwrap();
        let metrics = AgentMetrics::new(&mut Registry::default());
        let index = Index::new(
            Claims {
                classless: true,
                classes: Default::default(),
            },
            vec![AddressType::InternalIp],
        );
        let session = AgentSession::new(AgentInfo {
            version: "0".into(),
            instance_id: "i".into(),
        });
        let events = Events::new("i".into(), metrics.clone());
        let broker = Broker::new(index, session, events, metrics.clone());
        let mut link = Link::new(broker, dialer, metrics, None);
        link.random = fastrand::Rng::with_seed(seed);
        let was_live = Course {
            spread: Some(Duration::from_secs(10)),
            synced_since: None,
        };
        let first = link.delay(&Ending::Closed, &was_live);
        assert!(first <= Duration::from_secs(10));
        tenths[(first.as_secs_f64() as usize).min(9)] += 1;
        let second = link.delay(&Ending::Closed, &Course::default());
        assert!(second <= 2 * BACKOFF_BASE, "{second:?}");
    }
    assert!(
        tenths.iter().all(|&n| (50..=150).contains(&n)),
        "a thousand agents by seconds: {tenths:?}"
    );
}
