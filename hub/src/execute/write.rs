//! One write: server-side apply, a strip, or a deletion, and what came of it into the cache.
//!
//! What is changed or deleted is addressed by its UID, so that nothing happens to another object of the same name, and nothing is made
//! where there is none any more: the API server answers an apply with a UID that is not there with 409, and with 422 where another is.
//! (In the status of a custom resource it does not heed it: the next plan sees what was written to another record.) What is
//! created is applied without force: on an object of somebody else's in the same place that conflicts, and nothing is
//! touched. So a creation costs one call, where looking first would cost two.

use std::{fmt, sync::Arc, time::Instant};

use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    core::NamespaceResourceScope,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::failure::{Failure, is_conflict, is_namespace_missing};
use crate::{
    api::LoadBalancer,
    objects::{FIELD_MANAGER, Id, Kind, name, namespace, record},
    observe::{Cache, Object, Project, Slot},
    plan::Write,
};

/// Writes, and tells the cache.
pub(super) struct Writer {
    client: Client,
    cache: Arc<Cache>,
}

/// A write in words.
pub(super) struct What<'a>(pub(super) &'a Write);

impl Writer {
    pub(super) fn new(client: Client, cache: Arc<Cache>) -> Self {
        Self { client, cache }
    }

    pub(super) async fn write(&self, id: &Id, write: &Write) -> Result<(), Failure> {
        let sent = Instant::now();
        match write {
            Write::Service { uid, shape } => {
                self.apply::<Service>(id, sent, Slot::Service, uid.as_deref(), shape.manifest(id))
                    .await
            }
            Write::Slice { uid, place, shape } => {
                let slot = Slot::Slice(*place);
                self.apply::<EndpointSlice>(
                    id,
                    sent,
                    slot,
                    uid.as_deref(),
                    shape.manifest(id, *place),
                )
                .await
            }
            Write::Record { uid, spec } => {
                let manifest = record::manifest(id, spec);
                self.apply::<LoadBalancer>(id, sent, Slot::Record, uid.as_deref(), manifest)
                    .await
            }
            Write::StripService { uid, shape } => {
                self.strip(id, sent, uid, shape.strip_patch(uid)).await
            }
            Write::Status { shape, now } => {
                let observed = self.cache.observed(id).record.ok_or(Failure::Outdated)?;
                let mut manifest = shape.manifest(id, observed.object.status.as_ref(), *now);
                manifest["metadata"]["uid"] = observed.uid.as_str().into();
                let api: Api<LoadBalancer> = self.api(id);
                let params = PatchParams::apply(FIELD_MANAGER).force();
                let result = api
                    .patch_status(&name::object(id), &params, &Patch::Apply(&manifest))
                    .await;
                self.changed(id, sent, Slot::Record, &observed.uid, result)
            }
            Write::Delete { kind, place, uid } => match (kind, place) {
                (Kind::Service, _) => self.delete::<Service>(id, sent, Slot::Service, uid).await,
                (Kind::LoadBalancer, _) => {
                    self.delete::<LoadBalancer>(id, sent, Slot::Record, uid)
                        .await
                }
                (Kind::EndpointSlice, Some(place)) => {
                    self.delete::<EndpointSlice>(id, sent, Slot::Slice(*place), uid)
                        .await
                }
                // The planner names the place of every slice.
                (Kind::EndpointSlice, None) => Ok(()),
            },
        }
    }

    async fn apply<K: Managed>(
        &self,
        id: &Id,
        sent: Instant,
        slot: Slot,
        uid: Option<&str>,
        mut manifest: Value,
    ) -> Result<(), Failure> {
        let api: Api<K> = self.api(id);
        let name = object_name(id, slot);
        if let Some(uid) = uid {
            manifest["metadata"]["uid"] = uid.into();
            let params = PatchParams::apply(FIELD_MANAGER).force();
            let result = api.patch(&name, &params, &Patch::Apply(&manifest)).await;
            return self.changed(id, sent, slot, uid, result);
        }
        // Of lists like a Service's ports server-side apply makes one out of both: a Service of somebody else's would be taken
        // for the half of ours, without any conflict.
        if slot == Slot::Service {
            self.vacant(&api, id, sent, slot).await?;
        }
        let params = PatchParams::apply(FIELD_MANAGER);
        let mut result = api.patch(&name, &params, &Patch::Apply(&manifest)).await;
        if result.as_ref().is_err_and(is_namespace_missing) {
            self.make_namespace(id).await?;
            result = api.patch(&name, &params, &Patch::Apply(&manifest)).await;
        }
        match result {
            Ok(object) => {
                self.keep(id, sent, &object);
                Ok(())
            }
            Err(error) if is_conflict(&error) => {
                self.vacant(&api, id, sent, slot).await?;
                Err(Failure::Outdated)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether nothing of this name is there: neither the hub's own, which no watch has reported yet, nor somebody else's.
    async fn vacant<K: Managed>(
        &self,
        api: &Api<K>,
        id: &Id,
        sent: Instant,
        slot: Slot,
    ) -> Result<(), Failure> {
        let name = object_name(id, slot);
        let Some(object) = api.get_opt(&name).await? else {
            return Ok(());
        };
        if self.keep(id, sent, &object) {
            return Err(Failure::Outdated);
        }
        Err(Failure::InTheWay(format!(
            "{} {}/{name} in the management cluster is not Berth's and in the way: its operator has to remove or rename it",
            slot.kind(),
            id.tenant.namespace()
        )))
    }

    async fn strip(&self, id: &Id, sent: Instant, uid: &str, patch: Value) -> Result<(), Failure> {
        let api: Api<Service> = self.api(id);
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..PatchParams::default()
        };
        let result = api
            .patch(&name::object(id), &params, &Patch::Merge(&patch))
            .await;
        self.changed(id, sent, Slot::Service, uid, result)
    }

    async fn delete<K: Managed>(
        &self,
        id: &Id,
        sent: Instant,
        slot: Slot,
        uid: &str,
    ) -> Result<(), Failure> {
        let api: Api<K> = self.api(id);
        let mut params = DeleteParams::background();
        params.preconditions = Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        });
        match api.delete(&object_name(id, slot), &params).await {
            Ok(either) => match either.left() {
                // Somebody's finalizer holds it.
                Some(object) if has_finalizers(&object) => {
                    self.keep(id, sent, &object);
                    Ok(())
                }
                _ => {
                    self.cache.deleted(id, slot, uid, sent);
                    Ok(())
                }
            },
            Err(error) => match error.into() {
                Failure::Outdated => {
                    self.cache.deleted(id, slot, uid, sent);
                    Ok(())
                }
                failure => Err(failure),
            },
        }
    }

    async fn make_namespace(&self, id: &Id) -> Result<(), Failure> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let params = PatchParams::apply(FIELD_MANAGER);
        let manifest = namespace::manifest(&id.tenant);
        api.patch(&id.tenant.namespace(), &params, &Patch::Apply(&manifest))
            .await?;
        Ok(())
    }

    /// The result of a change to a known object.
    fn changed<K: Managed>(
        &self,
        id: &Id,
        sent: Instant,
        slot: Slot,
        uid: &str,
        result: Result<K, kube::Error>,
    ) -> Result<(), Failure> {
        let failure = match result {
            Ok(object) => {
                self.keep(id, sent, &object);
                return Ok(());
            }
            Err(error) => Failure::from(error),
        };
        if matches!(failure, Failure::Outdated) {
            // Not there, or another of the same name, which the watch will report.
            self.cache.deleted(id, slot, uid, sent);
        }
        Err(failure)
    }

    /// Puts an object into the cache. Returns whether it is the hub's.
    fn keep<K: Managed>(&self, id: &Id, sent: Instant, object: &K) -> bool {
        let projected: Option<(Id, Object)> = object.project(Instant::now());
        match projected {
            Some((owner, object)) if owner == *id => {
                self.cache.wrote(id, object, sent);
                true
            }
            _ => false,
        }
    }

    fn api<K: Managed>(&self, id: &Id) -> Api<K> {
        Api::namespaced(self.client.clone(), &id.tenant.namespace())
    }
}

/// The kinds that the writer writes.
trait Managed:
    Project
    + Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + fmt::Debug
    + DeserializeOwned
{
}

impl Managed for Service {}
impl Managed for EndpointSlice {}
impl Managed for LoadBalancer {}

fn has_finalizers<K: Resource>(object: &K) -> bool {
    object
        .meta()
        .finalizers
        .as_ref()
        .is_some_and(|finalizers| !finalizers.is_empty())
}

fn object_name(id: &Id, slot: Slot) -> String {
    match slot {
        Slot::Service | Slot::Record => name::object(id),
        Slot::Slice(place) => name::slice(id, place.family, place.index),
    }
}

impl What<'_> {
    pub(super) fn kind(&self) -> Kind {
        match self.0 {
            Write::Service { .. } | Write::StripService { .. } => Kind::Service,
            Write::Slice { .. } => Kind::EndpointSlice,
            Write::Record { .. } | Write::Status { .. } => Kind::LoadBalancer,
            Write::Delete { kind, .. } => *kind,
        }
    }

    pub(super) fn verb(&self) -> &'static str {
        match self.0 {
            Write::Service { uid, .. } | Write::Slice { uid, .. } | Write::Record { uid, .. } => {
                if uid.is_some() {
                    "apply"
                } else {
                    "create"
                }
            }
            Write::StripService { .. } => "strip",
            Write::Status { .. } => "status",
            Write::Delete { .. } => "delete",
        }
    }
}

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb(), self.kind())
    }
}
