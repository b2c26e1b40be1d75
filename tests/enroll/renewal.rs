//! Certificates that live for seconds, so that a test sees what takes a day: renewals under a session that goes on, and what becomes of
//! one that cannot be renewed.

use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_lab::{Cluster, Seen, await_ip, eventually};
use rcgen::KeyPair;
use serde_json::Value;
use tonic::Code;

use crate::{
    SOON,
    agent::{Agent, tenant},
    attacker::{csr, key as attacker_key, rejoin},
    ground::{Ground, Hub, der},
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

/// The text of a key in the agent's Secret.
async fn kept(cluster: &Cluster, key: &str) -> Result<String> {
    let path = format!("go-template={{{{index .data \"{key}\" | base64decode}}}}");
    let name = "berth-agent-identity";
    let arguments = ["get", "secret", name, "-n", "berth-system", "-o", &path];
    Ok(cluster.kubectl(&arguments).await?)
}

async fn set_grace(ground: &Ground, tenant: &str, seconds: u32) -> Result<()> {
    let patch = format!(r#"{{"spec":{{"renewGraceSeconds":{seconds}}}}}"#);
    let arguments = ["patch", "tenant", tenant, "--type=merge", "-p", &patch];
    ground.lab.management().kubectl(&arguments).await?;
    Ok(())
}

#[tokio::test]
async fn an_expired_certificate_is_renewed_where_its_tenant_allows_it_and_only_with_its_key()
-> Result<()> {
    let ground = Ground::get().await?;
    let mut hub = Hub::start(ground, "grace", &[LIFE]).await?;
    let (mut agent, cluster) = connected(ground, &hub, "grace").await?;
    let key = kept(&cluster, "tls.key").await?;
    hub.stop().await?;
    await_event(&cluster, "CertificateExpired").await?;
    agent.await_log("the hub does not renew it").await?;
    agent.stop().await?;
    hub.restart().await?;
    let expired = der(&kept(&cluster, "tls.crt").await?)?;
    let own = || KeyPair::from_pem(&key);
    let pin = hub.token(ground, "grace", &[])?.pin;
    let from = [127, 0, 0, 23].into();
    let ask = async |certificate: &[u8], key: &KeyPair| {
        rejoin(hub.enrollment, from, pin, certificate, csr(key)).await
    };
    let refused = |reason: &str| {
        let lines = hub.audit(&[("event", "refusal"), ("reason", reason)])?;
        anyhow::Ok(lines.len())
    };

    // What nobody has allowed is refused, and so is a key that is not the certificate's; all with the same words.
    let none = ask(&expired, &own()?).await?.unwrap_err();
    assert_eq!(
        (none.code(), refused("no_grace")?),
        (Code::PermissionDenied, 1)
    );
    assert!(none.message().contains("spec.renewGraceSeconds"), "{none}");
    set_grace(ground, "grace", 600).await?;
    let stolen = ask(&expired, &attacker_key()).await?.unwrap_err();
    assert_eq!(
        (stolen.message(), refused("other_key")?),
        (none.message(), 1)
    );
    let mut bent = expired.clone();
    *bent.last_mut().context("empty")? ^= 1;
    let forged = ask(&bent, &own()?).await?.unwrap_err();
    assert_eq!(
        (forged.message(), refused("foreign_certificate")?),
        (none.message(), 1)
    );
    set_grace(ground, "grace", 1).await?;
    let late = ask(&expired, &own()?).await?.unwrap_err();
    assert_eq!(
        (late.message(), refused("grace_over")?),
        (none.message(), 1)
    );

    // The agent comes back by itself, with the same key, and without anybody's doing.
    set_grace(ground, "grace", 600).await?;
    agent.restart().await?;
    agent.ready().await?;
    assert_eq!(kept(&cluster, "tls.key").await?, key);
    let given = hub.audit(&[("tenant", "grace"), ("reason", "renewed_in_grace")])?;
    assert_eq!(given.len(), 1);
    assert!(given[0]["former"] != given[0]["serial"]);
    assert!(
        hub.counted("berth_renewals_total", "issued_in_grace")
            .await?
            >= 1.0
    );

    // Revoked is revoked, however much grace there is.
    ground.operated(&["tenant", "revoke", "grace"])?;
    let revoked = ask(&expired, &own()?).await?.unwrap_err();
    assert_eq!(
        (revoked.message(), refused("revoked")? >= 1),
        (none.message(), true)
    );
    Ok(())
}
