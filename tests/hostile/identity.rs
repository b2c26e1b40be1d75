//! Lines 20 to 25: certificates of the hub's own CA that name nobody, or somebody else, or the same one twice.

use anyhow::Result;
use berth_hub::session::TENANT_HEADER;
use berth_wire::v1;
use prost::Message as _;
use tonic::Code;

use crate::{
    attacker::{
        certificates::{Credential, names, tenant_uri},
        frames::SYNC,
        messages,
    },
    evidence::Evidence,
    ground::Attack,
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
