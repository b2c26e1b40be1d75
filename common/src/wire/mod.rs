//! Between messages and model: total and checking. Whatever bytes a peer sent, what comes out is either a value that the
//! rest of Berth may trust, or a [`Refusal`] that names the field and says what to do. It knows the shapes that
//! Kubernetes allows and nothing of policy: whether a well-formed request is granted is the planner's to say.

mod answer;
mod resource;

use berth_wire::v1;

use crate::model::{Key, NodeName, ServiceKey};

pub use answer::{answer_from_wire, answer_to_wire, refusal_to_wire};
pub use resource::{generation_of, resource_from_wire, resource_to_wire};

/// The most ports of one Service that are read at all; what a tenant may have is policy.
pub const MAX_PORTS: usize = 1_000;
/// The most source ranges of one Service that are read at all.
pub const MAX_SOURCE_RANGES: usize = 1_000;
/// The most addresses that one Service may ask for.
pub const MAX_REQUESTED_IPS: usize = 2;
/// The most nodes that a Service may name as its local ones: as many as a tenant may have at all.
pub const MAX_LOCAL_NODES: usize = 10_000;

/// A resource that cannot be taken as it is. The stream and every other resource go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Refusal {
    /// The field at fault, as a path in the Kubernetes object.
    pub field: String,
    /// One word, CamelCase.
    pub reason: &'static str,
    /// What is wrong and what to do about it.
    pub message: String,
}

/// The reason of a refusal of what this release does not know; on the wire it is an outcome of its own.
pub(crate) const UNIMPLEMENTED: &str = "Unimplemented";

impl Refusal {
    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: "Invalid",
            message: message.into(),
        }
    }
}

/// A key, as text that is safe to print whatever it holds.
pub fn printable(key: &v1::Key) -> String {
    format!(
        "{}/{}",
        key.namespace.escape_debug(),
        key.name.escape_debug()
    )
    .chars()
    .take(300)
    .collect()
}

/// Reads a key; names must be what Kubernetes allows for their kind.
pub fn key_from_wire(key: &v1::Key) -> Result<Key, Refusal> {
    match v1::Kind::try_from(key.kind) {
        Ok(v1::Kind::Service) => {
            label("metadata.namespace", &key.namespace)?;
            label("metadata.name", &key.name)?;
            Ok(Key::Service(ServiceKey::new(
                key.namespace.as_str(),
                key.name.as_str(),
            )))
        }
        Ok(v1::Kind::Node) => {
            if !key.namespace.is_empty() {
                return Err(Refusal::new(
                    "metadata.namespace",
                    "a node has no namespace",
                ));
            }
            if key.name.is_empty() || key.name.len() > 253 || !key.name.split('.').all(is_label) {
                return Err(Refusal::new(
                    "metadata.name",
                    "not a DNS subdomain of at most 253 lower-case letters, digits, '-' and '.'",
                ));
            }
            Ok(Key::Node(NodeName(key.name.clone())))
        }
        Ok(v1::Kind::Unspecified) | Err(_) => Err(Refusal {
            field: "kind".into(),
            reason: UNIMPLEMENTED,
            message: format!(
                "this hub does not know kind {}: it is older than the agent",
                key.kind
            ),
        }),
    }
}

/// Writes a key.
pub fn key_to_wire(key: &Key) -> v1::Key {
    match key {
        Key::Service(key) => v1::Key {
            kind: v1::Kind::Service.into(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        },
        Key::Node(name) => v1::Key {
            kind: v1::Kind::Node.into(),
            namespace: String::new(),
            name: name.0.clone(),
        },
    }
}

fn label(field: &str, name: &str) -> Result<(), Refusal> {
    if is_label(name) {
        Ok(())
    } else {
        Err(Refusal::new(
            field,
            "not a DNS label of 1 to 63 lower-case letters, digits and '-'",
        ))
    }
}

/// RFC 1123 label: what namespaces and Service names are (a Service name may begin with a digit since Kubernetes 1.34's
/// relaxed validation).
pub(crate) fn is_label(name: &str) -> bool {
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.len() <= 63
        && edge(name.bytes().next())
        && edge(name.bytes().last())
        && name
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::model::Body;

    fn service_key(namespace: &str, name: &str) -> v1::Key {
        v1::Key {
            kind: 1,
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    #[test]
    fn hostile_44_names_that_kubernetes_would_not_allow_are_refused() {
        let long = "a".repeat(64);
        for name in ["", long.as_str(), "Upper", "..", "a/b", "a\nb", "-a", "a-"] {
            let refusal = key_from_wire(&service_key("ns", name)).unwrap_err();
            assert_eq!(refusal.field, "metadata.name", "{name:?}");
        }
        assert!(key_from_wire(&service_key("ns", "9lives")).is_ok());
    }

    #[test]
    fn hostile_34_an_unknown_kind_is_unimplemented_and_not_kind_zero() {
        for kind in [0, 99] {
            let mut key = service_key("ns", "a");
            key.kind = kind;
            assert_eq!(key_from_wire(&key).unwrap_err().reason, "Unimplemented");
        }
    }

    proptest! {
        #[test]
        fn hostile_32_arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            if let Ok(resource) = v1::Resource::decode(bytes.as_slice()) {
                let _ = resource_from_wire(&resource);
            }
            if let Ok(answer) = v1::Answer::decode(bytes.as_slice()) {
                let _ = answer_from_wire(&answer);
            }
        }

        #[test]
        fn what_is_accepted_survives_the_way_back(port in 1u32..=65535, node_port in 0u32..=65535, protocol in 1i32..=3,
                                                  families in proptest::collection::vec(1i32..=2, 1..2)) {
            let wire = v1::Resource {
                key: Some(service_key("default", "backend")),
                generation: 7,
                body: Some(v1::resource::Body::Service(v1::Service {
                    uid: "u".into(),
                    ports: vec![v1::Port { name: "http".into(), protocol, port, node_port, app_protocol: String::new() }],
                    families,
                    traffic_policy: 1,
                    ..Default::default()
                })),
            };
            let (key, versioned) = resource_from_wire(&wire).unwrap();
            prop_assert!(matches!(versioned.body, Body::Service(_)));
            prop_assert_eq!(resource_to_wire(&key, &versioned), wire);
        }
    }
}
