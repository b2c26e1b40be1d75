//! What the agent keeps of an EndpointSlice: on which nodes its Service has endpoints of its own. Pods come and go
//! within one node without a trace here, for only the set of nodes matters (point 24).

use std::collections::BTreeSet;

use berth_common::model::{NodeName, ServiceKey};
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// The label that names a slice's Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// A slice's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SliceKey {
    /// The namespace, which is also its Service's.
    pub namespace: String,
    /// The slice's own name.
    pub name: String,
}

/// The nodes that one slice names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenSlice {
    /// Whose endpoints these are.
    pub service: ServiceKey,
    /// Nodes with a ready endpoint.
    pub ready: BTreeSet<NodeName>,
    /// Nodes with an endpoint that still serves while it terminates (KEP-1669), and none that is ready.
    pub terminating: BTreeSet<NodeName>,
}

impl SeenSlice {
    /// Keeps what matters; nothing of a slice that belongs to no Service.
    pub fn project(slice: &EndpointSlice) -> Option<(SliceKey, Self)> {
        let namespace = slice.metadata.namespace.clone()?;
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?;
        let mut ready = BTreeSet::new();
        let mut terminating = BTreeSet::new();
        for endpoint in &slice.endpoints {
            let Some(node) = &endpoint.node_name else {
                continue;
            };
            // The API's defaults: an unknown state counts as ready, and serving as much as ready.
            let conditions = endpoint.conditions.as_ref();
            let is_ready = conditions.and_then(|c| c.ready).unwrap_or(true);
            let is_serving = conditions.and_then(|c| c.serving).unwrap_or(is_ready);
            let is_terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
            if is_ready {
                ready.insert(NodeName(node.clone()));
            } else if is_serving && is_terminating {
                terminating.insert(NodeName(node.clone()));
            }
        }
        terminating.retain(|node| !ready.contains(node));
        let key = SliceKey {
            namespace: namespace.clone(),
            name: slice.metadata.name.clone()?,
        };
        let service = ServiceKey::new(namespace, service);
        Some((
            key,
            Self {
                service,
                ready,
                terminating,
            },
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn nodes(set: &BTreeSet<NodeName>) -> Vec<&str> {
        set.iter().map(|n| n.0.as_str()).collect()
    }

    #[test]
    fn point_24_ready_nodes_and_those_that_serve_while_terminating() {
        let slice = serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "web-x1", "labels": {SERVICE_LABEL: "web"}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.1.0.1"], "nodeName": "a", "conditions": {"ready": true}},
                {"addresses": ["10.1.0.2"], "nodeName": "a", "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["10.1.0.3"], "nodeName": "b", "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["10.1.0.4"], "nodeName": "c", "conditions": {"ready": false}},
                {"addresses": ["10.1.0.5"], "nodeName": "d"},
                {"addresses": ["10.1.0.6"]},
            ]
        })).unwrap();
        let (key, seen) = SeenSlice::project(&slice).unwrap();
        assert_eq!(key.name, "web-x1");
        assert_eq!(seen.service, ServiceKey::new("ns", "web"));
        assert_eq!(nodes(&seen.ready), ["a", "d"]);
        assert_eq!(nodes(&seen.terminating), ["b"]);
    }

    #[test]
    fn a_slice_of_no_service_is_nothing() {
        let slice = serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "x"}, "addressType": "IPv4", "endpoints": []
        }))
        .unwrap();
        assert!(SeenSlice::project(&slice).is_none());
    }
}
