//! EndpointSlices: the tenant's nodes as backends of the management Service, per family, at most 1,000 in each.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use berth_common::model::{IpFamily, Protocol, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::{Id, MANAGER, labels, name};

/// The label that ties a slice to its Service.
const SERVICE: &str = "kubernetes.io/service-name";
/// The label that keeps Kubernetes' own slice controllers away.
const SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The most endpoints that Kubernetes allows in one slice.
pub const MAX_ENDPOINTS: usize = 1_000;

/// Where a slice stands among those of one load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// All addresses in a slice are of one family.
    pub family: IpFamily,
    /// From 0.
    pub index: u32,
}

/// The ports of a slice: by name, as in the Service, the tenant's node port.
pub type SlicePorts = BTreeMap<String, (Protocol, u16)>;

/// What the hub decides of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceShape {
    /// Sorted, each once. (A vector, for there are many of these and they rarely change.)
    pub addresses: Vec<IpAddr>,
    /// The same in all slices of a load balancer.
    pub ports: SlicePorts,
}

/// The ports that the slices of a Service have.
pub fn ports(service: &Service) -> SlicePorts {
    let ports = service.ports.iter().filter_map(|port| {
        let target = (port.protocol, port.node_port?);
        Some((port.name.clone(), target))
    });
    ports.collect()
}

impl SliceShape {
    /// The EndpointSlice to apply. Endpoints are always ready: nodes that are not to receive traffic are left out.
    pub fn manifest(&self, id: &Id, place: Place) -> Value {
        let mut labels = labels(id);
        labels.insert(SERVICE.into(), name::object(id));
        labels.insert(SLICE_MANAGED_BY.into(), MANAGER.into());
        let endpoints: Vec<Value> = self
            .addresses
            .iter()
            .map(|ip| json!({ "addresses": [ip.to_string()], "conditions": { "ready": true } }))
            .collect();
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|(name, (protocol, port))| {
                json!({ "name": name, "protocol": protocol.as_str(), "port": port })
            })
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name::slice(id, place.family, place.index),
                "namespace": id.tenant.namespace(),
                "labels": labels,
            },
            "addressType": place.family.as_str(),
            "endpoints": endpoints,
            "ports": ports,
        })
    }
}

/// A slice as observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedSlice {
    /// The hub's part.
    pub shape: SliceShape,
    /// Whether labels and endpoints are such as the hub writes them, without anything besides.
    pub sound: bool,
}

impl ObservedSlice {
    /// Projects an object of the API server's; `None` where its name is no slice's of this load balancer.
    pub fn from_object(id: &Id, object: &EndpointSlice) -> Option<(Place, Self)> {
        let (family, index) = name::slice_index(id, object.metadata.name.as_ref()?)?;
        let place = Place { family, index };
        let mut labels = labels(id);
        labels.insert(SERVICE.into(), name::object(id));
        labels.insert(SLICE_MANAGED_BY.into(), MANAGER.into());
        let mut sound = object.address_type == family.as_str()
            && labels.iter().all(|(key, value)| {
                object.metadata.labels.as_ref().and_then(|all| all.get(key)) == Some(value)
            });
        let mut addresses = BTreeSet::new();
        for endpoint in &object.endpoints {
            let plain = endpoint
                .conditions
                .as_ref()
                .is_some_and(|c| c.ready == Some(true))
                && endpoint.node_name.is_none()
                && endpoint.hostname.is_none()
                && endpoint.target_ref.is_none()
                && endpoint.hints.is_none();
            match endpoint.addresses.as_slice() {
                [one] => match one.parse::<IpAddr>() {
                    Ok(ip) => sound &= plain && addresses.insert(ip),
                    Err(_) => sound = false,
                },
                _ => sound = false,
            }
        }
        let ports = object.ports.as_deref().unwrap_or_default();
        let read: SlicePorts = ports.iter().filter_map(read_port).collect();
        sound &= read.len() == ports.len();
        let shape = SliceShape {
            addresses: addresses.into_iter().collect(),
            ports: read,
        };
        Some((place, Self { shape, sound }))
    }
}

fn read_port(
    port: &k8s_openapi::api::discovery::v1::EndpointPort,
) -> Option<(String, (Protocol, u16))> {
    let protocol = match port.protocol.as_deref() {
        Some("TCP") | None => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(_) => return None,
    };
    let number = u16::try_from(port.port?).ok()?;
    Some((port.name.clone().unwrap_or_default(), (protocol, number)))
}

/// Distributes the wanted addresses of one family over slices: what is observed stays where it is, what is gone leaves its
/// place, and what is new fills the first places free. So a node that comes or goes costs one write, however many slices
/// there are.
///
/// The first slice is kept when it becomes empty (a node that comes back costs an update, not a creation); where there
/// was none and there is nothing to put in, none is made.
pub fn arrange<'a>(
    wanted: &BTreeSet<IpAddr>,
    observed: impl IntoIterator<Item = (u32, &'a [IpAddr])>,
) -> BTreeMap<u32, Vec<IpAddr>> {
    let mut slices: BTreeMap<u32, BTreeSet<IpAddr>> = BTreeMap::new();
    let mut placed = BTreeSet::new();
    for (index, addresses) in observed {
        let slice = slices.entry(index).or_default();
        for ip in addresses {
            if slice.len() < MAX_ENDPOINTS && wanted.contains(ip) && placed.insert(*ip) {
                slice.insert(*ip);
            }
        }
    }
    let mut new = wanted.difference(&placed).copied().peekable();
    let mut index = 0;
    while new.peek().is_some() {
        let slice = slices.entry(index).or_default();
        let free = MAX_ENDPOINTS - slice.len();
        slice.extend(new.by_ref().take(free));
        index += 1;
    }
    slices.retain(|index, slice| *index == 0 || !slice.is_empty());
    slices
        .into_iter()
        .map(|(index, slice)| (index, slice.into_iter().collect()))
        .collect()
}
