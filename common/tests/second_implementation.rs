//! Digests and snapshots once more, written from the comments of `agent.proto` and from nothing else, so that they are known
//! to say enough: this agrees with the vector file, and Berth agrees with both.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

use berth_common::{
    model::{Generation, Key, NodeName, ServiceKey},
    session::{
        digest::{Buckets, Digests},
        snapshot::Tally,
    },
    wire::{generation_of, resource_from_wire},
};
use berth_wire::v1;
use proptest::prelude::*;
use prost::Message as _;
use serde::Deserialize;

/// The second implementation.
mod second {
    use sha2::{Digest as _, Sha256};

    #[derive(Clone, Debug, serde::Deserialize)]
    pub(super) struct Resource {
        pub(super) kind: u8,
        pub(super) namespace: String,
        pub(super) name: String,
        pub(super) generation: u64,
    }

    pub(super) fn entry(r: &Resource) -> Vec<u8> {
        let mut bytes = vec![r.kind];
        for text in [&r.namespace, &r.name] {
            bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(&r.generation.to_be_bytes());
        bytes
    }

    pub(super) fn bucket(r: &Resource) -> u8 {
        let entry = entry(r);
        Sha256::digest(&entry[..entry.len() - 8])[0]
    }

    pub(super) fn digests(held: &[Resource]) -> Vec<u8> {
        let mut all = vec![0; 256 * 16];
        for r in held {
            let at = usize::from(bucket(r)) * 16;
            let hash = Sha256::digest(entry(r));
            for i in 0..16 {
                all[at + i] ^= hash[i];
            }
        }
        all
    }

    /// SnapshotBegin.buckets.
    pub(super) fn buckets(of: impl Iterator<Item = u8>) -> Vec<u8> {
        let mut bits = vec![0u8; 32];
        for b in of {
            bits[usize::from(b / 8)] |= 1 << (b % 8);
        }
        bits
    }

    /// SnapshotEnd.sha256.
    pub(super) fn sha256(sent: &[Resource]) -> Vec<u8> {
        let all: Vec<u8> = sent.iter().flat_map(entry).collect();
        Sha256::digest(all).to_vec()
    }

    /// Resource.generation, as berth-agent has it.
    pub(super) fn generation(kind: u8, body: &[u8]) -> u64 {
        let hash = Sha256::digest([&[kind], body].concat());
        let first = hash[..8]
            .iter()
            .fold(0, |n, byte| n << 8 | u64::from(*byte));
        first >> 1
    }
}

use second::Resource;

#[derive(Deserialize)]
struct Vectors {
    entries: Vec<EntryVector>,
    state: StateVector,
    snapshot: SnapshotVector,
}

#[derive(Deserialize)]
struct EntryVector {
    #[serde(flatten)]
    resource: Resource,
    entry: String,
    bucket: u8,
    digest: String,
}

#[derive(Deserialize)]
struct StateVector {
    entries: Vec<Resource>,
    digests: std::collections::BTreeMap<String, String>,
    all_sha256: String,
    buckets: String,
}

#[derive(Deserialize)]
struct SnapshotVector {
    entries: Vec<Resource>,
    count: u64,
    sha256: String,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../src/session/testdata/digests.json")).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn key(r: &Resource) -> Key {
    match r.kind {
        1 => Key::Service(ServiceKey::new(r.namespace.as_str(), r.name.as_str())),
        2 => Key::Node(NodeName(r.name.clone())),
        kind => panic!("no key is of kind {kind}"),
    }
}

/// What Berth has as digests of resources.
fn berths(held: &[Resource]) -> Digests {
    let mut digests = Digests::default();
    for r in held {
        digests.toggle(&key(r), Generation(r.generation));
    }
    digests
}

/// What Berth says at the end of a snapshot.
fn end(sent: &[Resource]) -> v1::SnapshotEnd {
    let mut tally = Tally::default();
    for r in sent {
        let key = v1::Key {
            kind: r.kind.into(),
            namespace: r.namespace.clone(),
            name: r.name.clone(),
        };
        tally.add(&key, Generation(r.generation));
    }
    tally.end(1)
}

fn filled(digests: &[u8]) -> Vec<(u8, String)> {
    let of = |b: u8| hex(&digests[usize::from(b) * 16..][..16]);
    (0..=255)
        .map(|b| (b, of(b)))
        .filter(|(_, d)| d.bytes().any(|c| c != b'0'))
        .collect()
}

#[test]
fn single_entries_are_those_of_the_vector_file() {
    let vectors = vectors().entries;
    for v in &vectors {
        let r = std::slice::from_ref(&v.resource);
        let expected = vec![(v.bucket, v.digest.clone())];
        assert_eq!(hex(&second::entry(&v.resource)), v.entry);
        assert_eq!(second::bucket(&v.resource), v.bucket);
        assert_eq!(filled(&second::digests(r)), expected);
        assert_eq!(filled(&berths(r).to_bytes()), expected, "{:?}", v.resource);
    }
    // What the file has to have in it, for it to be enough.
    let has = |what: fn(&Resource) -> bool| vectors.iter().any(|v| what(&v.resource));
    assert!(has(|r| !r.name.is_ascii() && !r.namespace.is_ascii()));
    assert!(has(|r| r.kind == 2 && r.namespace.is_empty()));
    assert!(has(|r| r.name.len() == 253));
    assert!(has(|r| r.generation == u64::MAX));
    assert!(has(|r| r.name.is_empty()));
}

#[test]
fn a_whole_state_is_that_of_the_vector_file() {
    let state = vectors().state;
    let expected: Vec<(u8, String)> = filled(&second::digests(&state.entries));
    let told: Vec<(u8, String)> = expected
        .iter()
        .map(|(b, _)| (*b, state.digests[&b.to_string()].clone()))
        .collect();
    assert_eq!(expected, told);
    assert_eq!(state.digests.len(), told.len());
    assert!(
        state.entries.len() >= told.len() + 2,
        "several in one bucket"
    );

    let all = second::digests(&state.entries);
    let berths = berths(&state.entries);
    assert_eq!(berths.to_bytes(), all);
    assert_eq!(
        hex(&<sha2::Sha256 as sha2::Digest>::digest(&all)),
        state.all_sha256
    );

    let buckets = second::buckets(expected.iter().map(|(b, _)| *b));
    assert_eq!(hex(&buckets), state.buckets);
    let differing = berths.difference(&Digests::default());
    assert_eq!(differing.to_bytes(), buckets);
    assert_eq!(Buckets::from_bytes(&buckets), Some(differing));
}

#[test]
fn a_snapshots_end_is_that_of_the_vector_file() {
    let snapshot = vectors().snapshot;
    assert_eq!(hex(&second::sha256(&snapshot.entries)), snapshot.sha256);
    let end = end(&snapshot.entries);
    assert_eq!(
        (end.count, hex(&end.sha256)),
        (snapshot.count, snapshot.sha256)
    );
    assert!(
        snapshot.entries.iter().any(|r| r.kind > 2),
        "one that cannot be read"
    );
}

fn resource() -> impl Strategy<Value = Resource> {
    let names = (1u8..=2, "\\PC{0,20}", "\\PC{0,80}", any::<u64>());
    names.prop_map(|(kind, namespace, name, generation)| Resource {
        kind,
        namespace: if kind == 2 { String::new() } else { namespace },
        name,
        generation,
    })
}

proptest! {
    #[test]
    fn any_state_is_the_same_in_both(held in proptest::collection::vec(resource(), 0..60)) {
        prop_assert_eq!(berths(&held).to_bytes(), second::digests(&held));
        let end = end(&held);
        prop_assert_eq!(end.count, held.len() as u64);
        prop_assert_eq!(end.sha256.to_vec(), second::sha256(&held));
        let mut buckets = Buckets::none();
        held.iter().for_each(|r| buckets.insert_key(&key(r)));
        prop_assert_eq!(buckets.to_bytes(), second::buckets(held.iter().map(second::bucket)));
    }

    #[test]
    fn a_generation_is_what_the_text_says(port in 1u32..=65_535, last: u8) {
        let service = v1::Service {
            uid: "u".into(),
            ports: vec![v1::Port { protocol: 1, port, node_port: 30_000, ..Default::default() }],
            families: vec![1],
            traffic_policy: 1,
            ..Default::default()
        };
        let node = v1::Node { addresses: vec![format!("10.0.0.{last}")] };
        for (kind, encoded, body) in [
            (1, service.encode_to_vec(), v1::resource::Body::Service(service)),
            (2, node.encode_to_vec(), v1::resource::Body::Node(node)),
        ] {
            let namespace = if kind == 1 { "default" } else { "" };
            let key = v1::Key { kind, namespace: namespace.into(), name: "a".into() };
            let wire = v1::Resource { key: Some(key), generation: 0, body: Some(body) };
            let (_, read) = resource_from_wire(&wire).unwrap();
            prop_assert_eq!(generation_of(&read.body).0, second::generation(kind as u8, &encoded));
        }
    }
}
