//! Certificates that live for seconds, so that a test sees what takes a day: renewals under a session that goes on, and what becomes of
//! one that cannot be renewed.

use std::time::Duration;

use anyhow::Result;
use berth_lab::{Cluster, Seen, await_ip, eventually};
use serde_json::Value;

use crate::{
    SOON,
    agent::{Agent, tenant},
    ground::{Ground, Hub},
    join::service,
};

/// Long beside what a busy machine may stall, short for a test.
const LIFE: &str = "--ca-lifetime=20s";
/// Several lives.
const LIVES: Duration = Duration::from_secs(180);

/// An agent of a new tenant in a cluster of its own, connected to this hub.
async fn connected(
    ground: &Ground,
    hub: &Hub,
    name: &str,
) -> Result<(Agent, std::sync::Arc<Cluster>)> {
    let cluster = ground.lab.cluster(name).await?;
    tenant(ground, name).await?;
    let joining = hub.token(ground, name, &[])?;
    let installed = cluster.install("berth-agent", &joining.arguments).await?;
    let agent = Agent::start(ground, name, &installed, Some(&joining.token)).await?;
    agent.ready().await?;
    agent.forget_token()?;
    Ok((agent, cluster))
}

async fn await_renewals(agent: &Agent, result: &str, count: f64) -> Result<()> {
    let what = format!("{count} renewals of the agent's certificate: {result}");
    let label = format!("result=\"{result}\"");
    eventually(LIVES, &what, || async {
        let metric = "berth_agent_certificate_renewals_total";
        let counted = agent.counted(metric, &label).await?;
        match counted >= count {
            true => Ok(()),
            false => Err(Seen(format!("{counted}; {}", agent.log()?))),
        }
    })
    .await?;
    Ok(())
}

/// Waits for an event about the agent's Secret.
async fn await_event(cluster: &Cluster, reason: &str) -> Result<String> {
    let what = format!("there is an event {reason}");
    let note = eventually(LIVES, &what, || async {
        let arguments = [
            "get",
            "events.v1.events.k8s.io",
            "-n",
            "berth-system",
            "-o",
            "json",
        ];
        let text = cluster.kubectl(&arguments).await?;
        let events: Value = serde_json::from_str(&text).map_err(|error| Seen(error.to_string()))?;
        let mut items = events["items"]
            .as_array()
            .cloned()
            .unwrap_or_default()
            .into_iter();
        let about = |event: &Value| {
            event["reason"] == reason && event["regarding"]["name"] == "berth-agent-identity"
        };
        let found = items.find(about).ok_or_else(|| Seen(text.clone()))?;
        Ok(found["note"].as_str().unwrap_or_default().to_owned())
    });
    Ok(note.await?)
}

#[tokio::test]
async fn certificates_are_renewed_under_a_stream_that_never_drops() -> Result<()> {
    let ground = Ground::get().await?;
    let hub = Hub::start(ground, "brief", &[LIFE]).await?;
    let (agent, cluster) = connected(ground, &hub, "brief").await?;
    // At half of 20 s each, a tenth sooner or later: the first certificate ends on the way, and so does the second.
    await_renewals(&agent, "ok", 5.0).await?;
    assert_eq!(
        agent.said("link: connected to the hub")?,
        1,
        "{}",
        agent.log()?
    );
    let ended = agent
        .counted("berth_agent_sessions_ended_total", "")
        .await?;
    assert!(ended < 1.0, "{}", agent.log()?);
    assert!(hub.counted("berth_sessions_ended_total", "").await? < 1.0);
    let renewed = hub.audit(&[
        ("event", "certificate"),
        ("tenant", "brief"),
        ("reason", "renewed"),
    ])?;
    assert!(renewed.len() >= 5);
    assert!(renewed.iter().all(|line| line["serial"] != line["former"]));
    // The hub's own, which has lived as long.
    assert!(
        hub.log()?
            .matches("the hub's own certificate is renewed")
            .count()
            >= 4
    );
    // The stream is one that works, and the next connection takes the newest certificate.
    let namespace = cluster.namespace().await?;
    cluster.apply_in(&namespace, &service("web")).await?;
    await_ip(&cluster, &namespace, "web").await?;
    let mut agent = agent;
    agent.restart().await?;
    agent.ready().await?;
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_renewed_is_told_and_comes_back_with_the_hub_or_with_a_token() -> Result<()>
{
    let ground = Ground::get().await?;
    let mut hub = Hub::start(ground, "flighty", &[LIFE]).await?;
    let (agent, cluster) = connected(ground, &hub, "flighty").await?;
    hub.stop().await?;
    let note = await_event(&cluster, "CertificateRenewalFailed").await?;
    assert!(note.contains("the one in use is good for"), "{note}");
    assert!(
        agent
            .counted("berth_agent_certificate_renewals_total", "failed")
            .await?
            >= 1.0
    );
    await_event(&cluster, "CertificateExpired").await?;
    agent.await_log("there is no join token").await?;
    // After that nothing but a token helps, which a hub with the same CA makes and takes.
    hub.restart().await?;
    let again = hub.token(ground, "flighty", &[])?;
    agent.bring_token(&again.token)?;
    eventually(SOON, "the tenant is connected again", || async {
        match agent.said("link: connected to the hub")? {
            0 | 1 => Err(Seen(agent.log()?)),
            _ => Ok(()),
        }
    })
    .await?;
    let lines = hub.audit(&[
        ("event", "certificate"),
        ("tenant", "flighty"),
        ("reason", "issued"),
    ])?;
    assert_eq!(lines.len(), 2, "one for each token");
    Ok(())
}
