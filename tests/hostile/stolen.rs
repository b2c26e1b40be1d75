//! A tenant's key and certificate in somebody else's hands, on another machine: what can be seen and changed with them, what
//! cannot, how the theft shows while the real agent is there, and how it ends.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use berth_hub::session::TENANT_HEADER;
use berth_lab::{Seen, Tenant, eventually};
use berth_wire::v1::{self, hub_message::Body as Hear};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use prost::Message as _;
use tonic::Code;

use crate::{
    attacker::{
        certificates::Credential,
        frames::SYNC,
        messages::{self, framed, node, service},
        session::{Calls, Session},
        tls,
    },
    evidence::{Evidence, audit_lines},
    ground::{Attack, Ground, SOON, programmed},
};

const RENEW: &str = "/berth.v1.Renewal/Renew";
const ENROLL: &str = "/berth.v1.Enrollment/Enroll";

/// All that a session hears from its first message to the answer to a Service of its own.
async fn overheard(session: &mut Session, cluster: &str) -> Result<String> {
    let welcome = session.welcomed(cluster).await?;
    let mut heard = format!("{welcome:?}");
    session
        .say(messages::upsert(1, service("thiefs", 1, 80)))
        .await;
    loop {
        let body = session.hear().await?;
        heard += &format!("{body:?}");
        let Hear::Answers(answers) = body else {
            continue;
        };
        let is_it = |answer: &v1::Answer| {
            let name = answer.key.as_ref().map(|key| key.name.as_str());
            name == Some("thiefs") && answer.outcome() == v1::Outcome::Programmed
        };
        if answers.answers.iter().any(is_it) {
            return Ok(heard);
        }
    }
}

/// How a call with this message ends.
async fn fails(calls: &mut Calls, path: &str, message: &impl prost::Message) -> Result<Code> {
    let mut call = calls.call(path, &[]).await?;
    call.send(framed(&message.encode_to_vec())).await;
    call.finish();
    Ok(call.ended().await.code())
}

#[tokio::test]
async fn stolen_key_shows_and_changes_its_own_tenants_load_balancers_and_nothing_else() -> Result<()>
{
    let attack = Attack::begin("stolen-sees", Evidence::session("other_cluster")).await?;
    let credential = attack.credential();
    let mut real = attack.session(&[node("n1"), service("web", 1, 80)]).await?;
    let own = programmed(&mut real, "web", 1).await?.ingress[0].ip.clone();

    // From another cluster: refused, and the real one goes on.
    let mut calls = attack.calls(&credential).await;
    let mut elsewhere = calls.call(SYNC, &[]).await?;
    let status = elsewhere
        .welcomed("the-thiefs-own")
        .await
        .expect_err("Welcome");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    real.say(messages::upsert(1, service("web", 2, 81))).await;
    programmed(&mut real, "web", 2).await?;

    // Who knows the cluster's UID as well: its own, and no word of anybody else.
    let mut session = calls.call(SYNC, &[]).await?;
    let heard = overheard(&mut session, "its-own").await?;
    assert!(heard.contains(&own), "{heard}");
    let (neighbour, address, node) = attack.neighbour();
    for others in [neighbour.as_str(), &address, &node, "neighbour"] {
        assert!(
            !heard.contains(&format!("\"{others}")),
            "{others} in {heard}"
        );
    }
    let before = attack.ground.standing(&neighbour).await?;
    let mut claiming = calls.call(SYNC, &[(TENANT_HEADER, &neighbour)]).await?;
    assert_eq!(claiming.ended().await.code(), Code::PermissionDenied);
    // A deletion of what the neighbour has, by its very name: of one's own that is not there.
    session
        .say(messages::delta(2, vec![messages::deletion("web", 3)]))
        .await;
    let answer = session.answer("web", 3).await?;
    assert_eq!(answer.outcome(), v1::Outcome::Deleted);
    assert_eq!(attack.ground.standing(&neighbour).await?, before);
    attack.answered().await
}

#[tokio::test]
async fn stolen_key_opens_no_other_door() -> Result<()> {
    let attack = Attack::begin("stolen-doors", Evidence::call("PermissionDenied")).await?;
    drop(attack.session(&[]).await?);
    let credential = attack.credential();
    let (neighbour, ..) = attack.neighbour();
    let mut calls = attack.calls(&credential).await;
    let enroll = v1::EnrollRequest {
        token: format!("berth-join-{}", "a".repeat(52)),
        csr: Credential::asked().0.into(),
        agent_version: "thief".into(),
    };
    let renew = v1::RenewRequest {
        csr: Credential::asked().0.into(),
    };
    // Reflection is for admins. ServerReflectionRequest { list_services }.
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let mut call = calls.call(&path, &[]).await?;
        call.send(framed(&messages::field(7, b"*"))).await;
        let code = call.ended().await.code();
        let expected = match version {
            "v1" => Code::PermissionDenied,
            _ => Code::Unimplemented,
        };
        assert_eq!(code, expected, "{version}");
    }
    // Health knows services, and no tenants: HealthCheckRequest { service }.
    for name in [&neighbour, &format!("tenant/{neighbour}"), &attack.tenant] {
        let mut call = calls.call("/grpc.health.v1.Health/Check", &[]).await?;
        call.send(framed(&messages::field(1, name.as_bytes())))
            .await;
        call.finish();
        assert_eq!(call.ended().await.code(), Code::NotFound, "{name}");
    }
    assert_eq!(
        fails(&mut calls, ENROLL, &enroll).await?,
        Code::Unimplemented
    );

    // At the enrollment port a certificate is nothing, and only a token counts.
    let tcp = tls::tcp(attack.source, attack.ground.enrollment).await?;
    let connection = tls::shake(tcp, attack.config(&credential)).await?;
    let mut calls = Calls::over(connection).await?;
    assert_eq!(fails(&mut calls, RENEW, &renew).await?, Code::Unimplemented);
    assert_eq!(
        fails(&mut calls, ENROLL, &enroll).await?,
        Code::PermissionDenied
    );
    let mut sync = calls.call(SYNC, &[]).await?;
    assert_eq!(sync.ended().await.code(), Code::Unimplemented);

    // The admin port speaks no TLS, so that no certificate is anybody there.
    let tcp = tls::tcp(attack.source, attack.ground.lab.hub().admin()).await?;
    assert!(tls::shake(tcp, attack.config(&credential)).await.is_err());
    attack.answered().await
}

/// Renewal prolongs a theft: the audit log has the chain, one serial number for the next, and what revokes a tenant's
/// certificates by their time ends all of it.
#[tokio::test]
async fn stolen_key_that_is_renewed_leaves_a_trace_and_goes_with_all_of_its_tenants() -> Result<()>
{
    let attack = Attack::begin("stolen-renews", Evidence::renewed()).await?;
    drop(attack.session(&[]).await?);
    let credential = attack.credential();
    let mut calls = attack.calls(&credential).await;
    let (csr, with) = Credential::asked();
    let mut call = calls.call(RENEW, &[]).await?;
    let request = v1::RenewRequest { csr: csr.into() };
    call.send(framed(&request.encode_to_vec())).await;
    call.finish();
    let response: v1::CertificateResponse = call.reply().await?;
    let renewed = with(&response.certificate);

    let log = attack.ground.lab.hub().log().await?;
    let lines = audit_lines(&log, &renewed.serial().to_string());
    let line = lines.first().context("no line has its serial number")?;
    assert_eq!(line["event"], "certificate", "{line}");
    assert_eq!(line["former"], credential.serial().to_string(), "{line}");
    assert_eq!(line["tenant"], attack.tenant, "{line}");

    // By its serial number the stolen one goes, and the one that came of it does not.
    let ground = attack.ground;
    let revoked = |what: &str| format!(", credentials: {{{what}}}");
    let serial = revoked(&format!("revokedSerials: [\"{}\"]", credential.serial()));
    ground.admit(&attack.tenant, &serial).await?;
    await_refused(&attack, &credential).await?;
    let mut calls = attack.calls(&renewed).await;
    let mut session = calls.call(SYNC, &[]).await?;
    session.welcomed("its-own").await?;
    let all = revoked("notBefore: \"2100-01-01T00:00:00Z\"");
    ground.admit(&attack.tenant, &all).await?;
    let told = Instant::now();
    let status = session.ended().await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert!(
        told.elapsed() < Duration::from_secs(1),
        "{:?}",
        told.elapsed()
    );
    await_refused(&attack, &renewed).await?;
    // It is not renewed any more either.
    let mut calls = attack.calls(&renewed).await;
    let request = v1::RenewRequest {
        csr: Credential::asked().0.into(),
    };
    let code = fails(&mut calls, RENEW, &request).await?;
    assert_eq!(code, Code::PermissionDenied);
    attack.answered().await
}

/// The hub may have yet to see what the operator has written.
async fn await_refused(attack: &Attack, credential: &Credential) -> Result<()> {
    let refused = || async {
        let mut calls = attack.calls(credential).await;
        let session = calls.call(SYNC, &[]).await;
        let mut session = session.map_err(|status| Seen(status.to_string()))?;
        match session.welcomed("its-own").await {
            Err(status) if status.code() == Code::Unauthenticated => Ok(()),
            other => Err(Seen(format!("{other:?}"))),
        }
    };
    Ok(eventually(SOON, "the certificate is refused", refused).await?)
}

/// A Service of a real cluster.
fn manifest(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: LoadBalancer\n  \
         ports: [{{port: 80, targetPort: 8080}}]\n"
    )
}

/// What the agent of a real cluster says in its Hello, which a thief may know.
async fn cluster_uid(tenant: &Tenant) -> Result<String> {
    let namespaces: Api<Namespace> = Api::all(tenant.client().await?);
    let system = namespaces.get("kube-system").await?;
    system.metadata.uid.context("kube-system has no UID")
}

/// A real agent in a real cluster, and its key elsewhere as well.
#[tokio::test]
async fn stolen_key_shows_beside_the_real_agent_and_is_cut_off_within_a_second() -> Result<()> {
    let lab = &Ground::get().await?.lab;
    let tenant = lab.tenant("acme").await?;
    let namespace = tenant.namespace().await?;
    tenant.apply_in(&namespace, &manifest("web")).await?;
    let ip = tenant.await_ip(&namespace, "web").await?;
    let files = tenant.certificate();
    let stolen = Credential::of_files(&files.certificate(), &files.key());
    let uid = cluster_uid(&tenant).await?;
    // From here on the neighbour, who says nothing else, is asked now and then: nobody keeps a session by silence.
    let mut attack = Attack::begin("stolen-beside", Evidence::taken_over()).await?;

    // The thief takes the session, and the real agent says what that may mean.
    let mut calls = attack.calls(&stolen).await;
    let mut thief = calls.call(SYNC, &[]).await?;
    thief.welcomed(&uid).await?;
    tenant
        .agent()
        .await_log("does another agent run with this certificate?", SOON)
        .await?;
    let log = lab.hub().log().await?;
    let ours = audit_lines(&log, "\"tenant\":\"acme\"");
    let fenced = ours.iter().find(|line| line["reason"] == "fenced");
    let fenced = fenced.context("the audit log does not tell of it")?;
    assert_ne!(fenced["serial"], serde_json::Value::Null, "{fenced}");
    let from = |source: String| {
        let admitted = ours.iter().filter(|line| line["event"] == "admission");
        let peers = admitted.filter_map(|line| line["peer"].as_str());
        peers.filter(|peer| peer.starts_with(&source)).count()
    };
    assert!(from("127.0.0.1:".into()) > 0, "{ours:?}");
    assert!(from(format!("{}:", attack.source)) > 0, "{ours:?}");
    // And the real one takes it back.
    tenant.agent().restart().await?;
    let status = thief.ended().await;
    assert_eq!(status.code(), Code::Aborted, "{status}");
    attack.neighbour_works().await?;

    // The real agent gets another certificate, in its files, and the operator revokes the stolen one.
    let other = lab.hub().tenant_certificate("acme").await?;
    for (from, to) in [
        (other.certificate(), files.certificate()),
        (other.key(), files.key()),
    ] {
        std::fs::copy(from, to)?;
    }
    tenant.agent().restart().await?;
    attack.neighbour_works().await?;
    let mut calls = attack.calls(&stolen).await;
    let mut thief = calls.call(SYNC, &[]).await?;
    thief.welcomed(&uid).await?;
    let kubeconfig = lab.management().kubeconfig_inside().display().to_string();
    let serial = stolen.serial().to_string();
    let revoke = [
        "tenant",
        "revoke",
        "acme",
        "--serial",
        &serial,
        "--kubeconfig",
        &kubeconfig,
    ];
    let said = lab.hub().command(&revoke).await?;
    let told = Instant::now();
    let status = thief.ended().await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}: {said}");
    assert!(
        told.elapsed() < Duration::from_secs(1),
        "{:?}",
        told.elapsed()
    );
    let again = attack.refused(&stolen).await;
    assert_eq!(again.code(), Code::Unauthenticated, "{again}");

    // The real agent, which the thief had thrown out once more, goes on with what it has. By itself it would after 30 s.
    tenant.apply_in(&namespace, &manifest("next")).await?;
    attack.neighbour_works().await?;
    tenant.agent().restart().await?;
    tenant.await_ip(&namespace, "next").await?;
    assert_eq!(tenant.await_ip(&namespace, "web").await?, ip);
    attack.answered().await
}
