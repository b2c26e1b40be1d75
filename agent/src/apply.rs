//! Writes to Services what [`crate::status`] plans: a bounded number at once, never two of one Service at a time, and
//! always what the newest view asks for. What the API server replies is taken in at once, so that the next plan starts
//! from it and not from a watch that lags behind.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use berth_common::model::ServiceKey;
use k8s_openapi::{api::core::v1::Service, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    broker::Broker,
    explain::explain,
    metrics::AgentMetrics,
    project::{FIELD_MANAGER, SeenService},
    status::{Plan, Step, finalizers_patch, status_patch},
};

/// Services written to at once.
const CONCURRENCY: usize = 16;
/// A request that takes longer is given up and tried again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A Service in order needs two writes in a row at most; more would mean that the API server does not keep what we write.
const MAX_STEPS: usize = 4;

/// Writes until `stop` is cancelled; then finishes what is in hand.
pub async fn run(
    broker: Arc<Broker>,
    client: Client,
    metrics: AgentMetrics,
    stop: CancellationToken,
) {
    let mut hands = JoinSet::new();
    loop {
        let mut due = None;
        while hands.len() < CONCURRENCY && !stop.is_cancelled() {
            match broker.take(Instant::now()) {
                Ok(key) => {
                    let writer = Writer {
                        broker: Arc::clone(&broker),
                        client: client.clone(),
                        metrics: metrics.clone(),
                    };
                    hands.spawn(async move { writer.serve(key).await });
                }
                Err(next) => {
                    due = next;
                    break;
                }
            }
        }
        let wake = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(_) = hands.join_next() => {}
            () = broker.work(), if !stop.is_cancelled() => {}
            () = wake, if !stop.is_cancelled() => {}
            () = stop.cancelled(), if hands.is_empty() => return,
        }
    }
}

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The object is gone, which is as good as done.
    #[error("the Service is gone")]
    Gone,
    /// It changed meanwhile: the watch will bring what it is now.
    #[error("the Service changed meanwhile")]
    Conflict,
    /// The API server refused or failed.
    #[error("{}", explain(.0))]
    Api(kube::Error),
    /// The API server said nothing.
    #[error("no answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout,
}

impl WriteError {
    fn label(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Conflict => "conflict",
            Self::Api(_) | Self::Timeout => "failed",
        }
    }
}

struct Writer {
    broker: Arc<Broker>,
    client: Client,
    metrics: AgentMetrics,
}

impl Writer {
    async fn serve(&self, key: ServiceKey) {
        for _ in 0..MAX_STEPS {
            let Some(plan) = self.broker.plan(&key, Timestamp::now()) else {
                return self.broker.done(&key);
            };
            let kind = match plan.step {
                Step::Finalizers { .. } => "finalizers",
                Step::Status { .. } => "status",
            };
            match write(&self.client, &key, &plan).await {
                Ok(after) => {
                    self.metrics.wrote(kind, "ok");
                    let after = SeenService::project(after).map(|(_, seen)| seen);
                    self.broker.wrote(&key, plan, after, Instant::now());
                }
                Err(error) => {
                    self.metrics.wrote(kind, error.label());
                    return self.give_up(&key, kind, &error);
                }
            }
        }
        warn!(service = %key, "the API server does not keep what is written to this Service");
        self.broker.failed(&key, Instant::now(), fastrand::f64());
    }

    fn give_up(&self, key: &ServiceKey, kind: &str, error: &WriteError) {
        match error {
            WriteError::Gone => return self.broker.done(key),
            WriteError::Conflict => debug!(service = %key, kind, "the Service changed meanwhile"),
            WriteError::Api(_) | WriteError::Timeout => {
                warn!(service = %key, kind, "cannot write to the Service, will try again: {error}");
            }
        }
        self.broker.failed(key, Instant::now(), fastrand::f64());
    }
}

/// Carries out one step.
pub async fn write(client: &Client, key: &ServiceKey, plan: &Plan) -> Result<Service, WriteError> {
    let api: Api<Service> = Api::namespaced(client.clone(), &key.namespace);
    let request = async {
        match &plan.step {
            Step::Finalizers {
                finalizers,
                version,
            } => {
                let params = PatchParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PatchParams::default()
                };
                let patch = finalizers_patch(&plan.uid, version, finalizers);
                api.patch(&key.name, &params, &Patch::Merge(patch)).await
            }
            Step::Status {
                ingress,
                conditions,
            } => {
                let params = PatchParams::apply(FIELD_MANAGER).force();
                let patch = status_patch(key, &plan.uid, ingress, conditions);
                api.patch_status(&key.name, &params, &Patch::Apply(patch))
                    .await
            }
        }
    };
    match timeout(REQUEST_TIMEOUT, request).await {
        Ok(Ok(service)) => Ok(service),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(WriteError::Gone),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Err(WriteError::Conflict),
        Ok(Err(error)) => Err(WriteError::Api(error)),
        Err(_) => Err(WriteError::Timeout),
    }
}
