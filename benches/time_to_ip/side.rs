//! One of the two ways to an address that are compared: a Service created in the management cluster, for MetalLB alone, and
//! the same Service created in a tenant's, for Berth. Both are created, watched and deleted by the same code; which is which
//! shows only in the cluster.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use berth_lab::{Cluster, Seen, eventually};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;

use crate::numbers::Spread;
use crate::sightings::Sightings;

/// How many requests are under way at once in a burst: more than an API server answers at once on any machine, few enough
/// connections.
const AT_ONCE: usize = 50;

/// How long the last of a burst may take. KubeLB's 1,000 take 412 s.
const DEADLINE: Duration = Duration::from_secs(600);

/// What the Services lead to: with an endpoint, speakers announce their addresses and kube-proxies have work, on both sides.
const BACKEND: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: backend}
spec:
  selector: {matchLabels: {app: backend}}
  template:
    metadata: {labels: {app: backend}}
    spec:
      containers: [{name: backend, image: 'lab.local/echo:1', ports: [{containerPort: 3000}]}]
";

/// How long the backend's pod may take.
const BACKEND_READY: Duration = Duration::from_secs(30);

/// A namespace of a cluster with a watch on its Services.
pub(crate) struct Side {
    services: Api<Service>,
    sightings: Sightings,
}

/// What a burst came to.
pub(crate) struct Burst {
    /// From each Service's create reply to its address.
    pub(crate) times: Spread,
    /// From the first request to the last reply.
    pub(crate) created: Duration,
    /// From the first request to the last address.
    pub(crate) last: Duration,
    /// How many Services never got an address.
    pub(crate) missing: usize,
}

impl Side {
    /// A new namespace of a cluster, watched, with a backend that is ready.
    pub(crate) async fn new(cluster: &Cluster) -> Result<Self> {
        let namespace = cluster.namespace().await?;
        let client = cluster.client().await?;
        cluster.apply_in(&namespace, BACKEND).await?;
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
        eventually(BACKEND_READY, "the backend is ready", || async {
            let status = deployments.get("backend").await?.status.unwrap_or_default();
            match status.ready_replicas {
                Some(1) => Ok(()),
                other => Err(Seen(format!("{other:?} ready replicas"))),
            }
        })
        .await?;
        let services: Api<Service> = Api::namespaced(client, &namespace);
        let sightings = Sightings::start(services.clone(), "", |service| {
            service.metadata.name.clone()
        });
        Ok(Self {
            services,
            sightings,
        })
    }

    /// Creates a Service and says how long after the reply its address was seen.
    pub(crate) async fn one(&self, name: &str) -> Result<Duration> {
        let created = self.create(name).await?;
        let addressed = self.addressed(name, Instant::now() + DEADLINE).await?;
        let addressed = addressed.with_context(|| format!("{name} got no address"))?;
        Ok(addressed.saturating_duration_since(created))
    }

    /// Creates Services together and waits until all have addresses.
    pub(crate) async fn burst(&self, names: &[String]) -> Result<Burst> {
        let began = Instant::now();
        let creations = stream::iter(names).map(|name| self.create(name));
        let created: Vec<Instant> = creations.buffered(AT_ONCE).try_collect().await?;
        self.outcome(began, names, created).await
    }

    /// Waits until Services have addresses, whose creation began then and was replied to one after the other.
    pub(crate) async fn outcome(
        &self,
        began: Instant,
        names: &[String],
        created: Vec<Instant>,
    ) -> Result<Burst> {
        let replied = created.iter().max().copied().unwrap_or(began);
        let mut times = Vec::new();
        let mut last = began;
        for (name, created) in names.iter().zip(created) {
            if let Some(addressed) = self.addressed(name, replied + DEADLINE).await? {
                times.push(addressed.saturating_duration_since(created));
                last = last.max(addressed);
            }
        }
        Ok(Burst {
            created: replied - began,
            missing: names.len() - times.len(),
            times: Spread::new(times),
            last: last - began,
        })
    }

    /// Deletes Services together, and says how long after the first request the last was gone.
    pub(crate) async fn delete(&self, names: &[String]) -> Result<Duration> {
        let began = Instant::now();
        let deletions = stream::iter(names).map(|name| self.begin_to_delete(name));
        let deletions = deletions.buffer_unordered(AT_ONCE);
        deletions.try_for_each(|()| async { Ok(()) }).await?;
        let mut last = began;
        for name in names {
            let deadline = began + DEADLINE;
            let gone = self.sightings.wait(name, deadline, |moments| moments.gone);
            let gone = gone.await?;
            last = last.max(gone.with_context(|| format!("{name} was not released"))?);
        }
        Ok(last - began)
    }

    /// What its watch saw.
    pub(crate) fn sightings(&self) -> &Sightings {
        &self.sightings
    }

    /// Has a Service deleted, and waits for nothing.
    pub(crate) async fn begin_to_delete(&self, name: &str) -> Result<()> {
        let parameters = DeleteParams::default();
        self.services.delete(name, &parameters).await?;
        Ok(())
    }

    /// Creates a Service, and says when the API server had replied.
    pub(crate) async fn create(&self, name: &str) -> Result<Instant> {
        let parameters = PostParams::default();
        self.services.create(&parameters, &service(name)?).await?;
        Ok(Instant::now())
    }

    async fn addressed(&self, name: &str, deadline: Instant) -> Result<Option<Instant>> {
        let addressed = self
            .sightings
            .wait(name, deadline, |moments| moments.addressed);
        addressed.await
    }
}

/// The Service of the tutorial.
fn service(name: &str) -> Result<Service> {
    Ok(serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "type": "LoadBalancer",
            "selector": { "app": "backend" },
            "ports": [{ "name": "http", "port": 3000, "targetPort": 3000 }],
        },
    }))?)
}
