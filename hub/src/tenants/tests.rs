//! Fencing, admission and answers, with real sessions on both sides and no socket between them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use berth_common::{
    identity::{Serial, TenantName},
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
    Admission, Credential, Ending, Marks, Next, Refused, Rejected, Revocations, Seat, Standing,
    Tenants,
};

mod binding;
mod brake;

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
    let mut agent = AgentSession::new(AgentInfo {
        version: "0.1.0".into(),
        instance_id: "i".into(),
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
fn hostile_09_a_revoked_certificate_loses_its_session_and_gets_no_other() {
    let certificate = |serial: u8| Credential {
        serial: Serial::from_bytes(&[serial]),
        ..Credential::default()
    };
    let revoked = |serials: &[u8]| Admission {
        revoked: Arc::new(Revocations {
            serials: serials.iter().map(|s| Serial::from_bytes(&[*s])).collect(),
            ..Revocations::default()
        }),
        ..Admission::default()
    };
    let (tenants, _) = hub(&[("acme", Admission::default())]);
    let now = Instant::now();
    let mut agent = agent("c");
    let seat = tenants.open(&acme(), certificate(7), now).unwrap();
    agent.connected(now);
    talk(&mut agent, &seat).unwrap();
    let waiting = tenants.open(&acme(), certificate(7), now).unwrap();

    tenants.admit([(acme(), revoked(&[8]))].into());
    assert_eq!(tenants.live(), 1, "another's");
    tenants.admit([(acme(), revoked(&[7]))].into());
    assert!(matches!(
        seat.next(now),
        Next::End(Ending::Refused(Refused::Revoked { .. }))
    ));
    assert!(matches!(
        tenants.open(&acme(), certificate(7), now),
        Err(Refused::Revoked { .. })
    ));
    agent.disconnected();
    agent.connected(now);
    assert!(
        matches!(
            talk(&mut agent, &waiting),
            Err(Rejected::Refused(Refused::Revoked { .. }))
        ),
        "a stream that was open and had not greeted"
    );
    assert!(tenants.open(&acme(), certificate(9), now).is_ok());
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

/// A tenant's agent that has much to tell, connected and welcomed; nothing else was said yet.
fn newcomer(tenants: &Arc<Tenants>, name: &str) -> (AgentSession, Seat) {
    let mut agent = agent(name);
    agent.upsert(Key::Service(ServiceKey::new("default", "a")), service());
    let tenant = TenantName::parse(name).unwrap();
    let seat = tenants
        .open(&tenant, Credential::default(), Instant::now())
        .unwrap();
    agent.connected(Instant::now());
    (agent, seat)
}

fn services(tenants: &Tenants, name: &str) -> usize {
    tenants.standings()[&TenantName::parse(name).unwrap()].services
}

#[test]
fn rule_8_a_bounded_number_of_tenants_resync_at_once_and_the_others_wait_their_turn() {
    let names: Vec<String> = (0..1_000).map(|n| format!("t{n}")).collect();
    let admissions: Vec<_> = names
        .iter()
        .map(|n| (n.as_str(), Admission::default()))
        .collect();
    let (tenants, _) = hub(&admissions);
    let tenants = Arc::new(Arc::into_inner(tenants).unwrap().with_snapshots(8));
    let gauges = tenants.turn_gauges().clone();
    let now = Instant::now();
    // Each agent says what it may, and gets what is said to it, one message at a time and in turns with all others.
    let mut fleet: Vec<_> = names.iter().map(|name| newcomer(&tenants, name)).collect();
    let mut waited = 0;
    loop {
        let mut spoke = false;
        for (agent, seat) in &mut fleet {
            if let Some(message) = agent.next_message(now) {
                seat.receive(message, now).unwrap();
                spoke = true;
            }
            assert!(gauges.taken.get() <= 8);
            if let Next::Message(message) = seat.next(now) {
                let events = agent.received(*message, now).unwrap();
                waited += usize::from(events.iter().any(|e| matches!(e, Event::Waiting { .. })));
                spoke = true;
            }
        }
        if !spoke {
            break;
        }
    }
    assert!(names.iter().all(|name| services(&tenants, name) == 1));
    assert_eq!(
        (gauges.taken.get(), gauges.waiting.get(), gauges.peak.get()),
        (0, 0, 8)
    );
    assert_eq!(waited, 992);
}

#[test]
fn rule_8_a_tenant_that_stalls_in_its_turn_holds_nobody_up_for_long() {
    let (tenants, _) = hub(&[
        ("slow", Admission::default()),
        ("quick", Admission::default()),
    ]);
    let tenants = Arc::new(Arc::into_inner(tenants).unwrap().with_snapshots(1));
    let mut now = Instant::now();
    let (mut slow, slow_seat) = newcomer(&tenants, "slow");
    for _ in 0..2 {
        slow_seat
            .receive(slow.next_message(now).unwrap(), now)
            .unwrap();
        let Next::Message(message) = slow_seat.next(now) else {
            panic!("nothing to say");
        };
        slow.received(*message, now).unwrap();
    }
    // It has its turn, and says nothing more.
    let (mut quick, quick_seat) = newcomer(&tenants, "quick");
    talk(&mut quick, &quick_seat).unwrap();
    assert_eq!(services(&tenants, "quick"), 0);
    let Next::Wait(due) = quick_seat.next(now) else {
        panic!("something to say");
    };
    assert!(due <= Instant::now() + super::turns::UNUSED);
    now = due;
    assert!(
        matches!(quick_seat.next(now), Next::Wait(_)),
        "the turns pass"
    );
    talk(&mut quick, &quick_seat).unwrap();
    assert_eq!(services(&tenants, "quick"), 1);
    talk(&mut slow, &slow_seat).unwrap();
    assert_eq!(
        services(&tenants, "slow"),
        1,
        "and then it is its turn again"
    );
}

#[test]
fn rule_9_the_turn_of_a_session_that_ends_goes_to_the_next_however_it_ends() {
    let (tenants, _) = hub(&[
        ("acme", Admission::default()),
        ("next", Admission::default()),
    ]);
    let tenants = Arc::new(Arc::into_inner(tenants).unwrap().with_snapshots(1));
    let now = Instant::now();
    for fenced in [false, true] {
        let (mut old, seat) = newcomer(&tenants, "acme");
        for _ in 0..2 {
            seat.receive(old.next_message(now).unwrap(), now).unwrap();
            while let Next::Message(message) = seat.next(now) {
                old.received(*message, now).unwrap();
            }
        }
        assert_eq!(tenants.turn_gauges().taken.get(), 1);
        let (mut next, next_seat) = newcomer(&tenants, "next");
        talk(&mut next, &next_seat).unwrap();
        let newer = fenced.then(|| newcomer(&tenants, "acme"));
        if let Some((mut newer, newer_seat)) = newer {
            newer_seat
                .receive(newer.next_message(now).unwrap(), now)
                .unwrap();
            talk(&mut next, &next_seat).unwrap();
            drop((newer_seat, seat));
        } else {
            drop(seat);
            talk(&mut next, &next_seat).unwrap();
        }
        assert_eq!(services(&tenants, "next"), 1, "fenced {fenced}");
        assert_eq!(tenants.turn_gauges().taken.get(), 0);
        drop(next_seat);
    }
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
fn rule_11_the_return_that_welcome_asks_for_grows_with_the_fleet() {
    for (fleet, milliseconds) in [(1, 100), (1_000, 1_000), (5_000, 5_000), (50_000, 10_000)] {
        let (tenants, _) = hub(&[]);
        let name = |n: usize| TenantName::parse(&format!("t-{n}")).unwrap();
        let others = (1..fleet).map(|n| (name(n), Admission::default()));
        tenants.admit(others.chain([(acme(), Admission::default())]).collect());
        let mut agent = agent("c");
        let seat = connect(&tenants, &mut agent);
        let events = talk(&mut agent, &seat).unwrap();
        let told = events.iter().find_map(|event| match event {
            Event::Welcomed {
                reconnect_spread, ..
            } => Some(reconnect_spread.as_millis()),
            _ => None,
        });
        assert_eq!(told, Some(milliseconds), "a fleet of {fleet}");
    }
}
