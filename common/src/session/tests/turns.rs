//! The turns in which snapshots are sent, as the two ends see them; who has one is decided by the hub over all sessions.

use super::*;

fn pair(services: u16) -> Pair {
    let mut pair = Pair::new();
    for i in 0..services {
        let name = format!("s{i}");
        pair.agent
            .upsert(Key::Service(key(&name)), service(30_000 + i));
    }
    pair
}

#[test]
fn a_snapshot_and_every_delta_wait_for_the_turn_and_the_shell_is_told_how_many_come_first() {
    let mut pair = pair(3);
    pair.ahead = 7;
    pair.connect();
    pair.settle();
    pair.agent.upsert(Key::Service(key("new")), service(31_000));
    pair.settle();
    assert_eq!((pair.loads(), pair.held.services()), (0, 0));
    assert!(pair.events.contains(&Event::Waiting { ahead: 7 }));
    assert!(!pair.events.contains(&Event::Synced));
    assert!(pair.hub.waits_for_turn());

    pair.hub.turn(0);
    pair.settle();
    assert_eq!(pair.held.services(), 4);
    assert!(pair.events.contains(&Event::Synced) && !pair.hub.waits_for_turn());
    assert_eq!(pair.turns.first(), Some(&TurnNews::Asked));
    assert_eq!(pair.turns.last(), Some(&TurnNews::Over));
    let between = &pair.turns[1..pair.turns.len() - 1];
    assert!(between.iter().all(|news| *news == TurnNews::Used));
    let asked =
        |m: &&v1::AgentMessage| matches!(m.body, Some(v1::agent_message::Body::TurnRequest(_)));
    assert_eq!(pair.sent.iter().filter(asked).count(), 1);
}

#[test]
fn equal_digests_need_no_turn_and_neither_does_a_delta() {
    let mut pair = pair(3);
    pair.connect();
    pair.settle();
    pair.turns.clear();
    pair.ahead = 7;
    pair.connect();
    pair.settle();
    pair.agent.upsert(Key::Service(key("s1")), service(32_000));
    pair.settle();
    assert_eq!(pair.port_held("s1"), Some(32_000));
    assert_eq!(pair.turns, []);
}

#[test]
fn a_turn_lost_in_the_middle_of_a_snapshot_discards_it_and_the_next_turn_tells_all() {
    let mut pair = pair(6_000);
    pair.connect();
    while !pair
        .sent
        .last()
        .is_some_and(|m| matches!(m.body, Some(v1::agent_message::Body::SnapshotPage(_))))
    {
        assert!(pair.step());
    }
    pair.ahead = 3;
    pair.hub.turn(3);
    pair.settle();
    assert_eq!(pair.held.services(), 0);
    assert!(!pair.held.is_complete() && pair.events.contains(&Event::Waiting { ahead: 3 }));
    pair.hub.turn(0);
    pair.settle();
    assert_eq!(pair.held.services(), 6_000);
    assert!(pair.events.contains(&Event::Synced));
}

#[test]
fn an_agent_that_loses_its_cluster_gives_its_turn_back_and_asks_again() {
    for mid_snapshot in [false, true] {
        let mut pair = pair(5_000);
        pair.ahead = u32::from(!mid_snapshot);
        pair.connect();
        for _ in 0..4 {
            pair.step();
        }
        let reason = "gone".to_owned();
        assert!(!pair.agent.set_source(Source::Unsynced { reason }));
        pair.settle();
        assert_eq!(pair.turns.last(), Some(&TurnNews::Over));
        // A turn that crossed with that is not taken for one that was asked for later.
        pair.hub.turn(0);
        pair.settle();
        assert_eq!(pair.held.services(), 0);
        assert!(!pair.agent.set_source(synced()));
        pair.ahead = 0;
        pair.settle();
        assert_eq!(pair.held.services(), 5_000, "mid_snapshot {mid_snapshot}");
    }
}

#[test]
fn a_broken_snapshot_ends_its_turn_and_is_sent_again_in_another() {
    let mut pair = pair(3);
    pair.connect();
    let mut broken = false;
    while !broken {
        if let Some(mut message) = pair.agent.next_message(pair.now) {
            if let Some(v1::agent_message::Body::SnapshotEnd(end)) = &mut message.body {
                end.count += 1;
                broken = true;
            }
            pair.tell_hub(message);
        }
        if !broken && let Some(message) = pair.hub.next_message(pair.now) {
            pair.agent.received(message, pair.now).unwrap();
        }
    }
    assert_eq!(pair.turns.last(), Some(&TurnNews::Over));
    assert_eq!(pair.held.services(), 0);
    pair.settle();
    assert_eq!(pair.held.services(), 3);
    let asked = pair.turns.iter().filter(|news| **news == TurnNews::Asked);
    assert_eq!(asked.count(), 2);
}
