//! What a peer may say of a resource, drawn from few keys and few versions, so that what it says often meets what it said
//! before: well, nearly well, and badly.

use arbitrary::Arbitrary;
use berth_common::{
    model::{
        Body, IpFamily, Key, Node, NodeName, Port, Protocol, Service, ServiceKey, TrafficPolicy,
    },
    wire::{generation_of, key_to_wire},
};
use berth_wire::v1;
use prost::Message as _;

/// A key, good or bad.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) enum Named {
    Service(u8),
    Node(u8),
    Missing,
    UnknownKind(i32),
    /// A name of this many letters.
    Long(u16),
    Any(String, String),
}

/// A key that an agent in order may have.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum GoodName {
    Service(u8),
    Node(u8),
}

impl GoodName {
    pub(crate) fn key(self) -> Key {
        match self {
            Self::Service(n) => Key::Service(ServiceKey::new("default", format!("s{}", n % 12))),
            Self::Node(n) => Key::Node(NodeName(format!("n{}", n % 6))),
        }
    }

    /// One of few bodies for it.
    pub(crate) fn body(self, version: u8) -> Body {
        match self {
            Self::Service(_) => Body::Service(service(version)),
            Self::Node(_) => Body::Node(Node {
                addresses: [[10, 0, 0, version % 4].into()].into(),
            }),
        }
    }
}

impl Named {
    pub(crate) fn key(&self) -> Option<v1::Key> {
        let key = |kind, namespace: &str, name: String| v1::Key {
            kind,
            namespace: namespace.into(),
            name,
        };
        match self {
            Self::Service(n) => Some(key_to_wire(&GoodName::Service(*n).key())),
            Self::Node(n) => Some(key_to_wire(&GoodName::Node(*n).key())),
            Self::Missing => None,
            Self::UnknownKind(kind) => Some(key(*kind, "default", "a".into())),
            Self::Long(letters) => Some(key(1, "default", "a".repeat(usize::from(*letters)))),
            Self::Any(namespace, name) => Some(key(1, namespace, name.clone())),
        }
    }
}

/// A body, good or bad.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) enum Written {
    /// One that fits the key, and its own number as generation.
    Good(u8),
    Service {
        version: u8,
        generation: u8,
    },
    Node {
        addresses: Vec<[u8; 4]>,
        generation: u8,
    },
    Without {
        generation: u8,
    },
    NoPorts {
        generation: u8,
    },
    Bytes(Vec<u8>),
}

/// A resource.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) struct Say {
    pub(crate) name: Named,
    written: Written,
}

impl Say {
    pub(crate) fn good(name: Named) -> Self {
        let written = Written::Good(0);
        Self { name, written }
    }

    pub(crate) fn resource(&self) -> v1::Resource {
        use v1::resource::Body as Wire;
        let key = self.name.key();
        let wire = |generation: u8, body| v1::Resource {
            key: key.clone(),
            generation: generation.into(),
            body,
        };
        match &self.written {
            Written::Good(version) => {
                let name = match self.name {
                    Named::Node(n) => GoodName::Node(n),
                    Named::Service(n) => GoodName::Service(n),
                    _ => GoodName::Service(0),
                };
                let body = name.body(*version);
                let versioned = berth_common::model::Versioned {
                    generation: generation_of(&body),
                    body,
                };
                let good = berth_common::wire::resource_to_wire(&name.key(), &versioned);
                v1::Resource { key, ..good }
            }
            Written::Service {
                version,
                generation,
            } => {
                let service = wire_service(*version);
                wire(*generation, Some(Wire::Service(service)))
            }
            Written::Node {
                addresses,
                generation,
            } => {
                let addresses = addresses
                    .iter()
                    .map(|a| std::net::IpAddr::from(*a).to_string())
                    .collect();
                wire(*generation, Some(Wire::Node(v1::Node { addresses })))
            }
            Written::Without { generation } => wire(*generation, None),
            Written::NoPorts { generation } => wire(
                *generation,
                Some(Wire::Service(v1::Service {
                    ports: Vec::new(),
                    ..wire_service(0)
                })),
            ),
            Written::Bytes(bytes) => v1::Resource::decode(bytes.as_slice()).map_or_else(
                |_| wire(0, None),
                |read| v1::Resource {
                    key: key.clone().or(read.key.clone()),
                    ..read
                },
            ),
        }
    }
}

fn wire_service(version: u8) -> v1::Service {
    let name = GoodName::Service(0);
    let versioned = berth_common::model::Versioned {
        generation: berth_common::model::Generation(0),
        body: name.body(version),
    };
    match berth_common::wire::resource_to_wire(&name.key(), &versioned).body {
        Some(v1::resource::Body::Service(service)) => service,
        _ => v1::Service::default(),
    }
}

fn service(version: u8) -> Service {
    Service {
        uid: "u".into(),
        ports: vec![Port {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(30_000 + u16::from(version % 4)),
            app_protocol: None,
        }],
        families: vec![IpFamily::V4],
        require_dual_stack: false,
        affinity_seconds: None,
        source_ranges: Default::default(),
        traffic_policy: TrafficPolicy::Cluster,
        local_nodes: Default::default(),
        health_check_node_port: None,
        requested_ips: Vec::new(),
        annotations: (version % 4 == 3)
            .then(|| ("example.com/version".into(), "3".into()))
            .into_iter()
            .collect(),
    }
}
