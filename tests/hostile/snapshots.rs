//! Lines 38 to 40 and 43: snapshots that lie about themselves, say too much, or say suspiciously little.

use anyhow::Result;
use berth_hub::api::LoadBalancer;
use berth_lab::{Seen, eventually};
use berth_wire::v1::{self, agent_message::Body as Say, hub_message::Body as Hear};
use tonic::Code;

use crate::{
    attacker::{
        messages::{self, begin, end, node, page, service, snapshot},
        session::Session,
    },
    evidence::Evidence,
    ground::{Attack, SOON},
};

/// A session with one node and these Services, which have their load balancers.
async fn with_services(attack: &Attack, names: &[&str]) -> Result<Session> {
    let mut resources = vec![node("n1")];
    resources.extend(names.iter().map(|name| service(name, 1, 80)));
    let mut session = attack.session(&resources).await?;
    for name in names {
        session.answer(name, 1).await?;
    }
    Ok(session)
}

/// The ports of a tenant's load balancers, by name.
async fn ports(attack: &Attack) -> Result<Vec<(String, u16)>> {
    let mut ports: Vec<_> = attack
        .ground
        .load_balancers(&attack.tenant)
        .await?
        .into_iter()
        .map(|lb| (service_of(&lb), lb.spec.ports[0].port))
        .collect();
    ports.sort();
    Ok(ports)
}

/// The name of the Service that a load balancer is for.
fn service_of(lb: &LoadBalancer) -> String {
    let service = &lb.spec.source.service;
    service.rsplit('/').next().unwrap_or(service).to_owned()
}

/// The next message that is no answer.
async fn word(session: &mut Session) -> Result<Hear> {
    loop {
        match session.hear().await? {
            Hear::Answers(_) => {}
            body => return Ok(body),
        }
    }
}

#[tokio::test]
async fn hostile_38_a_snapshot_without_a_true_end_deletes_nothing() -> Result<()> {
    let attack = Attack::begin("38", Evidence::message()).await?;
    let mut session = with_services(&attack, &["a", "b"]).await?;
    let before = ports(&attack).await?;
    assert_eq!(before.len(), 2);

    let told = [node("n1"), service("a", 2, 81)];
    let good = end(2, &told);
    let wrong_count = v1::SnapshotEnd {
        count: 1,
        ..good.clone()
    };
    let wrong_hash = v1::SnapshotEnd {
        sha256: vec![0; 32].into(),
        ..good.clone()
    };
    for wrong in [wrong_count, wrong_hash] {
        session.say(begin(2)).await;
        session.say(page(2, &told)).await;
        session.say(Say::SnapshotEnd(wrong)).await;
        let asked = word(&mut session).await?;
        assert!(matches!(asked, Hear::ResyncRequired(_)), "{asked:?}");
    }
    // And one whose end never comes.
    session.say(begin(2)).await;
    session.say(page(2, &told)).await;
    session.say(messages::upsert(1, service("b", 3, 82))).await;
    session.answer("b", 3).await?;
    assert_eq!(ports(&attack).await?, [("a".into(), 80), ("b".into(), 82)]);
    attack.answered().await
}

/// 500 Services, and then a verified snapshot of none. Their management Services are of a class that no allocator serves, so
/// that it is about the hub alone.
#[tokio::test]
async fn hostile_39_an_empty_snapshot_after_500_services_is_held() -> Result<()> {
    const SERVICES: usize = 500;
    let mut attack = Attack::begin("39", Evidence::held()).await?;
    let class = ", loadBalancerClass: example.com/nobody";
    attack.ground.admit(&attack.tenant, class).await?;
    let mut resources = vec![node("n1")];
    resources.extend((0..SERVICES).map(|n| service(&format!("s-{n}"), 1, 80)));
    let mut session = attack.session(&resources).await?;
    let all = || async {
        let found = attack.ground.load_balancers(&attack.tenant).await;
        let found = found.map_err(Seen::from)?.len();
        match found == SERVICES {
            true => Ok(()),
            false => Err(Seen(format!("{found} load balancers"))),
        }
    };
    eventually(4 * SOON, "500 load balancers", all).await?;
    session.told(2, &[]).await?;
    let tenant = format!("tenant=\"{}\"", attack.tenant);
    eventually(SOON, "all are held", || async {
        let labels = [tenant.as_str()];
        let hub = attack.ground.lab.hub();
        match hub.metric("berth_load_balancers_held", &labels).await? {
            held if held as usize == SERVICES => Ok(()),
            held => Err(Seen(format!("{held} are"))),
        }
    })
    .await?;
    attack.neighbour_works().await?;
    let found = attack.ground.load_balancers(&attack.tenant).await?.len();
    assert_eq!(found, SERVICES);
    attack.answered().await
}

#[tokio::test]
async fn hostile_40_a_snapshot_of_a_million_services_ends_the_session_and_the_state_stays()
-> Result<()> {
    const MILLION: usize = 1_000_000;
    const A_PAGE: usize = 1_000;
    let attack = Attack::begin("40", Evidence::ended("ResourceExhausted", "protocol")).await?;
    let mut session = with_services(&attack, &["a"]).await?;
    session.say(begin(2)).await;
    for first in (0..MILLION).step_by(A_PAGE) {
        let some: Vec<_> = (first..first + A_PAGE)
            .map(|n| service(&format!("s-{n}"), 1, 80))
            .collect();
        session.say(page(2, &some)).await;
        if session.is_over() {
            break;
        }
    }
    let status = session.ended().await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("30000"), "{status}");
    assert_eq!(ports(&attack).await?, [("a".into(), 80)]);
    attack.answered().await
}

#[tokio::test]
async fn hostile_43_a_service_told_in_two_ways_is_refused_in_both() -> Result<()> {
    let attack = Attack::begin("43", Evidence::resource()).await?;
    let mut session = with_services(&attack, &["a", "b"]).await?;
    let told = [
        node("n1"),
        service("a", 2, 81),
        service("b", 2, 81),
        service("a", 3, 82),
    ];
    for body in snapshot(2, &told) {
        session.say(body).await;
    }
    let answer = session.answer("a", 3).await?;
    assert_eq!(answer.outcome(), v1::Outcome::Refused, "{answer:?}");
    assert_eq!(answer.reason, "Duplicate");
    // What it had stays, and the rest was taken.
    let expected = [("a".to_owned(), 80), ("b".to_owned(), 81)];
    eventually(SOON, "b is changed and a is not", || async {
        match ports(&attack).await? {
            found if found == expected => Ok(()),
            found => Err(Seen(format!("{found:?}"))),
        }
    })
    .await?;
    attack.answered().await
}
