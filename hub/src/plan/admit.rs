//! Whether a well-formed request can be granted: what the data path can carry, which node ports lead where they should,
//! and which addresses the tenant may ask for. The first fault is told; others show when that one is mended.

use std::{collections::BTreeSet, net::IpAddr};

use berth_common::{
    model::{IpFamily, Protocol, Service},
    wire::Refusal,
};

use super::{Policy, is_unicast, refuse};
use crate::policy::QUOTA_EXCEEDED;

/// Where a Service asks for addresses.
const REQUESTED: &str = "spec.loadBalancerIP";

/// The lowest port that a tenant's node may be reached at.
const LOWEST_NODE_PORT: u16 = 1_024;

/// Ports at which a node serves itself: etcd, the API server, kubelet, kube-proxy, scheduler and controller manager. No
/// Service is behind them, and a load balancer must be no way to them.
const NODES_OWN_PORTS: [u16; 10] = [
    2379, 2380, 6443, 10248, 10249, 10250, 10255, 10256, 10257, 10259,
];

/// Whether a port of a tenant's node may be a Service's.
pub fn is_node_port(number: u16) -> bool {
    number >= LOWEST_NODE_PORT && !NODES_OWN_PORTS.contains(&number)
}

/// The reason of a refusal that time may mend.
pub(super) const IN_USE: &str = "AddressInUse";

/// Looks at what is asked for. `known` are the addresses that the load balancer already has, `taken` those that another
/// tenant's has.
pub(super) fn admit(
    service: &Service,
    policy: &Policy,
    known: &BTreeSet<IpAddr>,
    taken: &BTreeSet<IpAddr>,
) -> Result<(), Refusal> {
    carried(service)?;
    of_its_families(service)?;
    permitted(service, policy)?;
    fixed(service, known, taken)
}

/// Whether the data path can carry it, whatever the operator allows.
fn carried(service: &Service) -> Result<(), Refusal> {
    for (index, port) in service.ports.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        if port.protocol == Protocol::Sctp {
            return Err(refuse(
                field("protocol"),
                "UnsupportedProtocol",
                "SCTP is not carried: use TCP or UDP",
            ));
        }
        match port.node_port {
            None => {
                return Err(refuse(
                    field("nodePort"),
                    "NodePortMissing",
                    "the port has no node port, by which it would be reached: set spec.allocateLoadBalancerNodePorts to true",
                ));
            }
            Some(number) if !is_node_port(number) => {
                return Err(refuse(
                    field("nodePort"),
                    "NodePortOutOfRange",
                    format!(
                        "{number} is a port of the node's own: use one of the cluster's node-port range"
                    ),
                ));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Whether the operator's policy allows it, as far as that can be said of a Service by itself: how many ports it has, which
/// node ports, and which addresses it asks for. What exists already is held against it as well.
///
/// # Errors
/// What does not fit, and which field of the Tenant decides it.
pub fn permitted(service: &Service, policy: &Policy) -> Result<(), Refusal> {
    let ports = service.ports.len();
    if let Some(most) = policy.nodes.quotas.ports_per_load_balancer
        && ports > most
    {
        return Err(refuse(
            "spec.ports",
            QUOTA_EXCEEDED,
            format!(
                "the Service has {ports} ports, and {most} is what one load balancer of this cluster may have: use fewer, or ask \
                 the operator (quotas.portsPerLoadBalancer)"
            ),
        ));
    }
    for (index, port) in service.ports.iter().enumerate() {
        let range = policy.nodes.ports.map(|range| range.to_string());
        match (port.node_port, range) {
            (Some(number), Some(range)) if !policy.nodes.has_port(number) => {
                return Err(refuse(
                    format!("spec.ports[{index}].nodePort"),
                    "NodePortOutOfRange",
                    format!(
                        "{number} is not among the node ports that this cluster may have ({range}): use another, or ask the operator \
                         (nodePortRange)"
                    ),
                ));
            }
            _ => {}
        }
    }
    for ip in &service.requested_ips {
        if !is_unicast(ip) || !policy.requestable.iter().any(|range| range.contains(ip)) {
            return Err(refuse(
                REQUESTED,
                "AddressNotAllowed",
                format!(
                    "{ip} is not among the addresses that this cluster may ask for: leave it out, or ask the operator (requestableIPs)"
                ),
            ));
        }
    }
    Ok(())
}

/// Whether the addresses that it asks for are of its families.
fn of_its_families(service: &Service) -> Result<(), Refusal> {
    let asked: Vec<IpFamily> = service.requested_ips.iter().map(IpFamily::of).collect();
    // An allocator takes a request for all of a Service's families or for the primary one.
    let lacks = |family: &IpFamily| !asked.contains(family);
    if !asked.is_empty()
        && (service.families.first().is_some_and(lacks)
            || service.require_dual_stack && service.families.iter().any(lacks)
            || asked
                .iter()
                .any(|family| !service.families.contains(family)))
    {
        return Err(refuse(
            REQUESTED,
            "AddressOfWrongFamily",
            "the addresses asked for are not of the Service's families: ask for one of its primary family, and with RequireDualStack for one of each",
        ));
    }
    Ok(())
}

/// Whether it asks for no other addresses than those that it has, or that nobody else has.
fn fixed(
    service: &Service,
    known: &BTreeSet<IpAddr>,
    taken: &BTreeSet<IpAddr>,
) -> Result<(), Refusal> {
    for ip in &service.requested_ips {
        if !known.is_empty() && !known.contains(ip) {
            let known: Vec<String> = known.iter().map(ToString::to_string).collect();
            return Err(refuse(
                REQUESTED,
                "AddressFixed",
                format!(
                    "the load balancer has {} and keeps it: for another address delete the Service and create it again",
                    known.join(" and ")
                ),
            ));
        }
        // The allocator would say so, too, and whose it is besides.
        if known.is_empty() && taken.contains(ip) {
            return Err(refuse(
                REQUESTED,
                IN_USE,
                format!("{ip} is in use by another cluster: ask for another address, or for none"),
            ));
        }
    }
    Ok(())
}
