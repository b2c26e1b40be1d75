//! What can be said in a session, and how it is framed.

use std::sync::atomic::{AtomicU16, Ordering};

use berth_common::{
    model::Generation,
    session::{digest::Digests, snapshot::Tally},
};
use berth_wire::v1::{self, agent_message::Body as Say};
use bytes::{Buf as _, Bytes, BytesMut};

/// gRPC's framing.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    framed_as(0, message.len(), message)
}

/// gRPC's framing as it should not be: another flag, another length than the message's.
pub(crate) fn framed_as(flag: u8, length: usize, message: &[u8]) -> Vec<u8> {
    let mut out = vec![flag];
    out.extend(u32::try_from(length).unwrap().to_be_bytes());
    out.extend(message);
    out
}

/// The first whole message.
pub(crate) fn unframed(bytes: &mut BytesMut) -> Option<Bytes> {
    let length = bytes.get(1..5)?;
    let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
    bytes.get(..5 + length)?;
    let mut message = bytes.split_to(5 + length);
    message.advance(5);
    Some(message.freeze())
}

/// Hello of an agent in this cluster that has something else than the hub holds.
pub(crate) fn hello(cluster: &str) -> Say {
    Say::Hello(hello_of(1, 1, cluster))
}

pub(crate) fn hello_of(min: u32, max: u32, cluster: &str) -> v1::Hello {
    v1::Hello {
        protocol_min: min,
        protocol_max: max,
        agent_version: "0.1.0".into(),
        instance_id: "attacker".into(),
        cluster_uid: cluster.into(),
        digests: vec![1; Digests::default().to_bytes().len()].into(),
        ..v1::Hello::default()
    }
}

pub(crate) fn begin(id: u64) -> Say {
    Say::SnapshotBegin(v1::SnapshotBegin {
        id,
        ..v1::SnapshotBegin::default()
    })
}

pub(crate) fn page(id: u64, resources: &[v1::Resource]) -> Say {
    Say::SnapshotPage(v1::SnapshotPage {
        id,
        resources: resources.to_vec(),
    })
}

/// The end that a snapshot of these would have.
pub(crate) fn end(id: u64, resources: &[v1::Resource]) -> v1::SnapshotEnd {
    let mut tally = Tally::default();
    for resource in resources {
        let key = resource.key.clone().unwrap_or_default();
        tally.add(&key, Generation(resource.generation));
    }
    tally.end(id)
}

/// A whole snapshot, a thousand resources in a page.
pub(crate) fn snapshot(id: u64, resources: &[v1::Resource]) -> Vec<Say> {
    let pages = resources.chunks(1_000).map(|some| page(id, some));
    let end = Say::SnapshotEnd(end(id, resources));
    std::iter::once(begin(id))
        .chain(pages)
        .chain([end])
        .collect()
}

pub(crate) fn delta(sequence: u64, changes: Vec<v1::change::Change>) -> Say {
    let changes = changes.into_iter().map(|change| v1::Change {
        change: Some(change),
    });
    Say::Delta(v1::Delta {
        sequence,
        changes: changes.collect(),
    })
}

/// A delta of one new version.
pub(crate) fn upsert(sequence: u64, resource: v1::Resource) -> Say {
    delta(sequence, vec![v1::change::Change::Upsert(resource)])
}

fn key(kind: v1::Kind, namespace: &str, name: &str) -> v1::Key {
    v1::Key {
        kind: kind.into(),
        namespace: namespace.into(),
        name: name.into(),
    }
}

/// The key of a Service in the namespace that all of them are in.
pub(crate) fn service_key(name: &str) -> v1::Key {
    key(v1::Kind::Service, "default", name)
}

pub(crate) fn deletion(name: &str, generation: u64) -> v1::change::Change {
    v1::change::Change::Delete(v1::Deletion {
        key: Some(service_key(name)),
        generation,
    })
}

/// A Service with one port.
pub(crate) fn service(name: &str, generation: u64, port: u32) -> v1::Resource {
    v1::Resource {
        key: Some(service_key(name)),
        generation,
        body: Some(v1::resource::Body::Service(v1::Service {
            uid: "uid".into(),
            ports: vec![v1::Port {
                protocol: v1::Protocol::Tcp.into(),
                port,
                node_port: 30_080,
                ..v1::Port::default()
            }],
            families: vec![v1::IpFamily::V4.into()],
            traffic_policy: v1::TrafficPolicy::Cluster.into(),
            ..v1::Service::default()
        })),
    }
}

/// The next node's address is 198.18.X.Y.
static NODES: AtomicU16 = AtomicU16::new(1);

/// A node at an address that is nobody else's: of two tenants with one address, the second would not get it.
pub(crate) fn node(name: &str) -> v1::Resource {
    let [high, low] = NODES.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    node_at(name, 1, &format!("198.18.{high}.{low}"))
}

/// A node at any address.
pub(crate) fn node_at(name: &str, generation: u64, address: &str) -> v1::Resource {
    v1::Resource {
        key: Some(key(v1::Kind::Node, "", name)),
        generation,
        body: Some(v1::resource::Body::Node(v1::Node {
            addresses: vec![address.into()],
        })),
    }
}

/// The address of a node.
pub(crate) fn address_of(node: &v1::Resource) -> String {
    match &node.body {
        Some(v1::resource::Body::Node(node)) => node.addresses[0].clone(),
        body => panic!("no node but {body:?}"),
    }
}

/// A node is gone.
pub(crate) fn node_deletion(name: &str) -> v1::change::Change {
    v1::change::Change::Delete(v1::Deletion {
        key: Some(key(v1::Kind::Node, "", name)),
        generation: 1,
    })
}

/// The Service in a resource.
pub(crate) fn body_of(resource: &mut v1::Resource) -> &mut v1::Service {
    match &mut resource.body {
        Some(v1::resource::Body::Service(service)) => service,
        body => panic!("no Service but {body:?}"),
    }
}

/// A protobuf field of bytes.
pub(crate) fn field(number: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3 | 2), &mut out);
    prost::encoding::encode_varint(value.len() as u64, &mut out);
    out.extend(value);
    out
}

/// AgentMessage { Delta { sequence, Change { upsert } } } with a resource of any bytes.
pub(crate) fn upsert_of_bytes(sequence: u8, resource: &[u8]) -> Vec<u8> {
    let mut delta = vec![0x08, sequence];
    delta.extend(field(2, &field(1, resource)));
    field(6, &delta)
}
