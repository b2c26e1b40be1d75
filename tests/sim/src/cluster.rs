//! A tenant's cluster, as far as Berth sees it: Services with finalizer and status, and nodes. It is what is true, whoever
//! can read it at the moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use berth_common::model::{
    Body, IpFamily, Key, Node, NodeName, Port, Protocol, Service, ServiceKey, TrafficPolicy,
};

use crate::op::Version;

/// The port of which the management API will not hear.
pub(crate) const REJECTED_PORT: u16 = 999;

/// A Service in a tenant's cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TenantService {
    /// Counts up within a tenant, so that the later of two is known.
    pub(crate) uid: u64,
    pub(crate) version: Version,
    pub(crate) deleting: bool,
    /// The agent has seen it and put its finalizer on it.
    pub(crate) finalizer: bool,
    /// The addresses in its status.
    pub(crate) view: Vec<IpAddr>,
    /// Its condition `Programmed`.
    pub(crate) programmed: bool,
}

/// A tenant's cluster.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// The UID of kube-system.
    pub(crate) uid: String,
    pub(crate) services: BTreeMap<u8, TenantService>,
    pub(crate) nodes: BTreeSet<u8>,
}

impl Cluster {
    pub(crate) fn new(uid: String) -> Self {
        Self {
            uid,
            services: BTreeMap::new(),
            nodes: BTreeSet::new(),
        }
    }

    /// Whether a Service is there and is to stay.
    pub(crate) fn has(&self, k: u8) -> bool {
        self.services.get(&k).is_some_and(|s| !s.deleting)
    }
}

/// The name of a Service.
pub(crate) fn service_key(k: u8) -> ServiceKey {
    ServiceKey::new("default", format!("s{k}"))
}

/// The Service of a name.
pub(crate) fn key_number(key: &ServiceKey) -> Option<u8> {
    key.name.strip_prefix('s')?.parse().ok()
}

/// The key of a node.
pub(crate) fn node_key(n: u8) -> Key {
    Key::Node(NodeName(format!("n{n}")))
}

/// The address of a tenant's node.
pub(crate) fn node_address(t: u8, n: u8) -> IpAddr {
    Ipv4Addr::new(10, t, 0, n + 1).into()
}

/// A node as the agent tells it.
pub(crate) fn node_body(t: u8, n: u8) -> Body {
    Body::Node(Node {
        addresses: BTreeSet::from([node_address(t, n)]),
    })
}

/// The node port by which a version is known.
pub(crate) fn node_port(version: Version) -> u16 {
    match version {
        Version::Good(n) => 30_001 + u16::from(n),
        Version::Refused => 30_101,
        Version::Unreadable => 0,
        Version::Rejected => 30_102,
    }
}

/// The port that clients connect to. Some versions differ in the node port alone.
pub(crate) fn port(version: Version) -> u16 {
    match version {
        Version::Good(n) => 80 + u16::from(n % 2),
        Version::Refused | Version::Unreadable => 80,
        Version::Rejected => REJECTED_PORT,
    }
}

/// How many ports a version has.
pub(crate) fn ports(version: Version) -> usize {
    match version {
        Version::Good(n) => 1 + usize::from(n / 4),
        Version::Refused | Version::Rejected => 1,
        Version::Unreadable => 0,
    }
}

/// A Service as the agent tells it.
pub(crate) fn service_body(uid: u64, version: Version) -> Body {
    // All but the first differ from it by thousands.
    let more = |port: u16, index: usize| port + 1_000 * u16::try_from(index).unwrap_or(0);
    // Without any port it is what no cluster has, and the hub cannot read it.
    let ports = (0..ports(version)).map(|index| Port {
        name: format!("p{index}"),
        protocol: if version == Version::Refused {
            Protocol::Sctp
        } else {
            Protocol::Tcp
        },
        port: more(port(version), index),
        node_port: Some(more(node_port(version), index)),
        app_protocol: None,
    });
    Body::Service(Service {
        uid: format!("u{uid}"),
        ports: ports.collect(),
        families: vec![IpFamily::V4],
        require_dual_stack: false,
        affinity_seconds: None,
        source_ranges: BTreeSet::new(),
        traffic_policy: TrafficPolicy::Cluster,
        local_nodes: BTreeSet::new(),
        health_check_node_port: None,
        requested_ips: Vec::new(),
        annotations: BTreeMap::new(),
    })
}
