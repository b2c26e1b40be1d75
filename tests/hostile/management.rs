//! What a tenant has in the management cluster, seen through its real API server: to say that an attack left it as it was, and
//! that nothing else is there.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use berth_common::model::ServiceKey;
use berth_hub::{
    api::LoadBalancer,
    objects::{Id, SERVICE_NAME, name},
};
use berth_lab::{Seen, eventually};
use k8s_openapi::{
    NamespaceResourceScope, api::core::v1::Service, api::discovery::v1::EndpointSlice,
};
use kube::{
    Api, Resource,
    api::{ListParams, Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::ground::{Attack, Ground, SOON};

/// Objects by kind and name, each with what the hub and the allocator have decided of it.
pub(crate) type Standing = BTreeMap<String, Value>;

/// The parts of an object that an attack would change: not the conditions, which tell of it, nor what each write moves.
fn essence(object: &Value) -> Value {
    let at = |pointer: &str| object.pointer(pointer).cloned().unwrap_or_default();
    json!({
        "uid": at("/metadata/uid"),
        "labels": at("/metadata/labels"),
        "annotations": at("/metadata/annotations"),
        "spec": at("/spec"),
        "endpoints": at("/endpoints"),
        "ports": at("/ports"),
        "ingress": at("/status/loadBalancer"),
        "addresses": at("/status/addresses"),
    })
}

impl Ground {
    /// An API of the home of a tenant's objects.
    pub(crate) async fn home<K>(&self, tenant: &str) -> Result<Api<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let client = self.lab.management().client().await?;
        Ok(Api::namespaced(client, &format!("berth-{tenant}")))
    }

    /// All objects of one kind that a tenant has.
    pub(crate) async fn all<K>(&self, tenant: &str) -> Result<Vec<Value>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + Serialize
            + DeserializeOwned,
    {
        let home = self.home::<K>(tenant).await?;
        let list = home.list(&ListParams::default()).await?;
        let values = list.items.into_iter().map(serde_json::to_value);
        Ok(values.collect::<Result<_, _>>()?)
    }

    /// All that a tenant has.
    pub(crate) async fn standing(&self, tenant: &str) -> Result<Standing> {
        let kinds = [
            ("Service", self.all::<Service>(tenant).await?),
            ("EndpointSlice", self.all::<EndpointSlice>(tenant).await?),
            ("LoadBalancer", self.all::<LoadBalancer>(tenant).await?),
        ];
        let all = kinds.iter().flat_map(|(kind, objects)| {
            objects.iter().map(move |object| {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                (format!("{kind} {name}"), essence(object))
            })
        });
        Ok(all.collect())
    }

    /// The management Service of a Service in `default`, by its labels.
    pub(crate) async fn service(&self, tenant: &str, service: &str) -> Result<Value> {
        let all = self.all::<Service>(tenant).await?;
        let is_it = |object: &Value| object["metadata"]["labels"][SERVICE_NAME] == service;
        let found = all.into_iter().find(is_it);
        found.with_context(|| format!("{tenant} has no Service for {service}"))
    }

    /// The addresses in the slices of a Service in `default`, sorted, and how many slices there are.
    pub(crate) async fn backends(
        &self,
        tenant: &str,
        service: &str,
    ) -> Result<(Vec<String>, usize)> {
        let mut slices = self.all::<EndpointSlice>(tenant).await?;
        slices.retain(|object| object["metadata"]["labels"][SERVICE_NAME] == service);
        let endpoints = slices
            .iter()
            .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
        let addresses = endpoints.filter_map(|it| it["addresses"][0].as_str().map(str::to_owned));
        let mut addresses: Vec<String> = addresses.collect();
        addresses.sort();
        Ok((addresses, slices.len()))
    }

    /// Writes the status of a tenant's management Service as an allocator would.
    pub(crate) async fn allocate(
        &self,
        tenant: &str,
        service: &str,
        ingress: Value,
    ) -> Result<(), kube::Error> {
        let api = self.home::<Service>(tenant).await.unwrap();
        let status = json!({ "status": { "loadBalancer": { "ingress": ingress } } });
        let name = object_name(tenant, "default", service);
        let params = PatchParams::default();
        api.patch_status(&name, &params, &Patch::Merge(status))
            .await?;
        Ok(())
    }
}

impl Attack {
    /// All that the attacker's tenant has.
    pub(crate) async fn standing(&self) -> Result<Standing> {
        self.ground.standing(&self.tenant).await
    }

    /// What is there now and was not before, once it was seen that all else stands as it stood. The tests beside this one give
    /// addresses back, and MetalLB then writes the status of every Service anew: for a moment it may have none.
    pub(crate) async fn added(&self, before: &Standing) -> Result<Vec<String>> {
        let stands = || async {
            let seen = |error| Seen(format!("{error:#}"));
            let after = self.standing().await.map_err(seen)?;
            for (name, object) in before {
                if after.get(name) != Some(object) {
                    return Err(Seen(format!("{name}: {:?}", after.get(name))));
                }
            }
            let new = after.into_keys().filter(|it| !before.contains_key(it));
            Ok(new.collect::<Vec<_>>())
        };
        Ok(eventually(SOON, "what was there stands as it stood", stands).await?)
    }
}

/// The name of the objects of a tenant's Service.
pub(crate) fn object_name(tenant: &str, namespace: &str, service: &str) -> String {
    let tenant = tenant.parse().unwrap();
    name::object(&Id::new(tenant, ServiceKey::new(namespace, service)))
}
