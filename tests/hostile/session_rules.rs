//! Lines 35 to 37, 41 and 42: messages that can be read, in an order or a number that no agent would send.

use anyhow::Result;
use berth_wire::v1::{self, agent_message::Body as Say, hub_message::Body as Hear};
use tonic::{Code, Status};

use crate::{
    attacker::{
        frames::SYNC,
        messages::{self, deletion, delta, hello, service, upsert},
        session::Session,
    },
    evidence::Evidence,
    ground::Attack,
};

/// A stream on which these were said, and how it ends.
async fn end_after(attack: &Attack, said: impl IntoIterator<Item = Say>) -> Result<Status> {
    let mut calls = attack.calls(&attack.credential()).await;
    let mut session = calls.call(SYNC, &[]).await?;
    for body in said {
        session.say(body).await;
    }
    Ok(session.ended().await)
}

#[tokio::test]
async fn hostile_35_versions_that_do_not_meet_are_told_the_range() -> Result<()> {
    let attack = Attack::begin("35", Evidence::session("protocol")).await?;
    // Until the hub knows the tenant.
    drop(attack.session(&[]).await?);
    for (min, max) in [(2, 9), (0, 0), (9, 1)] {
        let hello = Say::Hello(messages::hello_of(min, max, "its-own"));
        let status = end_after(&attack, [hello]).await?;
        assert_eq!(
            status.code(),
            Code::FailedPrecondition,
            "{min} to {max}: {status}"
        );
        assert!(status.message().contains("speaks protocol 1"), "{status}");
    }
    attack.answered().await
}

#[tokio::test]
async fn hostile_36_a_delta_before_hello_and_a_second_hello_are_out_of_turn() -> Result<()> {
    let attack = Attack::begin("36", Evidence::session("protocol")).await?;
    drop(attack.session(&[]).await?);
    let early = upsert(1, service("early", 1, 80));
    for said in [vec![early], vec![hello("its-own"), hello("its-own")]] {
        let status = end_after(&attack, said).await?;
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    }
    assert!(
        attack
            .ground
            .load_balancers(&attack.tenant)
            .await?
            .is_empty()
    );
    attack.answered().await
}

async fn resync(session: &mut Session) -> Result<v1::ResyncRequired> {
    loop {
        if let Hear::ResyncRequired(resync) = session.hear().await? {
            return Ok(resync);
        }
    }
}

#[tokio::test]
async fn hostile_37_a_gap_asks_for_the_state_anew_and_a_repetition_is_ignored() -> Result<()> {
    let attack = Attack::begin("37", Evidence::message()).await?;
    let mut session = attack.session(&[messages::node("n1")]).await?;
    session.say(upsert(1, service("web", 1, 80))).await;
    session.answer("web", 1).await?;
    session.say(upsert(7, service("web", 2, 81))).await;
    let asked = resync(&mut session).await?;
    assert!(
        asked.reason.contains("delta 7 came where 2 was due"),
        "{asked:?}"
    );
    // Backward: neither taken nor a reason to end.
    session.say(upsert(3, service("web", 3, 82))).await;
    session.say(upsert(8, service("web", 4, 83))).await;
    session.answer("web", 4).await?;
    let [lb] = &attack.ground.load_balancers(&attack.tenant).await?[..] else {
        panic!("not one load balancer")
    };
    assert_eq!(lb.spec.ports[0].port, 83);
    attack.answered().await
}

/// Names of one's own invention, made and deleted as fast as they can be sent. What of it is the same name is one entry of the
/// work, whatever its number of changes; what is remembered of different names has an end.
#[tokio::test]
async fn hostile_41_creating_and_deleting_without_end_is_coalesced_and_then_too_much() -> Result<()>
{
    const AT_ONCE: usize = 1_000;
    let mut attack = Attack::begin("41", Evidence::ended("ResourceExhausted", "protocol")).await?;
    let mut session = attack.session(&[messages::node("n1")]).await?;
    let mut sequence = 0;
    let mut churn = |name: &dyn Fn(usize) -> String| {
        sequence += 1;
        let changes = (0..AT_ONCE).flat_map(|n| {
            let (name, generation) = (name(n), sequence * AT_ONCE as u64 + n as u64);
            [
                v1::change::Change::Upsert(service(&name, generation, 80)),
                deletion(&name, generation),
            ]
        });
        delta(sequence, changes.collect())
    };
    // One name, 20,000 times: one answer is due in the end, and the neighbour waits for none of it.
    for _ in 0..20 {
        session.say(churn(&|_| "same".into())).await;
    }
    attack.neighbour_works().await?;
    session
        .answer("same", 20 * AT_ONCE as u64 + AT_ONCE as u64 - 1)
        .await?;
    // Names without end.
    for batch in 0..200 {
        session.say(churn(&|n| format!("s-{batch}-{n}"))).await;
    }
    let status = session.ended().await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    attack.answered().await
}

#[tokio::test]
async fn hostile_42_an_acknowledgement_of_what_was_never_sent_is_ignored() -> Result<()> {
    let attack = Attack::begin("42", Evidence::message()).await?;
    let mut session = attack.session(&[messages::node("n1")]).await?;
    session
        .say(Say::Heartbeat(v1::Heartbeat { sequence: 4_711 }))
        .await;
    session.say(upsert(1, service("web", 1, 80))).await;
    session.answer("web", 1).await?;
    attack.answered().await
}
