//! The `LoadBalancer`: the durable record of a request and of the addresses it got. What stands in its spec was accepted;
//! so when a later version is refused, the last good one can be read back from here and be kept alive.

use std::{collections::BTreeSet, net::IpAddr};

use berth_common::model::{
    Generation, Ingress, IpFamily, NodeName, Port, Protocol, Service, TrafficPolicy,
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{Id, labels, name};
use crate::api::{
    self, Family, GROUP, LoadBalancer, LoadBalancerPort, LoadBalancerSpec, PortProtocol, Source,
    VERSION,
};

/// Condition: the request is in order.
pub const ACCEPTED: &str = "Accepted";
/// Condition: addresses and backends are in place.
pub const PROGRAMMED: &str = "Programmed";

/// Condition: there are nodes that can take the traffic.
pub const BACKENDS_HEALTHY: &str = "BackendsHealthy";

/// The spec that records a version of a Service. Which nodes have endpoints of their own is not recorded: pods come and go,
/// and each time would cost a write.
pub fn spec(id: &Id, generation: Generation, service: &Service) -> LoadBalancerSpec {
    let ports: Vec<LoadBalancerPort> = service.ports.iter().filter_map(port_to_record).collect();
    let summary: Vec<String> = service
        .ports
        .iter()
        .map(|port| format!("{}/{}", port.port, port.protocol.as_str()))
        .collect();
    LoadBalancerSpec {
        source: Source {
            service: id.key.to_string(),
            uid: service.uid.clone(),
            generation: generation.to_string(),
        },
        ports,
        port_summary: summary.join(","),
        families: service.families.iter().map(family_to_record).collect(),
        require_dual_stack: service.require_dual_stack,
        affinity_seconds: service.affinity_seconds.unwrap_or(0),
        source_ranges: service
            .source_ranges
            .iter()
            .map(ToString::to_string)
            .collect(),
        traffic_policy: match service.traffic_policy {
            TrafficPolicy::Cluster => api::TrafficPolicy::Cluster,
            TrafficPolicy::Local => api::TrafficPolicy::Local,
        },
        requested_ips: service
            .requested_ips
            .iter()
            .map(ToString::to_string)
            .collect(),
        annotations: service.annotations.clone(),
    }
}

/// Whether two specs record the same request. The generation is not compared: it tells which version last changed
/// something here, and a version that changed nothing costs no write.
pub fn same_request(one: &LoadBalancerSpec, other: &LoadBalancerSpec) -> bool {
    let dated = Source {
        generation: other.source.generation.clone(),
        ..one.source.clone()
    };
    // Field by field, for a clone of the whole would be made for every Service at every plan.
    dated == other.source
        && one.ports == other.ports
        && one.port_summary == other.port_summary
        && one.families == other.families
        && one.require_dual_stack == other.require_dual_stack
        && one.affinity_seconds == other.affinity_seconds
        && one.source_ranges == other.source_ranges
        && one.traffic_policy == other.traffic_policy
        && one.requested_ips == other.requested_ips
        && one.annotations == other.annotations
}

/// Reads a recorded request back. `local_nodes` is what the record does not have. `None` where somebody wrote into the
/// record what the hub would not have.
pub fn service(spec: &LoadBalancerSpec, local_nodes: BTreeSet<NodeName>) -> Option<Service> {
    let ports = spec.ports.iter().map(|port| Port {
        name: port.name.clone(),
        protocol: match port.protocol {
            PortProtocol::Tcp => Protocol::Tcp,
            PortProtocol::Udp => Protocol::Udp,
        },
        port: port.port,
        node_port: Some(port.node_port),
        app_protocol: (!port.app_protocol.is_empty()).then(|| port.app_protocol.clone()),
    });
    let families: Vec<IpFamily> = spec.families.iter().map(family_from_record).collect();
    if families.is_empty() || spec.ports.is_empty() {
        return None;
    }
    Some(Service {
        uid: spec.source.uid.clone(),
        ports: ports.collect(),
        families,
        require_dual_stack: spec.require_dual_stack,
        affinity_seconds: (spec.affinity_seconds != 0).then_some(spec.affinity_seconds),
        source_ranges: parse_all(&spec.source_ranges)?,
        traffic_policy: match spec.traffic_policy {
            api::TrafficPolicy::Cluster => TrafficPolicy::Cluster,
            api::TrafficPolicy::Local => TrafficPolicy::Local,
        },
        local_nodes,
        health_check_node_port: None,
        requested_ips: parse_all(&spec.requested_ips)?,
        annotations: spec.annotations.clone(),
    })
}

/// The LoadBalancer to apply.
pub fn manifest(id: &Id, spec: &LoadBalancerSpec) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "LoadBalancer",
        "metadata": {
            "name": name::object(id),
            "namespace": id.tenant.namespace(),
            "labels": labels(id),
        },
        "spec": spec,
    })
}

/// One condition without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionShape {
    /// True or not; the hub never leaves one Unknown.
    pub status: bool,
    /// CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// The status, without times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusShape {
    /// The addresses that belong to this load balancer.
    pub addresses: Vec<Ingress>,
    /// The request is in order.
    pub accepted: ConditionShape,
    /// Addresses and backends are in place.
    pub programmed: ConditionShape,
    /// There are nodes that can take the traffic.
    pub backends_healthy: ConditionShape,
    /// The `metadata.generation` that is spoken of.
    pub observed_generation: i64,
}

impl StatusShape {
    /// The status to apply. A condition that does not change keeps its time.
    pub fn manifest(&self, id: &Id, before: Option<&ObservedStatus>, now: Timestamp) -> Value {
        let condition = |kind: &str, shape: &ConditionShape| {
            let kept = before
                .and_then(|status| status.transitions.iter().find(|t| t.kind == kind))
                .filter(|transition| transition.status == shape.status);
            Condition {
                type_: kind.into(),
                status: if shape.status { "True" } else { "False" }.into(),
                reason: shape.reason.clone(),
                message: shape.message.clone(),
                last_transition_time: Time(kept.map_or(now, |transition| transition.at)),
                observed_generation: Some(self.observed_generation),
            }
        };
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "LoadBalancer",
            "metadata": { "name": name::object(id), "namespace": id.tenant.namespace() },
            "status": {
                "addresses": addresses,
                "conditions": [
                    condition(ACCEPTED, &self.accepted),
                    condition(PROGRAMMED, &self.programmed),
                    condition(BACKENDS_HEALTHY, &self.backends_healthy),
                ],
                "observedGeneration": self.observed_generation,
            },
        })
    }
}

/// When a condition last became what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    kind: String,
    status: bool,
    at: Timestamp,
}

/// A status as observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedStatus {
    /// The hub's part; `None` where the conditions are not the hub's three.
    pub shape: Option<StatusShape>,
    /// The addresses, whatever the conditions are.
    pub addresses: Vec<Ingress>,
    transitions: Vec<Transition>,
}

/// A record as observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedRecord {
    /// What was accepted.
    pub spec: LoadBalancerSpec,
    /// Whether the labels are the hub's.
    pub sound: bool,
    /// `metadata.generation`.
    pub generation: i64,
    /// `None` until one was written.
    pub status: Option<ObservedStatus>,
}

impl ObservedRecord {
    /// Projects an object of the API server's.
    pub fn from_object(id: &Id, object: &LoadBalancer) -> Self {
        let sound = labels(id).iter().all(|(key, value)| {
            object.metadata.labels.as_ref().and_then(|all| all.get(key)) == Some(value)
        });
        Self {
            spec: object.spec.clone(),
            sound,
            generation: object.metadata.generation.unwrap_or(0),
            status: object.status.as_ref().map(read_status),
        }
    }

    /// The addresses on record, which only grow out of what the allocator once gave.
    pub fn addresses(&self) -> &[Ingress] {
        self.status.as_ref().map_or(&[], |status| &status.addresses)
    }
}

fn read_status(status: &api::LoadBalancerStatus) -> ObservedStatus {
    let addresses: Vec<Ingress> = status
        .addresses
        .iter()
        .map(|text| read_address(text))
        .collect();
    let condition = |kind: &str| {
        let found = status.conditions.iter().find(|c| c.type_ == kind)?;
        Some(ConditionShape {
            status: found.status == "True",
            reason: found.reason.clone(),
            message: found.message.clone(),
        })
    };
    let all = [ACCEPTED, PROGRAMMED, BACKENDS_HEALTHY].map(condition);
    let shape = match all {
        [Some(accepted), Some(programmed), Some(backends_healthy)]
            if status.conditions.len() == 3 =>
        {
            Some(StatusShape {
                addresses: addresses.clone(),
                accepted,
                programmed,
                backends_healthy,
                observed_generation: status.observed_generation,
            })
        }
        _ => None,
    };
    let transitions = status.conditions.iter().map(|condition| Transition {
        kind: condition.type_.clone(),
        status: condition.status == "True",
        at: condition.last_transition_time.0,
    });
    ObservedStatus {
        shape,
        addresses,
        transitions: transitions.collect(),
    }
}

fn read_address(text: &str) -> Ingress {
    text.parse::<IpAddr>()
        .map_or_else(|_| Ingress::Hostname(text.into()), Ingress::Ip)
}

fn port_to_record(port: &Port) -> Option<LoadBalancerPort> {
    Some(LoadBalancerPort {
        name: port.name.clone(),
        protocol: match port.protocol {
            Protocol::Tcp => PortProtocol::Tcp,
            Protocol::Udp => PortProtocol::Udp,
            // Refused by the planner before it comes here.
            Protocol::Sctp => return None,
        },
        port: port.port,
        node_port: port.node_port?,
        app_protocol: port.app_protocol.clone().unwrap_or_default(),
    })
}

fn family_to_record(family: &IpFamily) -> Family {
    match family {
        IpFamily::V4 => Family::IPv4,
        IpFamily::V6 => Family::IPv6,
    }
}

fn family_from_record(family: &Family) -> IpFamily {
    match family {
        Family::IPv4 => IpFamily::V4,
        Family::IPv6 => IpFamily::V6,
    }
}

fn parse_all<T: std::str::FromStr, C: FromIterator<T>>(texts: &[String]) -> Option<C> {
    texts.iter().map(|text| text.parse().ok()).collect()
}
