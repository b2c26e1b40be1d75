//! `LoadBalancer`: what one Service of a tenant asked for, and what it got. Written by the hub alone; people read it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What one Service of a tenant asked for, in the form in which the hub last accepted it. Written by the hub; a change by
/// hand is undone.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[kube(
    group = "berth.dev",
    version = "v1alpha1",
    kind = "LoadBalancer",
    plural = "loadbalancers",
    shortname = "blb",
    category = "berth",
    namespaced,
    status = "LoadBalancerStatus",
    doc = "A load balancer that one Service of a tenant cluster asked for: the durable record of its request and its addresses.",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Service", "type": "string", "jsonPath": ".spec.source.service", "description": "The Service in the tenant cluster"}"#,
    printcolumn = r#"{"name": "Address", "type": "string", "jsonPath": ".status.addresses[0]", "description": "The first address"}"#,
    printcolumn = r#"{"name": "Ports", "type": "string", "jsonPath": ".spec.portSummary", "description": "The ports that clients connect to"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Programmed\")].status", "description": "Whether address and backends are in place"}"#,
    printcolumn = r#"{"name": "Healthy", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"BackendsHealthy\")].status", "description": "Whether there are nodes that can take the traffic"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Programmed\")].reason", "description": "Why it is or is not ready"}"#,
    printcolumn = r#"{"name": "Second-Address", "type": "string", "jsonPath": ".status.addresses[1]", "description": "The address of the other family", "priority": 1}"#,
    printcolumn = r#"{"name": "Message", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Programmed\")].message", "description": "The same in a sentence", "priority": 1}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerSpec {
    /// The Service that asked.
    #[x_kube(
        validation = Rule::new("self.service == oldSelf.service").message("a load balancer belongs to one Service for good")
    )]
    pub source: Source,
    /// The ports that clients connect to, and where on the tenant's nodes each leads.
    #[schemars(length(min = 1, max = 1000))]
    pub ports: Vec<LoadBalancerPort>,
    /// `ports` in one line, such as `80/TCP,443/TCP`, for `kubectl get`, which cannot make it of a list.
    pub port_summary: String,
    /// The IP families asked for, the primary one first.
    #[schemars(length(min = 1, max = 2))]
    pub families: Vec<Family>,
    /// Whether the Service is of no use without an address of each family.
    pub require_dual_stack: bool,
    /// For how many seconds a client stays with one backend; 0 is not at all.
    #[schemars(range(min = 0, max = 86400), extend("format" = "int32"))]
    pub affinity_seconds: u32,
    /// The CIDRs that may connect; none means everyone may.
    pub source_ranges: Vec<String>,
    /// Whether any node of the tenant receives traffic, or only those with endpoints of their own.
    pub traffic_policy: TrafficPolicy,
    /// The addresses that the tenant asked for.
    #[serde(rename = "requestedIPs")]
    pub requested_ips: Vec<String>,
    /// The tenant's annotations that the operator lets pass.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Where a load balancer comes from.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// The Service in the tenant cluster, `<namespace>/<name>`.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub service: String,
    /// Its `metadata.uid`. A Service that was deleted and made anew keeps its load balancer.
    pub uid: String,
    /// The version, as 16 hexadecimal digits, with which the Service last changed anything that stands here.
    pub generation: String,
}

/// One port.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerPort {
    /// Empty where a Service has one port without a name.
    pub name: String,
    /// Layer 4 protocol.
    pub protocol: PortProtocol,
    /// The port that clients connect to.
    #[schemars(range(min = 1, max = 65535), extend("format" = "int32"))]
    pub port: u16,
    /// The port on the tenant's nodes.
    #[schemars(range(min = 1, max = 65535), extend("format" = "int32"))]
    pub node_port: u16,
    /// What is spoken on top, where the tenant says so; empty otherwise.
    pub app_protocol: String,
}

/// The protocols that a load balancer carries.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum PortProtocol {
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "UDP")]
    Udp,
}

/// An IP family.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Family {
    IPv4,
    IPv6,
}

/// Which nodes of the tenant receive traffic.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TrafficPolicy {
    Cluster,
    Local,
}

/// What became of it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerStatus {
    /// The addresses (or host names, as some clouds give) that belong to this load balancer. Once given they stay, also
    /// while the allocator is away: the hub asks it for these and no others.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// `Accepted`: the request is in order. `Programmed`: addresses and backends are in place.
    /// `BackendsHealthy`: there are nodes that can take the traffic.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The `metadata.generation` that this status speaks of.
    #[serde(default)]
    pub observed_generation: i64,
}
