//! What Berth speaks of: Services, nodes, and what became of them. Plain values without Kubernetes, protobuf or IO in
//! them; whoever holds one may trust it, for the ways in (`wire`, the agent's projections) have checked it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;

/// A Service's name within its tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The tenant cluster's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
}

impl ServiceKey {
    /// A key from its two names.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A node's name within its tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(pub String);

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A resource's name within its tenant, whatever its kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// A node. Sorts before Services, so that a snapshot's nodes are known before anything needs them.
    Node(NodeName),
    /// A Service.
    Service(ServiceKey),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::Service(key) => write!(f, "service {key}"),
        }
    }
}

/// The number of one version of a resource; compared only for equality.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A Service of type LoadBalancer as its tenant wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `metadata.uid` in the tenant cluster.
    pub uid: String,
    /// In the order of the Service's spec.
    pub ports: Vec<Port>,
    /// `spec.ipFamilies`, in order.
    pub families: Vec<IpFamily>,
    /// `spec.ipFamilyPolicy: RequireDualStack`.
    pub require_dual_stack: bool,
    /// `spec.sessionAffinity: ClientIP` with its timeout in seconds.
    pub affinity_seconds: Option<u32>,
    /// Who may connect; empty is everyone.
    pub source_ranges: BTreeSet<IpNet>,
    /// `spec.externalTrafficPolicy`.
    pub traffic_policy: TrafficPolicy,
    /// With [`TrafficPolicy::Local`]: the nodes that have endpoints of their own.
    pub local_nodes: BTreeSet<NodeName>,
    /// `spec.healthCheckNodePort`.
    pub health_check_node_port: Option<u16>,
    /// Addresses asked for.
    pub requested_ips: Vec<IpAddr>,
    /// Annotations that may be for the management Service to have.
    pub annotations: BTreeMap<String, String>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Empty where a Service has a single, unnamed port.
    pub name: String,
    /// Layer 4 protocol.
    pub protocol: Protocol,
    /// The port that clients connect to; never 0.
    pub port: u16,
    /// The port on the tenant's nodes, where the tenant's cluster has allocated one.
    pub node_port: Option<u16>,
    /// `appProtocol`.
    pub app_protocol: Option<String>,
}

/// A layer 4 protocol that Kubernetes knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The name that the Kubernetes API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum IpFamily {
    V4,
    V6,
}

impl IpFamily {
    /// The name that the Kubernetes API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The family of an address.
    pub fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// `spec.externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrafficPolicy {
    /// Every node forwards to every endpoint.
    Cluster,
    /// A node forwards only to its own endpoints.
    Local,
}

/// A node that may receive load-balanced traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// At most one address per family, chosen by the agent.
    pub addresses: BTreeSet<IpAddr>,
}

/// What travels under a [`Key`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Under [`Key::Service`].
    Service(Service),
    /// Under [`Key::Node`].
    Node(Node),
}

/// A body and its number. (Its key stands beside it wherever it is kept.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The number of this version.
    pub generation: Generation,
    /// The content.
    pub body: T,
}

/// One address of a load balancer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ingress {
    /// An address.
    Ip(IpAddr),
    /// A name, as some clouds give.
    Hostname(String),
}

impl fmt::Display for Ingress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Hostname(name) => name.fmt(f),
        }
    }
}

/// Why something is not as it was asked for: a word for machines, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// CamelCase, stable; the reason of conditions and events.
    pub reason: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl Reason {
    /// A reason from its word and sentence.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// What became of one version of one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Addresses are allocated and backends are programmed.
    Programmed,
    /// Accepted; something is still missing.
    Pending(Reason),
    /// Not accepted as it is; nothing of it was applied.
    Refused {
        /// The field at fault, as a path in the Kubernetes object.
        field: String,
        /// Why.
        why: Reason,
    },
    /// The load balancer does not exist (any more).
    Deleted,
}

/// The hub's answer about one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The version that is answered.
    pub generation: Generation,
    /// What became of it.
    pub outcome: Outcome,
    /// The load balancer's addresses, also of an earlier version that is still served.
    pub ingress: Vec<Ingress>,
}

impl Answer {
    /// Nothing of the resource is left.
    pub fn deleted(generation: Generation) -> Self {
        Self {
            generation,
            outcome: Outcome::Deleted,
            ingress: Vec::new(),
        }
    }
}
