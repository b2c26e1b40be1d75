//! Fencing, admission and answers, with real sessions on both sides and no socket between them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use berth_common::{
    annotations::Allowed,
    identity::TenantName,
    model::{
        Answer, Body, Ingress, IpFamily, Key, Outcome, Port, Protocol, Service, ServiceKey,
        TrafficPolicy,
    },
    session::{
        agent::{AgentInfo, AgentSession, Event, Source},
        held::Wanted,
        hub::Limits,
    },
};

use super::{
    Admission, Credential, Ending, Marks, Next, Refused, Rejected, Seat, Standing, Tenants,
};

mod binding;
mod brake;
mod credentials;
mod nodes;
mod restless;
mod turns;

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Marks for Recorder {
    fn service(&self, tenant: &TenantName, key: &ServiceKey) {
        self.0.lock().unwrap().push(format!("{tenant}:{key}"));
    }
    fn observed(&self, tenant: &TenantName) {
        self.0.lock().unwrap().push(format!("{tenant}:*"));
    }
}

fn acme() -> TenantName {
    TenantName::parse("acme").unwrap()
}

fn hub(admissions: &[(&str, Admission)]) -> (Arc<Tenants>, Arc<Recorder>) {
    let marks = Arc::new(Recorder::default());
    let tenants = Arc::new(Tenants::new(1, Limits::default(), marks.clone()));
    tenants.admit(
        admissions
            .iter()
            .map(|(name, admission)| (TenantName::parse(name).unwrap(), admission.clone()))
            .collect(),
    );
    (tenants, marks)
}

fn agent(cluster: &str) -> AgentSession {
    start(cluster, "i")
}

/// This start of an agent.
fn start(cluster: &str, instance: &str) -> AgentSession {
    let mut agent = AgentSession::new(AgentInfo {
        version: "0.1.0".into(),
        instance_id: instance.into(),
    });
    let _ = agent.set_source(Source::Synced {
        cluster_uid: cluster.into(),
    });
    agent
}

fn service() -> Body {
    Body::Service(Service {
        uid: "u".into(),
        ports: vec![Port {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(30_080),
            app_protocol: None,
        }],
        families: vec![IpFamily::V4],
        require_dual_stack: false,
        affinity_seconds: None,
        source_ranges: Default::default(),
        traffic_policy: TrafficPolicy::Cluster,
        local_nodes: Default::default(),
        health_check_node_port: None,
        requested_ips: Vec::new(),
        annotations: BTreeMap::new(),
    })
}

/// Moves messages until both sides have nothing to say; the agent's events come back.
fn talk(agent: &mut AgentSession, seat: &Seat) -> Result<Vec<Event>, Rejected> {
    let now = Instant::now();
    let mut events = Vec::new();
    loop {
        let up = agent.next_message(now);
        let spoke = up.is_some();
        if let Some(message) = up {
            seat.receive(message, now)?;
        }
        match seat.next(now) {
            Next::Message(message) => events.extend(agent.received(*message, now).unwrap()),
            Next::Wait(_) if !spoke => return Ok(events),
            Next::Wait(_) => {}
            Next::End(ending) => panic!("{ending:?}"),
        }
    }
}

fn connect(tenants: &Arc<Tenants>, agent: &mut AgentSession) -> Seat {
    let seat = tenants
        .open(&acme(), Credential::default(), Instant::now())
        .unwrap();
    agent.disconnected();
    agent.connected(Instant::now());
    seat
}

#[test]
fn hostile_25_the_newest_session_wins_and_the_fenced_one_changes_nothing() {
    let (tenants, _) = hub(&[("acme", Admission::default())]);
    let (mut old, mut new) = (agent("c"), agent("c"));
    let first = connect(&tenants, &mut old);
    talk(&mut old, &first).unwrap();
    let second = connect(&tenants, &mut new);
    talk(&mut new, &second).unwrap();

    assert!(matches!(
        first.next(Instant::now()),
        Next::End(Ending::Fenced)
    ));
    let key = ServiceKey::new("default", "late");
    old.upsert(Key::Service(key.clone()), service());
    let late = old.next_message(Instant::now()).unwrap();
    assert!(matches!(
        first.receive(late, Instant::now()),
        Err(Rejected::Fenced(_))
    ));
    assert!(!matches!(
        tenants.wanted(&acme(), &key).0,
        Wanted::Present(..)
    ));
    drop(first);
    assert_eq!(tenants.live(), 1, "the newer one keeps its seat");
}

#[test]
fn a_stream_that_never_says_hello_does_not_disturb_the_live_session() {
    let (tenants, _) = hub(&[("acme", Admission::default())]);
    let mut agent = agent("c");
    let first = connect(&tenants, &mut agent);
    talk(&mut agent, &first).unwrap();
    let stranger = tenants
        .open(&acme(), Credential::default(), Instant::now())
        .unwrap();
    drop(stranger);
    talk(&mut agent, &first).unwrap();
    assert_eq!(tenants.live(), 1);
}

#[test]
fn hostile_24_a_second_cluster_under_one_identity_is_refused_and_the_first_goes_on() {
    let (tenants, _) = hub(&[("acme", Admission::default())]);
    let (mut one, mut two) = (agent("cluster-1"), agent("cluster-2"));
    let first = connect(&tenants, &mut one);
    talk(&mut one, &first).unwrap();
    let second = connect(&tenants, &mut two);
    assert!(matches!(
        talk(&mut two, &second),
        Err(Rejected::Refused(Refused::OtherCluster { .. }))
    ));
    drop(second);
    talk(&mut one, &first).unwrap();

    let bound = Admission {
        cluster_uid: Some("cluster-1".into()),
        ..Admission::default()
    };
    let (later, _) = hub(&[("acme", bound)]);
    let second = connect(&later, &mut two);
    assert!(
        talk(&mut two, &second).is_err(),
        "also after a restart of the hub"
    );
}

#[test]
fn a_tenant_that_is_unknown_or_suspended_has_no_session_and_loses_the_one_it_has() {
    let (tenants, _) = hub(&[]);
    assert!(matches!(
        tenants.open(&acme(), Credential::default(), Instant::now()),
        Err(Refused::Unknown(_))
    ));
    tenants.admit(BTreeMap::from([(acme(), Admission::default())]));
    let mut agent = agent("c");
    let seat = connect(&tenants, &mut agent);
    talk(&mut agent, &seat).unwrap();
    tenants.admit(BTreeMap::from([(
        acme(),
        Admission {
            suspended: true,
            ..Admission::default()
        },
    )]));
    assert!(matches!(
        seat.next(Instant::now()),
        Next::End(Ending::Refused(Refused::Suspended(_)))
    ));
}

#[test]
fn answers_reach_the_session_and_every_later_one() {
    let (tenants, marks) = hub(&[("acme", Admission::default())]);
    let mut agent = agent("c");
    let key = ServiceKey::new("default", "backend");
    agent.upsert(Key::Service(key.clone()), service());
    let seat = connect(&tenants, &mut agent);
    talk(&mut agent, &seat).unwrap();
    assert_eq!(*marks.0.lock().unwrap(), ["acme:default/backend", "acme:*"]);
    let answer = Answer {
        generation: agent.generation(&Key::Service(key.clone())).unwrap(),
        outcome: Outcome::Programmed,
        ingress: vec![Ingress::Ip([10, 0, 0, 1].into())],
    };
    tenants.answer(&acme(), &key, answer.clone());
    let told = Event::Answer(Key::Service(key.clone()), answer);
    assert_eq!(
        talk(&mut agent, &seat).unwrap(),
        std::slice::from_ref(&told)
    );

    let again = connect(&tenants, &mut agent);
    assert!(talk(&mut agent, &again).unwrap().contains(&told));
}

#[test]
fn point_07_the_end_of_a_deletion_is_told_once_it_has_come() {
    let (tenants, _) = hub(&[("acme", Admission::default())]);
    let mut agent = agent("c");
    let key = ServiceKey::new("default", "backend");
    let seat = connect(&tenants, &mut agent);
    agent.upsert(Key::Service(key.clone()), service());
    talk(&mut agent, &seat).unwrap();
    agent.remove(Key::Service(key.clone()));
    assert!(talk(&mut agent, &seat).unwrap().is_empty());
    assert!(matches!(
        tenants.wanted(&acme(), &key).0,
        Wanted::Deleted(_)
    ));
    tenants.gone(&acme(), &key);
    let events = talk(&mut agent, &seat).unwrap();
    assert!(matches!(&events[..], [Event::Answer(_, a)] if a.outcome == Outcome::Deleted));
}

#[test]
fn hostile_25_two_agents_that_throw_each_other_out_are_a_contest_and_one_that_comes_back_is_none() {
    let (tenants, _) = hub(&[("acme", Admission::default())]);
    let contested = || tenants.contested(&acme(), Instant::now()).is_some();
    let mut one = start("c", "one");
    // Its connections are lost, and the hub has not noticed.
    let mut live: Vec<Seat> = Vec::new();
    for _ in 0..20 {
        live.push(connect(&tenants, &mut one));
        talk(&mut one, &live[live.len() - 1]).unwrap();
    }
    assert!(!contested(), "an agent with a bad line");
    // It starts anew again and again, and its sessions end with it.
    live.clear();
    for n in 0..20 {
        let mut next = start("c", &format!("start-{n}"));
        let seat = connect(&tenants, &mut next);
        talk(&mut next, &seat).unwrap();
    }
    assert!(!contested(), "an agent that crashes");
    let mut two = start("c", "two");
    for n in 0..6 {
        assert_eq!(contested(), n > 4, "after {n} sessions");
        let agent = if n % 2 == 0 { &mut one } else { &mut two };
        live.push(connect(&tenants, agent));
        talk(agent, &live[live.len() - 1]).unwrap();
    }
}

#[test]
fn hostile_25_a_hello_that_comes_after_a_newer_session_has_come_and_gone_is_fenced() {
    let (tenants, _) = hub(&[("acme", Admission::default())]);
    let (mut late, mut new) = (agent("c"), agent("c"));
    let first = connect(&tenants, &mut late);
    let second = connect(&tenants, &mut new);
    talk(&mut new, &second).unwrap();
    drop(second);
    assert!(matches!(talk(&mut late, &first), Err(Rejected::Fenced(_))));
}

#[test]
fn the_refusal_of_an_unreadable_version_stays_with_what_is_held() {
    let (tenants, marks) = hub(&[("acme", Admission::default())]);
    let key = ServiceKey::new("default", "backend");
    let Body::Service(good) = service() else {
        panic!()
    };
    let bad = Service {
        ports: Vec::new(),
        ..good.clone()
    };
    let mut agent = agent("c");
    for service in [&good, &bad] {
        agent.upsert(Key::Service(key.clone()), Body::Service(service.clone()));
        let seat = connect(&tenants, &mut agent);
        talk(&mut agent, &seat).unwrap();
    }
    let generation = agent.generation(&Key::Service(key.clone())).unwrap();
    let Wanted::Unreadable {
        generation: told,
        last: Some(last),
        ..
    } = tenants.wanted(&acme(), &key).0
    else {
        panic!()
    };
    assert_eq!((told, &*last), (generation, &good));
    let planned = marks.0.lock().unwrap().last().cloned();
    assert_eq!(
        planned.as_deref(),
        Some("acme:default/backend"),
        "and so it is told"
    );
}

#[test]
fn absence_counts_from_when_it_was_noticed() {
    let (tenants, _) = hub(&[("acme", Admission::default())]);
    let mut agent = agent("c");
    let key = ServiceKey::new("default", "backend");
    agent.upsert(Key::Service(key.clone()), service());
    let seat = connect(&tenants, &mut agent);
    talk(&mut agent, &seat).unwrap();
    let other = ServiceKey::new("default", "other");
    let noticed = Instant::now() + Duration::from_secs(600);
    assert_eq!(tenants.miss(&acme(), &other, noticed), Some(noticed));
    assert_eq!(
        tenants.miss(&acme(), &other, noticed + Duration::from_secs(1)),
        Some(noticed)
    );
    // What went and has come again, whoever brought it, is noticed anew.
    tenants.gone(&acme(), &other);
    let again = noticed + Duration::from_secs(600);
    assert_eq!(tenants.miss(&acme(), &other, again), Some(again));
    assert_eq!(tenants.miss(&acme(), &key, again), None, "it is there");
}

#[test]
fn a_version_that_is_told_again_is_answered_again() {
    let (tenants, _) = hub(&[("acme", Admission::default())]);
    let mut agent = agent("c");
    let key = ServiceKey::new("default", "backend");
    agent.upsert(Key::Service(key.clone()), service());
    let seat = connect(&tenants, &mut agent);
    talk(&mut agent, &seat).unwrap();
    let answer = Answer {
        generation: agent.generation(&Key::Service(key.clone())).unwrap(),
        outcome: Outcome::Programmed,
        ingress: Vec::new(),
    };
    tenants.answer(&acme(), &key, answer.clone());
    talk(&mut agent, &seat).unwrap();
    // Gone and come back between two looks: the planner will have nothing new to say.
    agent.forget(&Key::Service(key.clone()));
    agent.upsert(Key::Service(key.clone()), service());
    let events = talk(&mut agent, &seat).unwrap();
    assert!(
        events.contains(&Event::Answer(Key::Service(key), answer)),
        "{events:?}"
    );
}

#[test]
fn what_was_missed_and_went_is_told_to_no_later_session() {
    let (tenants, _) = hub(&[("acme", Admission::default())]);
    let mut agent = agent("c");
    let key = ServiceKey::new("default", "backend");
    agent.upsert(Key::Service(key.clone()), service());
    let seat = connect(&tenants, &mut agent);
    talk(&mut agent, &seat).unwrap();
    let answer = Answer {
        generation: agent.generation(&Key::Service(key.clone())).unwrap(),
        outcome: Outcome::Programmed,
        ingress: vec![Ingress::Ip([10, 0, 0, 1].into())],
    };
    tenants.answer(&acme(), &key, answer);
    agent.forget(&Key::Service(key.clone()));
    talk(&mut agent, &seat).unwrap();
    tenants.gone(&acme(), &key);
    // The same Service comes back, and so does its generation: only a fresh answer may follow.
    agent.upsert(Key::Service(key), service());
    let seat = connect(&tenants, &mut agent);
    let events = talk(&mut agent, &seat).unwrap();
    assert!(
        !events.iter().any(|e| matches!(e, Event::Answer(..))),
        "{events:?}"
    );
}

/// Seen in the shells: an answer counts as told once, but an agent that did not want the Service at that time ignored it.
#[test]
fn what_is_told_again_is_answered_again() {
    let (tenants, _) = hub(&[("acme", Admission::default())]);
    let key = ServiceKey::new("default", "web");
    let wire = Key::Service(key.clone());
    let programmed = |agent: &AgentSession| Answer {
        generation: agent.generation(&wire).unwrap(),
        outcome: Outcome::Programmed,
        ingress: vec![Ingress::Ip([192, 0, 2, 1].into())],
    };
    let mut first = agent("c");
    first.upsert(wire.clone(), service());
    let seat = connect(&tenants, &mut first);
    talk(&mut first, &seat).unwrap();
    let answer = programmed(&first);
    tenants.answer(&acme(), &key, answer.clone());
    assert!(
        talk(&mut first, &seat)
            .unwrap()
            .contains(&Event::Answer(wire.clone(), answer.clone()))
    );

    // A re-read came without it, and the next one with it.
    first.forget(&wire);
    talk(&mut first, &seat).unwrap();
    first.upsert(wire.clone(), service());
    assert_eq!(programmed(&first), answer);
    assert!(
        talk(&mut first, &seat)
            .unwrap()
            .contains(&Event::Answer(wire.clone(), answer.clone()))
    );

    // A process that opened its session before it had read its cluster.
    drop(seat);
    let mut second = AgentSession::new(AgentInfo {
        version: "0.1.0".into(),
        instance_id: "j".into(),
    });
    let seat = connect(&tenants, &mut second);
    talk(&mut second, &seat).unwrap();
    second.upsert(wire.clone(), service());
    let _ = second.set_source(Source::Synced {
        cluster_uid: "c".into(),
    });
    let events = talk(&mut second, &seat);
    assert!(events.unwrap().contains(&Event::Answer(wire, answer)));
}

#[test]
fn point_19_what_an_operator_lets_pass_reaches_the_live_session_and_only_as_news() {
    let letting = |pattern: &str, version| Admission {
        allowed: Allowed::new([pattern]),
        version,
        ..Admission::default()
    };
    let (tenants, _) = hub(&[("acme", letting("a", 1))]);
    let mut agent = agent("c");
    let seat = connect(&tenants, &mut agent);
    seat.receive(agent.next_message(Instant::now()).unwrap(), Instant::now())
        .unwrap();
    let told = |seat: &Seat| match seat.next(Instant::now()) {
        Next::Message(message) => {
            let allowed = berth_common::session::agent::allowed(&message);
            allowed.map(|allowed| allowed.patterns())
        }
        _ => None,
    };
    assert_eq!(told(&seat), Some(vec!["a".to_owned()]), "in Welcome");
    let admit = |admission| tenants.admit(BTreeMap::from([(acme(), admission)]));
    admit(letting("a", 2));
    assert_eq!(told(&seat), None);
    admit(letting("b/*", 3));
    assert_eq!(told(&seat), Some(vec!["b/*".to_owned()]));
}
