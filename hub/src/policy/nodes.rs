//! Which addresses and ports of a tenant's nodes may receive traffic, as far as it can be said without looking at anybody else:
//! the Tenant's own lists, and the addresses of the management cluster, which no Tenant opens.

use std::{fmt, net::IpAddr, sync::Arc};

use berth_common::wire::Refusal;
use ipnet::IpNet;

use crate::plan::denied;

/// What may be a backend of a tenant's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeRules {
    /// Where its nodes are. Empty: anywhere.
    pub allowed: Vec<IpNet>,
    /// Which node ports its Services may have. `None`: all that are none of the node's own.
    pub ports: Option<NodePorts>,
    /// The management cluster's own addresses.
    pub management: Arc<[IpNet]>,
    /// How much of it.
    pub quotas: Quotas,
    /// What is beyond the Tenant's lists and quotas is withdrawn also where it is there already.
    pub enforce: bool,
}

/// How much a tenant may have. `None`: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Ports of one load balancer.
    pub ports_per_load_balancer: Option<usize>,
    /// Nodes that receive traffic.
    pub nodes: Option<usize>,
}

/// A range of node ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePorts {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl NodePorts {
    /// Reads `30000-32767`, as kube-apiserver's `--service-node-port-range` is written.
    pub fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        let range = Self {
            first: first.parse().ok()?,
            last: last.parse().ok()?,
        };
        (range.first <= range.last).then_some(range)
    }
}

impl fmt::Display for NodePorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Why an address of a node receives no traffic. It says nothing that a tenant must not know: not who the other is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unfit {
    /// No address of any node: a loopback address, for instance.
    Never(&'static str),
    /// The management cluster's own.
    Management,
    /// Not where the Tenant says that its nodes are.
    Outside,
    /// A load balancer has it.
    LoadBalancer,
    /// A node of another tenant has it.
    OtherTenant,
    /// Its node is one more than the tenant may have.
    Quota(usize),
}

impl Unfit {
    /// The value of the label `reason` of the metric that counts them.
    pub fn label(self) -> &'static str {
        match self {
            Self::Never(_) => "never",
            Self::Management => "management",
            Self::Outside => "outside",
            Self::LoadBalancer => "load_balancer",
            Self::OtherTenant => "other_tenant",
            Self::Quota(_) => "quota",
        }
    }

    /// The reason of a condition.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Quota(_) => "QuotaExceeded",
            _ => "AddressNotAllowed",
        }
    }

    /// What it is, and what to do.
    pub fn explain(self, ip: &IpAddr) -> String {
        match self {
            Self::Never(what) => format!(
                "{ip} is {what} and can be no backend: give the node an address of its network"
            ),
            Self::Management => format!(
                "{ip} is an address of the management cluster's own and can be no backend: give the node an address of its \
                 network"
            ),
            Self::Outside => format!(
                "{ip} is not among the node addresses that this cluster may have: give the node another, or ask the operator \
                 (nodeCIDRs)"
            ),
            Self::LoadBalancer => format!(
                "{ip} is the address of a load balancer and can be no backend: give the node an address of its network"
            ),
            Self::OtherTenant => format!(
                "{ip} is the address of a node of another cluster, which had it first: give the node an address of its own, or \
                 ask the operator"
            ),
            Self::Quota(nodes) => format!(
                "{ip} is of one node more than the {nodes} that may receive traffic: label nodes with \
                 node.kubernetes.io/exclude-from-external-load-balancers, or ask the operator (quotas.nodes)"
            ),
        }
    }

    /// As it is told.
    pub fn refusal(self, ip: &IpAddr) -> Refusal {
        Refusal {
            field: "status.addresses".into(),
            reason: "AddressNotAllowed",
            message: self.explain(ip),
        }
    }
}

impl NodeRules {
    /// Why an address may be no backend, if so.
    pub fn judge(&self, ip: &IpAddr) -> Option<Unfit> {
        denied(ip).map(Unfit::Never).or_else(|| self.unfit(ip))
    }

    /// The same of an address that nodes have: one that is not among those that no node has ([`Unfit::Never`]).
    pub fn unfit(&self, ip: &IpAddr) -> Option<Unfit> {
        let within = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(ip));
        if within(&self.management) {
            return Some(Unfit::Management);
        }
        let outside = !self.allowed.is_empty() && !within(&self.allowed);
        outside.then_some(Unfit::Outside)
    }

    /// Whether a port, which is none of the node's own, may be a Service's.
    pub fn has_port(&self, number: u16) -> bool {
        let inside = |range: NodePorts| (range.first..=range.last).contains(&number);
        self.ports.is_none_or(inside)
    }
}

/// Reads addresses and CIDRs, separated by commas or blanks.
///
/// # Errors
/// The first that is neither.
pub fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    text.split([',', ' '])
        .filter(|part| !part.is_empty())
        .map(|part| {
            let address = || part.parse::<IpAddr>().map(IpNet::from);
            part.parse::<IpNet>()
                .or_else(|_| address())
                .map_err(|_| part.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn hostile_54_what_is_managements_own_is_no_backend_and_no_tenant_opens_it() {
        let rules = NodeRules {
            allowed: networks("0.0.0.0/0,::/0").unwrap(),
            management: networks("10.0.0.0/16, 10.96.0.1 fd00:1::/64")
                .unwrap()
                .into(),
            ..NodeRules::default()
        };
        for own in ["10.0.3.4", "10.96.0.1", "fd00:1::7"] {
            assert_eq!(rules.judge(&ip(own)), Some(Unfit::Management), "{own}");
        }
        for other in ["10.1.0.1", "10.96.0.2", "fd00:2::7"] {
            assert_eq!(rules.judge(&ip(other)), None, "{other}");
        }
        assert_eq!(
            rules.judge(&ip("127.0.0.1")),
            Some(Unfit::Never("a loopback address")),
            "whatever the Tenant allows"
        );
    }

    #[test]
    fn a_tenants_nodes_are_where_it_says() {
        let rules = NodeRules {
            allowed: networks("10.10.0.0/16").unwrap(),
            ..NodeRules::default()
        };
        assert_eq!(rules.unfit(&ip("10.10.2.1")), None);
        assert_eq!(rules.unfit(&ip("10.11.2.1")), Some(Unfit::Outside));
        assert_eq!(rules.unfit(&ip("fd00::1")), Some(Unfit::Outside));
        assert_eq!(NodeRules::default().unfit(&ip("10.11.2.1")), None);
    }

    #[test]
    fn ranges_read_as_kubernetes_writes_them() {
        let range = NodePorts::parse("30000-32767").unwrap();
        assert_eq!(range.to_string(), "30000-32767");
        let rules = NodeRules {
            ports: Some(range),
            ..NodeRules::default()
        };
        assert!(rules.has_port(30_000) && rules.has_port(32_767));
        assert!(!rules.has_port(29_999) && !rules.has_port(32_768));
        for bad in ["30000", "2-1", "1-70000", "a-b", ""] {
            assert_eq!(NodePorts::parse(bad), None, "{bad}");
        }
        assert_eq!(networks("10.0.0.0/8,nonsense"), Err("nonsense".to_owned()));
        assert_eq!(networks(""), Ok(Vec::new()));
    }
}
