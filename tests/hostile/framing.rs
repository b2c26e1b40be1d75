//! Lines 31 to 34: messages too large, broken, or of another release.

use anyhow::Result;
use berth_wire::v1;
use prost::Message as _;
use tonic::Code;

use crate::{
    attacker::{
        frames::SYNC,
        messages::{self, field, framed, framed_as, upsert_of_bytes},
        session::Session,
    },
    evidence::Evidence,
    ground::Attack,
};

/// The largest message that is read.
const LARGEST: usize = 4 * 1024 * 1024;

/// Has each of these said in a session of its own, and asserts how that ends.
async fn each_ends(attack: &Attack, cases: Vec<(&str, Vec<u8>, Code)>) -> Result<()> {
    for (what, bytes, code) in cases {
        let mut session = attack.session(&[]).await?;
        session.send(bytes).await;
        session.finish();
        let status = session.ended().await;
        assert_eq!(status.code(), code, "{what}: {status}");
    }
    Ok(())
}

#[tokio::test]
async fn hostile_31_a_message_beyond_4_mib_ends_the_stream() -> Result<()> {
    let attack = Attack::begin("31a", Evidence::ended("ResourceExhausted", "unreadable")).await?;
    let cases = vec![
        (
            "said and sent",
            framed(&vec![0; LARGEST + 1]),
            Code::ResourceExhausted,
        ),
        (
            "said only",
            framed_as(0, u32::MAX as usize, b""),
            Code::ResourceExhausted,
        ),
    ];
    each_ends(&attack, cases).await?;
    attack.answered().await
}

/// Small on the wire, hundreds of megabytes decoded: it is weighed before.
#[tokio::test]
async fn hostile_31_a_message_that_would_become_large_ends_the_stream() -> Result<()> {
    let attack = Attack::begin("31b", Evidence::ended("ResourceExhausted", "unreadable")).await?;
    let empty = vec![v1::Resource::default(); 1_000_000];
    let page = v1::AgentMessage {
        body: Some(messages::page(1, &empty)),
    };
    let cases = vec![(
        "empty resources",
        framed(&page.encode_to_vec()),
        Code::ResourceExhausted,
    )];
    each_ends(&attack, cases).await?;
    attack.answered().await
}

/// The hub unpacks nothing, so that there is no bomb: it answers what gRPC prescribes for an encoding that is not spoken.
#[tokio::test]
async fn hostile_31_gzip_is_not_spoken_so_a_bomb_stays_packed() -> Result<()> {
    let attack = Attack::begin("31c", Evidence::call("Unimplemented")).await?;
    let mut calls = attack.calls(&attack.credential()).await;
    let mut call = calls.call(SYNC, &[("grpc-encoding", "gzip")]).await?;
    call.send(framed_as(1, 4, b"\x1f\x8b\x08\x00")).await;
    let status = call.ended().await;
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
    // The same without a word of it beforehand.
    let cases = vec![(
        "a flag",
        framed_as(1, 4, b"\x1f\x8b\x08\x00"),
        Code::InvalidArgument,
    )];
    each_ends(&attack, cases).await?;
    attack.answered().await
}

#[tokio::test]
async fn hostile_32_nesting_lying_lengths_and_truncation_are_invalid() -> Result<()> {
    let attack = Attack::begin("32", Evidence::ended("InvalidArgument", "unreadable")).await?;
    let good = v1::AgentMessage {
        body: Some(messages::upsert(1, messages::service("web", 1, 80))),
    }
    .encode_to_vec();
    let mut nested = Vec::new();
    for _ in 0..10_000 {
        nested = field(6, &nested);
    }
    let mut lying = good.clone();
    lying[1] = 0x7f;
    let cases = vec![
        (
            // Of no field that is known: skipped, and nothing of it is read.
            "bytes within bytes",
            framed(&nested),
            Code::Ok,
        ),
        (
            "a length beyond the end",
            framed(&lying),
            Code::InvalidArgument,
        ),
        (
            "a field that breaks off",
            framed(&good[..good.len() - 1]),
            Code::InvalidArgument,
        ),
        (
            "a varint without end",
            framed(&[0xff; 64]),
            Code::InvalidArgument,
        ),
        (
            "a frame that breaks off",
            framed_as(0, good.len() + 1, &good),
            Code::InvalidArgument,
        ),
        (
            "4 MiB said and a byte sent",
            framed_as(0, LARGEST, b"x"),
            Code::InvalidArgument,
        ),
        (
            "groups within groups",
            framed(&[0x0b; 10_000]),
            Code::InvalidArgument,
        ),
    ];
    each_ends(&attack, cases).await?;
    attack.answered().await
}

/// A session that has told a node.
async fn with_a_node(attack: &Attack) -> Result<Session> {
    attack.session(&[messages::node("n1")]).await
}

#[tokio::test]
async fn hostile_33_an_unknown_enum_value_is_refused_and_never_taken_for_the_first() -> Result<()> {
    let attack = Attack::begin("33", Evidence::resource()).await?;
    let mut session = with_a_node(&attack).await?;
    session
        .say(messages::upsert(1, messages::service("odd", 1, 80)))
        .await;
    session.answer("odd", 1).await?;
    let mut odd = messages::service("odd", 2, 81);
    let Some(v1::resource::Body::Service(service)) = &mut odd.body else {
        unreachable!()
    };
    service.ports[0].protocol = 99;
    let changes = [odd, messages::service("even", 1, 80)].map(v1::change::Change::Upsert);
    session.say(messages::delta(2, changes.to_vec())).await;
    let answer = session.answer("odd", 2).await?;
    assert_eq!(answer.outcome(), v1::Outcome::Refused, "{answer:?}");
    assert_eq!(answer.field, "spec.ports[0].protocol");
    // The last good state stays, and the rest was taken.
    session
        .say(messages::upsert(3, messages::service("even", 2, 82)))
        .await;
    let answer = session.answer("even", 2).await?;
    assert_ne!(answer.outcome(), v1::Outcome::Refused, "{answer:?}");
    let mut kept = attack.ground.load_balancers(&attack.tenant).await?;
    kept.retain(|lb| lb.spec.source.service.ends_with("odd"));
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].spec.ports[0].port, 80);
    attack.answered().await
}

#[tokio::test]
async fn hostile_34_unknown_fields_are_ignored_and_an_unknown_body_is_unimplemented() -> Result<()>
{
    let attack = Attack::begin("34", Evidence::resource()).await?;
    let mut session = with_a_node(&attack).await?;
    // Resource { key, generation, field 999, service { …, field 999 } }, all within Delta.changes.upsert.
    let known = messages::service("later", 1, 80);
    let mut resource = known.encode_to_vec();
    resource.extend(field(999, b"of a later release"));
    session.say_bytes(&upsert_of_bytes(1, &resource)).await;
    let answer = session.answer("later", 1).await?;
    assert_ne!(answer.outcome(), v1::Outcome::Refused, "{answer:?}");
    assert_ne!(answer.outcome(), v1::Outcome::Unimplemented, "{answer:?}");

    let mut bodiless = messages::service("other", 1, 80);
    bodiless.body = None;
    let mut resource = bodiless.encode_to_vec();
    resource.extend(field(99, b"a body of a later release"));
    session.say_bytes(&upsert_of_bytes(2, &resource)).await;
    let answer = session.answer("other", 1).await?;
    assert_eq!(answer.outcome(), v1::Outcome::Unimplemented, "{answer:?}");
    attack.answered().await
}
