//! More changes than anybody can act on: what is overtaken costs nothing, on either side, and the last value arrives.

use std::time::{Duration, Instant};

use berth_common::model::{Answer, Generation, Outcome, Reason};
use berth_wire::v1::hub_message::Body as Hear;

use crate::{
    SOON,
    agent::{Agent, key, service, services},
    eventually,
    hub::Hub,
    pki::Pki,
    proxy::{Mode, Proxy, Way},
    raw::{Raw, delta, resource},
};

const CHANGES: u16 = 10_000;

/// While the way to the hub is blocked, changes overtake each other in the agent. What was on the way already is bounded by the
/// hub's window of 256 KiB and the sockets' buffers.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_41_a_service_changed_10_000_times_travels_as_its_last_value() {
    let pki = Pki::new();
    let hub = Hub::start(&pki, ["acme"]).await;
    let proxy = Proxy::start(hub.address).await;
    let agent = Agent::start(pki.client("acme"), "acme", proxy.address(), services(3));
    hub.until_holds(&agent).await;
    let (marks, passed) = (hub.planner.marks(), proxy.line().passed(Way::Up));

    proxy.set(Way::Up, Mode::Stall);
    let second = Instant::now();
    let mut seen = service(0, 80, 25);
    for change in 1..=CHANGES {
        let wish = seen.wish.as_mut().unwrap();
        wish.service.as_mut().unwrap().ports[0].port = change;
        agent.want(key(0), seen.clone());
        // The agent's writer gets its turn, as it would between two events of a watch.
        tokio::task::yield_now().await;
    }
    let took = second.elapsed();
    proxy.set(Way::Up, Mode::Pass);
    hub.until_holds(&agent).await;

    let (marks, passed) = (
        hub.planner.marks() - marks,
        proxy.line().passed(Way::Up) - passed,
    );
    println!("{CHANGES} changes in {took:?}: {marks} deltas of {passed} bytes");
    assert!(marks < u64::from(CHANGES) / 10, "{marks} deltas");
    assert!(passed < 768 * 1024, "{passed} bytes");
    assert_eq!(proxy.lines().len(), 1, "one session");
    agent.finish().await;
    hub.planner.assert_nothing_lost();
}

/// Whatever a peer sends, what waits for the executor is one key, and what waits for the peer is one answer.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_41_a_service_changed_10_000_times_is_planned_and_answered_as_its_last_value() {
    let pki = Pki::new();
    let hub = Hub::start(&pki, ["acme"]).await;
    let mut raw = Raw::synced(pki.client("acme"), hub.address, "cluster").await;
    hub.planner.set_running(false);
    let plans = hub.planner.plans();
    for change in 1..=u64::from(CHANGES) {
        raw.say(delta(change, [resource(&key(0), change)])).await;
    }
    let taken_in = || hub.generation("acme", &key(0)) == Some(Generation(CHANGES.into()));
    eventually("the last value", SOON, taken_in).await;
    let marks = hub.planner.marks();
    assert!(
        marks < u64::from(CHANGES) / 10,
        "{marks}: a Service that keeps changing is held back"
    );
    assert_eq!(hub.planner.waiting(), 1);
    assert_eq!(hub.standing("acme").services, 1);

    hub.planner.set_running(true);
    let answers = raw.answers().await;
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].generation, u64::from(CHANGES));
    assert_eq!(hub.planner.plans(), plans + 1);
}

/// The way back: a peer that is slow to read gets the newest answer, not their history.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_were_overtaken_are_not_sent() {
    /// Together 40 MiB; windows and buffers hold a few.
    const BYTES: usize = 4 * 1024;
    let pki = Pki::new();
    let hub = Hub::start(&pki, ["acme"]).await;
    let proxy = Proxy::start(hub.address).await;
    let mut raw = Raw::synced(pki.client("acme"), proxy.address(), "cluster").await;
    raw.say(delta(1, [resource(&key(0), 1)])).await;
    raw.answers().await;

    proxy.set(Way::Down, Mode::Stall);
    for change in 1..=CHANGES {
        let why = Reason::new("Waiting", format!("{change:0BYTES$}"));
        let answer = Answer {
            generation: Generation(1),
            outcome: Outcome::Pending(why),
            ingress: Vec::new(),
        };
        hub.tenants
            .answer(&"acme".parse().unwrap(), &key(0), answer);
        // The session's writer gets its turn.
        tokio::task::yield_now().await;
    }
    proxy.set(Way::Down, Mode::Pass);
    let last = format!("{CHANGES:0BYTES$}");
    let mut heard = 0;
    loop {
        let Some(Hear::Answers(answers)) = raw.next().await.unwrap() else {
            continue;
        };
        heard += answers.answers.len();
        if answers.answers.iter().any(|answer| answer.message == last) {
            break;
        }
    }
    println!("{heard} of {CHANGES} answers were sent");
    assert!(heard < usize::from(CHANGES) / 2, "{heard} answers");
    assert!(proxy.line().passed(Way::Down) < 20 * 1024 * 1024);
}

/// Several tenants at once, none of which waits for another's flood.
#[tokio::test(flavor = "multi_thread")]
async fn a_flooding_tenant_does_not_delay_another() {
    let pki = Pki::new();
    let hub = Hub::start(&pki, ["flood", "other"]).await;
    let raw = Raw::synced(pki.client("flood"), hub.address, "cluster").await;
    let other = Agent::start(pki.client("other"), "other", hub.address, services(3));
    hub.until_holds(&other).await;
    let flooding = async {
        for change in 1..=u64::from(CHANGES) {
            raw.say(delta(change, [resource(&key(0), change)])).await;
        }
    };
    let exchanging = async {
        for port in 1_000..1_030 {
            other.want(key(0), service(0, port, 1));
            let within = Duration::from_secs(5);
            eventually("another tenant's answer", within, || hub.holds(&other)).await;
        }
    };
    tokio::join!(flooding, exchanging);
    other.finish().await;
}
