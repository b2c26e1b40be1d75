//! The last steps of a deleted Tenant: its join tokens, a last look at the API server itself, and a note of when it ended.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use berth_common::identity::TenantName;
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource,
    api::{ListParams, Patch, PatchParams},
    core::NamespaceResourceScope,
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tracing::{info, warn};

use crate::{
    api::LoadBalancer,
    enroll::Tokens,
    objects::{DELETED_AT, FIELD_MANAGER, MANAGED_BY, MANAGER, TENANT, namespace},
    observe::{Cache, deleted_at},
};

/// Tokens are bound to the Tenant's UID, and worth nothing without it: nothing waits for them for long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes its join tokens back, so that a list of them says so.
pub(super) async fn revoke_tokens(tokens: &Tokens, name: &TenantName, uid: &str) {
    match tokio::time::timeout(PATIENCE, tokens.revoke_all(uid, SystemTime::now())).await {
        Ok(Ok(0)) => {}
        Ok(Ok(revoked)) => {
            info!(tenant = %name, revoked, "join tokens of the deleted Tenant are taken back")
        }
        Ok(Err(error)) => {
            let error = anyhow::Error::from(error);
            warn!(tenant = %name, "join tokens of the deleted Tenant are not taken back, and worth nothing: {error:#}");
        }
        Err(_) => {
            warn!(tenant = %name, "join tokens of the deleted Tenant are not taken back in time, and worth nothing")
        }
    }
}

/// How many load balancers are kept, where the API server has nothing of the tenant's beyond what the cache knows to be kept. `None`:
/// it has more, of a write whose reply was lost.
pub(super) async fn kept(
    client: &Client,
    name: &TenantName,
    cache: &Cache,
) -> kube::Result<Option<usize>> {
    let known = cache.counts(|it| it == name);
    let kept = known.get(name).copied().unwrap_or_default();
    let there = count::<Service>(client, name).await?
        + count::<EndpointSlice>(client, name).await?
        + count::<LoadBalancer>(client, name).await?;
    // Of each that is kept, the Service and the record.
    Ok((there <= 2 * kept).then_some(kept))
}

async fn count<K>(client: &Client, name: &TenantName) -> kube::Result<usize>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + fmt::Debug
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &name.namespace());
    let ours = ListParams::default().labels(&format!("{MANAGED_BY}={MANAGER},{TENANT}={name}"));
    Ok(api.list_metadata(&ours).await?.items.len())
}

/// Writes down on the tenant's namespace, which stays, that the Tenant ends now. Returns until when its name was its own.
pub(super) async fn write_down(client: &Client, name: &TenantName) -> kube::Result<SystemTime> {
    let api: Api<Namespace> = Api::all(client.clone());
    let (until, text) = deleted_at(SystemTime::now());
    let note = json!({ "metadata": { "annotations": { DELETED_AT: text } } });
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PatchParams::default()
    };
    let home = name.namespace();
    let written = api
        .patch_metadata(&home, &params, &Patch::Merge(&note))
        .await;
    if !matches!(&written, Err(kube::Error::Api(status)) if status.code == 404) {
        return written.map(|_| until);
    }
    // It never had a load balancer; its certificates are remembered all the same.
    let manifest = namespace::manifest(name);
    api.patch(
        &home,
        &PatchParams::apply(FIELD_MANAGER),
        &Patch::Apply(&manifest),
    )
    .await?;
    api.patch_metadata(&home, &params, &Patch::Merge(&note))
        .await
        .map(|_| until)
}
