//! What becomes of a write when somebody in the management cluster deletes its object, or puts another in its place, at the very moment
//! that the write is under way. The hub's executor, in this process, against the real API server; between the two sits the one who does it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use anyhow::Result;
use berth_common::{
    identity::TenantName,
    model::{
        Answer, Generation, IpFamily, Node, NodeName, Port, Protocol, Service as Wanted,
        ServiceKey, TrafficPolicy,
    },
};
use berth_hub::{
    api::{Tenant, TenantSpec},
    execute::{Desires, Executor, PER_TENANT, WriteMetrics},
    objects::{Id, Kind, name},
    observe::{Cache, Directory},
    plan::{Allocator, Want},
    work::Work,
};
use berth_lab::{Seen, eventually};
use http::{Method, Request, Response};
use kube::{Client, client::Body};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::ground::{Ground, SOON};

/// A kind by its place in the API's paths.
const KINDS: [(&str, &str); 3] = [
    ("services", "/api/v1"),
    ("endpointslices", "/apis/discovery.k8s.io/v1"),
    ("loadbalancers", "/apis/berth.dev/v1alpha1"),
];

/// What somebody else does right before the hub's next write to an object of this kind arrives.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    Deletes(&'static str),
    Replaces(&'static str),
}

/// Lets requests pass, and notes them.
#[derive(Default)]
struct Between {
    meanwhile: Mutex<Option<Meanwhile>>,
    /// Kind, method and status, of requests for the objects themselves.
    seen: Mutex<Vec<(String, String)>>,
}

impl Between {
    fn client(self: &Arc<Self>, server: Client) -> Client {
        let this = self.clone();
        let pass = move |request: Request<Body>| {
            let (this, server) = (this.clone(), server.clone());
            async move { this.pass(&server, request).await }
        };
        Client::new(tower::service_fn(pass), "default")
    }

    async fn pass(&self, server: &Client, request: Request<Body>) -> kube::Result<Response<Body>> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let kind = path.rsplit('/').nth(1).unwrap_or_default().to_owned();
        let due = self.due(&method, &kind);
        if let Some(meanwhile) = due {
            let object = act(server, &path, Method::GET, None).await?;
            act(server, &path, Method::DELETE, None).await?;
            if let Meanwhile::Replaces(_) = meanwhile {
                let home = path.rsplit_once('/').unwrap_or_default().0;
                act(server, home, Method::POST, Some(anew(object))).await?;
            }
        }
        let response = server.send(request).await?;
        let said = format!("{method} {}", response.status().as_u16());
        self.seen.lock().unwrap().push((kind, said));
        Ok(response)
    }

    fn due(&self, method: &Method, kind: &str) -> Option<Meanwhile> {
        let mut meanwhile = self.meanwhile.lock().unwrap();
        let is_it = |it: &mut Meanwhile| match it {
            Meanwhile::Deletes(of) | Meanwhile::Replaces(of) => {
                method == Method::PATCH && *of == kind
            }
        };
        meanwhile.take_if(is_it)
    }

    /// What was asked about objects of this kind since the last question, once it is so much.
    async fn asked(&self, kind: &str, least: usize) -> Result<Vec<String>> {
        let what = format!("{least} requests about {kind}");
        let asked = eventually(SOON, &what, || async {
            let seen = self.seen.lock().unwrap();
            let of_it = seen.iter().filter(|(of, _)| of == kind);
            let said: Vec<String> = of_it.map(|(_, said)| said.clone()).collect();
            match said.len() >= least {
                true => Ok(said),
                false => Err(Seen(format!("{said:?}"))),
            }
        })
        .await?;
        self.forget();
        Ok(asked)
    }

    fn forget(&self) {
        self.seen.lock().unwrap().clear();
    }
}

async fn act(
    server: &Client,
    path: &str,
    method: Method,
    body: Option<Value>,
) -> kube::Result<Value> {
    let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json");
    server.request(request.body(body).unwrap()).await
}

/// The same as another object.
fn anew(mut object: Value) -> Value {
    let metadata = object["metadata"].as_object_mut().unwrap();
    for field in [
        "uid",
        "resourceVersion",
        "managedFields",
        "creationTimestamp",
        "generation",
    ] {
        metadata.remove(field);
    }
    let object_map = object.as_object_mut().unwrap();
    object_map.remove("status");
    if let Some(spec) = object["spec"].as_object_mut() {
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
    }
    object
}

/// A tenant that wants one Service, version by version.
struct Tenancy {
    version: Mutex<u16>,
    /// The very same until there is a next version, as the hub has it.
    wanted: Mutex<Want>,
    answers: Mutex<Vec<Answer>>,
}

impl Tenancy {
    fn next(&self) -> u16 {
        let mut version = self.version.lock().unwrap();
        *version += 1;
        let node = Node {
            addresses: [[10, 66, 9, 1].into()].into(),
        };
        *self.wanted.lock().unwrap() = Want::Present {
            generation: Generation((*version).into()),
            service: Arc::new(Self::service(*version)),
            nodes: Arc::new(BTreeMap::from([(NodeName("n".into()), node)])),
        };
        *version
    }

    /// A version differs from all others in each object.
    fn service(version: u16) -> Wanted {
        Wanted {
            uid: "u".into(),
            ports: vec![Port {
                // Somebody else's port stays beside it until it is stripped, and two ports need names.
                name: format!("p{version}"),
                protocol: Protocol::Tcp,
                port: 8_000 + version,
                node_port: Some(30_000 + version),
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
        }
    }
}

impl Desires for Tenancy {
    fn want(&self, _: &TenantName, _: &ServiceKey) -> Want {
        self.wanted.lock().unwrap().clone()
    }

    fn answer(&self, _: &TenantName, _: &ServiceKey, answer: Answer) {
        self.answers.lock().unwrap().push(answer);
    }

    fn gone(&self, _: &TenantName, _: &ServiceKey) {}
}

struct Stage {
    server: Client,
    between: Arc<Between>,
    tenancy: Arc<Tenancy>,
    work: Arc<Work>,
    id: Id,
}

impl Stage {
    fn path(&self, kind: &str) -> String {
        let (_, api) = KINDS.iter().find(|it| it.0 == kind).unwrap();
        let object = match kind {
            "endpointslices" => name::slice(&self.id, IpFamily::V4, 0),
            _ => name::object(&self.id),
        };
        format!(
            "{api}/namespaces/{}/{kind}/{object}",
            self.id.tenant.namespace()
        )
    }

    async fn object(&self, kind: &str) -> kube::Result<Value> {
        act(&self.server, &self.path(kind), Method::GET, None).await
    }

    /// The next version is wanted. Returns when all objects are as it wants them, with the UID of each.
    async fn change(&self, meanwhile: Option<Meanwhile>) -> Result<BTreeMap<&'static str, String>> {
        let version = self.tenancy.next();
        *self.between.meanwhile.lock().unwrap() = meanwhile;
        self.work.add(&self.id);
        let mut uids = BTreeMap::new();
        for (kind, _) in KINDS {
            let what = format!("{kind}: version {version}, {meanwhile:?}");
            let uid = eventually(SOON, &what, || async {
                let object = self.object(kind).await;
                let object = object.map_err(|error| {
                    let answers = self.tenancy.answers.lock().unwrap();
                    let asked = self.between.seen.lock().unwrap();
                    Seen(format!(
                        "{error}; asked {asked:?}, answered {:?}",
                        answers.last()
                    ))
                })?;
                let port = match kind {
                    "endpointslices" => object["ports"][0]["port"].as_u64(),
                    _ => object["spec"]["ports"][0]["port"]
                        .as_u64()
                        .map(|port| port + 22_000),
                };
                match port == Some(30_000 + u64::from(version)) {
                    true => Ok(object["metadata"]["uid"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned()),
                    false => Err(Seen(object.to_string())),
                }
            });
            uids.insert(kind, uid.await?);
        }
        Ok(uids)
    }
}

#[tokio::test]
async fn an_update_of_what_somebody_deletes_or_replaces_at_that_moment_makes_nothing_and_is_planned_anew()
-> Result<()> {
    let ground = Ground::get().await?;
    let server = ground.lab.management().client().await?;
    // The hub process knows no such Tenant, and leaves alone what it has.
    let id = Id::new("vanishing".parse()?, ServiceKey::new("default", "web"));
    let between = Arc::new(Between::default());
    let tenancy = Arc::new(Tenancy {
        version: Mutex::new(0),
        wanted: Mutex::new(Want::Unknown),
        answers: Mutex::default(),
    });
    let directory = Arc::new(Directory::default());
    // No allocator minds it, so that all writes are for what is wanted.
    let mut tenant = Tenant::new(
        "vanishing",
        serde_json::from_str::<TenantSpec>(r#"{"loadBalancerClass": "example.com/nobody"}"#)?,
    );
    tenant.metadata.uid = Some("t".into());
    directory.listed(vec![tenant]);
    // No watch tells it anything: what it knows is what it has written itself.
    let cache = Arc::new(Cache::default());
    for kind in [Kind::Service, Kind::EndpointSlice, Kind::LoadBalancer] {
        cache.listed(kind, Vec::new(), std::time::Instant::now());
    }
    let work = Arc::new(Work::new(PER_TENANT));
    let executor = Executor::new(
        between.client(server.clone()),
        cache,
        directory,
        work.clone(),
        tenancy.clone(),
        Allocator::MetalLb,
        WriteMetrics::default(),
    );
    let stop = CancellationToken::new();
    let running = tokio::spawn(executor.run(stop.clone()));
    let stage = Stage {
        server,
        between,
        tenancy,
        work,
        id,
    };

    let made = stage.change(None).await?;
    stage.between.asked("services", 2).await?;
    for _ in 0..3 {
        assert_eq!(stage.change(None).await?, made);
    }
    let asked = stage.between.asked("services", 3).await?;
    assert_eq!(asked, ["PATCH 200"; 3], "one request for each change");

    for (kind, _) in KINDS {
        let before = stage.change(None).await?;
        stage.between.asked(kind, 1).await?;
        let after = stage.change(Some(Meanwhile::Deletes(kind))).await?;
        let asked = stage.between.asked(kind, 2).await?;
        assert_eq!(
            asked[0], "PATCH 409",
            "{kind}: the update itself makes nothing: {asked:?}"
        );
        assert_ne!(before[kind], after[kind]);

        let before = stage.change(None).await?;
        assert_eq!(before[kind], after[kind]);
        stage.between.asked(kind, 1).await?;
        let after = stage.change(Some(Meanwhile::Replaces(kind))).await?;
        let asked = stage.between.asked(kind, 2).await?;
        assert_eq!(asked[0], "PATCH 422", "{kind}: {asked:?}");
        assert_ne!(before[kind], after[kind]);
        assert_eq!(stage.change(None).await?, after, "it is taken as it is");
    }
    for answer in stage.tenancy.answers.lock().unwrap().iter() {
        let said = format!("{answer:?}");
        assert!(!said.contains("Rejected"), "told its tenant: {said}");
    }
    stop.cancel();
    running.await?;
    let home = format!("/api/v1/namespaces/{}", stage.id.tenant.namespace());
    act(&stage.server, &home, Method::DELETE, None).await?;
    Ok(())
}
