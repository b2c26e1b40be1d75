//! Services that keep changing are planned as they are once in a while, and nothing of the last change is lost.

use std::{collections::BTreeSet, num::NonZeroU32};

use proptest::prelude::*;

use super::*;
use crate::tenants::Repetitions;

/// A tenant with a few Services, which have been at rest.
struct Stage {
    tenants: Arc<Tenants>,
    marks: Arc<Recorder>,
    agent: AgentSession,
    seat: Option<Seat>,
    start: Instant,
}

fn key(n: u16) -> ServiceKey {
    ServiceKey::new("default", format!("s{n}"))
}

/// A version of a Service.
fn version(port: u16) -> Body {
    let Body::Service(mut service) = service() else {
        panic!("a Service");
    };
    service.ports[0].port = port;
    Body::Service(service)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Stage {
    /// With so many Services, and so many repetitions in a second.
    fn new(services: u16, repetitions: u32) -> Self {
        let changes = NonZeroU32::new(20 * repetitions).unwrap();
        let admission = Admission {
            repetitions: Repetitions::of(changes),
            ..Admission::default()
        };
        let (tenants, marks) = hub(&[("acme", admission)]);
        let mut agent = agent("c");
        for n in 0..services {
            agent.upsert(Key::Service(key(n)), version(1));
        }
        let seat = connect(&tenants, &mut agent);
        talk(&mut agent, &seat).unwrap();
        marks.0.lock().unwrap().clear();
        Self {
            tenants,
            marks,
            agent,
            seat: Some(seat),
            start: Instant::now() + Duration::from_secs(60),
        }
    }

    /// A Service has this port, or is gone, and the hub hears of it at that time.
    fn change(&mut self, n: u16, port: Option<u16>, after: Duration) {
        match port {
            Some(port) => {
                self.agent.upsert(Key::Service(key(n)), version(port));
            }
            None => self.agent.remove(Key::Service(key(n))),
        }
        let now = self.start + after;
        let seat = self.seat.as_ref().unwrap();
        while let Some(message) = self.agent.next_message(now) {
            seat.receive(message, now).unwrap();
        }
        while let Next::Message(message) = seat.next(now) {
            self.agent.received(*message, now).unwrap();
        }
    }

    /// What was to be planned since this was asked last, with what is held back let go by that time.
    fn planned(&self, after: Duration) -> Vec<String> {
        self.tenants.pass(self.start + after);
        self.marks.0.lock().unwrap().drain(..).collect()
    }

    /// The port that a Service is planned with; none where its end is planned.
    fn port(&self, n: u16) -> Option<u16> {
        match self.tenants.wanted(&acme(), &key(n)).0 {
            Wanted::Present(_, service) => Some(service.ports[0].port),
            Wanted::Deleted(_) => None,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn hostile_41_a_service_that_keeps_changing_is_planned_at_once_and_then_now_and_then() {
    let mut stage = Stage::new(2, 10);
    let mut planned = 0;
    // A hundred changes a second, for four seconds.
    for change in 0..400 {
        let after = ms(10 * u64::from(change));
        stage.change(0, Some(2 + change), after);
        planned += stage.planned(after).len();
    }
    assert!(
        (48..=52).contains(&planned),
        "ten at once, then ten a second: {planned}"
    );
    assert_ne!(stage.port(0), Some(401));
    stage.change(1, Some(2), ms(4_000));
    assert_eq!(
        stage.port(1),
        Some(2),
        "who does not keep changing does not wait"
    );
    assert_eq!(stage.planned(ms(4_000)).len(), 1);
    assert_eq!(stage.planned(ms(4_100)), ["acme:default/s0"]);
    assert_eq!(stage.port(0), Some(401), "the last one");
    assert_eq!(stage.tenants.pass(stage.start + ms(20_000)), None);
    stage.change(0, Some(1), ms(20_000));
    assert_eq!(stage.port(0), Some(1), "at once after a quiet time");
}

#[test]
fn hostile_41_a_flood_of_changes_has_fewer_repetitions_until_it_is_over() {
    let mut stage = Stage::new(20, 10);
    let mut planned = 0;
    // A thousand changes a second of twenty Services, where two hundred may be: for ten seconds.
    for change in 0_u16..10_000 {
        let after = ms(u64::from(change));
        stage.change(change % 20, Some(2 + change), after);
        planned += stage.planned(after).len();
    }
    // The first of each, ten at once, two while nothing is proven, and one a second.
    assert!((38..=45).contains(&planned), "{planned}");
    stage.change(0, Some(2), ms(10_000));
    // It ebbs for four seconds, with one in each; then they come ten in a second, and are the last ones.
    let (mut ebbing, mut at_last, mut now) = (0, 0, stage.start + ms(10_000));
    while let Some(due) = stage.tenants.pass(now) {
        let passed = stage.marks.0.lock().unwrap().drain(..).count();
        match now < stage.start + ms(14_000) {
            true => ebbing += passed,
            false => at_last += passed,
        }
        now = due;
    }
    assert!((3..=5).contains(&ebbing), "{ebbing}");
    assert_eq!(ebbing + at_last, 20, "each once");
    assert_eq!(stage.tenants.pass(stage.start + ms(30_000)), None);
    for n in 1..20 {
        assert_eq!(stage.port(n), Some(9_982 + n), "the last one of {n}");
    }
    assert_eq!(stage.port(0), Some(2));
}

#[test]
fn hostile_41_a_held_back_service_is_planned_as_it_was_whatever_else_makes_it_planned() {
    let mut stage = Stage::new(1, 1);
    for port in 2..=4 {
        stage.change(0, Some(port), ms(u64::from(port)));
    }
    assert_eq!(stage.port(0), Some(3), "one repetition at once");
    stage.tenants.replan(&acme());
    let (services, _) = stage.tenants.services(&acme());
    assert_eq!(services[0].ports[0].port, 3);
    stage.change(0, None, ms(10));
    assert_eq!(stage.port(0), None, "nobody waits for an end");
    stage.change(0, Some(5), ms(20));
    assert_eq!(stage.port(0), None, "but for what is made anew");
    stage.planned(ms(1_100));
    assert_eq!(stage.port(0), Some(5));
}

#[test]
fn hostile_41_what_is_held_back_when_the_session_ends_is_planned_in_its_time() {
    let mut stage = Stage::new(1, 1);
    for port in 2..=4 {
        stage.change(0, Some(port), ms(u64::from(port)));
    }
    stage.seat = None;
    let due = stage.tenants.pass(stage.start + ms(10)).unwrap();
    assert_eq!(stage.port(0), Some(3), "a new session is no way around it");
    stage.tenants.pass(due);
    assert_eq!(stage.port(0), Some(4));
}

#[test]
fn hostile_41_nothing_is_remembered_of_names_without_end() {
    let mut stage = Stage::new(1, 1);
    let remembered = |stage: &Stage| {
        let count = stage
            .tenants
            .with(&acme(), |state| state.planned.remembered());
        count.unwrap()
    };
    for n in 1..3_000 {
        stage.change(n, Some(1), ms(1));
        stage.change(n, None, ms(1));
        assert_eq!(stage.port(n), None, "nobody waits for an end");
        stage.tenants.gone(&acme(), &key(n));
    }
    assert!(remembered(&stage) <= 1_026, "{}", remembered(&stage));
    stage.planned(ms(10_100));
    stage.planned(ms(20_200));
    assert_eq!(remembered(&stage), 0);
}

#[test]
fn hostile_41_who_is_made_anew_again_and_again_is_held_back() {
    let mut stage = Stage::new(1, 1);
    for step in 0..50 {
        let port = (step % 2 == 0).then_some(step + 2);
        stage.change(0, port, ms(u64::from(step)));
        if port.is_none() {
            assert_eq!(stage.port(0), None);
            stage.tenants.gone(&acme(), &key(0));
        }
    }
    stage.change(0, Some(99), ms(50));
    let planned = |stage: &Stage| stage.tenants.wanted(&acme(), &key(0)).0;
    assert!(matches!(planned(&stage), Wanted::Deleted(_)), "not yet");
    stage.planned(ms(1_100));
    assert_eq!(stage.port(0), Some(99));
}

#[test]
fn who_keeps_changing_is_told_once_and_stands_so_until_it_has_stopped_for_a_while() {
    let mut stage = Stage::new(1, 1);
    let restless = |stage: &Stage, after| stage.tenants.restless(&acme(), stage.start + ms(after));
    for port in 2..=4 {
        assert_eq!(restless(&stage, 0), None);
        stage.change(0, Some(port), ms(u64::from(port)));
    }
    let since = stage.start + ms(4);
    assert_eq!(restless(&stage, 5), Some(since));
    stage.planned(ms(2_000));
    stage.change(0, Some(5), ms(2_100));
    stage.change(0, Some(6), ms(2_200));
    assert_eq!(
        restless(&stage, 9_000),
        Some(since),
        "without a pause that is one"
    );
    stage.planned(ms(9_000));
    assert_eq!(restless(&stage, 12_201), None);
}

#[derive(Clone, Debug)]
enum Step {
    Change(u16, Option<u16>),
    Wait(u64),
    Replan,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u16..6, prop::option::weighted(0.9, 1_u16..50)).prop_map(|(n, port)| Step::Change(n, port)),
        2 => (0_u64..400).prop_map(Step::Wait),
        1 => Just(Step::Replan),
    ]
}

proptest! {
    #[test]
    fn every_last_change_is_planned_and_no_more_of_them_than_there_are_repetitions_for(
        repetitions in 1_u32..5,
        steps in prop::collection::vec(steps(), 0..150),
    ) {
        let mut stage = Stage::new(6, repetitions);
        let (mut after, mut moves) = (ms(0), 0_usize);
        let mut seen: Vec<_> = (0..6).map(|n| stage.port(n)).collect();
        let mut last = seen.clone();
        let mut changed = BTreeSet::new();
        for step in steps {
            match step {
                Step::Change(n, port) => {
                    // A deletion of what is not there is no change.
                    if port.is_some() || last[usize::from(n)].is_some() {
                        stage.change(n, port, after);
                        last[usize::from(n)] = port;
                        changed.insert(n);
                    }
                }
                Step::Wait(wait) => {
                    after += ms(wait);
                    stage.planned(after);
                }
                Step::Replan => stage.tenants.replan(&acme()),
            }
            for (n, seen) in (0..).zip(&mut seen) {
                let now = stage.port(n);
                if now != *seen {
                    // Ends are free.
                    moves += usize::from(now.is_some());
                    *seen = now;
                }
            }
        }
        // One of each for nothing, at most each ten seconds; a second's worth at once; the others as time goes by.
        let quiet = changed.len() as f64 * (1.0 + after.as_secs_f64() / 10.0);
        let most = quiet + f64::from(repetitions) * (1.0 + after.as_secs_f64());
        prop_assert!(moves as f64 <= most + 1.0, "{moves} of {most}");
        let mut now = stage.start + after;
        while let Some(due) = stage.tenants.pass(now) {
            prop_assert!(due > now);
            now = due;
        }
        let end: Vec<_> = (0..6).map(|n| stage.port(n)).collect();
        prop_assert_eq!(end, last);
    }
}
