//! The management Service: type LoadBalancer, without a selector, for its EndpointSlices are the hub's. Of the tenant's
//! Service only what this shape names is taken; external IPs, labels, selectors and the like never are. Node ports do not
//! stand in it: they are the slices' alone, so that a changed one is news to kube-proxy at once and to nobody else.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use berth_common::model::{Ingress, IpFamily, Protocol, Service};
use k8s_openapi::api::core::v1 as core;
use kube::api::ObjectMeta;
use serde_json::{Value, json};

use super::{FIELD_MANAGER, Id, labels, name};

/// MetalLB: exactly these addresses.
pub const METALLB_IPS: &str = "metallb.io/loadBalancerIPs";
/// MetalLB: from this pool.
pub const METALLB_POOL: &str = "metallb.io/address-pool";

/// The annotations that the hub decides by itself: address and pool, also by MetalLB's former name.
pub const HUBS_OWN: [&str; 4] = [
    METALLB_IPS,
    METALLB_POOL,
    "metallb.universe.tf/loadBalancerIPs",
    "metallb.universe.tf/address-pool",
];

/// `spec.ipFamilyPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyPolicy {
    /// One family.
    Single,
    /// Both where the management cluster has both.
    Prefer,
    /// Both or nothing.
    Require,
}

impl FamilyPolicy {
    fn as_str(self) -> &'static str {
        match self {
            Self::Single => "SingleStack",
            Self::Prefer => "PreferDualStack",
            Self::Require => "RequireDualStack",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Single, Self::Prefer, Self::Require]
            .into_iter()
            .find(|policy| policy.as_str() == text)
    }
}

/// What stands under a port's number and protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortShape {
    /// May be empty where there is one port.
    pub name: String,
    /// `appProtocol`.
    pub app_protocol: Option<String>,
}

/// How the allocator is to choose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steering {
    /// The addresses that this Service must have.
    pub pin: BTreeSet<IpAddr>,
    /// The pool to choose from.
    pub pool: Option<String>,
}

/// What the hub decides of a management Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceShape {
    /// By number and protocol, which is what tells ports apart (KEP-1435).
    pub ports: BTreeMap<(u16, Protocol), PortShape>,
    /// The primary family, which Kubernetes allows no change of.
    pub primary: IpFamily,
    /// With [`FamilyPolicy::Require`] and [`FamilyPolicy::Prefer`] the other family is Kubernetes' to add.
    pub family_policy: FamilyPolicy,
    /// `sessionAffinity: ClientIP` and its timeout.
    pub affinity_seconds: Option<u32>,
    /// `loadBalancerSourceRanges`, as text, so that what cannot be read differs from all that can.
    pub source_ranges: BTreeSet<String>,
    /// `loadBalancerClass`, which Kubernetes allows no change of.
    pub class: Option<String>,
    /// The annotations by which the hub steers the allocator.
    pub steering: Steering,
    /// The other annotations that are the hub's: the operator's, and those of the tenant that the operator lets pass.
    pub annotations: BTreeMap<String, String>,
}

impl ServiceShape {
    /// The shape of what a tenant's Service asks for, with the families, class, steering and annotations that the planner
    /// chose. Ports that have no node port are left out: the planner refuses such a Service before it comes here.
    pub fn new(
        service: &Service,
        (primary, family_policy): (IpFamily, FamilyPolicy),
        class: Option<String>,
        steering: Steering,
        annotations: BTreeMap<String, String>,
    ) -> Self {
        let reached = service.ports.iter().filter(|port| port.node_port.is_some());
        let ports = reached.map(|port| {
            let shape = PortShape {
                name: port.name.clone(),
                app_protocol: port.app_protocol.clone(),
            };
            ((port.port, port.protocol), shape)
        });
        Self {
            ports: ports.collect(),
            primary,
            family_policy,
            affinity_seconds: service.affinity_seconds,
            source_ranges: service
                .source_ranges
                .iter()
                .map(ToString::to_string)
                .collect(),
            class,
            steering,
            annotations,
        }
    }

    /// The Service to apply.
    pub fn manifest(&self, id: &Id) -> Value {
        let ports: Vec<Value> = self.ports.iter().map(port_manifest).collect();
        let mut spec = json!({
            "type": "LoadBalancer",
            "allocateLoadBalancerNodePorts": false,
            "externalTrafficPolicy": "Cluster",
            "ipFamilies": [self.primary.as_str()],
            "ipFamilyPolicy": self.family_policy.as_str(),
            "ports": ports,
            "sessionAffinity": "None",
        });
        if self.family_policy == FamilyPolicy::Require {
            spec["ipFamilies"] = json!([self.primary.as_str(), other(self.primary).as_str()]);
        }
        if let Some(seconds) = self.affinity_seconds {
            spec["sessionAffinity"] = json!("ClientIP");
            spec["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": seconds } });
        }
        if !self.source_ranges.is_empty() {
            spec["loadBalancerSourceRanges"] = json!(self.source_ranges);
        }
        if let Some(class) = &self.class {
            spec["loadBalancerClass"] = json!(class);
        }
        let mut metadata = json!({
            "name": name::object(id),
            "namespace": id.tenant.namespace(),
            "labels": labels(id),
        });
        let mut annotations = self.annotations.clone();
        annotations.extend(self.steering.annotations());
        if !annotations.is_empty() {
            metadata["annotations"] = json!(annotations);
        }
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec })
    }

    /// A JSON merge patch that takes away what server-side apply leaves: other managers' ports, and the fields that a
    /// Service of the hub's never has. `uid` guards against another object of the same name.
    pub fn strip_patch(&self, uid: &str) -> Value {
        let ports: Vec<Value> = self.ports.iter().map(port_manifest).collect();
        json!({
            "metadata": { "uid": uid },
            "spec": { "ports": ports, "selector": null, "externalIPs": null, "loadBalancerIP": null },
        })
    }

    /// Whether the two send traffic the same way: equal in everything but annotations.
    pub fn same_path(&self, other: &Self) -> bool {
        let steered = Self {
            steering: other.steering.clone(),
            annotations: other.annotations.clone(),
            ..self.clone()
        };
        steered == *other
    }
}

impl Steering {
    fn annotations(&self) -> BTreeMap<String, String> {
        let mut annotations = BTreeMap::new();
        if !self.pin.is_empty() {
            let ips: Vec<String> = self.pin.iter().map(ToString::to_string).collect();
            annotations.insert(METALLB_IPS.into(), ips.join(","));
        }
        if let Some(pool) = &self.pool {
            annotations.insert(METALLB_POOL.into(), pool.clone());
        }
        annotations
    }
}

/// Without a target port, which means nothing where slices are made by hand: they are matched by the port's name.
fn port_manifest(((port, protocol), shape): (&(u16, Protocol), &PortShape)) -> Value {
    let mut manifest = json!({
        "port": port,
        "protocol": protocol.as_str(),
    });
    if !shape.name.is_empty() {
        manifest["name"] = json!(shape.name);
    }
    if let Some(app_protocol) = &shape.app_protocol {
        manifest["appProtocol"] = json!(app_protocol);
    }
    manifest
}

/// A management Service as observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedService {
    /// The hub's part.
    pub shape: ServiceShape,
    /// Whether all that is the same on every Service of the hub's is so here: type, traffic policy, labels.
    pub sound: bool,
    /// Whether there is something that applying the shape would not take away: a selector, external IPs.
    pub foreign_fields: bool,
    /// What the allocator gave.
    pub ingress: Vec<Ingress>,
    /// When it was created, in seconds since 1970.
    pub created: i64,
}

impl ObservedService {
    /// Projects an object of the API server's.
    pub fn from_object(id: &Id, object: &core::Service) -> Self {
        let spec = object.spec.clone().unwrap_or_default();
        let annotations = object.metadata.annotations.as_ref();
        let annotation = |key: &str| annotations.and_then(|all| all.get(key)).cloned();
        let families = spec.ip_families.unwrap_or_default();
        let affinity = spec.session_affinity.as_deref() == Some("ClientIP");
        let timeout = spec
            .session_affinity_config
            .and_then(|config| config.client_ip)
            .and_then(|client_ip| client_ip.timeout_seconds)
            .and_then(|seconds| u32::try_from(seconds).ok());
        let (pin, pin_readable) = read_pin(annotation(METALLB_IPS));
        let family_policy = spec
            .ip_family_policy
            .as_deref()
            .and_then(FamilyPolicy::parse);
        let sound = spec.type_.as_deref() == Some("LoadBalancer")
            && spec.allocate_load_balancer_node_ports == Some(false)
            && spec.external_traffic_policy.as_deref() == Some("Cluster")
            && labels(id).iter().all(|(key, value)| {
                object.metadata.labels.as_ref().and_then(|all| all.get(key)) == Some(value)
            })
            && pin_readable
            && family_policy.is_some();
        let ingress = object
            .status
            .as_ref()
            .and_then(|s| s.load_balancer.as_ref());
        Self {
            shape: ServiceShape {
                ports: spec
                    .ports
                    .unwrap_or_default()
                    .iter()
                    .map(read_port)
                    .collect(),
                primary: match families.first().map(String::as_str) {
                    Some("IPv6") => IpFamily::V6,
                    _ => IpFamily::V4,
                },
                family_policy: family_policy.unwrap_or(FamilyPolicy::Single),
                affinity_seconds: timeout.filter(|_| affinity),
                source_ranges: spec
                    .load_balancer_source_ranges
                    .unwrap_or_default()
                    .into_iter()
                    .collect(),
                class: spec.load_balancer_class,
                steering: Steering {
                    pin,
                    pool: annotation(METALLB_POOL),
                },
                annotations: own_annotations(&object.metadata),
            },
            sound,
            foreign_fields: spec.selector.is_some_and(|it| !it.is_empty())
                || spec.external_ips.is_some_and(|it| !it.is_empty())
                || spec.load_balancer_ip.is_some_and(|it| !it.is_empty()),
            ingress: ingress
                .and_then(|status| status.ingress.as_ref())
                .into_iter()
                .flatten()
                .filter_map(read_ingress)
                .collect(),
            created: object
                .metadata
                .creation_timestamp
                .as_ref()
                .map_or(0, |time| time.0.as_second()),
        }
    }
}

/// The annotations that are there because the hub applied them. Others put theirs beside them (MetalLB says from which pool an
/// address is), and only the API server knows whose is whose; what somebody else has changed is his, until it is applied anew.
fn own_annotations(metadata: &ObjectMeta) -> BTreeMap<String, String> {
    let applied = metadata.managed_fields.iter().flatten().filter(|entry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER)
            && entry.operation.as_deref() == Some("Apply")
    });
    let named = applied.filter_map(|entry| {
        let fields = &entry.fields_v1.as_ref()?.0;
        fields.pointer("/f:metadata/f:annotations")?.as_object()
    });
    let keys = named.flat_map(|fields| fields.keys()).filter_map(|field| {
        let key = field.strip_prefix("f:")?;
        let value = metadata.annotations.as_ref()?.get(key)?;
        (key != METALLB_IPS && key != METALLB_POOL).then(|| (key.to_owned(), value.clone()))
    });
    keys.collect()
}

fn read_port(port: &core::ServicePort) -> ((u16, Protocol), PortShape) {
    let protocol = match port.protocol.as_deref() {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    };
    let number = u16::try_from(port.port).unwrap_or(0);
    let shape = PortShape {
        name: port.name.clone().unwrap_or_default(),
        app_protocol: port.app_protocol.clone(),
    };
    ((number, protocol), shape)
}

/// The addresses of the annotation, and whether all of it could be read.
fn read_pin(annotation: Option<String>) -> (BTreeSet<IpAddr>, bool) {
    let Some(text) = annotation else {
        return (BTreeSet::new(), true);
    };
    let parsed: Result<BTreeSet<IpAddr>, _> = text.split(',').map(|ip| ip.trim().parse()).collect();
    parsed.map_or((BTreeSet::new(), false), |pin| (pin, true))
}

/// The API server lets only addresses stand as such, so that nothing is lost by leaving out what is none.
fn read_ingress(ingress: &core::LoadBalancerIngress) -> Option<Ingress> {
    match (&ingress.ip, &ingress.hostname) {
        (Some(ip), _) if !ip.is_empty() => ip.parse().ok().map(Ingress::Ip),
        (_, Some(name)) if !name.is_empty() => Some(Ingress::Hostname(name.clone())),
        _ => None,
    }
}

/// The family that is not this one.
pub fn other(family: IpFamily) -> IpFamily {
    match family {
        IpFamily::V4 => IpFamily::V6,
        IpFamily::V6 => IpFamily::V4,
    }
}
