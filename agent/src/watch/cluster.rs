//! Which cluster this is: the UID of its kube-system namespace, asked at the start and after every loss.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::pause;
use crate::{broker::Broker, explain::explain};

/// A request that takes longer is given up and tried again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the cluster could not be identified.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The API server refused or failed.
    #[error("cannot read the namespace kube-system: {}", explain(.0))]
    Api(kube::Error),
    /// The API server said nothing.
    #[error("cannot read the namespace kube-system: no answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout,
    /// An object without a UID.
    #[error("the namespace kube-system has no UID: is this a Kubernetes API server?")]
    NoUid,
}

/// Asks for the cluster's UID.
pub async fn cluster_uid(client: &Client) -> Result<String, ClusterError> {
    let api: Api<Namespace> = Api::all(client.clone());
    let namespace = timeout(REQUEST_TIMEOUT, api.get_metadata("kube-system"))
        .await
        .map_err(|_| ClusterError::Timeout)?
        .map_err(ClusterError::Api)?;
    namespace.metadata.uid.ok_or(ClusterError::NoUid)
}

/// Asks whenever the broker wants to know, until `stop` is cancelled.
pub async fn follow_cluster_uid(broker: Arc<Broker>, client: Client, stop: CancellationToken) {
    let mut wanted = broker.uid_wanted();
    let mut failures = 0;
    let mut said = None;
    loop {
        tokio::select! {
            wanted = wanted.wait_for(|wanted| *wanted) => if wanted.is_err() { return },
            () = stop.cancelled() => return,
        }
        match cluster_uid(&client).await {
            Ok(uid) => {
                failures = 0;
                said = None;
                broker.cluster_uid(uid);
                // The next word of the broker is the one that counts: this one was answered.
                continue;
            }
            Err(error) => {
                failures += 1;
                let text = error.to_string();
                if said.as_ref() != Some(&text) {
                    warn!("{text}");
                    said = Some(text);
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause(failures, fastrand::f64())) => {}
            () = stop.cancelled() => return,
        }
    }
}
