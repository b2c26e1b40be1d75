//! What the agent keeps of a Node: whether load balancers may use it, and the one address per family to use. Everything
//! else of a Node's status, which changes all the time, is dropped here, so that two projections compare equal unless
//! something changed that matters (points 20 to 23 and 27).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    str::FromStr,
};

use berth_common::model::IpFamily;
use k8s_openapi::api::core::v1::Node;

/// The label that keeps a node out of load balancers.
const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The taint by which the cluster autoscaler announces that a node will go.
const DOOM_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// A type of node address that traffic can be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressType {
    /// Reachable within the network of the nodes.
    InternalIp,
    /// Reachable from outside.
    ExternalIp,
}

impl AddressType {
    /// The name that the Kubernetes API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InternalIp => "InternalIP",
            Self::ExternalIp => "ExternalIP",
        }
    }
}

impl fmt::Display for AddressType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for AddressType {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "InternalIP" => Ok(Self::InternalIp),
            "ExternalIP" => Ok(Self::ExternalIp),
            "Hostname" | "InternalDNS" | "ExternalDNS" => Err(
                "expected InternalIP or ExternalIP: traffic goes to addresses, and this type is a name",
            ),
            _ => Err("expected InternalIP, ExternalIP or both in the order of preference"),
        }
    }
}

/// A node as far as load balancers are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenNode {
    /// Excluded by its label.
    pub excluded: bool,
    /// Being deleted.
    pub deleting: bool,
    /// The autoscaler is about to delete it.
    pub doomed: bool,
    /// Its kubelet says that it works.
    pub ready: bool,
    /// The addresses to use, at most one per family.
    pub addresses: BTreeSet<IpAddr>,
    /// The types of all addresses that it has, for explanations.
    pub types: BTreeSet<String>,
}

impl SeenNode {
    /// Keeps what matters. `preference` names the wanted types of address, best first; each family is chosen by itself.
    pub fn project(node: &Node, preference: &[AddressType]) -> Self {
        let status = node.status.as_ref();
        let all = status
            .and_then(|s| s.addresses.as_deref())
            .unwrap_or_default();
        let mut chosen = BTreeMap::new();
        for wanted in preference {
            for address in all.iter().filter(|a| a.type_ == wanted.as_str()) {
                if let Ok(ip) = address.address.parse::<IpAddr>() {
                    let ip = ip.to_canonical();
                    chosen.entry(IpFamily::of(&ip)).or_insert(ip);
                }
            }
        }
        Self {
            excluded: node
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(EXCLUDE_LABEL))
                .is_some_and(|value| excludes(value)),
            deleting: node.metadata.deletion_timestamp.is_some(),
            doomed: node
                .spec
                .as_ref()
                .and_then(|spec| spec.taints.as_ref())
                .is_some_and(|taints| taints.iter().any(|taint| taint.key == DOOM_TAINT)),
            ready: status
                .and_then(|s| s.conditions.as_ref())
                .is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True")),
            addresses: chosen.into_values().collect(),
            types: all.iter().map(|a| a.type_.clone()).collect(),
        }
    }

    /// Whether nothing but its readiness can keep it out.
    pub fn is_candidate(&self) -> bool {
        !(self.excluded || self.deleting || self.doomed)
    }

    /// Whether the two differ in anything but the autoscaler's taint, which alone causes no change (KEP-3458).
    pub fn differs_beyond_doom(&self, other: &Self) -> bool {
        let undoomed = Self {
            doomed: other.doomed,
            ..self.clone()
        };
        undoomed != *other
    }
}

/// A bool as Go reads it; what cannot be read excludes, for somebody meant something by it.
fn excludes(value: &str) -> bool {
    !matches!(value, "0" | "f" | "F" | "false" | "FALSE" | "False")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn project(node: serde_json::Value, preference: &[AddressType]) -> SeenNode {
        SeenNode::project(&serde_json::from_value(node).unwrap(), preference)
    }

    fn addresses(preference: &[AddressType]) -> Vec<String> {
        let node = json!({"metadata": {"name": "n"}, "status": {"addresses": [
            {"type": "Hostname", "address": "n.example"},
            {"type": "InternalIP", "address": "10.0.0.1"},
            {"type": "InternalIP", "address": "10.0.0.2"},
            {"type": "InternalIP", "address": "fd00::1"},
            {"type": "ExternalIP", "address": "192.0.2.1"},
        ]}});
        let seen = project(node, preference);
        seen.addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn point_20_the_label_is_read_as_a_bool_and_excludes_when_unreadable() {
        for (value, excluded) in [
            ("true", true),
            ("T", true),
            ("1", true),
            ("", true),
            ("no", true),
            ("false", false),
            ("F", false),
            ("0", false),
        ] {
            let node = json!({"metadata": {"name": "n", "labels": {EXCLUDE_LABEL: value}}});
            assert_eq!(project(node, &[]).is_candidate(), !excluded, "{value:?}");
        }
    }

    #[test]
    fn point_21_deleting_and_doomed_nodes_are_no_candidates() {
        let doomed = json!({"metadata": {"name": "n"}, "spec": {"taints": [
            {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}});
        assert!(!project(doomed, &[]).is_candidate());
        let deleting =
            json!({"metadata": {"name": "n", "deletionTimestamp": "2026-11-01T00:00:00Z"}});
        assert!(!project(deleting, &[]).is_candidate());
        let other = json!({"metadata": {"name": "n"}, "spec": {"taints": [
            {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}});
        assert!(project(other, &[]).is_candidate());
    }

    #[test]
    fn point_23_the_first_address_of_the_preferred_type_in_each_family() {
        use AddressType::{ExternalIp, InternalIp};
        assert_eq!(addresses(&[InternalIp]), ["10.0.0.1", "fd00::1"]);
        assert_eq!(addresses(&[ExternalIp]), ["192.0.2.1"]);
        assert_eq!(
            addresses(&[ExternalIp, InternalIp]),
            ["192.0.2.1", "fd00::1"]
        );
    }

    #[test]
    fn point_23_a_type_that_is_a_name_is_refused_with_the_reason() {
        let error = "Hostname".parse::<AddressType>().unwrap_err();
        assert!(error.contains("this type is a name"), "{error}");
        assert_eq!("ExternalIP".parse(), Ok(AddressType::ExternalIp));
    }

    #[test]
    fn point_27_what_churns_in_a_status_is_not_seen() {
        let node = |heartbeat: &str, image: &str| {
            json!({"metadata": {"name": "n", "resourceVersion": heartbeat, "annotations": {"a": image}},
                   "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": heartbeat}],
                              "images": [{"names": [image]}],
                              "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}})
        };
        let one = project(
            node("2026-11-01T00:00:00Z", "a"),
            &[AddressType::InternalIp],
        );
        let two = project(
            node("2026-11-01T00:05:00Z", "b"),
            &[AddressType::InternalIp],
        );
        assert_eq!(one, two);
        assert!(one.ready);
    }
}
