//! `Tenant`: the admission of one cluster, and what it may have. Written by the operator; the status by the hub.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a tenant cluster may have.
#[derive(
    CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq,
)]
#[kube(
    group = "berth.dev",
    version = "v1alpha1",
    kind = "Tenant",
    plural = "tenants",
    shortname = "tn",
    category = "berth",
    status = "TenantStatus",
    doc = "A tenant cluster that may have load balancers here. Its name is the one in the agent's certificate; its objects live in the namespace berth-<name>.",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 40")
        .message("a tenant's name has 1 to 40 lower-case letters, digits and inner hyphens"),
    printcolumn = r#"{"name": "Connected", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Connected\")].status", "description": "Whether the tenant's agent has a session"}"#,
    printcolumn = r#"{"name": "Agent", "type": "string", "jsonPath": ".status.agentVersion", "description": "The agent's version"}"#,
    printcolumn = r#"{"name": "LBs", "type": "integer", "jsonPath": ".status.loadBalancers", "description": "Load balancers that the tenant has"}"#,
    printcolumn = r#"{"name": "Quota", "type": "integer", "jsonPath": ".spec.quotas.loadBalancers", "description": "Load balancers that it may have"}"#,
    printcolumn = r#"{"name": "Waiting", "type": "integer", "jsonPath": ".status.waiting", "description": "Services that are refused because a quota is used up"}"#,
    printcolumn = r#"{"name": "Ports", "type": "integer", "jsonPath": ".status.ports", "description": "The ports of all its load balancers", "priority": 1}"#,
    printcolumn = r#"{"name": "Held", "type": "integer", "jsonPath": ".status.heldLoadBalancers", "description": "Load balancers whose deletion the brake holds"}"#,
    printcolumn = r#"{"name": "Suspended", "type": "boolean", "jsonPath": ".spec.suspended", "description": "Whether the operator has shut the tenant out"}"#,
    printcolumn = r#"{"name": "Cluster", "type": "string", "jsonPath": ".status.clusterUID", "description": "The UID of the tenant cluster's kube-system namespace", "priority": 1}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct TenantSpec {
    /// Shuts the tenant out: no session, no changes. What it has stays as it is.
    #[serde(default)]
    pub suspended: bool,
    /// Which of the tenant's certificates are good no more. A session with one of them ends within a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// For so long after its certificate has expired the tenant's agent may get another one by itself, with the key of the expired one; without
    /// it, or with 0, a cluster that was off for longer than its certificate lives needs a new join token. 90 days at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 7_776_000), extend("format" = "int32"))]
    pub renew_grace_seconds: Option<u32>,
    /// The MetalLB pool (`IPAddressPool`) that new load balancers get their addresses from; without it MetalLB chooses
    /// among its pools. Addresses already given are not affected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub address_pool: Option<String>,
    /// The `loadBalancerClass` of the Services that the hub makes for this tenant from now on; without it the management
    /// cluster's default load balancer serves them. Kubernetes does not allow a change of it on a Service that exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 317))]
    pub load_balancer_class: Option<String>,
    /// The CIDRs out of which this tenant may ask for certain addresses (`spec.loadBalancerIP`, or the annotation
    /// `berth.dev/load-balancer-ips`). None: it may not ask.
    #[serde(
        default,
        rename = "requestableIPs",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 100), inner(length(max = 49)))]
    #[x_kube(validation = Rule::new("self.all(range, isCIDR(range))").message("each is a CIDR such as 10.0.0.0/24"))]
    pub requestable_ips: Vec<String>,
    /// Where this tenant's nodes are: a node address outside of these CIDRs receives no traffic. None: anywhere. Never, whatever
    /// stands here: loopback, link-local, metadata, multicast and reserved addresses, the management cluster's own
    /// (`managementCidrs` of the hub), other tenants' nodes, and addresses of load balancers.
    #[serde(default, rename = "nodeCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(max = 49)))]
    #[x_kube(validation = Rule::new("self.all(range, isCIDR(range))").message("each is a CIDR such as 10.0.0.0/24"))]
    pub node_cidrs: Vec<String>,
    /// The node ports that this tenant's Services may have, such as `30000-32767`. None: all from 1024 that are none of the
    /// node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 11), regex(pattern = "^[0-9]{1,5}-[0-9]{1,5}$"))]
    #[x_kube(validation = Rule::new("int(self.split('-')[0]) <= int(self.split('-')[1]) && int(self.split('-')[1]) <= 65535")
        .message("a range of ports such as 30000-32767"))]
    pub node_port_range: Option<String>,
    /// How much this tenant may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quotas: Option<Quotas>,
    /// What exists and no longer fits what stands here (`nodeCIDRs`, `nodePortRange`, `requestableIPs`, `quotas`) is withdrawn. Else it
    /// stays and is reported, and only what is new has to fit. Addresses that no Tenant opens never receive traffic, whatever
    /// stands here.
    #[serde(default)]
    pub enforce: bool,
    /// Annotations of the Services that the hub makes for this tenant: which of them the tenant may set, and which the operator
    /// sets. A change is followed on Services that exist; their addresses stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
    /// What becomes of the address of a Service that the tenant deletes. `Delete`: it is anybody's after a while
    /// (`releaseAfterSeconds`). `Retain`: it is kept for a Service of the same namespace and name, until somebody deletes the
    /// LoadBalancer here. Traffic stops at once in either case. When this Tenant is deleted, the same becomes of all that it has, and
    /// what goes goes at once.
    #[serde(default)]
    pub reclaim_policy: ReclaimPolicy,
    /// For how long at least the address of a deleted Service is kept for one of the same namespace and name, unless somebody
    /// else waits for an address; 30 where nothing is given, and not at all with 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 3600), extend("format" = "int32"))]
    pub release_after_seconds: Option<u32>,
    /// How the hub finds out which of the tenant's nodes can receive traffic. A node that fails gets none, unless all fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.?timeoutMilliseconds.orValue(500) <= self.?intervalMilliseconds.orValue(750)")
        .message("a probe ends before the next begins: timeoutMilliseconds (500) is at most intervalMilliseconds (750)"))]
    pub health_check: Option<HealthCheck>,
}

/// How much a tenant may have. What is not said is not bounded.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Quotas {
    /// Load balancers. One more is refused until another goes; then the one that came first is served. Addresses that are kept for
    /// Services that were deleted count: for good with `reclaimPolicy: Retain`, else until somebody waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100000), extend("format" = "int32"))]
    pub load_balancers: Option<u32>,
    /// Ports of all load balancers together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000000), extend("format" = "int32"))]
    pub ports: Option<u32>,
    /// Ports of one load balancer. A Service with more is refused; where one has more already, it is served as it is and told so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000), extend("format" = "int32"))]
    pub ports_per_load_balancer: Option<u32>,
    /// Changes that are carried out in a second; 200 where nothing is given. A change is one round of writes for one Service, of which
    /// a new one takes four. What is not used is kept for a minute, so that a burst has sixty times as many at once; beyond that
    /// they wait, for this tenant alone. A twentieth of them may be for Services that were changed in the ten seconds before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000), extend("format" = "int32"))]
    pub changes_per_second: Option<u32>,
    /// Nodes that receive traffic: first those that do already, then by name. The others are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100000), extend("format" = "int32"))]
    pub nodes: Option<u32>,
}

/// What of a tenant's certificates the operator has revoked. `berth-hub tenant revoke` writes it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// Certificates that are valid from an earlier time than this (their own `notBefore`) are refused, whoever made them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
    /// The serial numbers of certificates that are refused, in hexadecimal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 1000),
        inner(
            length(max = 59),
            regex(pattern = "^[0-9A-Fa-f]{2}(:?[0-9A-Fa-f]{2})*$")
        )
    )]
    pub revoked_serials: Vec<String>,
}

/// Annotations of management Services.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Annotations {
    /// The annotations that pass from a Service of the tenant to the one here: keys such as `example.com/owner`, and domains
    /// such as `example.com/*`. Never passed, whatever is listed: what steers an allocator or a cloud (`metallb.io/*`,
    /// `service.beta.kubernetes.io/*` and the like), Kubernetes' own annotations but for external-dns, and Berth's. Only
    /// `metallb.io/allow-shared-ip` passes where it is listed in full; the hub then makes the sharing key the tenant's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 317)))]
    #[x_kube(validation = Rule::new("self.all(key, key.matches('^([a-z0-9][-a-z0-9.]*/)?([A-Za-z0-9][-A-Za-z0-9_.]*)$|^[a-z0-9][-a-z0-9.]*/[*]$'))")
        .message("each is an annotation's key, or a domain and /*"))]
    pub allowed: Vec<String>,
    /// Annotations that every Service here gets, whatever the tenant says: a cloud's, for instance, or an allocator's. The
    /// address and the pool are not chosen here: the hub pins the address itself, and the pool is `addressPool`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = Rule::new("!('metallb.io/loadBalancerIPs' in self) && !('metallb.universe.tf/loadBalancerIPs' in self) && !('metallb.io/address-pool' in self) && !('metallb.universe.tf/address-pool' in self)")
        .message("the hub pins the address itself, and the pool is addressPool"))]
    pub injected: BTreeMap<String, String>,
}

/// What becomes of an address.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ReclaimPolicy {
    #[default]
    Delete,
    Retain,
}

/// How nodes are probed. What is not said here is as in a cluster with kube-proxy.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// `KubeProxy`: kube-proxy's healthz on each node, and where that is not to be had a connection to one of the tenant's
    /// node ports. `NodePort`: node ports only. `None`: nodes are not probed, and count as healthy.
    #[serde(default)]
    pub mode: HealthMode,
    /// The port of kube-proxy's healthz; 10256 where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535), extend("format" = "int32"))]
    pub port: Option<u16>,
    /// Between two probes of one node; 750 where none is given. With thousands of nodes it becomes longer by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 250, max = 60000), extend("format" = "int32"))]
    pub interval_milliseconds: Option<u32>,
    /// After which a probe has failed; 500 where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 50, max = 10000), extend("format" = "int32"))]
    pub timeout_milliseconds: Option<u32>,
    /// So many failures in a row make a node fail; 2 where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10), extend("format" = "int32"))]
    pub failure_threshold: Option<u32>,
    /// So many good probes in a row make it healthy again; 2 where none is given. A node that keeps failing needs more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10), extend("format" = "int32"))]
    pub success_threshold: Option<u32>,
}

/// What a health check asks.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HealthMode {
    #[default]
    KubeProxy,
    NodePort,
    None,
}

/// What the hub knows of a tenant cluster.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TenantStatus {
    /// The UID of the kube-system namespace of the cluster that holds this identity. Another cluster under the same
    /// identity is refused.
    #[serde(
        default,
        rename = "clusterUID",
        skip_serializing_if = "Option::is_none"
    )]
    pub cluster_uid: Option<String>,
    /// The cluster that held this identity before the operator cleared `clusterUID`. It may go on until another cluster
    /// comes, and does not take the identity again.
    #[serde(default, rename = "formerClusterUID")]
    pub former_cluster_uid: Option<String>,
    /// How many load balancers are absent from the tenant's cluster, and held until they come back or the operator lets them
    /// go.
    #[serde(default)]
    #[schemars(range(min = 0), extend("format" = "int32"))]
    pub held_load_balancers: u32,
    /// How many load balancers the tenant has, also those whose address is kept for good (`reclaimPolicy: Retain`).
    #[serde(default)]
    #[schemars(range(min = 0), extend("format" = "int32"))]
    pub load_balancers: u32,
    /// The ports of all of them.
    #[serde(default)]
    #[schemars(range(min = 0), extend("format" = "int32"))]
    pub ports: u32,
    /// How many of the tenant's Services are refused because a quota is used up (`quotas.loadBalancers`, `quotas.ports`).
    #[serde(default)]
    #[schemars(range(min = 0), extend("format" = "int32"))]
    pub waiting: u32,
    /// How many load balancers serve although policy would not let them in any more; with `enforce` they are withdrawn.
    #[serde(default)]
    #[schemars(range(min = 0), extend("format" = "int32"))]
    pub beyond_policy: u32,
    /// The version of the agent that was last connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// The certificate that the tenant's agent was last seen with, or was given since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateStatus>,
    /// `Connected`: the tenant's agent has a session. `DeletionsHeld`: much is absent at once, and nothing of it is deleted.
    /// `CertificateExpiring`: the agent's certificate should have been renewed long ago. `Deleting`: the Tenant is being deleted, and this
    /// is what is waited for. `PolicyViolated`: what exists does not fit what the Tenant says any more. `Throttled`: the tenant changes
    /// more than `quotas.changesPerSecond`, or the same Services again and again, and its changes wait. `SessionContested`: agents throw
    /// each other out again and again under this identity.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// An agent's certificate. Authorities are told by their keys: the first eight bytes of the key identifier that `openssl x509 -text` shows.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// The authority that signed it.
    #[serde(default)]
    pub authority: Option<String>,
    /// The authorities by which the agent was told to verify the hub, when it got this certificate.
    #[serde(default)]
    pub trusts: Vec<String>,
    /// When it ends.
    pub not_after: Time,
    /// Whether the agent renews it when the hub asks for that. One whose certificate comes from files does not.
    #[serde(default)]
    pub renews: bool,
}
