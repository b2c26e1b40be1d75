//! The three kinds of object that are watched: how each is projected, and where it goes.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Instant};

use berth_common::model::{NodeName, ServiceKey};
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::Resource;
use serde::de::DeserializeOwned;

use crate::{
    broker::{Broker, Cache},
    project::{AddressType, SeenNode, SeenService, SeenSlice, SliceKey},
};

/// A kind of object on its way from a watch to the broker.
pub trait Feed {
    /// The object of the API.
    type Object: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static;
    /// Its name.
    type Key: Ord;
    /// What is kept of it.
    type Seen;
    /// Its name for people.
    const CACHE: Cache;

    /// The object's name; none if it has not got one, which no API server lets happen.
    fn key(object: &Self::Object) -> Option<Self::Key>;
    /// What is kept of it; none if it does not concern us.
    fn project(&self, object: Self::Object) -> Option<(Self::Key, Self::Seen)>;
    /// It was added or changed.
    fn apply(&self, key: Self::Key, seen: Self::Seen);
    /// It is gone.
    fn delete(&self, key: &Self::Key);
    /// All of them were read.
    fn reset(&self, all: BTreeMap<Self::Key, Self::Seen>);
    /// They cannot be read now. True: that is new.
    fn lost(&self, reason: &str) -> bool;
}

/// Services.
#[derive(Clone, Debug)]
pub struct ServicesFeed(pub Arc<Broker>);

impl Feed for ServicesFeed {
    type Object = Service;
    type Key = ServiceKey;
    type Seen = SeenService;
    const CACHE: Cache = Cache::Services;

    fn key(service: &Service) -> Option<ServiceKey> {
        let namespace = service.metadata.namespace.as_deref()?;
        Some(ServiceKey::new(
            namespace,
            service.metadata.name.as_deref()?,
        ))
    }

    fn project(&self, service: Service) -> Option<(ServiceKey, SeenService)> {
        SeenService::project(service)
    }

    fn apply(&self, key: ServiceKey, seen: SeenService) {
        self.0
            .update(Instant::now(), |index| index.apply_service(key, seen, true));
    }

    fn delete(&self, key: &ServiceKey) {
        self.0
            .update(Instant::now(), |index| index.delete_service(key));
    }

    fn reset(&self, all: BTreeMap<ServiceKey, SeenService>) {
        self.0.cache_synced(Self::CACHE, Instant::now(), |index| {
            index.reset_services(all)
        });
    }

    fn lost(&self, reason: &str) -> bool {
        self.0.cache_lost(Self::CACHE, reason)
    }
}

/// Nodes.
#[derive(Clone, Debug)]
pub struct NodesFeed {
    broker: Arc<Broker>,
    preference: Vec<AddressType>,
}

impl NodesFeed {
    /// Nodes, of whose addresses those of the preferred types count.
    pub fn new(broker: Arc<Broker>, preference: Vec<AddressType>) -> Self {
        Self { broker, preference }
    }
}

impl Feed for NodesFeed {
    type Object = Node;
    type Key = NodeName;
    type Seen = SeenNode;
    const CACHE: Cache = Cache::Nodes;

    fn key(node: &Node) -> Option<NodeName> {
        node.metadata.name.clone().map(NodeName)
    }

    fn project(&self, node: Node) -> Option<(NodeName, SeenNode)> {
        Some((
            Self::key(&node)?,
            SeenNode::project(&node, &self.preference),
        ))
    }

    fn apply(&self, name: NodeName, seen: SeenNode) {
        self.broker
            .update(Instant::now(), |index| index.apply_node(name, seen));
    }

    fn delete(&self, name: &NodeName) {
        self.broker
            .update(Instant::now(), |index| index.delete_node(name));
    }

    fn reset(&self, all: BTreeMap<NodeName, SeenNode>) {
        self.broker
            .cache_synced(Self::CACHE, Instant::now(), |index| index.reset_nodes(all));
    }

    fn lost(&self, reason: &str) -> bool {
        self.broker.cache_lost(Self::CACHE, reason)
    }
}

/// EndpointSlices.
#[derive(Clone, Debug)]
pub struct SlicesFeed(pub Arc<Broker>);

impl SlicesFeed {
    pub(super) fn broker(&self) -> &Broker {
        &self.0
    }
}

impl Feed for SlicesFeed {
    type Object = EndpointSlice;
    type Key = SliceKey;
    type Seen = SeenSlice;
    const CACHE: Cache = Cache::EndpointSlices;

    fn key(slice: &EndpointSlice) -> Option<SliceKey> {
        Some(SliceKey {
            namespace: slice.metadata.namespace.clone()?,
            name: slice.metadata.name.clone()?,
        })
    }

    fn project(&self, slice: EndpointSlice) -> Option<(SliceKey, SeenSlice)> {
        SeenSlice::project(&slice)
    }

    fn apply(&self, key: SliceKey, seen: SeenSlice) {
        self.0
            .update(Instant::now(), |index| index.apply_slice(key, seen));
    }

    fn delete(&self, key: &SliceKey) {
        self.0
            .update(Instant::now(), |index| index.delete_slice(key));
    }

    fn reset(&self, all: BTreeMap<SliceKey, SeenSlice>) {
        self.0
            .cache_synced(Self::CACHE, Instant::now(), |index| index.reset_slices(all));
    }

    fn lost(&self, reason: &str) -> bool {
        self.0.cache_lost(Self::CACHE, reason)
    }
}
