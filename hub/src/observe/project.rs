//! From objects of the API server's to what is kept of them.

use std::time::Instant;

use k8s_openapi::api::{core::v1 as core, discovery::v1::EndpointSlice};
use kube::api::ObjectMeta;

use crate::{
    api,
    objects::{
        Id, Kind,
        backend_slice::{ObservedSlice, Place},
        owner,
        record::ObservedRecord,
        service::ObservedService,
    },
    plan::Seen,
};

/// Where an object stands among those of one load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slot {
    /// The Service.
    Service,
    /// One of the EndpointSlices.
    Slice(Place),
    /// The LoadBalancer.
    Record,
}

impl Slot {
    /// The kind of object that stands there.
    pub fn kind(self) -> Kind {
        match self {
            Self::Service => Kind::Service,
            Self::Slice(_) => Kind::EndpointSlice,
            Self::Record => Kind::LoadBalancer,
        }
    }
}

/// An object of the hub's, of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "it lives from the watch to the cache and no longer"
)]
pub enum Object {
    /// A Service.
    Service(Seen<ObservedService>),
    /// An EndpointSlice.
    Slice(Place, Seen<ObservedSlice>),
    /// A LoadBalancer.
    Record(Seen<ObservedRecord>),
}

impl Object {
    /// Where it stands.
    pub fn slot(&self) -> Slot {
        match self {
            Self::Service(_) => Slot::Service,
            Self::Slice(place, _) => Slot::Slice(*place),
            Self::Record(_) => Slot::Record,
        }
    }

    /// Its UID.
    pub fn uid(&self) -> &str {
        match self {
            Self::Service(seen) => &seen.uid,
            Self::Slice(_, seen) => &seen.uid,
            Self::Record(seen) => &seen.uid,
        }
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        match self {
            Self::Service(seen) => seen.version,
            Self::Slice(_, seen) => seen.version,
            Self::Record(seen) => seen.version,
        }
    }
}

/// A kind that the hub writes and watches.
pub trait Project {
    /// Which.
    const KIND: Kind;

    /// What is kept of an object, and whose it is; `None` where it is not the hub's.
    fn project(&self, now: Instant) -> Option<(Id, Object)>;
}

impl Project for core::Service {
    const KIND: Kind = Kind::Service;

    fn project(&self, now: Instant) -> Option<(Id, Object)> {
        let id = owner(&self.metadata)?;
        let object = ObservedService::from_object(&id, self);
        Some((id, Object::Service(seen(&self.metadata, now, object)?)))
    }
}

impl Project for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;

    fn project(&self, now: Instant) -> Option<(Id, Object)> {
        let id = owner(&self.metadata)?;
        let (place, object) = ObservedSlice::from_object(&id, self)?;
        Some((id, Object::Slice(place, seen(&self.metadata, now, object)?)))
    }
}

impl Project for api::LoadBalancer {
    const KIND: Kind = Kind::LoadBalancer;

    fn project(&self, now: Instant) -> Option<(Id, Object)> {
        let id = owner(&self.metadata)?;
        let object = ObservedRecord::from_object(&id, self);
        Some((id, Object::Record(seen(&self.metadata, now, object)?)))
    }
}

fn seen<T>(meta: &ObjectMeta, since: Instant, object: T) -> Option<Seen<T>> {
    Some(Seen {
        uid: meta.uid.clone()?,
        // Decimal and increasing (KEP-5504); what is not would never be taken for newer.
        version: meta.resource_version.as_ref()?.parse().ok()?,
        deleting: meta.deletion_timestamp.is_some(),
        since,
        object,
    })
}
