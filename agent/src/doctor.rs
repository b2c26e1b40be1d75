//! `berth-agent doctor`: looks at everything that the agent needs, from where it would run, and says what to do about
//! what is missing. It changes nothing and opens no session, so that a running agent is not disturbed.

mod cluster;
mod hub;

use berth_common::doctor::Report;

use crate::{app::kube_client, settings::AgentSettings};

pub use cluster::PERMISSIONS;

/// Examines the way to the hub, then this cluster.
pub async fn examine(settings: &AgentSettings) -> Report {
    let mut report = Report::default();
    hub::examine(settings, &mut report).await;
    match kube_client(settings.kubeconfig.as_deref()).await {
        Ok(client) => cluster::examine(settings, &client, &mut report).await,
        Err(error) => report.fail("API server", format!("{error:#}")),
    }
    report
}
