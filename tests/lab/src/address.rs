//! The address plan: which node has which name, address and pod range, and which port a control plane listens on. Pure.

use std::net::Ipv4Addr;

/// The bridge's own address: the lab's root namespace, where the control planes are.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 1);
/// The host beside the clusters.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 10, 3, 1);
/// The addresses that MetalLB hands out, as in the tutorial.
pub const POOL: &str = "10.10.255.200-10.10.255.250";

/// A node with a network namespace of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Its name, and that of its network namespace.
    pub name: &'static str,
    /// The cluster it belongs to.
    pub cluster: &'static str,
    /// Its address on the fabric.
    pub address: Ipv4Addr,
    /// The first three bytes of its pods' addresses.
    pub pods: [u8; 3],
}

/// The nodes of the management cluster and of the tenants `acme` and `bravo`.
pub const NODES: [Node; 6] = [
    node("m1", "management", [1, 1], [10, 43, 1]),
    node("m2", "management", [1, 2], [10, 43, 2]),
    node("a1", "acme", [2, 1], [10, 42, 1]),
    node("a2", "acme", [2, 2], [10, 42, 2]),
    node("b1", "bravo", [4, 1], [10, 41, 1]),
    node("b2", "bravo", [4, 2], [10, 41, 2]),
];

const fn node(name: &'static str, cluster: &'static str, host: [u8; 2], pods: [u8; 3]) -> Node {
    let address = Ipv4Addr::new(10, 10, host[0], host[1]);
    Node {
        name,
        cluster,
        address,
        pods,
    }
}

impl Node {
    /// The nodes of one cluster.
    pub fn of(cluster: &str) -> impl Iterator<Item = &'static Self> {
        NODES.iter().filter(move |node| node.cluster == cluster)
    }

    /// The range of its pods' addresses.
    #[must_use]
    pub fn pod_cidr(&self) -> String {
        let [a, b, c] = self.pods;
        format!("{a}.{b}.{c}.0/24")
    }

    /// The range of all pods of its cluster.
    #[must_use]
    pub fn cluster_cidr(&self) -> String {
        let [a, b, _] = self.pods;
        format!("{a}.{b}.0.0/16")
    }

    /// The address of its `n`th pod; 1 is the node's own side of every link.
    #[must_use]
    pub fn pod(&self, n: u8) -> Ipv4Addr {
        let [a, b, c] = self.pods;
        Ipv4Addr::new(a, b, c, n)
    }
}

/// What one cluster's control plane is told about the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The cluster's place: 0 is management, 1 is `acme`, then further tenants.
    pub index: u16,
    /// The address that the control plane listens on.
    pub address: Ipv4Addr,
    /// The ranges of its Services, one of each IP family.
    pub service_cidr: String,
    /// The address of its Service `kubernetes`.
    pub first_service: Ipv4Addr,
    /// The ports it listens on.
    pub ports: Ports,
}

/// A control plane's ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// etcd, for clients.
    pub etcd: u16,
    /// etcd, for its peers.
    pub peer: u16,
    /// The API server.
    pub api: u16,
    /// The controller manager's health.
    pub controllers: u16,
    /// The scheduler's health.
    pub scheduler: u16,
}

impl Plan {
    /// The plan of the cluster with that place, in namespaces of its own.
    #[must_use]
    pub fn fabric(index: u16) -> Self {
        let base = 16_440 + index * 10;
        let ports = Ports {
            etcd: base,
            peer: base + 1,
            api: base + 3,
            controllers: base + 4,
            scheduler: base + 5,
        };
        Self::new(index, GATEWAY, ports)
    }

    /// The plan of a cluster on the machine's loopback, whose ports were found free.
    #[must_use]
    pub fn loopback(index: u16, ports: Ports) -> Self {
        Self::new(index, Ipv4Addr::LOCALHOST, ports)
    }

    fn new(index: u16, address: Ipv4Addr, ports: Ports) -> Self {
        // Services of clusters without kube-proxy go nowhere, so from 100 on the ranges may repeat.
        let second = 96 + u8::try_from(index % 100).unwrap_or(0);
        Self {
            index,
            address,
            service_cidr: format!("10.{second}.0.0/16,fd10:{second}::/108"),
            first_service: Ipv4Addr::new(10, second, 0, 1),
            ports,
        }
    }

    /// The address of the `n`th hand-made node of a cluster that has no nodes on the fabric.
    #[must_use]
    pub fn imaginary_node(&self, n: u8) -> Ipv4Addr {
        let [high, low] = (self.index * 4).to_be_bytes();
        Ipv4Addr::new(10, 11 + high, low, n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_control_planes_share_a_port() {
        let mut seen = BTreeSet::new();
        for index in 0..200 {
            let p = Plan::fabric(index).ports;
            for port in [p.etcd, p.peer, p.api, p.controllers, p.scheduler] {
                assert!(seen.insert(port), "{port} twice");
            }
        }
    }

    #[test]
    fn nodes_know_their_ranges() {
        let a2 = NODES[3];
        assert_eq!(a2.pod_cidr(), "10.42.2.0/24");
        assert_eq!(a2.cluster_cidr(), "10.42.0.0/16");
        assert_eq!(a2.pod(10).to_string(), "10.42.2.10");
        assert_eq!(Node::of("management").count(), 2);
    }

    #[test]
    fn imaginary_nodes_differ_between_tenants() {
        let addresses: BTreeSet<_> = (2..200)
            .flat_map(|index| (1..=3).map(move |n| Plan::fabric(index).imaginary_node(n)))
            .collect();
        assert_eq!(addresses.len(), 198 * 3);
    }
}
