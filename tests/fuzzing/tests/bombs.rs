//! Messages that are small on the wire and large in memory (HOSTILE 31 and 32): they are refused before anything of them is
//! decoded, and what is accepted stays within a bound, under an allocator that counts.

use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_common::session::{MESSAGE_BYTES, PAGE_BYTES};
use berth_wire::{
    codec::{
        ELEMENT_BYTES,
        Unread::{Group, TooHeavy},
        weigh,
    },
    v1,
};
use peak_alloc::PeakAlloc;
use prost::Message as _;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// The allocator counts the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A field that holds these bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length > 0x7f {
        field.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    field.extend(bytes);
    field
}

/// So many empty elements of a field, below a path of fields.
fn elements(path: &[u8], number: u8, count: usize) -> Vec<u8> {
    nested(path, [number << 3 | 2, 0].repeat(count))
}

fn nested(path: &[u8], innermost: Vec<u8>) -> Vec<u8> {
    path.iter().rev().fold(innermost, |m, n| field(*n, &m))
}

const ALL: usize = MESSAGE_BYTES / 2 - 32;
/// From AgentMessage to the Service of a delta.
const SERVICE: [u8; 4] = [6, 2, 1, 3];

#[test]
fn hostile_32_whatever_is_repeated_without_end_is_refused_undecoded() {
    let _alone = alone();
    for (what, bomb) in [
        ("resources", elements(&[4], 2, ALL)),
        ("changes", elements(&[6], 2, ALL)),
        ("ports", elements(&SERVICE, 2, ALL)),
        ("families", nested(&SERVICE, field(3, &vec![1; 2 * ALL]))),
        ("single families", nested(&SERVICE, [3 << 3, 1].repeat(ALL))),
        ("ranges", elements(&SERVICE, 6, ALL)),
        ("local nodes", elements(&SERVICE, 8, ALL)),
        ("annotations", elements(&SERVICE, 11, ALL)),
        ("addresses", elements(&[4, 2, 4], 1, ALL)),
        ("features", elements(&[1], 3, ALL)),
    ] {
        assert!(bomb.len() <= MESSAGE_BYTES, "{what}");
        assert_eq!(weigh::<v1::AgentMessage>(&bomb), Err(TooHeavy), "{what}");
    }
    for (what, bomb) in [
        ("answers", elements(&[2], 1, ALL)),
        ("addresses", elements(&[2, 1], 4, ALL)),
        ("protocols", nested(&[1, 6], field(1, &vec![1; 2 * ALL]))),
    ] {
        assert_eq!(weigh::<v1::HubMessage>(&bomb), Err(TooHeavy), "{what}");
    }
}

#[test]
fn hostile_32_a_bomb_behind_something_unreadable_is_none() {
    let _alone = alone();
    let bomb = elements(&[4], 2, ALL);
    // A group, in which decoding would skip a page that is none.
    let group = [vec![9 << 3 | 3], field(4, &[0x12]), vec![9 << 3 | 4]].concat();
    assert_eq!(
        weigh::<v1::AgentMessage>(&[group, bomb.clone()].concat()),
        Err(Group)
    );
    // Decoding ends where weighing does.
    let broken = [field(4, &[0x12]), bomb].concat();
    assert_eq!(weigh::<v1::AgentMessage>(&broken), Ok(()));
    assert!(v1::AgentMessage::decode(broken.as_slice()).is_err());
    // An unknown field is none of a message's elements.
    let unknown = field(14, &[0x12, 0].repeat(ALL));
    assert_eq!(weigh::<v1::AgentMessage>(&unknown), Ok(()));
}

#[test]
fn the_most_that_is_accepted_stays_within_the_bound() {
    let _alone = alone();
    for (what, path, number, size) in [
        ("resources", &[4][..], 2, size_of::<v1::Resource>()),
        ("changes", &[6], 2, size_of::<v1::Change>()),
        ("ports", &SERVICE, 2, size_of::<v1::Port>()),
        ("ranges", &SERVICE, 6, size_of::<String>() + 32),
        ("annotations", &SERVICE, 11, size_of::<v1::Annotation>()),
    ] {
        let most = elements(path, number, ELEMENT_BYTES / size - 8);
        assert_eq!(weigh::<v1::AgentMessage>(&most), Ok(()), "{what}");
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        berth_fuzzing::wire::run(&most);
        let peak = MEMORY.peak_usage().saturating_sub(before);
        // A vector that grows holds its old half and its new whole for a moment.
        assert!(peak <= 3 * ELEMENT_BYTES + MESSAGE_BYTES, "{what}: {peak}");
        assert!(peak > ELEMENT_BYTES / 4, "{what}: measured nothing");
    }
}

#[test]
fn what_an_agent_in_order_sends_is_never_too_heavy() {
    let _alone = alone();
    // The smallest that there is: nodes of short names, and deletions.
    let node = |i: usize| v1::Resource {
        key: Some(v1::Key {
            kind: 2,
            namespace: String::new(),
            name: format!("n{i}"),
        }),
        generation: u64::MAX >> 1,
        body: Some(v1::resource::Body::Node(v1::Node {
            addresses: vec!["10.0.0.1".into()],
        })),
    };
    let deletion = |i: usize| v1::Change {
        change: Some(v1::change::Change::Delete(v1::Deletion {
            key: Some(v1::Key {
                kind: 1,
                namespace: "a".into(),
                name: format!("{i}"),
            }),
            generation: 1,
        })),
    };
    let page = v1::SnapshotPage {
        id: 1,
        resources: (0..PAGE_BYTES / node(0).encoded_len()).map(node).collect(),
    };
    let delta = v1::Delta {
        sequence: 1,
        changes: (0..PAGE_BYTES / deletion(0).encoded_len())
            .map(deletion)
            .collect(),
    };
    // And the largest: every port, range and node that a Service may have.
    let mut service = node(0);
    service.body = Some(v1::resource::Body::Service(v1::Service {
        ports: vec![
            v1::Port {
                name: "a".repeat(63),
                app_protocol: "a".repeat(317),
                ..Default::default()
            };
            1_000
        ],
        families: vec![1, 2],
        source_ranges: vec!["2001:db8:1:2:3:4:5:6/128".into(); 1_000],
        local_nodes: vec!["a".repeat(253); 10_000],
        ..Default::default()
    }));
    let single = v1::SnapshotPage {
        id: 1,
        resources: vec![service],
    };
    for body in [
        v1::agent_message::Body::SnapshotPage(page),
        v1::agent_message::Body::Delta(delta),
        v1::agent_message::Body::SnapshotPage(single),
    ] {
        let bytes = v1::AgentMessage { body: Some(body) }.encode_to_vec();
        assert!(bytes.len() <= MESSAGE_BYTES);
        assert_eq!(weigh::<v1::AgentMessage>(&bytes), Ok(()));
    }
}
