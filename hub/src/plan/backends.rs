//! Which addresses may receive a tenant's traffic: the part that no policy opens. Addresses that mean the management
//! cluster's own machine, its link, or a cloud's metadata service would turn a load balancer into a way in
//! (CVE-2021-25737, CVE-2020-8562).

use std::{collections::BTreeSet, net::IpAddr};

use berth_common::{
    model::{IpFamily, Node, Service, TrafficPolicy},
    wire::Refusal,
};
use ipnet::IpNet;

use super::{Nodes, Observed, Policy};
use crate::policy::{Barred, NodeRules, Unfit};

/// What each range is, and the range. The embedding ones are denied whole: what they lead to is not to be seen.
const DENIED: [(&str, &str); 18] = [
    ("the unspecified address", "0.0.0.0/8"),
    ("a loopback address", "127.0.0.0/8"),
    ("a link-local address", "169.254.0.0/16"),
    ("a cloud's metadata address", "100.100.100.200/32"),
    ("a cloud's metadata address", "192.0.0.192/32"),
    ("a multicast address", "224.0.0.0/4"),
    ("a reserved address", "240.0.0.0/4"),
    ("the unspecified address", "::/128"),
    ("a loopback address", "::1/128"),
    ("an IPv4 address in IPv6", "::/96"),
    ("an IPv4 address in IPv6", "::ffff:0:0/96"),
    ("a NAT64 address", "64:ff9b::/96"),
    ("a NAT64 address", "64:ff9b:1::/48"),
    ("a Teredo address", "2001::/32"),
    ("a 6to4 address", "2002::/16"),
    ("a cloud's metadata address", "fd00:ec2::254/128"),
    ("a link-local address", "fe80::/10"),
    ("a multicast address", "ff00::/8"),
];

/// What kind of address this is, where it is one that is never allowed.
pub fn denied(ip: &IpAddr) -> Option<&'static str> {
    static TABLE: std::sync::LazyLock<Vec<(&str, IpNet)>> = std::sync::LazyLock::new(|| {
        let parse = |(what, range): &(&'static str, &str)| Some((*what, range.parse().ok()?));
        // That none is lost here is tested.
        DENIED.iter().filter_map(parse).collect()
    });
    TABLE
        .iter()
        .find(|(_, range)| range.contains(ip))
        .map(|(what, _)| *what)
}

/// Whether a node may be a backend. A refused one is left out of every load balancer; the rest of the tenant is served.
pub fn check_node(node: &Node) -> Result<(), Refusal> {
    for ip in &node.addresses {
        if let Some(what) = denied(ip) {
            return Err(Unfit::Never(what).refusal(ip));
        }
    }
    Ok(())
}

/// Which addresses of a tenant's nodes may receive traffic.
#[derive(Clone, Copy, Debug)]
pub struct Fitness<'a> {
    /// Its rules.
    pub rules: &'a NodeRules,
    /// What was found of its nodes beyond that. `None`: nobody has looked.
    pub barred: Option<&'a Barred>,
}

impl<'a> Fitness<'a> {
    pub(super) fn new(policy: &'a Policy, observed: &'a Observed) -> Self {
        Self {
            rules: &policy.nodes,
            barred: observed.barred.as_deref(),
        }
    }

    /// The addresses of a node that may. One that no node has (a loopback address) says that the node is not to be trusted
    /// with the others.
    pub fn usable(self, node: &Node) -> impl Iterator<Item = IpAddr> {
        let trusted = check_node(node).is_ok();
        let addresses = node.addresses.iter().copied();
        addresses.filter(move |ip| trusted && self.unfit(ip).is_none())
    }

    /// Why an address may not be, where it is one that nodes have.
    fn unfit(self, ip: &IpAddr) -> Option<Unfit> {
        let unfit = self.rules.unfit(ip);
        match self.barred {
            // Whoever has looked knows what of that has been there before.
            Some(barred) => unfit
                .filter(|unfit| *unfit != Unfit::Outside)
                .or_else(|| barred.get(ip).copied()),
            None => unfit,
        }
    }

    /// How many nodes have an address of these families that may not be, and reason and explanation of the first.
    pub(super) fn left_out(
        self,
        nodes: &Nodes,
        families: &[IpFamily],
    ) -> Option<(&'static str, usize, String)> {
        // Whoever has looked has found all of them.
        if self.barred.is_some_and(Barred::is_empty) {
            return None;
        }
        let why = |node: &'_ Node| {
            let addresses = node.addresses.iter().copied();
            let unfit = addresses.map(|ip| (ip, denied(&ip).map(Unfit::Never), self.unfit(&ip)));
            let mut unfit = unfit.filter_map(|(ip, never, unfit)| {
                let counts = families.contains(&IpFamily::of(&ip));
                Some((ip, never.or(unfit.filter(|_| counts))?))
            });
            unfit.next()
        };
        let mut all = nodes
            .iter()
            .filter_map(|(name, node)| Some((name, why(node)?)));
        let (name, (ip, unfit)) = all.next()?;
        let why = format!("node {}: {}", name.0, unfit.explain(&ip));
        Some((unfit.reason(), 1 + all.count(), why))
    }
}

/// The backends of a Service in one family: the nodes' addresses, with `externalTrafficPolicy: Local` only those of nodes
/// that have endpoints.
pub(super) fn of_family(
    nodes: &Nodes,
    fitness: Fitness<'_>,
    service: &Service,
    family: IpFamily,
) -> BTreeSet<IpAddr> {
    nodes
        .iter()
        .filter(|(name, _)| {
            service.traffic_policy == TrafficPolicy::Cluster || service.local_nodes.contains(*name)
        })
        .flat_map(|(_, node)| usable(node, fitness, family))
        .collect()
}

/// Whether any node has an address of any of these families.
pub(super) fn any(nodes: &Nodes, fitness: Fitness<'_>, families: &[IpFamily]) -> bool {
    let mut nodes = nodes.values();
    nodes.any(|node| {
        families
            .iter()
            .any(|family| usable(node, fitness, *family).next().is_some())
    })
}

fn usable(node: &Node, fitness: Fitness<'_>, family: IpFamily) -> impl Iterator<Item = IpAddr> {
    fitness
        .usable(node)
        .filter(move |ip| IpFamily::of(ip) == family)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(ip: &str) -> bool {
        let addresses = BTreeSet::from([ip.parse().unwrap()]);
        check_node(&Node { addresses }).is_err()
    }

    #[test]
    fn the_whole_table_is_read() {
        let readable = DENIED
            .iter()
            .filter(|(_, range)| range.parse::<IpNet>().is_ok());
        assert_eq!(readable.count(), DENIED.len());
    }

    #[test]
    fn hostile_50_loopback_and_unspecified_are_no_backends() {
        for ip in [
            "127.0.0.1",
            "127.255.255.254",
            "::1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
        ] {
            assert!(refused(ip), "{ip}");
        }
    }

    #[test]
    fn hostile_51_link_local_and_metadata_are_no_backends() {
        for ip in ["169.254.0.1", "169.254.169.254", "fe80::1", "fd00:ec2::254"] {
            assert!(refused(ip), "{ip}");
        }
        assert!(!refused("fd00:ec2::253"));
    }

    #[test]
    fn hostile_52_multicast_broadcast_and_class_e_are_no_backends() {
        for ip in [
            "224.0.0.1",
            "239.1.1.1",
            "255.255.255.255",
            "240.0.0.1",
            "ff02::1",
        ] {
            assert!(refused(ip), "{ip}");
        }
    }

    #[test]
    fn hostile_53_what_embeds_another_address_is_no_backend() {
        for ip in [
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::1",
        ] {
            assert!(refused(ip), "{ip}");
        }
    }

    #[test]
    fn ordinary_addresses_are_backends() {
        for ip in [
            "10.10.2.1",
            "192.168.0.1",
            "203.0.113.9",
            "fd12::1",
            "2001:db8::1",
        ] {
            assert!(!refused(ip), "{ip}");
        }
    }
}
