//! What operators and tenants say, drawn from few words, so that it meets: well, nearly well, and badly.

use arbitrary::Arbitrary;
use berth_common::{
    model::{Body, Key, Service, ServiceKey},
    wire::{key_to_wire, resource_from_wire},
};
use berth_hub::api::{Annotations, Quotas, TenantSpec};
use berth_wire::v1;

/// A text out of few, so that they meet; or any.
#[derive(Arbitrary, Debug)]
pub(super) enum Word<'a> {
    One(u8),
    Any(&'a str),
}

impl Word<'_> {
    pub(super) fn of(&self, words: &[&str]) -> String {
        match self {
            Self::One(at) => words[usize::from(*at) % words.len()].to_owned(),
            Self::Any(text) => (*text).to_owned(),
        }
    }
}

const RANGES: [&str; 8] = [
    "10.1.0.0/24",
    "10.0.0.0/8",
    "127.0.0.0/8",
    "0.0.0.0/0",
    "::/0",
    "10.2.0.4/30",
    "fd01::/64",
    "10.1.0.2/32",
];
pub(super) const ADDRESSES: [&str; 14] = [
    "10.1.0.1",
    "10.1.0.2",
    "10.1.0.3",
    "10.2.0.4",
    "10.2.0.5",
    "10.0.0.7",
    "fd01::1",
    "fd00::1",
    "127.0.0.1",
    "::1",
    "169.254.169.254",
    "::ffff:10.1.0.1",
    "224.0.0.1",
    "0.0.0.0",
];
const KEYS: [&str; 8] = [
    "example.com/owner",
    "example.com/*",
    "metallb.io/loadBalancerIPs",
    "metallb.io/allow-shared-ip",
    "metallb.io/*",
    "service.beta.kubernetes.io/aws-load-balancer-type",
    "external-dns.alpha.kubernetes.io/hostname",
    "berth.dev/tenant",
];
const PORT_RANGES: [&str; 4] = ["30000-32767", "31000-31000", "1-65535", "2-1"];
const CLASSES: [&str; 2] = ["example.com/lb", "metallb.io/other"];

#[derive(Arbitrary, Debug)]
pub(super) struct Rules<'a> {
    requestable: Vec<Word<'a>>,
    node_cidrs: Vec<Word<'a>>,
    node_port_range: Option<Word<'a>>,
    ports: Option<u8>,
    nodes: Option<u8>,
    allowed: Vec<Word<'a>>,
    injected: Vec<(Word<'a>, &'a str)>,
    class: Option<Word<'a>>,
    enforce: bool,
}

impl Rules<'_> {
    pub(super) fn spec(&self) -> TenantSpec {
        let all = |words: &[Word<'_>], of: &[&str]| words.iter().map(|word| word.of(of)).collect();
        let injected = self.injected.iter();
        TenantSpec {
            requestable_ips: all(&self.requestable, &RANGES),
            node_cidrs: all(&self.node_cidrs, &RANGES),
            node_port_range: self.node_port_range.as_ref().map(|r| r.of(&PORT_RANGES)),
            quotas: Some(Quotas {
                ports_per_load_balancer: self.ports.map(u32::from),
                nodes: self.nodes.map(|nodes| u32::from(nodes % 4)),
                ..Quotas::default()
            }),
            annotations: Some(Annotations {
                allowed: all(&self.allowed, &KEYS),
                injected: injected
                    .map(|(key, value)| (key.of(&KEYS), (*value).to_owned()))
                    .collect(),
            }),
            enforce: self.enforce,
            load_balancer_class: self.class.as_ref().map(|class| class.of(&CLASSES)),
            ..TenantSpec::default()
        }
    }
}

#[derive(Arbitrary, Debug)]
pub(super) struct Wish<'a> {
    ports: Vec<(u8, u16, u8)>,
    families: u8,
    requested: Vec<Word<'a>>,
    ranges: Vec<Word<'a>>,
    annotations: Vec<(Word<'a>, &'a str)>,
}

impl Wish<'_> {
    /// As it comes over the wire, if it does.
    pub(super) fn service(&self, key: &ServiceKey) -> Option<Service> {
        let port = |(at, (number, node_port, protocol)): (usize, &(u8, u16, u8))| v1::Port {
            name: format!("p{at}"),
            protocol: i32::from(protocol % 5),
            port: u32::from(*number),
            node_port: match node_port % 8 {
                0 => u32::from(*node_port),
                near => 30_999 + u32::from(near),
            },
            app_protocol: String::new(),
        };
        let texts = |words: &[Word<'_>], of| words.iter().map(|word| word.of(of)).collect();
        let annotations = self.annotations.iter();
        let service = v1::Service {
            uid: "u".into(),
            ports: self.ports.iter().take(5).enumerate().map(port).collect(),
            families: match self.families % 4 {
                0 => vec![2],
                1 => vec![1, 2],
                _ => vec![1],
            },
            require_dual_stack: self.families % 8 == 5,
            source_ranges: texts(&self.ranges, &RANGES),
            traffic_policy: 1,
            requested_ips: texts(&self.requested, &ADDRESSES),
            annotations: annotations
                .map(|(key, value)| v1::Annotation {
                    key: key.of(&KEYS),
                    value: (*value).to_owned(),
                })
                .collect(),
            ..v1::Service::default()
        };
        let resource = v1::Resource {
            key: Some(key_to_wire(&Key::Service(key.clone()))),
            generation: 1,
            body: Some(v1::resource::Body::Service(service)),
        };
        match resource_from_wire(&resource).ok()?.1.body {
            Body::Service(service) => Some(service),
            Body::Node(_) => None,
        }
    }
}
