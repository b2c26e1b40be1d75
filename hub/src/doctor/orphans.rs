//! Are there load balancers of a Tenant that is not there? The hub leaves them as they are: only an operator knows whether the Tenant was
//! lost, or its load balancers are to go with it.

use std::collections::{BTreeMap, BTreeSet};

use berth_common::{doctor::Finding, identity::TenantName};
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client, api::ListParams, core::ObjectMeta};

use crate::{
    api::Tenant,
    objects::{KEPT, MANAGED_BY, MANAGER, TENANT, owner},
};

/// Objects in one reply of the API server.
const PAGE: u32 = 500;

pub(super) async fn check(client: &Client) -> Vec<Finding> {
    match look(client).await {
        Ok(orphaned) => judge(orphaned),
        Err(error) => vec![Finding::warn(
            "load balancers without a Tenant",
            format!("cannot be looked for: {error}"),
            "give the hub's ServiceAccount list on tenants and services, as the chart does",
        )],
    }
}

async fn look(client: &Client) -> kube::Result<BTreeMap<TenantName, usize>> {
    let tenants = all::<Tenant>(Api::all(client.clone()), ListParams::default()).await?;
    let tenants = tenants.into_iter().filter_map(|it| it.name).collect();
    let ours = ListParams::default().labels(&format!("{MANAGED_BY}={MANAGER}"));
    let services = all::<Service>(Api::all(client.clone()), ours).await?;
    Ok(orphaned(&tenants, &services))
}

async fn all<K>(api: Api<K>, params: ListParams) -> kube::Result<Vec<ObjectMeta>>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut page = params.limit(PAGE);
    let mut all = Vec::new();
    loop {
        let list = api.list_metadata(&page).await?;
        all.extend(list.items.into_iter().map(|it| it.metadata));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(all),
        }
    }
}

/// What was kept on purpose when its Tenant was deleted is none.
fn orphaned(tenants: &BTreeSet<String>, services: &[ObjectMeta]) -> BTreeMap<TenantName, usize> {
    let mut counts = BTreeMap::new();
    for service in services {
        let kept = service.annotations.as_ref();
        if kept.is_some_and(|all| all.contains_key(KEPT)) {
            continue;
        }
        let Some(id) = owner(service) else { continue };
        if !tenants.contains(id.tenant.as_str()) {
            *counts.entry(id.tenant).or_default() += 1;
        }
    }
    counts
}

fn judge(orphaned: BTreeMap<TenantName, usize>) -> Vec<Finding> {
    let finding = |(name, count): (TenantName, usize)| {
        Finding::warn(
            format!("load balancers of {name}"),
            format!("{count} of a Tenant that is not there: they stay as they are, and serve"),
            format!(
                "create the Tenant {name} again, and it has them as before; or remove them: kubectl delete \
                 loadbalancers.berth.dev,services,endpointslices --namespace {} --selector {MANAGED_BY}={MANAGER},{TENANT}={name}",
                name.namespace()
            ),
        )
    };
    orphaned.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use berth_common::model::ServiceKey;

    use super::*;
    use crate::objects::{Id, labels, name};

    fn service(tenant: &str, key: &str, kept: bool) -> ObjectMeta {
        let tenant = TenantName::parse(tenant).unwrap();
        let id = Id::new(tenant.clone(), ServiceKey::new("default", key));
        ObjectMeta {
            name: Some(name::object(&id)),
            namespace: Some(tenant.namespace()),
            labels: Some(labels(&id)),
            annotations: kept.then(|| [(KEPT.to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn what_has_no_tenant_is_named_with_the_command_that_removes_it() {
        let services = [
            service("acme", "a", false),
            service("lost", "a", false),
            service("lost", "b", false),
            service("kept", "a", true),
        ];
        let findings = judge(orphaned(&["acme".to_owned()].into(), &services));
        let [finding] = &findings[..] else {
            panic!("{findings:?}");
        };
        let said = finding.to_string();
        assert!(said.contains("2 of a Tenant"), "{said}");
        assert!(said.contains("--namespace berth-lost --selector"), "{said}");
        assert!(said.contains("berth.dev/tenant=lost"), "{said}");
    }
}
