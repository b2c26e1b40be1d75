//! What the agent keeps of a Service: what it asks for, in the model's terms, and what stands on the object now, so
//! that a write is made only where it changes something. Which Services are ours is not decided here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use berth_common::annotations::{self, MAX_VALUE};
use berth_common::model::{self, IpFamily, Port, Protocol, ServiceKey, TrafficPolicy};
use ipnet::IpNet;
use k8s_openapi::{
    api::core::v1::{LoadBalancerIngress, Service, ServiceSpec},
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta},
    jiff::Timestamp,
};

use super::{FIELD_MANAGER, PORTS_ERROR, PROGRAMMED, ResourceVersion};

/// The annotation that asks for addresses; the only way to ask for two.
const ADDRESSES_ANNOTATION: &str = "berth.dev/load-balancer-ips";
/// The old way to say source ranges.
const RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// How much of a Service's annotations is kept: several times what may ever travel.
const KEPT_BYTES: usize = 4 * annotations::MAX_BYTES;
/// The API's default for client affinity.
const AFFINITY_SECONDS: u32 = 10_800;

/// A Service as the agent sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenService {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub version: ResourceVersion,
    /// `metadata.generation`, where the API server counts it.
    pub generation: Option<i64>,
    /// Being deleted.
    pub deleting: bool,
    /// All finalizers, whoever's they are.
    pub finalizers: Vec<String>,
    /// What it asks for, if it is of type LoadBalancer.
    pub wish: Option<Wish>,
    /// What stands on it.
    pub status: SeenStatus,
}

/// What a Service of type LoadBalancer asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// `spec.loadBalancerClass`.
    pub class: Option<String>,
    /// In the model's terms; the local nodes are not known here, nor which annotations may pass: those that might are in it.
    /// None: it cannot be said at all, because of the fault.
    pub service: Option<model::Service>,
    /// Keys of annotations of which people should know when they do not pass.
    pub steering: BTreeSet<String>,
    /// Keys of annotations that are not kept because they are too long.
    pub too_long: BTreeSet<String>,
    /// What is wrong with it. With `service` present, that leaves out what is at fault.
    pub fault: Option<Fault>,
}

/// Something in a Service that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field, as a path in the object.
    pub field: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// The part of a Service's status that concerns us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenStatus {
    /// `status.loadBalancer.ingress`.
    pub ingress: Vec<SeenIngress>,
    /// Berth's own conditions, and upstream's for ports.
    pub conditions: Vec<SeenCondition>,
    /// Whether addresses or conditions in here are the agent's: it is their field manager.
    pub ours: bool,
}

/// One entry of `status.loadBalancer.ingress`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SeenIngress {
    pub ip: Option<String>,
    pub hostname: Option<String>,
    pub ip_mode: Option<String>,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SeenCondition {
    pub type_: String,
    pub status: bool,
    pub reason: String,
    pub message: String,
    pub observed_generation: Option<i64>,
    pub since: Timestamp,
}

impl SeenService {
    /// Keeps what matters of a Service.
    pub fn project(service: Service) -> Option<(ServiceKey, Self)> {
        let Service {
            mut metadata,
            spec,
            status,
        } = service;
        let key = ServiceKey::new(metadata.namespace.take()?, metadata.name.take()?);
        let uid = metadata.uid.take()?;
        let spec = spec.unwrap_or_default();
        let status = status.unwrap_or_default();
        let seen = Self {
            version: ResourceVersion(metadata.resource_version.take().unwrap_or_default()),
            generation: metadata.generation,
            deleting: metadata.deletion_timestamp.is_some(),
            finalizers: metadata.finalizers.take().unwrap_or_default(),
            wish: (spec.type_.as_deref() == Some("LoadBalancer"))
                .then(|| wish(&uid, &metadata, spec)),
            status: SeenStatus {
                ingress: status
                    .load_balancer
                    .and_then(|s| s.ingress)
                    .unwrap_or_default()
                    .into_iter()
                    .map(SeenIngress::from)
                    .collect(),
                conditions: status
                    .conditions
                    .unwrap_or_default()
                    .into_iter()
                    .filter(|c| c.type_ == PROGRAMMED || c.type_ == PORTS_ERROR)
                    .map(SeenCondition::from)
                    .collect(),
                ours: wrote_status(&metadata),
            },
            uid,
        };
        Some((key, seen))
    }

    /// A condition by its type.
    pub fn condition(&self, type_: &str) -> Option<&SeenCondition> {
        self.status.conditions.iter().find(|c| c.type_ == type_)
    }
}

impl From<LoadBalancerIngress> for SeenIngress {
    fn from(ingress: LoadBalancerIngress) -> Self {
        Self {
            ip: ingress.ip.filter(|s| !s.is_empty()),
            hostname: ingress.hostname.filter(|s| !s.is_empty()),
            ip_mode: ingress.ip_mode,
        }
    }
}

impl From<Condition> for SeenCondition {
    fn from(condition: Condition) -> Self {
        Self {
            status: condition.status == "True",
            type_: condition.type_,
            reason: condition.reason,
            message: condition.message,
            observed_generation: condition.observed_generation,
            since: condition.last_transition_time.0,
        }
    }
}

/// An entry of ours stays behind when all that it named was given up, so its content counts.
fn wrote_status(metadata: &ObjectMeta) -> bool {
    let conditions = "/f:status/f:conditions";
    let ingress = "/f:status/f:loadBalancer/f:ingress";
    metadata.managed_fields.iter().flatten().any(|entry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER)
            && entry.subresource.as_deref() == Some("status")
            && entry.fields_v1.as_ref().is_some_and(|fields| {
                fields.0.pointer(conditions).is_some() || fields.0.pointer(ingress).is_some()
            })
    })
}

fn wish(uid: &str, metadata: &ObjectMeta, spec: ServiceSpec) -> Wish {
    let annotation = |name: &str| {
        metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(name))
            .map(|text| text.trim())
            .filter(|text| !text.is_empty())
    };
    let class = spec.load_balancer_class.clone();
    let unreadable = |fault| Wish {
        class: class.clone(),
        fault: Some(fault),
        ..Wish::default()
    };
    let ports = match spec.ports.iter().flatten().map(port).collect() {
        Ok(ports) => ports,
        Err(fault) => return unreadable(fault),
    };
    let source_ranges = match source_ranges(&spec, annotation(RANGES_ANNOTATION)) {
        Ok(ranges) => ranges,
        Err(fault) => return unreadable(fault),
    };
    let (requested_ips, fault) = match requested_ips(&spec, annotation(ADDRESSES_ANNOTATION)) {
        Ok(ips) => (ips, None),
        Err(fault) => (Vec::new(), Some(fault)),
    };
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    let mut service = model::Service {
        uid: uid.to_owned(),
        ports,
        families: families(&spec),
        require_dual_stack: spec.ip_family_policy.as_deref() == Some("RequireDualStack"),
        affinity_seconds: (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            spec.session_affinity_config
                .and_then(|config| config.client_ip?.timeout_seconds)
                .and_then(|seconds| u32::try_from(seconds).ok())
                .unwrap_or(AFFINITY_SECONDS)
        }),
        source_ranges,
        traffic_policy: if local {
            TrafficPolicy::Local
        } else {
            TrafficPolicy::Cluster
        },
        local_nodes: BTreeSet::new(),
        health_check_node_port: spec
            .health_check_node_port
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| local && *port != 0),
        requested_ips,
        annotations: BTreeMap::new(),
    };
    let mut wish = Wish {
        class,
        fault,
        ..Wish::default()
    };
    service.annotations = wish.sort(metadata.annotations.clone().unwrap_or_default());
    wish.service = Some(service);
    wish
}

impl Wish {
    /// Gives back the annotations that may pass, if the operator's list says so. The others are nobody's business: not even
    /// their values are kept, and of those that do not fit only the key.
    fn sort(&mut self, annotations: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut kept = BTreeMap::new();
        let mut bytes = 0;
        for (key, value) in annotations {
            if annotations::steers(&key) {
                self.steering.insert(key.clone());
            }
            if annotations::never(&key) {
                continue;
            }
            let with_it = bytes + key.len() + value.len();
            if value.len() > MAX_VALUE || with_it > KEPT_BYTES {
                self.too_long.insert(key);
            } else {
                bytes = with_it;
                kept.insert(key, value);
            }
        }
        kept
    }
}

fn port(port: &k8s_openapi::api::core::v1::ServicePort) -> Result<Port, Fault> {
    let number = |field, value: i32| {
        u16::try_from(value).map_err(|_| Fault {
            field,
            message: format!("{value} is not a port number"),
        })
    };
    Ok(Port {
        name: port.name.clone().unwrap_or_default(),
        protocol: match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            Some(other) => {
                return Err(Fault {
                    field: "spec.ports[].protocol",
                    message: format!("this agent does not know the protocol {other:?}"),
                });
            }
        },
        port: number("spec.ports[].port", port.port)?,
        node_port: Some(number(
            "spec.ports[].nodePort",
            port.node_port.unwrap_or(0),
        )?)
        .filter(|port| *port != 0),
        app_protocol: port.app_protocol.clone().filter(|text| !text.is_empty()),
    })
}

/// The API server fills them in; where it is too old for that, there is only IPv4.
fn families(spec: &ServiceSpec) -> Vec<IpFamily> {
    let families: Vec<_> = spec
        .ip_families
        .iter()
        .flatten()
        .map(|family| match family.as_str() {
            "IPv6" => IpFamily::V6,
            _ => IpFamily::V4,
        })
        .collect();
    if families.is_empty() {
        vec![IpFamily::V4]
    } else {
        families
    }
}

/// The field wins over the annotation. A range that cannot be read makes the Service unreadable: leaving it out could
/// open to everyone what was meant for a few.
fn source_ranges(spec: &ServiceSpec, annotation: Option<&str>) -> Result<BTreeSet<IpNet>, Fault> {
    let field = spec
        .load_balancer_source_ranges
        .as_deref()
        .unwrap_or_default();
    let texts: Vec<&str> = if field.is_empty() {
        annotation
            .map(|text| text.split(',').collect())
            .unwrap_or_default()
    } else {
        field.iter().map(String::as_str).collect()
    };
    texts
        .into_iter()
        .map(|text| {
            text.trim()
                .parse::<IpNet>()
                .map(|net| net.trunc())
                .map_err(|_| Fault {
                    field: "spec.loadBalancerSourceRanges",
                    message: format!("{text:?} is not a CIDR such as 10.0.0.0/8 or 2001:db8::/32"),
                })
        })
        .collect()
}

/// The annotation wins over the field, which can name only one address.
fn requested_ips(spec: &ServiceSpec, annotation: Option<&str>) -> Result<Vec<IpAddr>, Fault> {
    let (field, text) = match (annotation, spec.load_balancer_ip.as_deref()) {
        (Some(text), _) => ("metadata.annotations[berth.dev/load-balancer-ips]", text),
        (None, Some(text)) if !text.is_empty() => ("spec.loadBalancerIP", text),
        (None, _) => return Ok(Vec::new()),
    };
    let mut ips: Vec<IpAddr> = Vec::new();
    for part in text.split(',').map(str::trim) {
        let ip = part.parse::<IpAddr>().map_err(|_| Fault {
            field,
            message: format!("{part:?} is not an IP address"),
        })?;
        let ip = ip.to_canonical();
        if ips
            .iter()
            .any(|other| IpFamily::of(other) == IpFamily::of(&ip))
        {
            return Err(Fault {
                field,
                message: format!(
                    "{text:?} asks for two addresses of one family: one of each is possible"
                ),
            });
        }
        ips.push(ip);
    }
    Ok(ips)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn project(spec: Value, metadata: Value, status: Value) -> SeenService {
        let mut service = json!({"metadata": {"namespace": "ns", "name": "web", "uid": "u1", "resourceVersion": "7"},
                                 "spec": {"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30080}]},
                                 "status": status});
        merge(&mut service["spec"], spec);
        merge(&mut service["metadata"], metadata);
        SeenService::project(serde_json::from_value(service).unwrap())
            .unwrap()
            .1
    }

    fn merge(into: &mut Value, from: Value) {
        let Value::Object(from) = from else { return };
        for (key, value) in from {
            into[key] = value;
        }
    }

    fn wanted(spec: Value) -> model::Service {
        project(spec, json!({}), json!({}))
            .wish
            .unwrap()
            .service
            .unwrap()
    }

    fn annotated(name: &str, value: &str, spec: Value) -> Wish {
        project(spec, json!({"annotations": {name: value}}), json!({}))
            .wish
            .unwrap()
    }

    #[test]
    fn what_is_no_load_balancer_wishes_for_nothing() {
        assert!(
            project(json!({"type": "ClusterIP"}), json!({}), json!({}))
                .wish
                .is_none()
        );
    }

    #[test]
    fn point_09_every_part_of_a_port_is_carried_a_name_alone_too() {
        let named = |name: &str| {
            wanted(
                json!({"ports": [{"name": name, "port": 53, "protocol": "UDP",
            "nodePort": 30053, "appProtocol": "example.com/dns"}]}),
            )
        };
        let port = &named("dns").ports[0];
        assert_eq!(
            (port.port, port.node_port, port.protocol),
            (53, Some(30053), Protocol::Udp)
        );
        assert_eq!(port.app_protocol.as_deref(), Some("example.com/dns"));
        assert_ne!(named("dns"), named("dns-udp"));
    }

    #[test]
    fn point_12_and_13_sctp_and_a_missing_node_port_are_data_for_the_hub_to_judge() {
        let service = wanted(json!({"ports": [{"port": 9, "protocol": "SCTP", "nodePort": 0}]}));
        assert_eq!(service.ports[0].protocol, Protocol::Sctp);
        assert_eq!(service.ports[0].node_port, None);
    }

    #[test]
    fn point_14_the_field_wins_over_the_annotation_and_else_it_is_everyone() {
        let ranges = |wish: Wish| -> Vec<String> {
            wish.service
                .unwrap()
                .source_ranges
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        let old = " 10.0.0.0/8 , ::/0";
        assert_eq!(
            ranges(annotated(RANGES_ANNOTATION, old, json!({}))),
            ["10.0.0.0/8", "::/0"]
        );
        let field = json!({"loadBalancerSourceRanges": [" 192.0.2.7/24 "]});
        assert_eq!(
            ranges(annotated(RANGES_ANNOTATION, old, field)),
            ["192.0.2.0/24"]
        );
        assert!(wanted(json!({})).source_ranges.is_empty());
    }

    #[test]
    fn point_19_annotations_are_sorted_into_what_may_pass_what_steers_and_what_is_too_long() {
        let long = "x".repeat(MAX_VALUE + 1);
        let annotations = json!({
            "example.com/owner": "a",
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
            "metallb.io/address-pool": "mine",
            "metallb.io/allow-shared-ip": "k",
            RANGES_ANNOTATION: "10.0.0.0/8",
            "example.com/book": long,
        });
        let wish = project(json!({}), json!({"annotations": annotations}), json!({}))
            .wish
            .unwrap();
        let service = wish.service.unwrap();
        let kept: Vec<_> = service.annotations.keys().collect();
        assert_eq!(kept, ["example.com/owner", "metallb.io/allow-shared-ip"]);
        let steering: Vec<_> = wish.steering.iter().collect();
        assert_eq!(
            steering,
            ["metallb.io/address-pool", "metallb.io/allow-shared-ip"]
        );
        assert_eq!(
            wish.too_long,
            BTreeSet::from(["example.com/book".to_owned()])
        );
    }

    #[test]
    fn point_14_an_unreadable_range_closes_rather_than_opens() {
        let wish = annotated(RANGES_ANNOTATION, "10.0.0.0/8x", json!({}));
        assert!(wish.service.is_none());
        assert_eq!(wish.fault.unwrap().field, "spec.loadBalancerSourceRanges");
    }

    #[test]
    fn point_15_affinity_with_its_timeout_or_the_default() {
        assert_eq!(
            wanted(json!({"sessionAffinity": "None"})).affinity_seconds,
            None
        );
        assert_eq!(
            wanted(json!({"sessionAffinity": "ClientIP"})).affinity_seconds,
            Some(10_800)
        );
        let timed = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}});
        assert_eq!(wanted(timed).affinity_seconds, Some(5));
    }

    #[test]
    fn point_16_families_in_order() {
        let service =
            wanted(json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "RequireDualStack"}));
        assert_eq!(service.families, [IpFamily::V6, IpFamily::V4]);
        assert!(service.require_dual_stack);
        assert_eq!(wanted(json!({})).families, [IpFamily::V4]);
    }

    #[test]
    fn point_17_requested_addresses_by_annotation_or_field() {
        let field = json!({"loadBalancerIP": "192.0.2.1"});
        assert_eq!(wanted(field.clone()).requested_ips.len(), 1);
        let both = annotated(ADDRESSES_ANNOTATION, "192.0.2.9, 2001:db8::9", field);
        assert_eq!(both.service.unwrap().requested_ips.len(), 2);
        let nonsense = project(json!({"loadBalancerIP": "any"}), json!({}), json!({}))
            .wish
            .unwrap();
        assert_eq!(nonsense.fault.unwrap().field, "spec.loadBalancerIP");
        assert!(nonsense.service.unwrap().requested_ips.is_empty());
    }

    #[test]
    fn point_18_external_ips_names_and_selectors_leave_no_trace() {
        let plain = wanted(json!({}));
        assert_eq!(
            plain,
            wanted(json!({"externalIPs": ["192.0.2.1"], "selector": {"a": "b"}}))
        );
    }

    #[test]
    fn point_28_whether_the_status_is_ours_is_told_by_its_managers() {
        let managed = |manager: &str, subresource: &str, fields: Value| {
            let entry = json!({"manager": manager, "subresource": subresource, "fieldsV1": {"f:status": fields}});
            let metadata = json!({"managedFields": [entry]});
            project(json!({}), metadata, json!({})).status.ours
        };
        let ingress = json!({"f:loadBalancer": {"f:ingress": {}}});
        assert!(managed("berth-agent", "status", ingress.clone()));
        assert!(managed(
            "berth-agent",
            "status",
            json!({"f:conditions": {}})
        ));
        assert!(!managed(
            "berth-agent",
            "status",
            json!({"f:loadBalancer": {}})
        ));
        assert!(!managed("berth-agent", "", ingress.clone()));
        assert!(!managed("kubelb", "status", ingress));
    }
}
