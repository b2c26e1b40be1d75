//! The objects that the hub keeps in the management cluster for one Service of a tenant: their names, their labels, and
//! for each kind a *shape*, the part of it that is the hub's to decide. What is to be written is made from a shape
//! (`manifest`), and what was observed is projected to one (`from_object`), so that "is it already there?" is an equality.
//! Pure: no client, no clock, and nothing of why an object should exist; that is the planner's.
//!
//! There are no owner references between these objects. They would make each creation wait for the owner's UID, and would
//! turn a deleted record into a deleted data path; labels find orphans just as well, and the hub alone deletes.

pub mod backend_slice;
pub mod name;
pub mod namespace;
pub mod record;
pub mod service;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt};

use berth_common::{identity::TenantName, model::ServiceKey};
use kube::api::ObjectMeta;

/// The field manager of every write, the same in every replica and release.
pub const FIELD_MANAGER: &str = "berth-hub";
/// Marks an object as the hub's. What does not carry it is never touched.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`], and of the same kind of label on EndpointSlices.
pub const MANAGER: &str = "berth-hub";
/// The tenant that an object belongs to.
pub const TENANT: &str = "berth.dev/tenant";
/// The namespace of the tenant's Service. A namespace's name always fits in a label.
pub const SERVICE_NAMESPACE: &str = "berth.dev/service-namespace";
/// The name of the tenant's Service. A Service's name always fits in a label.
pub const SERVICE_NAME: &str = "berth.dev/service-name";
/// On a `Tenant`: `true` lets go what the brake holds now. The hub takes it away as it takes it.
pub const RELEASE_HELD: &str = "berth.dev/release-held";
/// On a `Tenant`: keeps it, when it is deleted, until what it has here is gone.
pub const FINALIZER: &str = "berth.dev/load-balancers";
/// On a `Tenant` that is deleted: `true` says that it is meant, also where many are deleted at once.
pub const CONFIRM_DELETION: &str = "berth.dev/confirm-deletion";
/// On a management Service: its Tenant was deleted, and the address is kept for as long as there is a LoadBalancer.
pub const KEPT: &str = "berth.dev/kept-after-tenant";
/// On a tenant's namespace: when its Tenant was deleted. Certificates from before are none of a later Tenant's.
pub const DELETED_AT: &str = "berth.dev/tenant-deleted-at";

/// The identity of a load balancer: whatever happens to UIDs and clusters, this stays.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    /// Whose it is.
    pub tenant: TenantName,
    /// Which of the tenant's Services.
    pub key: ServiceKey,
}

impl Id {
    /// An identity from its parts.
    pub fn new(tenant: TenantName, key: ServiceKey) -> Self {
        Self { tenant, key }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.tenant, self.key)
    }
}

/// The kinds of object that the hub writes for a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `Service`, core/v1.
    Service,
    /// `EndpointSlice`, discovery.k8s.io/v1.
    EndpointSlice,
    /// `LoadBalancer`, berth.dev/v1alpha1.
    LoadBalancer,
}

impl Kind {
    /// The kind's name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The labels of every object of a load balancer. They, not the name, say whose it is.
pub fn labels(id: &Id) -> BTreeMap<String, String> {
    [
        (MANAGED_BY, MANAGER),
        (TENANT, id.tenant.as_str()),
        (SERVICE_NAMESPACE, &id.key.namespace),
        (SERVICE_NAME, &id.key.name),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// Whose object this is, or `None` where it is not the hub's: without the labels, or with labels that belong to another
/// name or namespace than it has (a copy that somebody made).
pub fn owner(meta: &ObjectMeta) -> Option<Id> {
    let labels = meta.labels.as_ref()?;
    if labels.get(MANAGED_BY)? != MANAGER {
        return None;
    }
    let tenant = TenantName::parse(labels.get(TENANT)?).ok()?;
    if *meta.namespace.as_ref()? != tenant.namespace() {
        return None;
    }
    let key = ServiceKey::new(labels.get(SERVICE_NAMESPACE)?, labels.get(SERVICE_NAME)?);
    let id = Id::new(tenant, key);
    let object = meta.name.as_ref()?;
    (*object == name::object(&id) || name::slice_index(&id, object).is_some()).then_some(id)
}
