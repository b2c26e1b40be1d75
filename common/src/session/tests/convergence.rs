//! Generated histories of both sides: whatever happens, they come to hold the same.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Upsert(u8, u16),
    Remove(u8),
    Forget(u8),
    Node(u8, Option<u8>),
    Steps(u8),
    Cut,
    HubRestart,
    Source(bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u8..6, 1u16..5).prop_map(|(k, p)| Op::Upsert(k, p)),
        2 => (0u8..6).prop_map(Op::Remove),
        1 => (0u8..6).prop_map(Op::Forget),
        2 => (0u8..3, proptest::option::of(1u8..4)).prop_map(|(n, a)| Op::Node(n, a)),
        4 => (1u8..6).prop_map(Op::Steps),
        2 => Just(Op::Cut),
        1 => Just(Op::HubRestart),
        1 => any::<bool>().prop_map(Op::Source),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever happens on the way, when faults stop both sides hold the same, and nothing is ever taken for deleted
    /// that the tenant did not delete.
    #[test]
    fn the_two_sides_converge(ops in proptest::collection::vec(op(), 1..60)) {
        let mut pair = Pair::new();
        pair.connect();
        let mut model: BTreeMap<u8, u16> = BTreeMap::new();
        let mut deleted: BTreeSet<u8> = BTreeSet::new();
        let name = |k: u8| format!("s{k}");
        for op in ops {
            match op {
                Op::Upsert(k, port) => {
                    model.insert(k, port);
                    pair.agent.upsert(Key::Service(key(&name(k))), service(port));
                }
                Op::Remove(k) => {
                    model.remove(&k);
                    deleted.insert(k);
                    pair.agent.remove(Key::Service(key(&name(k))));
                }
                Op::Forget(k) => {
                    model.remove(&k);
                    pair.agent.forget(&Key::Service(key(&name(k))));
                }
                Op::Node(n, Some(a)) => { pair.agent.upsert(Key::Node(NodeName(format!("n{n}"))), node(a)); }
                Op::Node(n, None) => pair.agent.remove(Key::Node(NodeName(format!("n{n}")))),
                Op::Steps(n) => for _ in 0..n { pair.step(); },
                Op::Cut => pair.connect(),
                Op::HubRestart => { pair.held = Held::default(); pair.connect(); }
                Op::Source(up) => {
                    let source = if up { synced() } else { Source::Unsynced { reason: "down".into() } };
                    let other_cluster = pair.agent.set_source(source);
                    prop_assert!(!other_cluster);
                }
            }
            for k in 0..6 {
                if let Wanted::Deleted(_) = pair.held.wanted(&key(&name(k))) {
                    prop_assert!(deleted.contains(&k), "s{k} was never deleted");
                }
            }
        }
        prop_assert!(!pair.agent.set_source(synced()));
        pair.connect();
        pair.settle();
        for k in 0..6 {
            prop_assert_eq!(pair.port_held(&name(k)), model.get(&k).copied());
        }
        prop_assert_eq!(pair.held.services(), model.len());
        prop_assert!(pair.agent.is_synced());
        pair.connect();
        pair.settle();
        let pages = pair.sent.iter().filter(|m| matches!(m.body, Some(v1::agent_message::Body::SnapshotPage(_)))).count();
        prop_assert_eq!(pages, 0, "what both hold alike is not sent again");
    }
}
