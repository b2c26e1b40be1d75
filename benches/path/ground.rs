//! The lab as these measurements want it: hub and agent logging as in production, pods that answer, and a way to create a
//! Service through Berth and one by hand in the management cluster that leads to the same pods. Must not measure.

use std::time::Duration;

use anyhow::{Context, Result};
use berth_lab::lab::ACME;
use berth_lab::progress::Console;
use berth_lab::workload::{Pods, service};
use berth_lab::{Cluster, Lab, Seen, Tenant, address::Node, eventually};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::rest::rest;

/// How long anything may take that is only waited for.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// How long a node may take to be trusted again that was lost several times.
const BACK: Duration = Duration::from_secs(180);

/// The port of every Service here.
pub(crate) const PORT: u16 = 80;

/// Where everything is measured.
pub(crate) struct Ground {
    /// The lab; with it everything ends.
    pub(crate) lab: Lab,
    /// The tenant.
    pub(crate) tenant: Tenant,
    /// The tenant's namespace with everything.
    pub(crate) namespace: String,
    /// A namespace of the management cluster for what is made there by hand.
    behind: String,
    /// A node port of the tenant that leads to pods, for what is made by hand.
    node_port: i32,
}

impl Ground {
    /// Starts it.
    pub(crate) async fn start(filter: &str) -> Result<Self> {
        let lab = Lab::builder()
            .progress(Console::stderr())
            .start_own()
            .await?;
        let tenant = lab.tenant(ACME).await?;
        for program in [lab.hub(), tenant.agent()] {
            let process = program.process().clone().env("BERTH_LOG_FILTER", filter);
            process.restart().await?;
            program.ready().await?;
        }
        let namespace = tenant.namespace().await?;
        Pods::new("web", 2).deploy(&tenant, &namespace).await?;
        let beside = service("beside", "[{name: http, port: 80, targetPort: 3000}]", "");
        let beside = beside.replace("LoadBalancer", "NodePort");
        let beside = beside.replace("{app: beside}", "{app: web}");
        tenant.apply_in(&namespace, &beside).await?;
        let services: Api<Service> = Api::namespaced(tenant.client().await?, &namespace);
        let spec = services.get("beside").await?.spec.unwrap_or_default();
        let node_port = spec.ports.iter().flatten().find_map(|port| port.node_port);
        let behind = lab.management().namespace().await?;
        Ok(Self {
            node_port: node_port.context("the API server gave no node port")?,
            lab,
            tenant,
            namespace,
            behind,
        })
    }

    /// Waits until both clusters have had nothing to do for a while.
    pub(crate) async fn rest(&self, quiet: Duration) -> Result<()> {
        rest(&[self.lab.management(), self.tenant.cluster()], quiet).await
    }

    /// Waits until a Service of the tenant's has so many backends in the management cluster.
    pub(crate) async fn await_backends(&self, name: &str, wanted: usize) -> Result<()> {
        let client = self.lab.management().client().await?;
        let slices: Api<EndpointSlice> = Api::namespaced(client, &format!("berth-{ACME}"));
        let of = format!(
            "berth.dev/service-namespace={},berth.dev/service-name={name}",
            self.namespace
        );
        let of = ListParams::default().labels(&of);
        let what = format!("{name} has {wanted} backends");
        eventually(BACK, &what, || async {
            let found = slices.list(&of).await?;
            let backends: usize = found.iter().map(|slice| slice.endpoints.len()).sum();
            match backends == wanted {
                true => Ok(()),
                false => Err(Seen(format!("{backends} of them"))),
            }
        })
        .await?;
        Ok(())
    }

    /// Creates a Service in the tenant's cluster that leads to its pods. When the API server had it, and its address.
    pub(crate) async fn through(&self, name: &str) -> Result<(Instant, String)> {
        create(self.tenant.cluster(), &self.namespace, &[tenants(name)]).await
    }

    /// Creates a Service in the management cluster that leads to a node port which is in use already.
    pub(crate) async fn direct(&self, name: &str) -> Result<(Instant, String)> {
        let objects = [
            managements(name, self.node_port),
            slice(name, self.node_port),
        ];
        create(self.lab.management(), &self.behind, &objects).await
    }
}

fn tenants(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": {
            "type": "LoadBalancer",
            "selector": { "app": "web" },
            "ports": [{ "name": "http", "port": PORT, "targetPort": 3000 }],
        },
    })
}

fn managements(name: &str, node_port: i32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": {
            "type": "LoadBalancer",
            "allocateLoadBalancerNodePorts": false,
            "ports": [{ "name": "http", "port": PORT, "targetPort": node_port }],
        },
    })
}

fn slice(name: &str, node_port: i32) -> Value {
    let endpoints: Vec<Value> = Node::of(ACME)
        .map(|node| json!({ "addresses": [node.address], "conditions": { "ready": true } }))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": node_port, "protocol": "TCP" }],
        "endpoints": endpoints,
    })
}

/// Creates objects, the first of which is a Service whose address is watched for from before it exists.
async fn create(
    cluster: &Cluster,
    namespace: &str,
    objects: &[Value],
) -> Result<(Instant, String)> {
    let client = cluster.client().await?;
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let name = objects[0]["metadata"]["name"].as_str().unwrap_or_default();
    let creation = async {
        let mut created = None;
        for object in objects {
            let object: DynamicObject = serde_json::from_value(object.clone())?;
            let types = object.types.clone().context("an object has no kind")?;
            let kind = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
            api.create(&PostParams::default(), &object).await?;
            created.get_or_insert_with(Instant::now);
        }
        created.context("nothing to create")
    };
    let has_address = |service: Option<&Service>| service.and_then(address).is_some();
    let addressed = timeout(SOON, await_condition(services, name, has_address));
    let (created, addressed) = tokio::join!(creation, addressed);
    let service = addressed.with_context(|| format!("{name} got no address"))??;
    let ip = service.as_ref().and_then(address).unwrap_or_default();
    Ok((created?, ip))
}

/// The first address of a Service's status.
fn address(service: &Service) -> Option<String> {
    let status = service.status.as_ref()?.load_balancer.as_ref()?;
    status.ingress.as_ref()?.first()?.ip.clone()
}
