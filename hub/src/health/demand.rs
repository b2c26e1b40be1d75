//! What is to be probed for a tenant: the addresses that its Services have or could have as backends, and a few node ports
//! that the hub may knock at. Never anything that could not be a backend. Pure.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use berth_common::model::{IpFamily, Protocol, Service, TrafficPolicy};

use super::Policy;
use crate::plan::{self, Nodes};

/// How many node ports are kept: one of them may have nobody behind it, and drop what comes.
const PORTS: usize = 3;

/// What is to be probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// How.
    pub policy: Policy,
    /// The addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// TCP node ports of the tenant that every node serves.
    pub ports: Vec<u16>,
}

/// What is to be probed for these Services.
pub fn demand(policy: Policy, services: &[Arc<Service>], nodes: &Nodes) -> Demand {
    let families: HashSet<IpFamily> = services
        .iter()
        .flat_map(|service| service.families.iter().copied())
        .collect();
    let addresses = nodes
        .values()
        .filter(|node| plan::check_node(node).is_ok())
        .flat_map(|node| &node.addresses)
        .filter(|ip| families.contains(&IpFamily::of(ip)));
    // With the policy Local, a node refuses or drops what has no endpoint there, and that says nothing about the node.
    let ports: BTreeSet<u16> = services
        .iter()
        .filter(|service| service.traffic_policy == TrafficPolicy::Cluster)
        .flat_map(|service| &service.ports)
        .filter(|port| port.protocol == Protocol::Tcp)
        .filter_map(|port| port.node_port)
        .filter(|port| plan::is_node_port(*port))
        .collect();
    Demand {
        policy,
        addresses: addresses.copied().collect(),
        ports: ports.into_iter().take(PORTS).collect(),
    }
}

#[cfg(test)]
mod tests {
    use berth_common::model::{Node, NodeName, Port};

    use super::*;

    fn service(
        families: &[IpFamily],
        policy: TrafficPolicy,
        ports: &[(Protocol, u16)],
    ) -> Arc<Service> {
        let port = |(protocol, number): &(Protocol, u16)| Port {
            name: String::new(),
            protocol: *protocol,
            port: 80,
            node_port: Some(*number),
            app_protocol: None,
        };
        Arc::new(Service {
            uid: "u".into(),
            ports: ports.iter().map(port).collect(),
            families: families.to_vec(),
            require_dual_stack: false,
            affinity_seconds: None,
            source_ranges: BTreeSet::new(),
            traffic_policy: policy,
            local_nodes: BTreeSet::new(),
            health_check_node_port: None,
            requested_ips: Vec::new(),
            annotations: Default::default(),
        })
    }

    fn nodes(addresses: &[&str]) -> Nodes {
        let node = |(index, ip): (usize, &&str)| {
            let addresses = BTreeSet::from([ip.parse().unwrap()]);
            (NodeName(format!("n{index}")), Node { addresses })
        };
        addresses.iter().enumerate().map(node).collect()
    }

    #[test]
    fn hostile_50_only_what_may_be_a_backend_is_probed() {
        let services = [service(
            &[IpFamily::V4],
            TrafficPolicy::Cluster,
            &[(Protocol::Tcp, 30_001)],
        )];
        let nodes = nodes(&["10.0.0.1", "127.0.0.1", "169.254.169.254", "2001:db8::1"]);
        let demand = demand(Policy::default(), &services, &nodes);
        assert_eq!(
            demand.addresses,
            BTreeSet::from(["10.0.0.1".parse().unwrap()]),
            "of the Services' families"
        );
        assert_eq!(demand.ports, [30_001]);
    }

    #[test]
    fn only_ports_that_every_node_serves_are_knocked_at() {
        let v4 = [IpFamily::V4];
        let services = [
            service(&v4, TrafficPolicy::Local, &[(Protocol::Tcp, 30_001)]),
            service(
                &v4,
                TrafficPolicy::Cluster,
                &[
                    (Protocol::Udp, 30_002),
                    (Protocol::Tcp, 10_250),
                    (Protocol::Tcp, 22),
                ],
            ),
            service(
                &v4,
                TrafficPolicy::Cluster,
                &[(Protocol::Tcp, 30_009), (Protocol::Tcp, 30_003)],
            ),
        ];
        assert_eq!(
            demand(Policy::default(), &services, &Nodes::new()).ports,
            [30_003, 30_009]
        );
    }

    #[test]
    fn a_tenant_without_services_is_not_probed() {
        let demand = demand(Policy::default(), &[], &nodes(&["10.0.0.1"]));
        assert!(demand.addresses.is_empty());
    }
}
