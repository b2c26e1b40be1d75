//! A tenant in the lab: its cluster, its `Tenant` object in the management cluster, its certificate and its agent. Knows how an
//! operator admits a tenant; must not know what the agent does.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::api::Api;

use crate::address::{GATEWAY, Node};
use crate::charts;
use crate::cluster::Cluster;
use crate::error::Result;
use crate::hub::{Certificate, Hub};
use crate::program::Program;
use crate::site::text;
use crate::wait::{Seen, eventually};

/// How long an address may take: MetalLB alone gives 20 a second at most.
const ADDRESS: Duration = Duration::from_secs(60);

/// A tenant. It is a [`Cluster`], with an agent.
#[derive(Debug, Clone)]
pub struct Tenant {
    cluster: Arc<Cluster>,
    agent: Program,
    certificate: Certificate,
}

impl Deref for Tenant {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Tenant {
    /// Admits the cluster's tenant to the hub, installs the agent's rights and starts it; ready means connected.
    pub(crate) async fn join(
        hub: &Hub,
        management: &Cluster,
        cluster: Arc<Cluster>,
    ) -> Result<Self> {
        let name = cluster.name();
        // Nodes in name only are not to be knocked at: nobody would answer, or somebody else on the machine's network.
        let real = cluster.site.has_packets() && Node::of(name).next().is_some();
        let mode = if real { "KubeProxy" } else { "None" };
        management
            .apply(&format!(
                "apiVersion: berth.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec: {{healthCheck: {{mode: {mode}}}}}\n"
            ))
            .await?;
        let certificate = hub.tenant_certificate(name).await?;
        let agent = prepare_agent(hub, &cluster, &certificate).await?;
        agent.start().await?;
        Ok(Self {
            cluster,
            agent,
            certificate,
        })
    }

    /// Its cluster.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Its agent.
    #[must_use]
    pub fn agent(&self) -> &Program {
        &self.agent
    }

    /// Stops the agent, and returns one with more arguments in its place, not yet started.
    pub async fn agent_with(&self, arguments: &[&str]) -> Result<Program> {
        self.agent.stop().await?;
        Ok(self.agent.with(arguments))
    }

    /// The certificate that its agent shows.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Waits until a Service has an address, and returns the first one.
    pub async fn await_ip(&self, namespace: &str, service: &str) -> Result<String> {
        await_ip(&self.cluster, namespace, service).await
    }
}

/// Waits until a Service of a cluster has an address, and returns the first one.
pub async fn await_ip(cluster: &Cluster, namespace: &str, service: &str) -> Result<String> {
    let services: Api<Service> = Api::namespaced(cluster.client().await?, namespace);
    let what = format!(
        "Service {namespace}/{service} of {} has an address",
        cluster.name()
    );
    eventually(ADDRESS, &what, || async {
        let found = services.get(service).await?;
        let ip = found.status.as_ref().and_then(|status| {
            status
                .load_balancer
                .as_ref()?
                .ingress
                .as_ref()?
                .first()?
                .ip
                .clone()
        });
        ip.ok_or_else(|| Seen(format!("its status is {:?}", found.status)))
    })
    .await
}

async fn prepare_agent(hub: &Hub, cluster: &Cluster, certificate: &Certificate) -> Result<Program> {
    let site = &cluster.site;
    let name = cluster.name();
    // A tenant without nodes on the fabric has its agent beside its control plane, where ports are shared.
    let node = Node::of(name).next().filter(|_| site.has_packets());
    let (host, port) = match node {
        Some(node) => (node.address, 9090),
        None if site.has_packets() => (GATEWAY, 9090 + cluster.plan.index),
        None => (Ipv4Addr::LOCALHOST, 0),
    };
    let admin = SocketAddr::from((host, site.sandbox.port(port)?));
    let kubeconfig = charts::install(cluster, "berth-agent").await?;

    let config = format!(
        "hub:\n  address: {}\ntls:\n  cert: {}\n  key: {}\n  ca: {}\n",
        hub.address(),
        text(&certificate.certificate()),
        text(&certificate.key()),
        text(&certificate.ca()),
    );
    let config = site
        .sandbox
        .run_dir
        .write(&format!("{name}/agent.yaml"), config)?;
    let argv = [
        site.program("berth-agent"),
        "run".into(),
        format!("--config={}", text(&config)),
        format!("--admin-listen={admin}"),
    ];
    let process = site
        .process(&format!("{name}/berth-agent"), argv)
        .env("BERTH_KUBECONFIG", text(&kubeconfig))
        .env("BERTH_LOG_FILTER", "info");
    Ok(Program::new(
        site.clone(),
        process,
        node.map(|node| node.name),
        admin,
    ))
}
