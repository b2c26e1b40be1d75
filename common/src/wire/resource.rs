//! Services and nodes, out of and into messages.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use berth_wire::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{
    MAX_LOCAL_NODES, MAX_PORTS, MAX_REQUESTED_IPS, MAX_SOURCE_RANGES, Refusal, is_label,
    key_from_wire, key_to_wire,
};
use crate::annotations::{self, MAX_BYTES, MAX_COUNT};
use crate::model::{
    Body, Generation, IpFamily, Key, Node, NodeName, Port, Protocol, Service, TrafficPolicy,
    Versioned,
};

/// Reads a resource. The caller answers a refusal under the key as it came.
pub fn resource_from_wire(resource: &v1::Resource) -> Result<(Key, Versioned<Body>), Refusal> {
    let key = resource
        .key
        .as_ref()
        .ok_or_else(|| Refusal::new("metadata.name", "missing"))?;
    let key = key_from_wire(key)?;
    let body = match (&key, &resource.body) {
        (Key::Service(_), Some(v1::resource::Body::Service(service))) => {
            Body::Service(service_from_wire(service)?)
        }
        (Key::Node(_), Some(v1::resource::Body::Node(node))) => Body::Node(node_from_wire(node)?),
        (_, None) => {
            return Err(Refusal {
                field: "body".into(),
                reason: super::UNIMPLEMENTED,
                message: "this hub cannot read the body: it is older than the agent".into(),
            });
        }
        _ => return Err(Refusal::new("kind", "body and key are of different kinds")),
    };
    Ok((
        key,
        Versioned {
            generation: Generation(resource.generation),
            body,
        },
    ))
}

/// Writes a resource.
pub fn resource_to_wire(key: &Key, resource: &Versioned<Body>) -> v1::Resource {
    v1::Resource {
        key: Some(key_to_wire(key)),
        generation: resource.generation.0,
        body: Some(body_to_wire(&resource.body)),
    }
}

/// The number of a body: the first 63 bits of SHA-256 over its kind and its deterministic encoding, so that equal content
/// has an equal number in every process.
pub fn generation_of(body: &Body) -> Generation {
    let mut hash = Sha256::new();
    match body_to_wire(body) {
        v1::resource::Body::Service(service) => {
            hash.update([1]);
            hash.update(service.encode_to_vec());
        }
        v1::resource::Body::Node(node) => {
            hash.update([2]);
            hash.update(node.encode_to_vec());
        }
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hash.finalize()[..8]);
    Generation(u64::from_be_bytes(first) >> 1)
}

fn body_to_wire(body: &Body) -> v1::resource::Body {
    match body {
        Body::Service(service) => v1::resource::Body::Service(service_to_wire(service)),
        Body::Node(node) => v1::resource::Body::Node(v1::Node {
            addresses: node.addresses.iter().map(IpAddr::to_string).collect(),
        }),
    }
}

fn node_from_wire(node: &v1::Node) -> Result<Node, Refusal> {
    let mut addresses = BTreeSet::new();
    for (i, text) in node.addresses.iter().enumerate() {
        let address = ip(&format!("status.addresses[{i}]"), text)?;
        if addresses
            .iter()
            .any(|other| IpFamily::of(other) == IpFamily::of(&address))
        {
            return Err(Refusal::new(
                "status.addresses",
                "more than one address of a family",
            ));
        }
        addresses.insert(address);
    }
    if addresses.is_empty() {
        return Err(Refusal::new("status.addresses", "no address"));
    }
    Ok(Node { addresses })
}

fn service_from_wire(service: &v1::Service) -> Result<Service, Refusal> {
    if service.uid.is_empty() || service.uid.len() > 64 || !service.uid.is_ascii() {
        return Err(Refusal::new("metadata.uid", "not a UID"));
    }
    let affinity_seconds = (service.affinity_seconds != 0).then_some(service.affinity_seconds);
    if affinity_seconds.is_some_and(|seconds| seconds > 86_400) {
        return Err(Refusal::new(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            "more than 86400",
        ));
    }
    Ok(Service {
        uid: service.uid.clone(),
        ports: ports(&service.ports)?,
        families: families(&service.families)?,
        require_dual_stack: service.require_dual_stack,
        affinity_seconds,
        source_ranges: source_ranges(&service.source_ranges)?,
        traffic_policy: match v1::TrafficPolicy::try_from(service.traffic_policy) {
            Ok(v1::TrafficPolicy::Cluster) => TrafficPolicy::Cluster,
            Ok(v1::TrafficPolicy::Local) => TrafficPolicy::Local,
            _ => {
                return Err(unknown(
                    "spec.externalTrafficPolicy",
                    service.traffic_policy,
                ));
            }
        },
        local_nodes: local_nodes(&service.local_nodes)?,
        health_check_node_port: optional_port(
            "spec.healthCheckNodePort",
            service.health_check_node_port,
        )?,
        requested_ips: requested_ips(&service.requested_ips)?,
        annotations: annotations(&service.annotations)?,
    })
}

fn service_to_wire(service: &Service) -> v1::Service {
    v1::Service {
        uid: service.uid.clone(),
        ports: service.ports.iter().map(port_to_wire).collect(),
        families: service
            .families
            .iter()
            .map(|family| match family {
                IpFamily::V4 => v1::IpFamily::V4.into(),
                IpFamily::V6 => v1::IpFamily::V6.into(),
            })
            .collect(),
        require_dual_stack: service.require_dual_stack,
        affinity_seconds: service.affinity_seconds.unwrap_or(0),
        source_ranges: service
            .source_ranges
            .iter()
            .map(ToString::to_string)
            .collect(),
        traffic_policy: match service.traffic_policy {
            TrafficPolicy::Cluster => v1::TrafficPolicy::Cluster.into(),
            TrafficPolicy::Local => v1::TrafficPolicy::Local.into(),
        },
        local_nodes: service.local_nodes.iter().map(|n| n.0.clone()).collect(),
        health_check_node_port: service.health_check_node_port.unwrap_or(0).into(),
        requested_ips: service
            .requested_ips
            .iter()
            .map(ToString::to_string)
            .collect(),
        annotations: service
            .annotations
            .iter()
            .map(|(key, value)| v1::Annotation {
                key: key.clone(),
                value: value.clone(),
            })
            .collect(),
    }
}

fn ports(ports: &[v1::Port]) -> Result<Vec<Port>, Refusal> {
    if ports.is_empty() || ports.len() > MAX_PORTS {
        return Err(Refusal::new(
            "spec.ports",
            format!("{} ports; 1 to {MAX_PORTS} are possible", ports.len()),
        ));
    }
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    let mut read = Vec::with_capacity(ports.len());
    for (i, port) in ports.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{i}].{name}");
        let port = Port {
            name: port.name.clone(),
            protocol: match v1::Protocol::try_from(port.protocol) {
                Ok(v1::Protocol::Tcp) => Protocol::Tcp,
                Ok(v1::Protocol::Udp) => Protocol::Udp,
                Ok(v1::Protocol::Sctp) => Protocol::Sctp,
                _ => return Err(unknown(&field("protocol"), port.protocol)),
            },
            port: optional_port(&field("port"), port.port)?
                .ok_or_else(|| Refusal::new(field("port"), "not a port from 1 to 65535"))?,
            node_port: optional_port(&field("nodePort"), port.node_port)?,
            app_protocol: (!port.app_protocol.is_empty()).then(|| port.app_protocol.clone()),
        };
        if !(is_label(&port.name) || port.name.is_empty() && ports.len() == 1) {
            return Err(Refusal::new(
                field("name"),
                "not a DNS label of 1 to 63 lower-case letters, digits and '-'",
            ));
        }
        if port.app_protocol.as_ref().is_some_and(|p| !is_qualified(p)) {
            return Err(Refusal::new(
                field("appProtocol"),
                "not a qualified name such as 'http' or 'example.com/protocol'",
            ));
        }
        if !names.insert(port.name.clone()) {
            return Err(Refusal::new(field("name"), "used by two ports"));
        }
        if !numbers.insert((port.protocol, port.port)) {
            return Err(Refusal::new(
                field("port"),
                "used by two ports of one protocol",
            ));
        }
        read.push(port);
    }
    Ok(read)
}

fn port_to_wire(port: &Port) -> v1::Port {
    v1::Port {
        name: port.name.clone(),
        protocol: match port.protocol {
            Protocol::Tcp => v1::Protocol::Tcp.into(),
            Protocol::Udp => v1::Protocol::Udp.into(),
            Protocol::Sctp => v1::Protocol::Sctp.into(),
        },
        port: port.port.into(),
        node_port: port.node_port.unwrap_or(0).into(),
        app_protocol: port.app_protocol.clone().unwrap_or_default(),
    }
}

fn families(families: &[i32]) -> Result<Vec<IpFamily>, Refusal> {
    let mut read = Vec::with_capacity(families.len());
    for (i, family) in families.iter().enumerate() {
        let family = match v1::IpFamily::try_from(*family) {
            Ok(v1::IpFamily::V4) => IpFamily::V4,
            Ok(v1::IpFamily::V6) => IpFamily::V6,
            _ => return Err(unknown(&format!("spec.ipFamilies[{i}]"), *family)),
        };
        if read.contains(&family) {
            return Err(Refusal::new(
                "spec.ipFamilies",
                "a family stands there twice",
            ));
        }
        read.push(family);
    }
    if read.is_empty() {
        return Err(Refusal::new("spec.ipFamilies", "no family"));
    }
    Ok(read)
}

fn source_ranges(ranges: &[String]) -> Result<BTreeSet<ipnet::IpNet>, Refusal> {
    const FIELD: &str = "spec.loadBalancerSourceRanges";
    if ranges.len() > MAX_SOURCE_RANGES {
        return Err(Refusal::new(
            FIELD,
            format!("more than {MAX_SOURCE_RANGES} ranges"),
        ));
    }
    ranges
        .iter()
        .enumerate()
        .map(|(i, text)| {
            text.trim()
                .parse::<ipnet::IpNet>()
                .map(|net| net.trunc())
                .map_err(|_| {
                    Refusal::new(
                        format!("{FIELD}[{i}]"),
                        "not a CIDR such as 10.0.0.0/8 or 2001:db8::/32",
                    )
                })
        })
        .collect()
}

fn local_nodes(names: &[String]) -> Result<BTreeSet<NodeName>, Refusal> {
    if names.len() > MAX_LOCAL_NODES {
        return Err(Refusal::new(
            "endpoints",
            format!("more than {MAX_LOCAL_NODES} nodes"),
        ));
    }
    names
        .iter()
        .map(|name| {
            let key = v1::Key {
                kind: v1::Kind::Node.into(),
                namespace: String::new(),
                name: name.clone(),
            };
            match key_from_wire(&key)? {
                Key::Node(name) => Ok(name),
                Key::Service(_) => Err(Refusal::new("endpoints", "not a node's name")),
            }
        })
        .collect()
}

fn requested_ips(texts: &[String]) -> Result<Vec<IpAddr>, Refusal> {
    if texts.len() > MAX_REQUESTED_IPS {
        return Err(Refusal::new(
            "spec.loadBalancerIP",
            "more than one address a family",
        ));
    }
    texts
        .iter()
        .map(|text| ip("spec.loadBalancerIP", text))
        .collect()
}

fn annotations(annotations: &[v1::Annotation]) -> Result<BTreeMap<String, String>, Refusal> {
    const FIELD: &str = "metadata.annotations";
    let bytes: usize = annotations
        .iter()
        .map(|it| it.key.len() + it.value.len())
        .sum();
    if annotations.len() > MAX_COUNT || bytes > MAX_BYTES {
        return Err(Refusal::new(
            FIELD,
            format!(
                "{} annotations of {bytes} bytes are to be passed on; {MAX_COUNT} of {MAX_BYTES} bytes are possible",
                annotations.len()
            ),
        ));
    }
    let mut read = BTreeMap::new();
    for it in annotations {
        if !annotations::is_key(&it.key) {
            return Err(Refusal::new(FIELD, "a key that no annotation can have"));
        }
        if read.insert(it.key.clone(), it.value.clone()).is_some() {
            return Err(Refusal::new(
                FIELD,
                format!("{} stands there twice", it.key),
            ));
        }
    }
    Ok(read)
}

/// An address in canonical form; an IPv4 address in IPv6's clothes is taken as what it is.
fn ip(field: &str, text: &str) -> Result<IpAddr, Refusal> {
    text.parse::<IpAddr>()
        .map(|ip| ip.to_canonical())
        .map_err(|_| Refusal::new(field, "not an IP address"))
}

fn optional_port(field: &str, port: u32) -> Result<Option<u16>, Refusal> {
    match u16::try_from(port) {
        Ok(0) => Ok(None),
        Ok(port) => Ok(Some(port)),
        Err(_) => Err(Refusal::new(field, "not a port from 1 to 65535")),
    }
}

fn is_qualified(name: &str) -> bool {
    name.len() <= 317
        && !name.is_empty()
        && name
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"-_./".contains(&c))
}

fn unknown(field: &str, value: i32) -> Refusal {
    Refusal {
        field: field.into(),
        reason: "UnknownValue",
        message: format!("this hub does not know value {value}: it is older than the agent"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(change: impl FnOnce(&mut v1::Service)) -> v1::Resource {
        let mut service = v1::Service {
            uid: "0b5c".into(),
            ports: vec![v1::Port {
                name: "http".into(),
                protocol: 1,
                port: 80,
                node_port: 30080,
                app_protocol: String::new(),
            }],
            families: vec![1],
            traffic_policy: 1,
            ..Default::default()
        };
        change(&mut service);
        v1::Resource {
            key: Some(v1::Key {
                kind: 1,
                namespace: "default".into(),
                name: "backend".into(),
            }),
            generation: 1,
            body: Some(v1::resource::Body::Service(service)),
        }
    }

    fn refused(change: impl FnOnce(&mut v1::Service)) -> String {
        resource_from_wire(&wire(change)).unwrap_err().field
    }

    #[test]
    fn hostile_47_zero_duplicate_and_ten_thousand_ports() {
        assert_eq!(refused(|s| s.ports.clear()), "spec.ports");
        assert_eq!(
            refused(|s| s.ports = vec![s.ports[0].clone(); 2]),
            "spec.ports[1].name"
        );
        assert_eq!(
            refused(|s| s.ports = vec![s.ports[0].clone(); 10_000]),
            "spec.ports"
        );
    }

    #[test]
    fn hostile_48_port_numbers_and_protocols_out_of_range() {
        assert_eq!(refused(|s| s.ports[0].port = 0), "spec.ports[0].port");
        assert_eq!(refused(|s| s.ports[0].port = 65_536), "spec.ports[0].port");
        assert_eq!(
            refused(|s| s.ports[0].protocol = 9),
            "spec.ports[0].protocol"
        );
    }

    #[test]
    fn hostile_33_an_unknown_enum_value_is_never_taken_for_zero() {
        for refusal in [
            resource_from_wire(&wire(|s| s.traffic_policy = 77)).unwrap_err(),
            resource_from_wire(&wire(|s| s.families = vec![77])).unwrap_err(),
        ] {
            assert_eq!(refusal.reason, "UnknownValue");
        }
        assert_eq!(
            refused(|s| s.traffic_policy = 0),
            "spec.externalTrafficPolicy"
        );
    }

    #[test]
    fn hostile_62_a_range_that_is_none() {
        let field = refused(|s| s.source_ranges = vec!["10.0.0.0/8".into(), "0.0.0.0/0x".into()]);
        assert_eq!(field, "spec.loadBalancerSourceRanges[1]");
    }

    #[test]
    fn point_14_ranges_are_trimmed_and_masked() {
        let (_, read) =
            resource_from_wire(&wire(|s| s.source_ranges = vec![" 10.1.2.3/8 ".into()])).unwrap();
        let Body::Service(service) = read.body else {
            panic!("a service")
        };
        assert_eq!(
            service.source_ranges,
            BTreeSet::from(["10.0.0.0/8".parse().unwrap()])
        );
    }

    #[test]
    fn hostile_53_addresses_are_canonicalised_once_and_else_refused() {
        let node = |text: &str| {
            node_from_wire(&v1::Node {
                addresses: vec![text.into()],
            })
        };
        assert_eq!(
            node("::ffff:10.0.0.1").unwrap().addresses,
            BTreeSet::from(["10.0.0.1".parse().unwrap()])
        );
        for text in ["0177.1", "fe80::1%eth0", "node.example", "", "10.0.0.1/32"] {
            assert!(node(text).is_err(), "{text}");
        }
    }

    #[test]
    fn point_19_annotations_are_few_and_short_and_each_stands_once() {
        let one = |key: &str, value: &str| v1::Annotation {
            key: key.into(),
            value: value.into(),
        };
        let good = wire(|s| s.annotations = vec![one("example.com/b", "1"), one("a", "ü\n")]);
        let (key, read) = resource_from_wire(&good).unwrap();
        let Body::Service(service) = &read.body else {
            panic!("a service")
        };
        assert_eq!(service.annotations["example.com/b"], "1");
        let back = resource_to_wire(&key, &read);
        assert_eq!(resource_from_wire(&back).unwrap().1, read);
        let many: Vec<_> = (0..=MAX_COUNT).map(|n| one(&format!("k{n}"), "")).collect();
        let long = "x".repeat(MAX_BYTES);
        for bad in [
            many,
            vec![one("a", &long)],
            vec![one("a", "1"), one("a", "1")],
            vec![one("a b", "")],
            vec![one("a/b/c", "")],
        ] {
            assert_eq!(refused(|s| s.annotations = bad), "metadata.annotations");
        }
    }

    #[test]
    fn equal_content_has_an_equal_generation_and_any_change_another() {
        let of = |r: &v1::Resource| generation_of(&resource_from_wire(r).unwrap().1.body);
        let base = of(&wire(|_| ()));
        assert_eq!(base, of(&wire(|_| ())));
        assert_ne!(base, of(&wire(|s| s.ports[0].name = "web".into())));
        assert_ne!(base, of(&wire(|s| s.ports[0].node_port = 30081)));
        let noted = wire(|s| {
            s.annotations.push(v1::Annotation {
                key: "a".into(),
                value: "1".into(),
            });
        });
        assert_ne!(base, of(&noted));
        assert!(base.0 <= i64::MAX as u64);
    }
}
