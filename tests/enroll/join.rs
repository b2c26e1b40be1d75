//! From the command that `token create` prints to a served Service, and an identity that is kept: over restarts, by two agents at once,
//! and where it was lost.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use berth_lab::{Cluster, Installed, Seen, await_ip, eventually};
use serde_json::Value;

use crate::{
    SOON,
    agent::{Agent, tenant},
    ground::{Ground, Hub, Joining},
};

/// A Service of type LoadBalancer.
pub(crate) fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: LoadBalancer, selector: {{app: {name}}}, \
         ports: [{{port: 80, targetPort: 8080}}]}}\n"
    )
}

/// A text in the agent's Secret.
async fn held(cluster: &Cluster, key: &str) -> Result<String> {
    let path = format!("jsonpath={{.data.{}}}", key.replace('.', r"\."));
    let arguments = [
        "get",
        "secret",
        "berth-agent-identity",
        "-n",
        "berth-system",
        "-o",
        &path,
    ];
    cluster.kubectl(&arguments).await.map_err(Into::into)
}

#[tokio::test]
async fn two_commands_admit_a_cluster_and_its_service_gets_an_address() -> Result<()> {
    let ground = Ground::get().await?;
    let hub = ground.hub().await?;
    let acme = ground.lab.acme();
    tenant(ground, "acme").await?;
    // The first command, and the second one as it was printed, but that the pod is a process here.
    let joining = hub.token(ground, "acme", &[])?;
    let installed = acme.install("berth-agent", &joining.arguments).await?;
    let mut agent = Agent::start(ground, "acme", &installed, Some(&joining.token)).await?;
    agent.ready().await?;
    let namespace = acme.namespace().await?;
    acme.apply_in(&namespace, &service("web")).await?;
    await_ip(acme, &namespace, "web").await?;

    let issued = || {
        hub.audit(&[
            ("event", "certificate"),
            ("tenant", "acme"),
            ("reason", "issued"),
        ])
    };
    assert_eq!(issued()?.len(), 1);
    let key = held(acme, "tls.key").await?;
    ensure!(!key.is_empty() && !held(acme, "tls.crt").await?.is_empty());
    for log in [hub.log()?, agent.log()?] {
        assert!(!log.contains(&joining.token) && !log.contains("PRIVATE KEY"));
    }
    only_its_own_secret(ground, &installed)?;
    let (_, said) = agent.doctor().await?;
    let identity = "spiffe://berth.local/tenant/acme, ";
    assert!(
        said.contains(identity) && said.contains("knows our certificate"),
        "{said}"
    );

    // A restart needs no token, and neither a new key nor a new certificate.
    agent.forget_token()?;
    agent.restart().await?;
    agent.ready().await?;
    assert_eq!(held(acme, "tls.key").await?, key);
    assert_eq!(issued()?.len(), 1);

    // A lost Secret needs a new token, and the agent says so; it takes one without a restart.
    agent.stop().await?;
    let secret = [
        "delete",
        "secret",
        "berth-agent-identity",
        "-n",
        "berth-system",
    ];
    acme.kubectl(&secret).await?;
    agent.restart().await?;
    let words = "has no certificate, and there is no join token";
    agent.await_log(words).await?;
    agent.await_log("berth-hub token create NAME").await?;
    let (well, said) = agent.doctor().await?;
    assert!(
        !well && said.contains("has no certificate yet: ask the hub's operator"),
        "{said}"
    );
    let again = hub.token(ground, "acme", &[])?;
    agent.bring_token(&again.token)?;
    agent.ready().await?;
    assert_ne!(held(acme, "tls.key").await?, key);
    acme.apply_in(&namespace, &service("later")).await?;
    await_ip(acme, &namespace, "later").await?;
    Ok(())
}

/// What the operator need not say, the hub's Service does: MetalLB has given it an address.
#[tokio::test]
async fn the_printed_command_and_the_manifest_know_where_the_hub_is() -> Result<()> {
    let ground = Ground::get().await?;
    ground.hub().await?;
    let ip = await_ip(ground.lab.management(), "berth-system", "berth-hub").await?;
    let command = ground.operated(&["token", "create", "found", "--create"])?;
    for words in [
        "helm install berth-agent deploy/charts/berth-agent --namespace berth-system --create-namespace",
        &format!("hub.address={ip}:8443"),
        &format!("enroll.address={ip}:8444"),
        "hub.serverName=berth-hub.berth-system.svc",
        "enroll.caHash=sha256:",
        "enroll.token=berth-join-",
    ] {
        assert!(command.contains(words), "{words} in {command}");
    }
    let manifest = ground.operated(&["token", "create", "found", "--output", "yaml"])?;
    let cluster = ground.lab.cluster("manifest").await?;
    cluster.apply(&manifest).await?;
    let arguments = [
        "get",
        "deployment,secret,role,configmap",
        "-n",
        "berth-system",
        "-o",
        "name",
    ];
    let made = cluster.kubectl(&arguments).await?;
    for object in [
        "deployment.apps/berth-agent",
        "secret/berth-agent-join",
        "configmap/berth-agent",
    ] {
        assert!(made.contains(object), "{object} in {made}");
    }
    Ok(())
}

/// Whether kubectl can do this with somebody's rights.
fn may(ground: &Ground, who: &Installed, arguments: &[&str]) -> Result<bool> {
    let output = std::process::Command::new(ground.lab.parts().path("kubectl"))
        .env("HOME", ground.lab.directory())
        .arg("--kubeconfig")
        .arg(&who.kubeconfig)
        .args(arguments)
        .output()?;
    Ok(output.status.success())
}

/// The agent's account reads its own Secret, and neither another one nor any of another namespace.
fn only_its_own_secret(ground: &Ground, installed: &Installed) -> Result<()> {
    let may = |arguments: &str| {
        let words: Vec<&str> = arguments.split(' ').collect();
        may(ground, installed, &words)
    };
    ensure!(may("get secret berth-agent-identity -n berth-system")?);
    ensure!(!may("get secret berth-agent-join -n berth-system")?);
    ensure!(!may("get secrets -n berth-system")?);
    ensure!(!may("delete secret berth-agent-identity -n berth-system")?);
    ensure!(!may("get secret berth-agent-identity -n default")?);
    Ok(())
}

/// The hub's account reads the CA and the tokens, writes the tokens, and no other Secret.
#[tokio::test]
async fn of_all_secrets_the_hub_has_its_ca_and_its_tokens() -> Result<()> {
    let ground = Ground::get().await?;
    ground.hub().await?.token(ground, "keys", &[])?;
    let management = ground.lab.management();
    let other = "create secret generic other --from-literal=a=b -n berth-system";
    management
        .kubectl(&other.split(' ').collect::<Vec<_>>())
        .await?;
    let may = |arguments: &str| {
        let words: Vec<&str> = arguments.split(' ').collect();
        may(ground, &ground.rights, &words)
    };
    ensure!(may("get secret berth-ca -n berth-system")?);
    ensure!(may("get secret berth-join-tokens -n berth-system")?);
    ensure!(!may("get secret other -n berth-system")?);
    ensure!(!may("get secrets -n berth-system")?);
    ensure!(!may("get secrets -n metallb-system")?);
    ensure!(!may("delete secret berth-ca -n berth-system")?);
    ensure!(!may("label secret berth-ca a=b -n berth-system")?);
    ensure!(!may(
        "create secret generic x --from-literal=a=b -n default"
    )?);
    Ok(())
}

#[tokio::test]
async fn two_agents_with_one_token_share_one_key_and_one_certificate() -> Result<()> {
    let ground = Ground::get().await?;
    let hub = ground.hub().await?;
    let cluster = ground.lab.cluster("pair").await?;
    tenant(ground, "pair").await?;
    let joining = hub.token(ground, "pair", &[])?;
    let installed = cluster.install("berth-agent", &joining.arguments).await?;
    let (first, second) = tokio::try_join!(
        Agent::start(ground, "pair-1", &installed, Some(&joining.token)),
        Agent::start(ground, "pair-2", &installed, Some(&joining.token)),
    )?;
    // They take the session from each other, as two with one identity do: each has had it once.
    first.await_log("link: connected to the hub").await?;
    second.await_log("link: connected to the hub").await?;
    let lines = hub.audit(&[("event", "certificate"), ("tenant", "pair")])?;
    let serials: Vec<&Value> = lines.iter().map(|line| &line["serial"]).collect();
    let serial = serials.first().context("nothing was issued")?;
    assert!(serials.iter().all(|other| other == serial), "{lines:?}");
    assert_eq!(
        hub.audit(&[
            ("event", "certificate"),
            ("tenant", "pair"),
            ("reason", "issued")
        ])?
        .len(),
        1
    );
    Ok(())
}

#[tokio::test]
async fn an_agent_that_meets_another_hub_than_the_pinned_one_keeps_its_token_to_itself()
-> Result<()> {
    let ground = Ground::get().await?;
    let hub = ground.hub().await?;
    let cluster = ground.lab.cluster("wary").await?;
    let joining: Joining = hub.token(ground, "wary", &[])?;
    let mut arguments = joining.arguments.clone();
    for argument in &mut arguments {
        if argument.starts_with("enroll.caHash=") {
            *argument = format!("enroll.caHash=sha256:{}", "00".repeat(32));
        }
    }
    let installed = cluster.install("berth-agent", &arguments).await?;
    let agent = Agent::start(ground, "wary", &installed, Some(&joining.token)).await?;
    agent
        .await_log("comes from another authority than the one trusted here")
        .await?;
    assert!(
        hub.audit(&[("event", "certificate"), ("tenant", "wary")])?
            .is_empty()
    );
    Ok(())
}

/// The condition of a Tenant of this type, once it is there.
pub(crate) async fn await_tenant_condition(
    ground: &Ground,
    tenant: &str,
    kind: &str,
    within: Duration,
) -> Result<Value> {
    let what = format!("the Tenant {tenant} has the condition {kind}");
    let found = eventually(within, &what, || async {
        let arguments = ["get", "tenant", tenant, "-o", "json"];
        let text = ground.lab.management().kubectl(&arguments).await?;
        let object: Value = serde_json::from_str(&text).map_err(|error| Seen(error.to_string()))?;
        let conditions = object["status"]["conditions"].as_array().cloned();
        let mut conditions = conditions.unwrap_or_default().into_iter();
        conditions
            .find(|condition| condition["type"] == kind)
            .ok_or_else(|| Seen(object["status"].to_string()))
    });
    Ok(found.await?)
}

#[tokio::test]
async fn a_certificate_that_nobody_renews_is_told_on_the_tenant_before_it_ends() -> Result<()> {
    let ground = Ground::get().await?;
    let hub = Hub::start(ground, "ageing", &[]).await?;
    let cluster = ground.lab.cluster("ageing").await?;
    tenant(ground, "ageing").await?;
    // One from `cert issue`, in files: nothing renews it.
    let out = ground
        .lab
        .directory()
        .join("ageing-tls")
        .display()
        .to_string();
    let issue = [
        "cert",
        "issue",
        "--tenant",
        "ageing",
        "--ca-secret",
        "berth-system/berth-ca",
    ];
    let issue = [&issue[..], &["--out", &out, "--valid-for", "60s"]].concat();
    ground.operated(&issue)?;
    let address = format!("hub.address={}", hub.sessions);
    let files = ["--set", &address, "--set", "tlsSecretName=own"].map(str::to_owned);
    let installed = cluster.install("berth-agent", &files).await?;
    let settings = ["crt", "key"].map(|kind| {
        let setting = if kind == "crt" { "cert" } else { kind };
        format!("--tls-{setting}={out}/tls.{kind}")
    });
    let agent = Agent::prepare(ground, "ageing", &installed, None)?
        .with(settings)
        .with([format!("--tls-ca={out}/ca.crt")]);
    let agent = agent.run().await?;
    agent.ready().await?;
    let condition =
        await_tenant_condition(ground, "ageing", "CertificateExpiring", 2 * SOON).await?;
    assert_eq!(condition["status"], "True");
    let message = condition["message"].as_str().context("no message")?;
    assert!(message.contains("less than 1 hour"), "{message}");
    // And its last second is its last.
    agent
        .await_log("the client certificate has expired")
        .await?;
    Ok(())
}
