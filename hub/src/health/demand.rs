//! What is to be probed for a tenant: the addresses that its Services have or could have as backends, and a few node ports
//! that the hub may knock at. Never anything that could not be a backend. Pure.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use berth_common::model::{IpFamily, Protocol, Service, TrafficPolicy};

use super::Policy;
use crate::plan::{self, Fitness, Nodes};

/// How many ports are kept: one of them may have nobody behind it, and drop what comes.
const PORTS: usize = 3;

/// What is to be probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// How.
    pub policy: Policy,
    /// The addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// TCP ports of the tenant's node-port range that every node serves, the most telling first.
    pub ports: Vec<u16>,
}

/// What is to be probed for these Services.
pub fn demand(
    policy: Policy,
    services: &[Arc<Service>],
    nodes: &Nodes,
    fitness: Fitness<'_>,
) -> Demand {
    let families: HashSet<IpFamily> = services
        .iter()
        .flat_map(|service| service.families.iter().copied())
        .collect();
    let addresses = nodes
        .values()
        .flat_map(|node| fitness.usable(node))
        .filter(|ip| families.contains(&IpFamily::of(ip)));
    let of_policy = |policy| {
        let services = services.iter();
        services.filter(move |service| service.traffic_policy == policy)
    };
    // With the policy Local, a node refuses or drops what has no endpoint there, and that says nothing about the node. But there
    // is a port at which the node's kube-proxy itself answers, whether with 200 or, without endpoints, with 503. That is taken
    // rather than a node port, behind which may be a pod of another node: it is that node then whose silence is heard.
    let health =
        of_policy(TrafficPolicy::Local).filter_map(|service| service.health_check_node_port);
    let node = of_policy(TrafficPolicy::Cluster)
        .flat_map(|service| &service.ports)
        .filter(|port| port.protocol == Protocol::Tcp)
        .filter_map(|port| port.node_port);
    Demand {
        policy,
        addresses: addresses.collect(),
        ports: lowest(health, fitness)
            .chain(lowest(node, fitness))
            .take(PORTS)
            .collect(),
    }
}

/// Those that may be knocked at, in order, so that the same Services always give the same ones.
fn lowest(ports: impl Iterator<Item = u16>, fitness: Fitness<'_>) -> impl Iterator<Item = u16> {
    let may_be = |port: &u16| plan::is_node_port(*port) && fitness.rules.has_port(*port);
    let ports: BTreeSet<u16> = ports.filter(may_be).collect();
    ports.into_iter()
}

#[cfg(test)]
mod tests {
    use berth_common::model::{Node, NodeName, Port};

    use super::*;
    use crate::policy::{Barred, NodePorts, NodeRules, Unfit};

    fn demand(policy: Policy, services: &[Arc<Service>], nodes: &Nodes) -> Demand {
        let fitness = Fitness {
            rules: &NodeRules::default(),
            barred: None,
        };
        super::demand(policy, services, nodes, fitness)
    }

    #[test]
    fn hostile_54_and_55_what_is_somebody_elses_is_not_probed() {
        let port = |number| (Protocol::Tcp, number);
        let services = [service(
            &[IpFamily::V4],
            TrafficPolicy::Cluster,
            &[port(30_001), port(29_999)],
        )];
        let nodes = nodes(&["10.0.0.1", "10.0.0.2", "10.9.0.1", "10.10.0.1"]);
        let rules = NodeRules {
            allowed: vec!["10.0.0.0/12".parse().unwrap()],
            ports: NodePorts::parse("30000-32767"),
            management: ["10.9.0.0/16".parse().unwrap()].into(),
            ..NodeRules::default()
        };
        let barred = Barred::from([("10.0.0.2".parse().unwrap(), Unfit::OtherTenant)]);
        let fitness = Fitness {
            rules: &rules,
            barred: Some(&barred),
        };
        let demand = super::demand(Policy::default(), &services, &nodes, fitness);
        let probed = ["10.0.0.1", "10.10.0.1"].map(|ip| ip.parse().unwrap());
        assert_eq!(demand.addresses, BTreeSet::from(probed));
        assert_eq!(demand.ports, [30_001]);
    }

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
    fn point_24_the_health_check_port_of_local_services_is_served_by_every_node_and_comes_first() {
        let with_health_port = |policy, port| {
            let of = service(&[IpFamily::V4], policy, &[(Protocol::Tcp, 30_001)]);
            Arc::new(Service {
                health_check_node_port: Some(port),
                ..(*of).clone()
            })
        };
        let services = [
            with_health_port(TrafficPolicy::Cluster, 32_000),
            with_health_port(TrafficPolicy::Local, 32_002),
            with_health_port(TrafficPolicy::Local, 32_001),
            // What a tenant may say, and no API server would.
            with_health_port(TrafficPolicy::Local, 22),
        ];
        assert_eq!(
            demand(Policy::default(), &services, &Nodes::new()).ports,
            [32_001, 32_002, 30_001]
        );
    }

    #[test]
    fn a_tenant_without_services_is_not_probed() {
        let demand = demand(Policy::default(), &[], &nodes(&["10.0.0.1"]));
        assert!(demand.addresses.is_empty());
    }
}
