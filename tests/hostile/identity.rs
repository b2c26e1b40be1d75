//! Lines 20 to 25: certificates of the hub's own CA that name nobody, or somebody else, or the same one twice.

use anyhow::Result;
use berth_hub::api::Tenant;
use berth_hub::session::TENANT_HEADER;
use berth_lab::{Seen, eventually};
use berth_wire::v1;
use kube::Api;
use prost::Message as _;
use tonic::Code;

use crate::{
    attacker::{
        certificates::{Credential, names, tenant_uri},
        frames::SYNC,
        messages,
    },
    evidence::Evidence,
    ground::{Attack, SOON},
};

/// A certificate with these URI names, each of any bytes.
fn named(attack: &Attack, uris: &[&[u8]]) -> Credential {
    let forger = &attack.ground.forger;
    forger.forge("nobody", |params| {
        params.custom_extensions = vec![names(uris)]
    })
}

#[tokio::test]
async fn hostile_20_two_names_name_nobody() -> Result<()> {
    let attack = Attack::begin("20", Evidence::session("bad_identity")).await?;
    let (own, other) = (tenant_uri(&attack.tenant), tenant_uri("neighbour-20"));
    let (own, other) = (own.as_bytes(), other.as_bytes());
    for uris in [[own, other], [other, own], [own, own]] {
        let status = attack.refused(&named(&attack, &uris)).await;
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    }
    attack.answered().await
}

#[tokio::test]
async fn hostile_21_other_spellings_name_nobody() -> Result<()> {
    let attack = Attack::begin("21", Evidence::session("bad_identity")).await?;
    let long = format!("spiffe://berth.local/tenant/{}", "a".repeat(2_048));
    let spellings: [&[u8]; 11] = [
        b"spiffe://berth.local/tenant/x/../mallory-21",
        b"spiffe://berth.local/tenant/%2e%2e/mallory-21",
        b"spiffe://berth.local/tenant/mallory%2d21",
        b"spiffe://berth.local/tenant/mallory-21/",
        b"spiffe://berth.local/tenant/MALLORY-21",
        b"SPIFFE://berth.local/tenant/mallory-21",
        b"spiffe://berth.local/tenant/mallory-21\0",
        // A Cyrillic letter that looks like the Latin one.
        "spiffe://berth.local/tenant/m\u{430}llory-21".as_bytes(),
        b"spiffe://other.example/tenant/mallory-21",
        b"",
        long.as_bytes(),
    ];
    for spelling in spellings {
        let shown = String::from_utf8_lossy(spelling);
        let status = attack.refused(&named(&attack, &[spelling])).await;
        assert_eq!(status.code(), Code::Unauthenticated, "{shown}: {status}");
    }
    // It is the name that was refused, and not the hand that wrote it.
    attack.session(&[]).await?;
    attack.answered().await
}

#[tokio::test]
async fn hostile_22_a_name_matches_whole_or_not_at_all() -> Result<()> {
    let attack = Attack::begin("22", Evidence::session("unknown_tenant")).await?;
    for near in ["neighbour-2", "neighbour-222", "eighbour-22"] {
        let status = attack.refused(&attack.ground.forger.tenant(near)).await;
        assert_eq!(status.code(), Code::PermissionDenied, "{near}: {status}");
    }
    attack.answered().await
}

/// No message has a field for a tenant: what a body says of one is an unknown field, which counts for nothing. A header may say
/// whom the agent takes itself for, and is held against the certificate.
#[tokio::test]
async fn hostile_23_who_claims_to_be_another_tenant_is_denied_or_not_heard() -> Result<()> {
    let attack = Attack::begin("23", Evidence::session("claims_other_tenant")).await?;
    let service = messages::service("claimed", 7, 80);
    let mut session = attack.session(&[messages::node("n1")]).await?;
    // Field 1000 of Delta: the neighbour's name.
    let delta = v1::AgentMessage {
        body: Some(messages::upsert(1, service)),
    };
    let mut bytes = delta.encode_to_vec();
    bytes.extend([0xc2, 0x3e, 12]);
    bytes.extend(b"neighbour-23");
    session.say_bytes(&bytes).await;
    session.answer("claimed", 7).await?;
    let own = attack.ground.load_balancers(&attack.tenant).await?;
    let others = attack.ground.load_balancers("neighbour-23").await?;
    assert_eq!(own.len(), 1);
    assert_eq!(others.len(), 1, "the neighbour has its own, and no other");

    let mut calls = attack.calls(&attack.credential()).await;
    let mut claiming = calls.call(SYNC, &[(TENANT_HEADER, "neighbour-23")]).await?;
    let status = claiming.ended().await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    let own = attack.tenant.clone();
    let mut honest = calls.call(SYNC, &[(TENANT_HEADER, &own)]).await?;
    honest.welcomed("its-own").await?;
    attack.answered().await
}

#[tokio::test]
async fn hostile_24_a_second_cluster_under_one_identity_is_refused_and_the_first_goes_on()
-> Result<()> {
    let attack = Attack::begin("24", Evidence::session("other_cluster")).await?;
    let mut first = attack.session(&[messages::node("n1")]).await?;
    let mut calls = attack.calls(&attack.credential()).await;
    let mut second = calls.call(SYNC, &[]).await?;
    let status = second
        .welcomed("another-cluster")
        .await
        .expect_err("Welcome");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    first
        .say(messages::upsert(1, messages::service("web", 7, 80)))
        .await;
    first.answer("web", 7).await?;
    attack.answered().await
}

#[tokio::test]
async fn hostile_25_of_one_agent_twice_the_older_session_is_aborted() -> Result<()> {
    let attack = Attack::begin("25", Evidence::ended("Aborted", "fenced")).await?;
    let mut old = attack.session(&[]).await?;
    let mut new = attack.session(&[messages::node("n1")]).await?;
    let status = old.ended().await;
    assert_eq!(status.code(), Code::Aborted, "{status}");
    new.say(messages::upsert(1, messages::service("web", 7, 80)))
        .await;
    new.answer("web", 7).await?;
    attack.answered().await
}

/// Ordinary lines of the hub's log about this tenant, and how many of it were left out.
fn said(log: &str, tenant: &str) -> (usize, usize) {
    let lines = log.lines().filter(|line| line.contains(tenant));
    let lines: Vec<&str> = lines.filter(|line| !line.starts_with('{')).collect();
    let is_told = |line: &&&str| line.contains("left out");
    let unsaid = lines.iter().filter_map(|line| {
        let (_, count) = line.split_once("suppressed=")?;
        let digits: String = count.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<usize>().ok()
    });
    let unsaid = unsaid.sum();
    let told = lines.iter().filter(is_told).count();
    (lines.len() - told, unsaid)
}

#[tokio::test]
async fn hostile_25_two_agents_that_throw_each_other_out_are_told_on_the_tenant_and_fill_no_log()
-> Result<()> {
    const SESSIONS: usize = 300;
    let mut attack = Attack::begin("25-both", Evidence::ended("Aborted", "fenced")).await?;
    let begun = std::time::Instant::now();
    let mut live = attack.session(&[]).await?;
    let mut calls = attack.calls(&attack.credential()).await;
    for n in 0..SESSIONS {
        let mut next = calls.call(SYNC, &[]).await?;
        let instance = ["one", "another"][n % 2];
        next.welcomed_as("its-own", instance).await?;
        let status = live.ended().await;
        assert_eq!(status.code(), Code::Aborted, "{status}");
        live = next;
    }
    let ground = attack.ground;
    let client = ground.lab.management().client().await?;
    let api: Api<Tenant> = Api::all(client);
    let what = "the Tenant says SessionContested, and what to do";
    eventually(SOON, what, || async {
        let tenant = api.get(&attack.tenant).await;
        let tenant = tenant.map_err(|error| Seen(error.to_string()))?;
        let conditions = tenant.status.unwrap_or_default().conditions;
        let told = conditions.iter().find(|it| it.type_ == "SessionContested");
        let advice = format!("tenant revoke {}", attack.tenant);
        match told.filter(|it| it.status == "True" && it.message.contains(&advice)) {
            Some(_) => Ok(()),
            None => Err(Seen(format!("{conditions:?}"))),
        }
    })
    .await?;
    let (neighbour, ..) = attack.neighbour();
    let others = api.get(&neighbour).await?.status.unwrap_or_default();
    let is_it = |it: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
        it.type_ == "SessionContested"
    };
    assert!(!others.conditions.iter().any(is_it), "{others:?}");
    attack.neighbour_works().await?;
    // Each session has begun, and all but the last have ended.
    let least = 2 * SESSIONS + 1;
    let what = format!("what is not written of {least} lines is told");
    let (written, unsaid) = eventually(SOON, &what, || async {
        let (written, unsaid) = said(&ground.lab.hub().log().await?, &attack.tenant);
        match written + unsaid >= least {
            true => Ok((written, unsaid)),
            false => Err(Seen(format!("{written} written, {unsaid} told"))),
        }
    })
    .await?;
    let windows = usize::try_from(begun.elapsed().as_secs())? / 10 + 2;
    assert!(
        written <= 50 * windows,
        "{written} lines, {unsaid} not written"
    );
    assert!(unsaid > 0, "{written} lines");
    attack.answered().await
}
