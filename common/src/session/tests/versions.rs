//! Releases that do not know of each other: older and newer peers work together, and what one of them does not know costs
//! neither the session nor anything beside it.

use super::*;
use crate::{
    annotations::Allowed,
    session::{FEATURES, ProtocolError, TURNS, agent::allowed},
};

fn greet(change: impl FnOnce(&mut v1::Hello)) -> Result<Taken, ProtocolError> {
    let mut pair = Pair::new();
    pair.connect();
    let mut hello = pair.agent.next_message(pair.now).unwrap();
    if let Some(v1::agent_message::Body::Hello(hello)) = &mut hello.body {
        change(hello);
    }
    pair.hub.receive(hello, &mut pair.held, pair.now)
}

#[test]
fn hostile_35_versions_that_do_not_meet_are_told_the_range() {
    for (min, max) in [(0, 0), (2, 9), (2, 1)] {
        let error = greet(|hello| (hello.protocol_min, hello.protocol_max) = (min, max));
        let error = error.unwrap_err();
        assert_eq!(error, ProtocolError::Version { min, max });
        assert!(error.to_string().contains("speaks protocol 1"), "{error}");
    }
    for (min, max) in [(0, 1), (1, 1), (1, 9)] {
        assert!(greet(|hello| (hello.protocol_min, hello.protocol_max) = (min, max)).is_ok());
    }
}

#[test]
fn rule_8_an_agent_of_the_release_before_features_tells_its_snapshot_without_a_turn() {
    let mut pair = Pair::new();
    pair.agent.upsert(Key::Service(key("a")), service(30_001));
    pair.connect();
    let mut hello = pair.agent.next_message(pair.now).unwrap();
    if let Some(v1::agent_message::Body::Hello(hello)) = &mut hello.body {
        hello.features.clear();
    }
    pair.tell_hub(hello);
    pair.ahead = 7;
    pair.settle();
    assert_eq!(pair.welcome.features, Vec::<String>::new());
    assert_eq!(pair.port_held("a"), Some(30_001));
    assert_eq!(pair.turns.first(), Some(&TurnNews::Seized));
    assert_eq!(pair.turns.last(), Some(&TurnNews::Over));
    // Called all the same, it is told nothing that it would not know.
    pair.hub.turn(3);
    assert_eq!(pair.hub.next_message(pair.now), None);
}

#[test]
fn rule_8_an_agent_of_a_later_release_gets_the_version_and_features_that_both_know() {
    let mut pair = Pair::new();
    pair.agent.upsert(Key::Service(key("a")), service(30_001));
    pair.connect();
    let mut hello = pair.agent.next_message(pair.now).unwrap();
    if let Some(v1::agent_message::Body::Hello(hello)) = &mut hello.body {
        hello.protocol_max = 2;
        hello.features.insert(0, "telepathy".into());
    }
    pair.tell_hub(hello);
    pair.settle();
    assert_eq!(pair.welcome.protocol, 1);
    assert_eq!(pair.welcome.features, FEATURES);
    assert_eq!(pair.port_held("a"), Some(30_001));
}

#[test]
fn rule_8_a_hub_of_the_release_before_features_is_told_the_snapshot_at_once() {
    let mut pair = Pair::new();
    pair.agent.upsert(Key::Service(key("a")), service(30_001));
    pair.connect();
    let hello = pair.agent.next_message(pair.now).unwrap();
    let Some(v1::agent_message::Body::Hello(hello)) = hello.body else {
        panic!("{hello:?}");
    };
    assert_eq!(hello.features, FEATURES);
    let welcome = v1::Welcome {
        protocol: 1,
        session: 1,
        digests: pair.held.digests().to_bytes().into(),
        ..v1::Welcome::default()
    };
    let welcome = v1::HubMessage {
        body: Some(v1::hub_message::Body::Welcome(welcome)),
    };
    pair.agent.received(welcome, pair.now).unwrap();
    let next = pair.agent.next_message(pair.now).unwrap();
    assert!(matches!(
        next.body,
        Some(v1::agent_message::Body::SnapshotBegin(_))
    ));
}

#[test]
fn hostile_34_a_message_that_is_not_known_is_ignored_and_the_session_goes_on() {
    let mut pair = Pair::new();
    pair.connect();
    let unknown = v1::AgentMessage { body: None };
    let early = pair.hub.receive(unknown.clone(), &mut pair.held, pair.now);
    assert_eq!(
        early.unwrap_err(),
        ProtocolError::Unreadable,
        "before Hello"
    );
    pair.connect();
    pair.settle();
    pair.tell_hub(unknown);
    assert_eq!(pair.discarded.len(), 1);
    let unknown = v1::HubMessage { body: None };
    let events = pair.agent.received(unknown, pair.now).unwrap();
    assert!(matches!(&events[..], [Event::Ignored(_)]));
    pair.agent.upsert(Key::Service(key("a")), service(30_001));
    pair.settle();
    assert_eq!(pair.port_held("a"), Some(30_001));
}

#[test]
fn hostile_34_a_body_or_kind_that_is_not_known_is_answered_unimplemented_and_the_rest_is_taken() {
    let mut pair = Pair::new();
    pair.connect();
    pair.settle();
    let upsert = |kind: i32, name: &str, body| v1::Change {
        change: Some(v1::change::Change::Upsert(v1::Resource {
            key: Some(v1::Key {
                kind,
                namespace: "default".into(),
                name: name.into(),
            }),
            generation: 9,
            body,
        })),
    };
    let body = service(30_001);
    let good = crate::model::Versioned {
        generation: crate::wire::generation_of(&body),
        body,
    };
    let good = crate::wire::resource_to_wire(&Key::Service(key("good")), &good);
    let delta = v1::Delta {
        sequence: 1,
        changes: vec![
            upsert(1, "no-body", None),
            upsert(77, "no-kind", None),
            v1::Change { change: None },
            upsert(1, "good", good.body),
        ],
    };
    let message = v1::AgentMessage {
        body: Some(v1::agent_message::Body::Delta(delta)),
    };
    let taken = pair.hub.receive(message, &mut pair.held, pair.now).unwrap();
    assert!(taken.discarded.is_some(), "a change without a key");
    for (key, generation, refusal) in taken.refused {
        pair.hub.refuse(key, generation, &refusal);
    }
    assert_eq!(pair.port_held("good"), Some(30_001));
    let message = pair.hub.next_message(pair.now).unwrap();
    let Some(v1::hub_message::Body::Answers(answers)) = message.body else {
        panic!("{message:?}");
    };
    let told = |answer: &v1::Answer| {
        let name = answer.key.as_ref().map(|key| key.name.clone());
        (name.unwrap_or_default(), answer.outcome())
    };
    assert_eq!(
        answers.answers.iter().map(told).collect::<Vec<_>>(),
        [
            ("no-body".to_owned(), v1::Outcome::Unimplemented),
            ("no-kind".to_owned(), v1::Outcome::Unimplemented)
        ]
    );
}

fn capabilities(message: &v1::HubMessage) -> Option<&[String]> {
    match &message.body {
        Some(v1::hub_message::Body::Capabilities(it)) => Some(&it.annotations),
        _ => None,
    }
}

#[test]
fn point_19_which_annotations_pass_is_in_welcome_and_a_change_of_it_is_told_once() {
    let mut pair = Pair::new();
    pair.connect();
    pair.hub.allow(&Allowed::new(["example.com/*"]));
    pair.settle();
    let told = &pair.welcome.capabilities.as_ref().unwrap().annotations;
    assert_eq!(*told, ["example.com/*"]);
    pair.hub.allow(&Allowed::new(["example.com/*"]));
    assert_eq!(pair.hub.next_message(pair.now), None, "no news");
    pair.hub.allow(&Allowed::new(["a", "b"]));
    pair.hub.allow(&Allowed::new(["b"]));
    let message = pair.hub.next_message(pair.now).unwrap();
    assert_eq!(capabilities(&message).unwrap(), ["b"]);
    assert_eq!(allowed(&message), Some(Allowed::new(["b"])));
    assert_eq!(pair.hub.next_message(pair.now), None);
}

#[test]
fn point_19_an_agent_of_the_release_before_annotations_is_told_nothing_of_them_later() {
    let mut pair = Pair::new();
    pair.connect();
    let mut hello = pair.agent.next_message(pair.now).unwrap();
    if let Some(v1::agent_message::Body::Hello(hello)) = &mut hello.body {
        hello.features = vec![TURNS.into()];
    }
    pair.tell_hub(hello);
    pair.settle();
    pair.hub.allow(&Allowed::new(["a"]));
    assert_eq!(pair.hub.next_message(pair.now), None);
}

#[test]
fn hostile_57_and_59_what_no_tenant_may_set_is_stripped_on_arrival_and_counted() {
    let mut pair = Pair::new();
    let Body::Service(mut steering) = service(30_001) else {
        panic!("a service")
    };
    for name in [
        "metallb.io/loadBalancerIPs",
        "service.beta.kubernetes.io/aws-load-balancer-type",
        "example.com/owner",
    ] {
        steering.annotations.insert(name.into(), "1".into());
    }
    pair.agent
        .upsert(Key::Service(key("a")), Body::Service(steering));
    pair.connect();
    pair.settle();
    let Wanted::Present(_, held) = pair.held.wanted(&key("a")) else {
        panic!("it is held all the same")
    };
    let kept: Vec<_> = held.annotations.keys().collect();
    assert_eq!(kept, ["example.com/owner"]);
    assert!(
        pair.discarded[0].starts_with("2 annotations of service"),
        "{:?}",
        pair.discarded
    );
    assert!(
        pair.agent.is_synced(),
        "and the digests of both sides agree"
    );
}

/// An agent whose certificate somebody else brings is never asked for another, and one that keeps its own is asked once.
#[test]
fn only_an_agent_that_keeps_its_certificate_is_asked_to_renew_it() {
    let asked = |pair: &Pair| {
        let asked = |event: &&Event| matches!(event, Event::Reissue { .. });
        pair.events.iter().filter(asked).count()
    };
    let within = Duration::from_secs(40);
    let mut files = Pair::new();
    files.connect();
    files.hub.reissue(within);
    files.settle();
    assert_eq!((files.hub.renews(), asked(&files)), (false, 0));

    let mut own = Pair::new();
    own.agent = own.agent.renewing();
    own.connect();
    own.hub.reissue(within);
    own.settle();
    assert!(own.hub.renews() && own.events.contains(&Event::Reissue { within }));
    assert_eq!(asked(&own), 1);
}
