//! A fleet that comes back at once: who tells its whole state when.

use super::*;

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
    assert!(due <= Instant::now() + super::super::turns::UNUSED);
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
