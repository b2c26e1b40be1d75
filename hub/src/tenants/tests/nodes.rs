//! Nodes that keep changing are planned with once in a while, and nothing of a change is lost.

use std::time::Duration;

use berth_common::model::{Node, NodeName};

use super::*;

/// A tenant with one Service and two nodes, whose seat is taken.
struct Stage {
    tenants: Arc<Tenants>,
    marks: Arc<Recorder>,
    agent: AgentSession,
    seat: Seat,
    start: Instant,
}

fn web() -> ServiceKey {
    ServiceKey::new("default", "web")
}

fn node(n: u8, ready: bool) -> (Key, Option<Body>) {
    let addresses = [std::net::IpAddr::from([10, 0, 0, n])].into();
    let key = Key::Node(NodeName(format!("n{n}")));
    (key, ready.then_some(Body::Node(Node { addresses })))
}

impl Stage {
    fn new() -> Self {
        let (tenants, marks) = hub(&[("acme", Admission::default())]);
        let mut agent = agent("c");
        agent.upsert(Key::Service(web()), service());
        for n in [1, 2] {
            let (key, body) = node(n, true);
            agent.upsert(key, body.unwrap());
        }
        let seat = connect(&tenants, &mut agent);
        talk(&mut agent, &seat).unwrap();
        marks.0.lock().unwrap().clear();
        let start = Instant::now() + Duration::from_secs(10);
        Self {
            tenants,
            marks,
            agent,
            seat,
            start,
        }
    }

    /// A node comes or goes, and the hub hears of it at that time.
    fn change(&mut self, n: u8, ready: bool, after: Duration) {
        match node(n, ready) {
            (key, Some(body)) => {
                self.agent.upsert(key, body);
            }
            (key, None) => self.agent.remove(key),
        }
        let now = self.start + after;
        while let Some(message) = self.agent.next_message(now) {
            self.seat.receive(message, now).unwrap();
        }
    }

    /// How often plans were asked for since this was asked last, with what is held back let go by that time.
    fn planned(&mut self, after: Duration) -> usize {
        let now = self.start + after;
        self.tenants.pass(now);
        while let Next::Message(message) = self.seat.next(now) {
            self.agent.received(*message, now).unwrap();
        }
        self.marks.0.lock().unwrap().drain(..).count()
    }

    fn nodes(&self) -> usize {
        self.tenants.wanted(&acme(), &web()).1.len()
    }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn point_27_nodes_that_keep_changing_are_planned_with_once_a_second() {
    let mut stage = Stage::new();
    assert_eq!(stage.nodes(), 2, "what was told with the first state");
    let mut plans = 0;
    for step in 0..500 {
        let after = ms(step * 10);
        stage.change(
            u8::try_from(3 + step % 100).unwrap(),
            step % 200 < 100,
            after,
        );
        plans += stage.planned(after);
    }
    assert_eq!(
        plans, 7,
        "at once, a few more in a row, and then once a second"
    );
    let due = stage.tenants.pass(stage.start + ms(4_995));
    assert_eq!(due, Some(stage.start + ms(5_000)));
    assert_eq!(stage.planned(ms(5_000)), 1, "the last change, too");
    assert_eq!(stage.nodes(), 102);
    assert_eq!(stage.planned(ms(20_000)), 0);
}

#[test]
fn point_27_a_change_that_is_taken_back_meanwhile_never_was() {
    let mut stage = Stage::new();
    for n in 0..4 {
        stage.change(3 + n, true, ms(u64::from(n) * 400));
        assert_eq!(stage.planned(ms(u64::from(n) * 400)), 1);
    }
    stage.change(1, false, ms(1_300));
    stage.change(1, true, ms(1_400));
    assert_eq!(stage.planned(ms(9_000)), 0);
    assert_eq!(stage.nodes(), 6);
}

#[test]
fn point_27_what_is_held_back_when_the_session_ends_is_planned_with() {
    let mut stage = Stage::new();
    for n in 0..4 {
        stage.change(3 + n, true, ms(100));
    }
    stage.planned(ms(100));
    assert_eq!(stage.nodes(), 3);
    let Stage {
        tenants,
        marks,
        seat,
        start,
        ..
    } = stage;
    drop(seat);
    let due = tenants.pass(start + ms(200)).unwrap();
    assert_eq!(tenants.wanted(&acme(), &web()).1.len(), 3, "in its time");
    assert_eq!(tenants.pass(due), None);
    assert_eq!(tenants.wanted(&acme(), &web()).1.len(), 6);
    assert_eq!(marks.0.lock().unwrap().len(), 1);
}
