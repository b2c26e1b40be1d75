//! One authority takes the place of another under clusters that are connected, away for a while, and away for too long; with a replica
//! of the hub and the command itself ended in the middle.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use berth_common::{
    identity::{CertificateFacts, Identity, KeyId},
    tls::{ClientTls, Pin, certificates_from_pem, server_name},
};
use berth_hub::ca::{Authority, CertificateRequest, Lifetime};
use berth_lab::{Cluster, Seen, await_ip, eventually};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{
    SOON,
    agent::{Agent, tenant},
    attacker::{connect, csr, enroll, key},
    ground::{Ground, Hub, Joining, SERVER_NAME, der},
    join::service,
    leash::Leashed,
};

const CA: &str = "berth-system/berth-ca-turning";
/// Longer than a rotation with everybody there takes, and no longer than a test can wait for one who is not.
const LIFE: &str = "--ca-lifetime=240s";
/// For one who is away to be away for too long.
const LONG: Duration = Duration::from_secs(300);

/// A key of the authority's Secret.
async fn in_secret(ground: &Ground, key: &str) -> Result<String> {
    let path = format!("go-template={{{{index .data \"{key}\" | base64decode}}}}");
    let (namespace, name) = CA.split_once('/').context("no name")?;
    let arguments = ["get", "secret", name, "-n", namespace, "-o", &path];
    Ok(ground.lab.management().kubectl(&arguments).await?)
}

/// What an agent has kept.
async fn kept(cluster: &Cluster, key: &str) -> Result<String> {
    let path = format!("go-template={{{{index .data \"{key}\" | base64decode}}}}");
    let name = "berth-agent-identity";
    let arguments = ["get", "secret", name, "-n", "berth-system", "-o", &path];
    Ok(cluster.kubectl(&arguments).await?)
}

fn facts(pem: &str) -> Result<CertificateFacts> {
    Ok(CertificateFacts::from_der(&der(pem)?)?)
}

async fn joined(
    ground: &Ground,
    hub: &Hub,
    name: &str,
) -> Result<(Agent, std::sync::Arc<Cluster>)> {
    let cluster = ground.lab.cluster(name).await?;
    tenant(ground, name).await?;
    let joining = hub.token(ground, name, &["--ca-secret", CA])?;
    let installed = cluster.install("berth-agent", &joining.arguments).await?;
    let agent = Agent::start(ground, name, &installed, Some(&joining.token)).await?;
    agent.ready().await?;
    agent.forget_token()?;
    Ok((agent, cluster))
}

/// `ca rotate` as a process, until it has said this; then it is killed.
async fn rotate_until(ground: &Ground, words: &str) -> Result<()> {
    let log = ground.lab.directory().join("rotate.log");
    let arguments = ["ca", "rotate", "--secret", CA, "--kubeconfig"].map(str::to_owned);
    let kubeconfig = ground.lab.management().kubeconfig().display().to_string();
    let arguments: Vec<String> = arguments.into_iter().chain([kubeconfig]).collect();
    let program = ground.lab.program("berth-hub");
    let command = Leashed::start(&program, &arguments, [], &log)?;
    eventually(LONG, &format!("the rotation says {words:?}"), || async {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        match said.contains(words) {
            true => Ok(()),
            false => Err(Seen(said)),
        }
    })
    .await?;
    command.kill().await
}

/// Whether a certificate by this authority gets as far as HTTP/2 at a hub.
async fn is_let_in(hub: &Hub, authority: &Authority, trusted: &str, tenant: &str) -> Result<bool> {
    let request = CertificateRequest {
        subject: Identity::Tenant(tenant.parse()?),
        dns: vec![],
        ips: vec![],
        lifetime: Lifetime::seconds(600),
        not_earlier: None,
    };
    let now = std::time::SystemTime::now();
    let issued = authority.issue(&request, now)?;
    let tls = ClientTls::client_in_memory(&issued.certificate, &issued.key, trusted, now)?;
    let connector = TlsConnector::from(tls.current().config.clone());
    let tcp = TcpStream::connect(hub.sessions).await?;
    let mut stream = connector.connect(server_name(SERVER_NAME)?, tcp).await?;
    // With TLS 1.3 a client hears of its refusal with the first thing that it reads.
    let mut first = [0];
    let read = timeout(SOON, stream.read(&mut first)).await?;
    Ok(matches!(read, Ok(1)))
}

fn status(ground: &Ground) -> Result<String> {
    ground.operated(&["ca", "status", "--secret", CA])
}

#[tokio::test]
async fn an_authority_is_exchanged_under_streams_that_never_drop() -> Result<()> {
    let ground = Ground::get().await?;
    let values = [
        "--set",
        "fullnameOverride=berth-turning",
        "--set",
        "ca.secretName=berth-ca-turning",
    ];
    let rights = ground
        .lab
        .management()
        .install("berth-hub", &values.map(str::to_owned))
        .await?;
    let start = async |name: &str| Hub::start_as(ground, name, &rights, CA, &[LIFE]).await;
    // Two replicas: one is there all the time, and the other is not.
    let hub = start("turning").await?;
    let mut other = start("turning-other").await?;
    let (live, cluster) = joined(ground, &hub, "turning").await?;
    let (mut back, back_cluster) = joined(ground, &other, "turning-back").await?;
    let (mut gone, _) = joined(ground, &hub, "turning-gone").await?;
    let namespace = cluster.namespace().await?;
    cluster.apply_in(&namespace, &service("web")).await?;
    let address = await_ip(&cluster, &namespace, "web").await?;
    let early = hub.token(ground, "turning", &["--ca-secret", CA])?;
    let old = Authority::from_pem(
        &in_secret(ground, "tls.crt").await?,
        &in_secret(ground, "tls.key").await?,
        None,
        CA,
    )?;
    let old_key = old.facts().key.context("no key id")?;
    assert!(is_let_in(&hub, &old, old.bundle(), "turning").await?);

    // Away from before the beginning.
    back.stop().await?;
    gone.stop().await?;
    rotate_until(ground, "it is made known, and signs nothing yet").await?;
    assert!(status(ground)?.contains("step 1 of 3"));
    other.restart().await?;
    rotate_until(ground, "the new authority signs from now on").await?;
    let said = status(ground)?;
    assert!(said.contains("step 2 of 3"), "{said}");
    let new = in_secret(ground, "tls.crt").await?;
    let new_key = facts(&new)?.key.context("no key id")?;
    assert_ne!(new_key, old_key);
    await_authority(&cluster, new_key).await?;

    // A command from before joins still, and so does one from now, at either replica.
    old_pin_and_new(ground, [&hub, &other], &early, "turning").await?;
    // Who was away trusts the former authority alone, and verifies the hub all the same.
    back.restart().await?;
    back.ready().await?;
    await_authority(&back_cluster, new_key).await?;

    // To the end, which waits for the one who does not come back until its certificate has ended.
    let arguments = ["ca", "rotate", "--secret", CA, "--timeout", "5m"];
    let said = ground.operated(&arguments)?;
    assert!(said.contains("turning-gone: is not connected"), "{said}");
    assert!(said.contains("is trusted no more"), "{said}");
    let said = status(ground)?;
    assert!(
        said.contains(&format!("{new_key} signs, and no other is trusted since")),
        "{said}"
    );

    // Nothing has dropped, and nothing has changed but whom everybody trusts.
    await_trust(&cluster, new_key).await?;
    assert_eq!(
        live.said("link: connected to the hub")?,
        1,
        "{}",
        live.log()?
    );
    let ended = live.counted("berth_agent_sessions_ended_total", "").await?;
    assert!(ended < 1.0, "{}", live.log()?);
    assert_eq!(await_ip(&cluster, &namespace, "web").await?, address);
    let trusted = in_secret(ground, "ca.crt").await?;
    assert!(!trusted.contains(old.bundle().trim()), "{trusted}");

    // A certificate by the former key gets no handshake, at a replica that was there and at one that was not.
    let late = start("turning-late").await?;
    let signer = Authority::from_pem(&new, &in_secret(ground, "tls.key").await?, None, CA)?;
    for hub in [&hub, &late] {
        await_refusal(hub, &old, &new).await?;
        assert!(is_let_in(hub, &signer, &new, "turning").await?);
        let from = [127, 0, 0, 9].into();
        let new_pin = Pin::of(&der(&new)?).context("no pin")?;
        connect(hub.enrollment, from, new_pin).await?;
        assert!(connect(hub.enrollment, from, early.pin).await.is_err());
    }
    // Who was away for too long says so, and comes back with a token.
    gone.restart().await?;
    gone.await_log("has expired on").await?;
    let again = hub.token(ground, "turning-gone", &["--ca-secret", CA])?;
    let pin = format!("--enroll-ca-hash={}", again.pin);
    gone = gone.with([pin]);
    gone.bring_token(&again.token)?;
    gone.restart().await?;
    gone.ready().await?;
    Ok(())
}

async fn old_pin_and_new(
    ground: &Ground,
    hubs: [&Hub; 2],
    early: &Joining,
    tenant: &str,
) -> Result<()> {
    let from = [127, 0, 0, 9].into();
    let later = hubs[0].token(ground, tenant, &["--ca-secret", CA])?;
    ensure!(early.pin != later.pin);
    for hub in hubs {
        connect(hub.enrollment, from, early.pin).await?;
        // This replica may not have read yet that another authority signs.
        eventually(SOON, "the replica serves by the new authority", || async {
            let connected = connect(hub.enrollment, from, later.pin).await;
            connected.map(drop).map_err(Seen::from)
        })
        .await?;
        connect(hub.enrollment, from, early.pin).await?;
    }
    for joining in [early, &later] {
        let request = csr(&key());
        let given = enroll(
            hubs[1].enrollment,
            from,
            joining.pin,
            &joining.token,
            request,
        )
        .await??;
        let all = certificates_from_pem(Path::new("answer"), given.authorities.as_bytes())?;
        assert_eq!(all.len(), 2, "both are to be trusted");
    }
    Ok(())
}

/// Waits until an agent's certificate is by this authority.
async fn await_authority(cluster: &Cluster, authority: KeyId) -> Result<()> {
    eventually(
        SOON,
        "the agent has a certificate of the new authority",
        || async {
            let certificate = kept(cluster, "tls.crt").await?;
            match facts(&certificate)?.signed_by == Some(authority) {
                true => Ok(()),
                false => Err(Seen(certificate)),
            }
        },
    )
    .await?;
    Ok(())
}

/// Waits until an agent trusts this authority and no other.
async fn await_trust(cluster: &Cluster, authority: KeyId) -> Result<()> {
    eventually(SOON, "the agent trusts the new authority alone", || async {
        let pem = kept(cluster, "ca.crt").await?;
        let all = certificates_from_pem(Path::new("ca.crt"), pem.as_bytes())
            .map_err(|error| Seen(error.to_string()))?;
        match all.len() == 1 && facts(&pem)?.key == Some(authority) {
            true => Ok(()),
            false => Err(Seen(pem)),
        }
    })
    .await?;
    Ok(())
}

async fn await_refusal(hub: &Hub, old: &Authority, trusted: &str) -> Result<()> {
    eventually(SOON, "the former authority is refused", || async {
        match is_let_in(hub, old, trusted, "turning").await? {
            false => Ok(()),
            true => Err(Seen("it is let in".into())),
        }
    })
    .await?;
    Ok(())
}
