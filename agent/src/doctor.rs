//! `berth-agent doctor`: looks at everything that the agent needs, from where it would run, and says what to do about
//! what is missing. It changes nothing and opens no session, so that a running agent is not disturbed.

mod cluster;
mod hub;

use std::{sync::Arc, time::SystemTime};

use berth_common::{doctor::Report, tls::ClientTls};
use kube::Client;

use crate::{
    app::{client_tls, kube_client},
    identity::{State, Vault},
    settings::AgentSettings,
};

pub use cluster::PERMISSIONS;

/// Examines the way to the hub, then this cluster.
pub async fn examine(settings: &AgentSettings) -> Report {
    let mut report = Report::default();
    let client = kube_client(settings.kubeconfig.as_deref()).await;
    match identity(settings, client.as_ref().ok()).await {
        Ok(tls) => hub::examine(settings, tls, &mut report).await,
        Err(problem) => report.fail("certificate", problem),
    }
    match client {
        Ok(client) => cluster::examine(settings, &client, &mut report).await,
        Err(error) => report.fail("API server", format!("{error:#}")),
    }
    report
}

/// Who we are, from files or from the agent's own Secret.
async fn identity(
    settings: &AgentSettings,
    client: Option<&Client>,
) -> Result<Arc<ClientTls>, String> {
    let Some(secret) = &settings.enroll.secret else {
        return client_tls(&settings.tls)
            .map_err(|error| format!("{:#}", anyhow::Error::from(error)));
    };
    let client =
        client.ok_or_else(|| format!("it is in the Secret {secret}, which cannot be read"))?;
    let vault = Vault::new(client.clone(), secret.clone());
    let stored = vault.read().await.map_err(|error| error.to_string())?;
    let advice = "ask the hub's operator for the command that `berth-hub token create NAME` prints, and see the agent's log";
    match stored.map(|stored| stored.held.state(SystemTime::now())) {
        Some(State::Good(tls)) => Ok(tls),
        None => Err(format!("there is no Secret {secret}: {advice}")),
        Some(State::Bare) => Err(format!(
            "the Secret {secret} has no certificate yet: {advice}"
        )),
        Some(State::Unusable(error)) => Err(format!(
            "the one in the Secret {secret} cannot be used ({error}): {advice}"
        )),
    }
}
