//! Lines 1 to 11 and 19: what does not get as far as a call. TCP, TLS, certificates.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa};
use rustls::{ClientConfig, HandshakeKind, client::Resumption, version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

use crate::{
    attacker::{
        certificates::{Credential, Forger, hours},
        frames::SYNC,
        session::Calls,
        tls::{self, closed},
    },
    evidence::Evidence,
    ground::{Attack, SOON},
};

/// What the hub gives a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How many handshakes one address may have in progress.
const PER_ADDRESS: usize = 64;

/// The hub does not let this client in: not a byte of HTTP/2 comes back.
async fn shut_out(attack: &Attack, config: ClientConfig) {
    // In TLS 1.3 the client's side of the handshake is over before the server has judged its certificate.
    if let Ok(mut connection) = attack.dial(config).await {
        let said = closed(&mut connection).await;
        assert!(said.is_empty(), "{said:?}");
    }
}

/// The hub does not let a client with this certificate in.
async fn is_shut_out(
    name: &str,
    reason: &'static str,
    credential: impl Fn(&Attack) -> Credential,
) -> Result<()> {
    let attack = Attack::begin(name, Evidence::door(reason)).await?;
    shut_out(&attack, attack.config(&credential(&attack))).await;
    attack.answered().await
}

#[tokio::test]
async fn hostile_01_silence_and_a_slow_client_hello_end_after_five_seconds() -> Result<()> {
    let attack = Attack::begin("01a", Evidence::door("handshake-timeout")).await?;
    // Before the hub's own time begins.
    let began = Instant::now();
    let (mut silent, slow) = (attack.tcp().await, attack.tcp().await);
    let (mut listening, mut talking) = slow.into_split();
    let dripping = tokio::spawn(async move {
        // A record of 16 KiB that never becomes whole.
        let mut drops = [0x16, 0x03, 0x01, 0x40, 0x00]
            .into_iter()
            .chain(std::iter::repeat(1));
        while let Some(byte) = drops.next()
            && talking.write_all(&[byte]).await.is_ok()
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    tokio::join!(closed(&mut silent), closed(&mut listening));
    let took = began.elapsed();
    assert!(took >= HANDSHAKE && took < 2 * HANDSHAKE, "{took:?}");
    dripping.abort();
    attack.answered().await
}

#[tokio::test]
async fn hostile_01_one_address_has_so_many_handshakes_and_others_have_theirs() -> Result<()> {
    let mut attack = Attack::begin("01b", Evidence::door("too-many-handshakes")).await?;
    let mut half_open = Vec::new();
    for _ in 0..PER_ADDRESS {
        half_open.push(attack.tcp().await);
    }
    let began = Instant::now();
    let mut one_more = attack.tcp().await;
    closed(&mut one_more).await;
    assert!(
        began.elapsed() < HANDSHAKE,
        "it was not refused, it was timed out"
    );
    attack.neighbour_works().await?;
    drop(half_open);
    attack.answered().await
}

#[tokio::test]
async fn hostile_02_tls_1_2_is_refused() -> Result<()> {
    let attack = Attack::begin("02", Evidence::door("tls-version")).await?;
    let ca = attack.ground.lab.hub().ca();
    let config = tls::config_of(&ca, Some(&attack.credential()), &[&version::TLS12]);
    shut_out(&attack, config).await;
    attack.answered().await
}

#[tokio::test]
async fn hostile_03_without_a_certificate_nobody_gets_in() -> Result<()> {
    let attack = Attack::begin("03", Evidence::door("no-certificate")).await?;
    let ca = attack.ground.lab.hub().ca();
    shut_out(&attack, tls::config_of(&ca, None, &[&version::TLS13])).await;
    attack.answered().await
}

#[tokio::test]
async fn hostile_04_an_expired_certificate_is_refused() -> Result<()> {
    is_shut_out("04", "expired", |attack| {
        attack.ground.forger.forge(&attack.tenant, |params| {
            params.not_before = hours(-2);
            params.not_after = hours(-1);
        })
    })
    .await
}

#[tokio::test]
async fn hostile_05_a_certificate_of_the_future_is_refused() -> Result<()> {
    is_shut_out("05", "not-yet-valid", |attack| {
        let forger = &attack.ground.forger;
        forger.forge(&attack.tenant, |params| params.not_before = hours(1))
    })
    .await
}

#[tokio::test]
async fn hostile_06_a_foreign_ca_is_refused() -> Result<()> {
    is_shut_out("06", "unknown-ca", |attack| {
        Forger::foreign().tenant(&attack.tenant)
    })
    .await
}

#[tokio::test]
async fn hostile_07_a_ca_of_the_same_name_with_another_key_is_refused() -> Result<()> {
    is_shut_out("07", "unknown-ca", |attack| {
        Forger::lookalike(&attack.ground.ca_directory()).tenant(&attack.tenant)
    })
    .await
}

/// There is nothing to resume: the second handshake is as full as the first, and it is then that the certificate is looked at.
#[tokio::test]
async fn hostile_08_a_revoked_certificate_finds_no_session_to_resume() -> Result<()> {
    let attack = Attack::begin("08", Evidence::session("revoked")).await?;
    // Until the hub knows the tenant.
    drop(attack.session(&[]).await?);
    let credential = attack.credential();
    let mut config = attack.config(&credential);
    config.resumption = Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    let session = async || {
        let connection = tls::shake(attack.tcp().await, config.clone())
            .await
            .unwrap();
        assert_eq!(
            connection.get_ref().1.handshake_kind(),
            Some(HandshakeKind::Full)
        );
        let mut calls = Calls::over(connection).await.unwrap();
        let mut session = calls.call(SYNC, &[]).await.unwrap();
        // Welcome has come: by now a ticket would have, too.
        let welcome = session.welcomed("its-own").await;
        (session, welcome)
    };
    let (_session, welcome) = session().await;
    welcome?;
    let mut peeked = tls::shake(attack.tcp().await, config.clone()).await?;
    // The hub's SETTINGS come after whatever tickets it gives.
    peeked
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await?;
    peeked.read_u8().await?;
    assert_eq!(peeked.get_ref().1.tls13_tickets_received(), 0);

    let revoked = format!(
        ", credentials: {{revokedSerials: [\"{}\"]}}",
        credential.serial()
    );
    attack.ground.admit(&attack.tenant, &revoked).await?;
    berth_lab::eventually(SOON, "the certificate is refused", || async {
        match session().await.1 {
            Err(status) if status.code() == Code::Unauthenticated => Ok(()),
            other => Err(berth_lab::Seen(format!("{other:?}"))),
        }
    })
    .await?;
    // Another certificate of the same tenant counts.
    attack.session(&[]).await?;
    attack.answered().await
}

#[tokio::test]
async fn hostile_09_a_live_session_ends_within_a_second_of_its_revocation() -> Result<()> {
    let attack = Attack::begin("09", Evidence::revoked()).await?;
    let mut session = attack.session(&[]).await?;
    let revoked = ", credentials: {notBefore: \"2100-01-01T00:00:00Z\"}";
    attack.ground.admit(&attack.tenant, revoked).await?;
    let told = Instant::now();
    let status = session.ended().await;
    let took = told.elapsed();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    let again = attack.refused(&attack.credential()).await;
    assert_eq!(again.code(), Code::Unauthenticated, "{again}");
    attack.answered().await
}

#[tokio::test]
async fn hostile_10_a_servers_or_an_authoritys_certificate_is_refused() -> Result<()> {
    let attack = Attack::begin("10", Evidence::door("wrong-purpose")).await?;
    let (forger, tenant) = (&attack.ground.forger, &attack.tenant);
    let server = forger.forge(tenant, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let authority = forger.forge(tenant, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    for credential in [server, authority] {
        shut_out(&attack, attack.config(&credential)).await;
    }
    attack.answered().await
}

#[tokio::test]
async fn hostile_11_a_chain_of_a_hundred_certificates_or_of_a_mebibyte_is_refused() -> Result<()> {
    let attack = Attack::begin("11", Evidence::door("bad-certificate")).await?;
    let good = attack.credential();
    let mut hundred = good.clone();
    let link = attack.ground.forger.tenant("link").chain.remove(0);
    hundred.chain.extend(std::iter::repeat_n(link, 99));
    let mut large = good;
    large.chain.push(vec![0x30; 1024 * 1024].into());
    for credential in [hundred, large] {
        shut_out(&attack, attack.config(&credential)).await;
    }
    attack.answered().await
}

#[tokio::test]
async fn hostile_19_http_1_1_is_refused_with_tls_and_without() -> Result<()> {
    let attack = Attack::begin("19a", Evidence::door("no-h2")).await?;
    for protocols in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut config = attack.config(&attack.credential());
        config.alpn_protocols = protocols;
        shut_out(&attack, config).await;
    }
    attack.answered().await?;

    let attack = Attack::begin("19b", Evidence::door("not-tls")).await?;
    let mut plain = attack.tcp().await;
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n")
        .await?;
    let said = closed(&mut plain).await;
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
    attack.answered().await
}

#[tokio::test]
async fn hostile_19_a_path_that_nobody_serves_is_unimplemented() -> Result<()> {
    let attack = Attack::begin("19c", Evidence::call("Unimplemented")).await?;
    let mut calls = attack.calls(&attack.credential()).await;
    for path in [
        "/",
        "/berth.v1.AgentService/Sink",
        "/berth.v1.AgentServices/Sync",
        "/../etc/passwd",
    ] {
        let mut call = calls.call(path, &[]).await?;
        let status = call.ended().await;
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status}");
    }
    attack.answered().await
}
