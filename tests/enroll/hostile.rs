//! HOSTILE.md 26 to 30, and what else comes to the enrollment port. After each, somebody else is admitted: nothing was in the way.

use std::{collections::BTreeSet, net::Ipv4Addr};

use anyhow::{Context as _, Result};
use berth_common::identity::{CertificateFacts, TrustDomain, identity_of};
use berth_lab::{Seen, eventually};
use berth_wire::v1::{self, agent_service_client::AgentServiceClient};
use rcgen::{BasicConstraints, CertificateParams, IsCa, SanType};
use serde_json::json;
use tonic::{Code, Status};

use crate::{
    SOON,
    attacker::{connect, csr, enroll, key},
    ground::{Ground, Hub, der},
};

/// Each test has addresses of its own, so that none locks another out.
fn from(test: u8, n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 9, test, n)
}

/// A new tenant is admitted, from another address: nobody else was harmed.
async fn others_are_admitted(ground: &Ground, hub: &Hub, test: u8) -> Result<()> {
    let joining = hub.token(ground, &format!("bystander-{test}"), &[])?;
    let answer = enroll(
        hub.enrollment,
        from(test, 250),
        joining.pin,
        &joining.token,
        csr(&key()),
    );
    answer.await?.map(drop).context("a bystander is refused")
}

fn refused(answer: Result<v1::CertificateResponse, Status>) -> Status {
    answer.expect_err("a certificate was given away")
}

#[tokio::test]
async fn hostile_26_a_replayed_token_is_refused_in_the_words_for_an_unknown_one() -> Result<()> {
    let ground = Ground::get().await?;
    let hub = ground.hub().await?;
    let joining = hub.token(ground, "replayed", &[])?;
    let attempt = async |token: &str, csr: Vec<u8>| {
        enroll(hub.enrollment, from(26, 1), joining.pin, token, csr).await
    };
    let ours = key();
    let first = attempt(&joining.token, csr(&ours)).await??;
    // The answer may have been lost: the same key gets the same certificate.
    let again = attempt(&joining.token, csr(&ours)).await??;
    let (first, again) = (der(&first.certificate)?, der(&again.certificate)?);
    let (first, again) = (
        CertificateFacts::from_der(&first)?,
        CertificateFacts::from_der(&again)?,
    );
    assert_eq!(first, again);

    let replayed = refused(attempt(&joining.token, csr(&key())).await?);
    assert_eq!(replayed.code(), Code::PermissionDenied);
    let unknown = format!("berth-join-{}", "a".repeat(52));
    let revoked = hub.token(ground, "replayed", &[])?;
    ground.operated(&["token", "revoke", &revoked.id()?])?;
    for token in ["", "nonsense", &unknown, &revoked.token] {
        let other = refused(attempt(token, csr(&key())).await?);
        assert_eq!(other.code(), replayed.code(), "{token}");
        assert_eq!(other.message(), replayed.message(), "{token}");
        assert_eq!(
            other.metadata().clone().into_headers().len(),
            replayed.metadata().clone().into_headers().len(),
            "{token}"
        );
    }
    let id = joining.id()?;
    for (result, count) in [("issued", 1), ("issued_again", 1), ("used_token", 1)] {
        let lines = hub.audit(&[("reason", result), ("token", &id)])?;
        assert_eq!(lines.len(), count, "{result}");
        let event = if result == "used_token" {
            "refusal"
        } else {
            "certificate"
        };
        assert_eq!(lines[0]["event"], event);
        assert_eq!(lines[0]["tenant"], "replayed");
        assert!(hub.counted("berth_enrollments_total", result).await? >= 1.0);
    }
    let line = &hub.audit(&[("reason", "revoked_token")])?[0];
    assert_eq!(line["token"], json!(revoked.id()?));
    let log = hub.log()?;
    for secret in [&joining.token, &revoked.token, &unknown] {
        assert!(!log.contains(secret.trim_start_matches("berth-join-")));
    }
    let listed = ground.operated(&["token", "list"])?;
    let line = listed.lines().find(|line| line.starts_with(&id));
    let line = line.context("the token is not listed")?;
    assert!(
        line.contains("used") && line.contains(first.serial.as_str()),
        "{line}"
    );
    others_are_admitted(ground, hub, 26).await
}

#[tokio::test]
async fn hostile_27_of_a_hundred_uses_at_once_at_two_replicas_one_gets_a_certificate() -> Result<()>
{
    let ground = Ground::get().await?;
    let first = ground.hub().await?;
    let second = Hub::start(ground, "replica", &[]).await?;
    let joining = first.token(ground, "crowded", &[])?;
    let attempts = (0..100_u8).map(|n| {
        let to = [first.enrollment, second.enrollment][usize::from(n) % 2];
        let (pin, token) = (joining.pin, joining.token.clone());
        tokio::spawn(async move { enroll(to, from(27, n), pin, &token, csr(&key())).await })
    });
    let (mut serials, mut answers) = (BTreeSet::new(), 0);
    for attempt in futures::future::join_all(attempts).await {
        // A hundred handshakes at once may take a busy machine longer than the hub waits for one.
        let Ok(answer) = attempt? else { continue };
        answers += 1;
        match answer {
            Ok(given) => {
                let facts = CertificateFacts::from_der(&der(&given.certificate)?)?;
                serials.insert(facts.serial.to_string());
            }
            Err(status) => assert!(
                matches!(status.code(), Code::PermissionDenied | Code::Unavailable),
                "{status:?}"
            ),
        }
    }
    assert!(answers > 50, "{answers}");
    assert_eq!(serials.len(), 1, "{serials:?}");
    let id = joining.id()?;
    let lines = |result: &str| -> Result<usize> {
        let fields = [("token", id.as_str()), ("reason", result)];
        Ok(first.audit(&fields)?.len() + second.audit(&fields)?.len())
    };
    assert_eq!(lines("issued")?, 1);
    assert_eq!(lines("issued_again")?, 0);
    let unlucky = lines("used_token")? + lines("busy")? + lines("cluster_unavailable")?;
    assert_eq!(unlucky, answers - 1, "each answer is one line");
    others_are_admitted(ground, first, 27).await
}

#[tokio::test]
async fn hostile_28_an_expired_token_is_refused() -> Result<()> {
    let ground = Ground::get().await?;
    let hub = ground.hub().await?;
    let joining = hub.token(ground, "late", &["--ttl", "1s"])?;
    let id = joining.id()?;
    eventually(SOON, "the token has expired", || async {
        let listed = ground.operated(&["token", "list"])?;
        let line = listed.lines().find(|line| line.starts_with(&id));
        match line.is_some_and(|line| line.contains("expired")) {
            true => Ok(()),
            false => Err(Seen(listed)),
        }
    })
    .await?;
    let answer = enroll(
        hub.enrollment,
        from(28, 1),
        joining.pin,
        &joining.token,
        csr(&key()),
    );
    assert_eq!(refused(answer.await?).code(), Code::PermissionDenied);
    assert_eq!(
        hub.audit(&[("reason", "expired_token"), ("token", &id)])?
            .len(),
        1
    );
    assert!(
        hub.counted("berth_enrollments_total", "expired_token")
            .await?
            >= 1.0
    );
    let too_long = ground.operator(&["token", "create", "late", "--ttl", "2h"])?;
    assert_eq!(too_long.status.code(), Some(2));
    others_are_admitted(ground, hub, 28).await
}

#[tokio::test]
async fn hostile_29_brute_force_locks_the_address_and_not_the_tenant() -> Result<()> {
    let ground = Ground::get().await?;
    let hub = ground.hub().await?;
    let joining = hub.token(ground, "besieged", &[])?;
    let ours = csr(&key());
    let attempt = async |from: Ipv4Addr, token: &str| {
        enroll(hub.enrollment, from, joining.pin, token, ours.clone()).await
    };
    let digits = "abcdefghijklmnopqrstuvwxyz";
    let mut codes = Vec::new();
    for digit in digits.chars().take(12) {
        let guess = format!("berth-join-{}a", digit.to_string().repeat(51));
        codes.push(refused(attempt(from(29, 1), &guess).await?).code());
    }
    assert_eq!(codes[..11], [Code::PermissionDenied; 11]);
    assert_eq!(codes[11], Code::ResourceExhausted);
    // Locked is locked, with the right token as well, and it is said for how long.
    let locked = refused(attempt(from(29, 1), &joining.token).await?);
    assert_eq!(locked.code(), Code::ResourceExhausted);
    let pushback = locked.metadata().get("grpc-retry-pushback-ms");
    let wait: u64 = pushback.context("no pushback")?.to_str()?.parse()?;
    assert!((1_000..=61_000).contains(&wait), "{wait}");
    assert!(!hub.audit(&[("reason", "address_locked")])?.is_empty());
    assert!(
        hub.counted("berth_enrollments_total", "address_locked")
            .await?
            >= 1.0
    );
    // The tenant is not: its token is good for anybody else.
    attempt(from(29, 2), &joining.token).await??;
    others_are_admitted(ground, hub, 29).await
}

/// A request with an RSA key of 512 bits, which openssl made.
const RSA_512: &str = "3081c53071020100300c310a300806035504030c0178305c300d06092a864886f70d0101010500034b003048024100c2e4683d96de5c\
                       9eb95d1bb6831c898f4ebaff8b3d6c71743fa2edb693da7cb45052ed220e833d3dbed9dea7647a5178f147eed5ad9720b06c5a2651\
                       5f1b08cf0203010001a000300d06092a864886f70d01010b05000341005fe0f22a31c2f54bfad8338a9b842c90e1dd7becbeeec0c0\
                       66ef092374275f1ae99d1c6b28c26bf1464f097e1faa8c85a999881bf4016c66690c6e73b491dc14";

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().collect();
    let pair = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

#[tokio::test]
async fn hostile_30_a_bad_request_is_invalid_and_the_names_in_a_good_one_are_ignored() -> Result<()>
{
    let ground = Ground::get().await?;
    let hub = ground.hub().await?;
    let joining = hub.token(ground, "modest", &[])?;
    let attempt = async |from: Ipv4Addr, csr: Vec<u8>| {
        enroll(hub.enrollment, from, joining.pin, &joining.token, csr).await
    };
    let ours = key();
    let good = csr(&ours);
    let mut forged = good.clone();
    *forged.last_mut().context("empty")? ^= 1;
    let mut padded = good.clone();
    padded.extend([0; 17 * 1024]);
    for (csr, result) in [
        (unhex(RSA_512), "csr_weak_key"),
        (forged, "csr_bad_signature"),
        (padded, "csr_too_large"),
        (good[..100].to_vec(), "csr_malformed"),
        (vec![], "csr_malformed"),
    ] {
        let status = refused(attempt(from(30, 1), csr).await?);
        assert_eq!(status.code(), Code::InvalidArgument, "{result}: {status:?}");
        assert!(!hub.audit(&[("reason", result)])?.is_empty(), "{result}");
        assert!(hub.counted("berth_enrollments_total", result).await? >= 1.0);
    }

    // Nothing of that has used the token. A request that asks for the world gets what the token says.
    let mut greedy = CertificateParams::new(vec!["hub.example".to_owned()])?;
    let uri = "spiffe://berth.local/tenant/somebody-else".try_into()?;
    greedy.subject_alt_names.push(SanType::URI(uri));
    greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    greedy.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let greedy = greedy.serialize_request(&ours)?.der().to_vec();
    let given = attempt(from(30, 2), greedy).await??;
    let certificate = der(&given.certificate)?;
    let facts = CertificateFacts::from_der(&certificate)?;
    assert_eq!(facts.uris, ["spiffe://berth.local/tenant/modest"]);
    assert_eq!(facts.name_count(), 1);
    assert!(!facts.is_authority && facts.for_clients && !facts.for_servers);
    let peer = identity_of(&certificate, &TrustDomain::default())?;
    assert_eq!(peer.identity.to_string(), "tenant/modest");
    others_are_admitted(ground, hub, 30).await
}

#[tokio::test]
async fn a_stranger_finds_nothing_else_and_has_no_place_at_the_port_of_sessions() -> Result<()> {
    let ground = Ground::get().await?;
    let hub = ground.hub().await?;
    let joining = hub.token(ground, "stranger", &[])?;
    let channel = connect(hub.enrollment, from(31, 1), joining.pin).await?;
    let nothing = futures::stream::pending::<v1::AgentMessage>();
    let status = AgentServiceClient::new(channel).sync(nothing).await;
    assert_eq!(status.unwrap_err().code(), Code::Unimplemented);
    // The other port is for those who have a certificate (its own tests try it without one): nobody enrolls there.
    let before = hub.counted("berth_refused_connections_total", "").await?;
    let answer = enroll(
        hub.sessions,
        from(31, 2),
        joining.pin,
        &joining.token,
        csr(&key()),
    );
    assert!(!matches!(answer.await, Ok(Ok(_))));
    eventually(SOON, "the refusal is counted", || async {
        match hub.counted("berth_refused_connections_total", "").await? > before {
            true => Ok(()),
            false => Err(Seen("not yet".into())),
        }
    })
    .await?;
    // Whom the pin does not name is not talked to.
    let pin = format!("sha256:{}", "00".repeat(32)).parse()?;
    let other = connect(hub.enrollment, from(31, 3), pin).await;
    assert!(other.is_err());
    Ok(())
}

#[tokio::test]
async fn a_token_is_for_the_tenant_that_it_was_made_for_and_no_later_one_of_that_name() -> Result<()>
{
    let ground = Ground::get().await?;
    let hub = ground.hub().await?;
    let management = ground.lab.management();
    let attempt = async |joining: &crate::ground::Joining, n| {
        enroll(
            hub.enrollment,
            from(32, n),
            joining.pin,
            &joining.token,
            csr(&key()),
        )
        .await
    };
    let joining = hub.token(ground, "reborn", &[])?;
    management.kubectl(&["delete", "tenant", "reborn"]).await?;
    assert_eq!(
        refused(attempt(&joining, 1).await?).code(),
        Code::PermissionDenied
    );
    let second = hub.token(ground, "reborn", &[])?;
    assert_eq!(
        refused(attempt(&joining, 2).await?).code(),
        Code::PermissionDenied
    );
    let patch = |wanted: bool| format!(r#"{{"spec":{{"suspended":{wanted}}}}}"#);
    let suspend = async |wanted| {
        let patch = patch(wanted);
        let arguments = ["patch", "tenant", "reborn", "--type=merge", "-p", &patch];
        management.kubectl(&arguments).await
    };
    suspend(true).await?;
    assert_eq!(
        refused(attempt(&second, 3).await?).code(),
        Code::PermissionDenied
    );
    suspend(false).await?;
    attempt(&second, 4).await??;
    let told = |reason| hub.audit(&[("reason", reason), ("tenant", "reborn")]);
    // Of the Tenant that is gone: taken back with it, where this hub was the first of those of this test to see it go, or a token of
    // nobody's. And of the suspended one.
    let (taken_back, nobodys) = (told("revoked_token")?.len(), told("no_tenant")?.len());
    assert_eq!((taken_back + nobodys, nobodys >= 1), (3, true));
    Ok(())
}

#[tokio::test]
async fn a_mistake_in_a_token_command_is_one_line_that_says_what_to_do() -> Result<()> {
    let ground = Ground::get().await?;
    // Which makes the CA.
    ground.hub().await?;
    for (arguments, code, words) in [
        (
            &["token", "create", "nobody-yet", "--hub=h:1", "--enroll=h:2"][..],
            1,
            "add --create",
        ),
        (
            &["token", "create", "acme", "--namespace=default"],
            1,
            "give --hub HOST:PORT",
        ),
        (
            &[
                "token",
                "create",
                "acme",
                "--namespace=default",
                "--hub=h:1",
            ],
            1,
            "give --enroll HOST:PORT",
        ),
        (
            &["token", "revoke", "0123456789abcdef"],
            1,
            "there is no token 0123456789abcdef",
        ),
        (
            &["token", "revoke", "berth-join-a"],
            2,
            "berth-hub token list",
        ),
        (
            &[
                "token",
                "create",
                "acme",
                "--hub=h:1",
                "--enroll=h:2",
                "--ca-secret=default/none",
            ],
            1,
            "make one with `berth-hub ca init --secret default/none`",
        ),
    ] {
        let output = ground.operator(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(
            said.contains(words) && said.lines().count() == 1,
            "{arguments:?}: {said}"
        );
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    Ok(())
}
