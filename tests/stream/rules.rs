//! Peers that do not keep to the rules of the stream. What costs them the session says so with a status; what does not is
//! answered, and the session goes on.

use berth_common::{
    model::Generation,
    session::digest::{BUCKETS, Digests},
};
use berth_wire::v1::{self, agent_message::Body as Say, hub_message::Body as Hear};
use tonic::{Code, Status};

use crate::{
    agent::key,
    hub::Hub,
    pki::Pki,
    raw::{Raw, begin, delta, hello, hello_of, page, resource},
};

struct Stage {
    pki: Pki,
    hub: Hub,
}

impl Stage {
    async fn new() -> Self {
        let pki = Pki::new();
        let hub = Hub::start(&pki, ["acme"]).await;
        Self { pki, hub }
    }

    /// What ends a stream on which nothing was said but this.
    async fn ended_by(&self, said: Vec<Say>) -> Status {
        let mut raw = Raw::connect(self.pki.client("acme"), self.hub.address).await;
        for body in said {
            raw.say(body).await;
        }
        raw.ended().await
    }

    /// A session in which the hub holds the Services 0, 1 and 2, all in generation 1.
    async fn session(&self) -> Raw {
        let mut raw = Raw::synced(self.pki.client("acme"), self.hub.address, "cluster").await;
        raw.snapshot(2, &[0, 1, 2].map(|i| resource(&key(i), 1)))
            .await;
        let mut answers = 0;
        while answers < 3 {
            answers += raw.answers().await.len();
        }
        raw
    }

    fn held(&self) -> [Option<u64>; 4] {
        [0, 1, 2, 3].map(|i| self.hub.generation("acme", &key(i)).map(|g| g.0))
    }
}

/// The session goes on: a delta that follows is taken in and answered.
async fn goes_on(raw: &mut Raw, sequence: u64) {
    raw.say(delta(sequence, [resource(&key(0), 1_000 + sequence)]))
        .await;
    let answer = raw.answers().await.remove(0);
    assert_eq!(answer.generation, 1_000 + sequence);
    assert_eq!(answer.outcome(), v1::Outcome::Programmed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_hello_ends_the_session_and_what_was_told_stays() {
    let stage = Stage::new().await;
    let mut raw = stage.session().await;
    raw.say(hello("cluster")).await;
    let status = raw.ended().await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(status.message().contains("second Hello"), "{status:?}");
    assert_eq!(stage.held(), [Some(1), Some(1), Some(1), None]);
    stage.hub.planner.assert_nothing_lost();
}

#[tokio::test(flavor = "multi_thread")]
async fn anything_before_hello_ends_the_session() {
    let stage = Stage::new().await;
    for body in [
        delta(1, [resource(&key(0), 1)]),
        begin(1),
        Say::Heartbeat(v1::Heartbeat { sequence: 0 }),
    ] {
        let status = stage.ended_by(vec![body]).await;
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    }
    assert_eq!(stage.hub.planner.marks(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_version_out_of_range_is_refused_with_both_ranges() {
    let stage = Stage::new().await;
    for (min, max) in [(2, 3), (0, 0), (9, 1)] {
        let status = stage.ended_by(vec![hello_of(min, max, "cluster")]).await;
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        for words in ["protocol 1,".to_owned(), format!("{min} to {max}")] {
            assert!(status.message().contains(&words), "{status:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_also_speaks_later_versions_is_welcome_in_this_one() {
    let stage = Stage::new().await;
    let mut raw = Raw::connect(stage.pki.client("acme"), stage.hub.address).await;
    raw.say(hello_of(1, 7, "cluster")).await;
    let Hear::Welcome(welcome) = raw.hear().await else {
        panic!("no Welcome");
    };
    assert_eq!(welcome.protocol, 1);
    raw.snapshot(1, &[]).await;
    goes_on(&mut raw, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_34_a_message_of_a_later_release_is_ignored_and_the_session_goes_on() {
    let stage = Stage::new().await;
    let mut raw = stage.session().await;
    let _ = raw.sender.send(v1::AgentMessage { body: None }).await;
    goes_on(&mut raw, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_31_a_message_that_is_too_large_ends_the_session() {
    let stage = Stage::new().await;
    let mut raw = stage.session().await;
    raw.say(Say::Source(v1::SourceState {
        synced: false,
        reason: "x".repeat(5 * 1024 * 1024),
    }))
    .await;
    let status = raw.ended().await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(stage.held(), [Some(1), Some(1), Some(1), None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_asks_for_the_difference_and_never_closes_the_stream() {
    let stage = Stage::new().await;
    let mut raw = stage.session().await;
    raw.say(delta(1, [resource(&key(0), 10)])).await;
    assert_eq!(raw.answers().await[0].generation, 10);
    raw.say(delta(5, [resource(&key(1), 10)])).await;
    let resync = raw.resync_required().await;
    assert!(
        resync.reason.contains("delta 5") && resync.reason.contains("2 was due"),
        "{resync:?}"
    );
    // With what the hub holds, so that only the difference need be told: also the delta's states were right.
    let mut held = Digests::default();
    for (i, generation) in [(0, 10), (1, 10), (2, 1)] {
        held.toggle(
            &berth_common::model::Key::Service(key(i)),
            Generation(generation),
        );
    }
    assert_eq!(Digests::from_bytes(&resync.digests), Some(held));
    assert_eq!(raw.answers().await[0].generation, 10);
    goes_on(&mut raw, 6).await;
    stage.hub.planner.assert_nothing_lost();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_with_a_wrong_end_counts_for_nothing_and_never_closes_the_stream() {
    let stage = Stage::new().await;
    let mut raw = stage.session().await;
    let marks = stage.hub.planner.marks();
    let lies: [(&str, u64, Vec<u8>); 2] = [("hash", 1, vec![0; 32]), ("tells 2", 2, vec![0; 32])];
    for (id, (why, count, sha256)) in (7..).zip(lies) {
        raw.say(begin(id)).await;
        raw.say(page(id, &[resource(&key(3), 1)])).await;
        let sha256 = sha256.into();
        raw.say(Say::SnapshotEnd(v1::SnapshotEnd { id, count, sha256 }))
            .await;
        let resync = raw.resync_required().await;
        assert!(resync.reason.contains(why), "{resync:?}");
        assert_eq!(resync.digests.len(), BUCKETS * 16);
    }
    // Pages and an end of a snapshot that was never begun.
    raw.say(page(99, &[resource(&key(3), 1)])).await;
    raw.say(Say::SnapshotEnd(v1::SnapshotEnd {
        id: 99,
        ..v1::SnapshotEnd::default()
    }))
    .await;
    raw.resync_required().await;
    assert_eq!(stage.hub.planner.marks(), marks, "something of it counted");
    assert_eq!(stage.held(), [Some(1), Some(1), Some(1), None]);
    goes_on(&mut raw, 1).await;
    stage.hub.planner.assert_nothing_lost();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_to_a_state_that_was_never_told_asks_for_it() {
    let stage = Stage::new().await;
    let mut raw = Raw::connect(stage.pki.client("acme"), stage.hub.address).await;
    raw.say(hello("cluster")).await;
    raw.say(delta(1, [resource(&key(0), 1)])).await;
    let Hear::Welcome(_) = raw.hear().await else {
        panic!("no Welcome");
    };
    raw.resync_required().await;
    assert_eq!(stage.hub.planner.marks(), 0);
    raw.snapshot(1, &[resource(&key(0), 1)]).await;
    assert_eq!(raw.answers().await[0].generation, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_that_comes_again_is_ignored() {
    let stage = Stage::new().await;
    let mut raw = stage.session().await;
    raw.say(delta(1, [resource(&key(0), 10)])).await;
    raw.say(delta(1, [resource(&key(0), 666)])).await;
    goes_on_after(&mut raw, &stage).await;
}

async fn goes_on_after(raw: &mut Raw, stage: &Stage) {
    raw.say(delta(2, [resource(&key(1), 20)])).await;
    let mut last = 0;
    while last != 20 {
        last = raw.answers().await.pop().unwrap().generation;
        assert_ne!(last, 666);
    }
    assert_eq!(stage.held(), [Some(10), Some(20), Some(1), None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_cannot_be_read_is_refused_by_itself() {
    let stage = Stage::new().await;
    let mut raw = stage.session().await;
    let mut broken = resource(&key(1), 10);
    if let Some(v1::resource::Body::Service(service)) = &mut broken.body {
        service.ports.clear();
    }
    let mut foreign = resource(&key(2), 10);
    foreign.key.as_mut().unwrap().kind = 77;
    raw.say(delta(1, [broken, foreign, resource(&key(0), 10)]))
        .await;
    let mut outcomes = Vec::new();
    while outcomes.len() < 3 {
        for answer in raw.answers().await {
            outcomes.push((
                answer.key.clone().unwrap_or_default().name,
                answer.outcome(),
            ));
        }
    }
    outcomes.sort();
    let name = |i| key(i).name;
    assert_eq!(outcomes[0], (name(0), v1::Outcome::Programmed));
    assert_eq!(outcomes[1], (name(1), v1::Outcome::Refused));
    assert_ne!(outcomes[2].1, v1::Outcome::Programmed);
    // What was made of the broken one's last good state stays.
    assert_eq!(stage.held()[..3], [Some(10), None, Some(1)]);
    let made = stage.hub.planner.programmed("acme", &key(1));
    assert_eq!(made.map(|generation| generation.0), Some(1));
    goes_on(&mut raw, 2).await;
    stage.hub.planner.assert_nothing_lost();
}
