//! The fence at the executor: what a session told is not written once a newer one has taken over, also not by a plan that was
//! made before.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use berth_common::{
    model::{Body, IpFamily, Key, Node, NodeName, Port, Protocol, Service, TrafficPolicy},
    session::{
        agent::{AgentInfo, AgentSession, Source},
        held::Wanted,
        hub::Limits,
    },
};
use http::{Method, Request, Response, StatusCode};
use kube::client::Body as HttpBody;
use tokio::sync::mpsc;

use super::*;
use crate::{
    api::{Tenant, TenantSpec},
    objects::Kind,
    tenants::{Admission, Credential, Marks, Next, Rejected, Seat, Tenants},
};

struct Ignored;

impl Marks for Ignored {
    fn service(&self, _: &TenantName, _: &ServiceKey) {}
    fn observed(&self, _: &TenantName) {}
}

fn acme() -> TenantName {
    TenantName::parse("acme").unwrap()
}

fn backend() -> ServiceKey {
    ServiceKey::new("default", "backend")
}

/// A session of an agent that wants the Service with this port.
fn session(tenants: &Arc<Tenants>, port: u16) -> (AgentSession, Seat) {
    let mut agent = AgentSession::new(AgentInfo {
        version: "1".into(),
        instance_id: port.to_string(),
    });
    let _ = agent.set_source(Source::Synced {
        cluster_uid: "c".into(),
    });
    want(&mut agent, port);
    let node = Node {
        addresses: [[10, 0, 0, 1].into()].into(),
    };
    agent.upsert(Key::Node(NodeName("n".into())), Body::Node(node));
    let seat = tenants
        .open(&acme(), Credential::default(), Instant::now())
        .unwrap();
    agent.connected(Instant::now());
    talk(&mut agent, &seat).unwrap();
    (agent, seat)
}

fn want(agent: &mut AgentSession, port: u16) {
    let service = Service {
        uid: "u".into(),
        ports: vec![Port {
            name: String::new(),
            protocol: Protocol::Tcp,
            port,
            node_port: Some(30_000),
            app_protocol: None,
        }],
        families: vec![IpFamily::V4],
        require_dual_stack: false,
        affinity_seconds: None,
        source_ranges: Default::default(),
        traffic_policy: TrafficPolicy::Cluster,
        local_nodes: Default::default(),
        health_check_node_port: None,
        requested_ips: Vec::new(),
        annotations: Default::default(),
    };
    agent.upsert(Key::Service(backend()), Body::Service(service));
}

fn talk(agent: &mut AgentSession, seat: &Seat) -> Result<(), Rejected> {
    let now = Instant::now();
    loop {
        let up = agent.next_message(now);
        let spoke = up.is_some();
        if let Some(message) = up {
            seat.receive(message, now)?;
        }
        match seat.next(now) {
            Next::Message(message) => drop(agent.received(*message, now).unwrap()),
            Next::Wait(_) if !spoke => return Ok(()),
            Next::Wait(_) => {}
            Next::End(ending) => panic!("{ending:?}"),
        }
    }
}

/// Wishes of real sessions; right after the first was read, something happens.
struct Wishes<F> {
    tenants: Arc<Tenants>,
    meanwhile: Mutex<Option<F>>,
}

impl<F: FnOnce() + Send + 'static> Desires for Wishes<F> {
    fn want(&self, tenant: &TenantName, key: &ServiceKey) -> Want {
        let (wanted, nodes) = self.tenants.wanted(tenant, key);
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(happens) = meanwhile {
            happens();
        }
        match wanted {
            Wanted::Present(generation, service) => Want::Present {
                generation,
                service,
                nodes,
            },
            other => panic!("{other:?}"),
        }
    }

    fn answer(&self, _: &TenantName, _: &ServiceKey, _: Answer) {}

    fn gone(&self, _: &TenantName, _: &ServiceKey) {}
}

const NOT_FOUND: &str =
    r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}"#;

/// An API server that has nothing and takes nothing, and the bodies of the writes that it was sent.
fn away() -> (Client, mpsc::Receiver<String>) {
    let (sender, requests) = mpsc::channel(64);
    let serve = move |request: Request<HttpBody>| {
        let sender = sender.clone();
        async move {
            let reads = request.method() == Method::GET;
            let body = request.into_body().collect_bytes().await?;
            if !reads {
                let _ = sender.try_send(String::from_utf8_lossy(&body).into_owned());
            }
            let (status, body) = match reads {
                true => (StatusCode::NOT_FOUND, NOT_FOUND),
                false => (StatusCode::SERVICE_UNAVAILABLE, ""),
            };
            Response::builder()
                .status(status)
                .body(HttpBody::from(body.as_bytes().to_vec()))
                .map_err(|error| Box::new(error) as Box<dyn std::error::Error + Send + Sync>)
        }
    };
    (Client::new(tower::service_fn(serve), "default"), requests)
}

#[tokio::test]
async fn rule_9_a_plan_that_a_newer_session_overtook_is_not_carried_out() {
    let tenants = Arc::new(Tenants::new(1, Limits::default(), Arc::new(Ignored)));
    tenants.admit([(acme(), Admission::default())].into());
    let (mut old, old_seat) = session(&tenants, 8_001);
    let newer = Arc::new(Mutex::new(None));
    let takes_over = {
        let (tenants, newer) = (tenants.clone(), newer.clone());
        move || {
            *newer.lock().unwrap() = Some(session(&tenants, 8_002));
            // What the older one still says comes to nothing.
            want(&mut old, 8_003);
            while let Some(message) = old.next_message(Instant::now()) {
                let said = old_seat.receive(message, Instant::now());
                assert!(matches!(said, Err(Rejected::Fenced(_))), "{said:?}");
            }
        }
    };
    let directory = Arc::new(Directory::default());
    let mut tenant = Tenant::new("acme", TenantSpec::default());
    tenant.metadata.uid = Some("t".into());
    directory.listed(vec![tenant]);
    let cache = Arc::new(Cache::default());
    for kind in [Kind::Service, Kind::EndpointSlice, Kind::LoadBalancer] {
        cache.listed(kind, Vec::new(), Instant::now());
    }
    let work = Arc::new(Work::new(PER_TENANT));
    work.add(&Id::new(acme(), backend()));
    let (client, mut requests) = away();
    let stop = CancellationToken::new();
    let wishes = Wishes {
        tenants,
        meanwhile: Mutex::new(Some(takes_over)),
    };
    let executor = Executor::new(
        client,
        cache,
        directory,
        work,
        Arc::new(wishes),
        Allocator::MetalLb,
        WriteMetrics::default(),
    );
    let running = tokio::spawn(executor.run(stop.clone()));
    for _ in 0..3 {
        let request = tokio::time::timeout(Duration::from_secs(30), requests.recv());
        let body = request.await.unwrap().unwrap();
        assert!(body.contains("8002") && !body.contains("8001"), "{body}");
    }
    stop.cancel();
    running.await.unwrap();
}
