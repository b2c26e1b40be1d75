//! Events in the management cluster, on LoadBalancers: what an operator wants to find with `kubectl describe` and what no state
//! shows. They are courtesies: one that the API server does not take is logged, and nothing waits for it for long.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource as _,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tracing::{debug, info};

use crate::{
    api::LoadBalancer,
    objects::{Id, MANAGER, name},
    plan::Observed,
};

/// A request that takes longer is given up: it keeps one of the executor's places.
const PATIENCE: Duration = Duration::from_secs(2);

/// Writes them.
pub(super) struct Announcer(Recorder);

impl Announcer {
    pub(super) fn new(client: Client) -> Self {
        let reporter = Reporter {
            controller: MANAGER.into(),
            instance: None,
        };
        Self(Recorder::new(client, reporter))
    }

    /// The load balancer belongs to another Service of the same name now (point 5).
    pub(super) async fn rebound(&self, id: &Id, observed: &Observed) {
        let Some(record) = &observed.record else {
            return;
        };
        let uid = &record.object.spec.source.uid;
        info!(
            uid,
            "the load balancer of a former Service of this name is taken over"
        );
        let reference = ObjectReference {
            api_version: Some(LoadBalancer::api_version(&()).into_owned()),
            kind: Some(LoadBalancer::kind(&()).into_owned()),
            namespace: Some(id.tenant.namespace()),
            name: Some(name::object(id)),
            uid: Some(record.uid.clone()),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: EventType::Normal,
            reason: "Rebound".into(),
            note: Some(format!(
                "{} of {} was created anew (UID {uid}): it takes over the load balancer of the former one, with its address",
                id.key, id.tenant
            )),
            action: "Rebind".into(),
            secondary: None,
        };
        match tokio::time::timeout(PATIENCE, self.0.publish(&event, &reference)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "an event was not written"),
            Err(_) => debug!("an event was not written in time"),
        }
    }
}
