//! Takes an operator's word that what the brake holds may go: the annotation `berth.dev/release-held` on the Tenant. It is a
//! request and no permission. The hub takes the annotation away first, and then lets go what was held at that moment: what is
//! missed later is held again, and after a crash in between nothing was let go, and the Tenant still says so.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use berth_common::identity::TenantName;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    api::{Tenant, TenantStatus},
    audit,
    objects::{FIELD_MANAGER, RELEASE_HELD},
    observe::{Directory, version},
    tenants::{Standing, Tenants},
};

/// Between two looks while a request waits, and after a failure.
const AGAIN: Duration = Duration::from_secs(1);

/// Whether the request can be taken now. A hub that has just started does not know yet what is absent: where its
/// predecessor held something, the tenant is waited for. Where nobody held anything there is nothing to wait for.
fn is_ripe(standing: &Standing, status: &TenantStatus) -> bool {
    standing.complete || status.held_load_balancers == 0
}

/// Whether a request that is seen in this version of the Tenant is the one that was taken: the annotation is `gone` since that
/// one, and the watch lags behind.
fn is_taken(seen: u64, gone: Option<u64>) -> bool {
    gone.is_some_and(|gone| seen < gone)
}

/// Runs until stopped.
pub async fn keep(
    client: Client,
    tenants: Arc<Tenants>,
    directory: Arc<Directory>,
    stop: CancellationToken,
) {
    let api: Api<Tenant> = Api::all(client);
    // Versions of Tenants in which the annotation is gone. Until the watch tells of them, the request is still to be seen, and
    // taken again it would cover what has been missed since.
    let mut taken: BTreeMap<TenantName, u64> = BTreeMap::new();
    loop {
        let changed = directory.changed();
        let requests = directory.to_release();
        taken.retain(|name, _| requests.iter().any(|(asked, _)| asked == name));
        let mut waits = false;
        if !requests.is_empty() {
            let standings = tenants.standings();
            for (name, facts) in requests {
                if is_taken(facts.version, taken.get(&name).copied()) {
                    continue;
                }
                let standing = standings.get(&name).cloned().unwrap_or_default();
                if !is_ripe(&standing, &facts.status) {
                    waits = true;
                    continue;
                }
                match take(&api, &tenants, &name).await {
                    Ok(version) => {
                        taken.insert(name, version);
                    }
                    Err(error) => {
                        warn!(tenant = %name, %error, "cannot take the operator's release; trying again");
                        waits = true;
                    }
                }
            }
        }
        let again = Instant::now()
            + if waits {
                AGAIN
            } else {
                Duration::from_secs(3600)
            };
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed => {}
            () = tokio::time::sleep_until(again.into()) => {}
        }
    }
}

/// Returns the version of the Tenant in which the annotation is gone.
async fn take(api: &Api<Tenant>, tenants: &Tenants, name: &TenantName) -> kube::Result<u64> {
    let held = tenants.held(name);
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { RELEASE_HELD: null } } }));
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PatchParams::default()
    };
    let written = api.patch_metadata(name.as_str(), &params, &patch).await?;
    if held.is_empty() {
        info!(tenant = %name, "the operator releases what is held, but nothing is");
    } else {
        let load_balancers = tenants.release(name, held);
        let what = format!("{load_balancers} held deletions are let go");
        audit::overridden(&audit::Subject::tenant(name), "released", &what);
        info!(tenant = %name, load_balancers, "the operator has released what was held: it goes");
    }
    Ok(version(&written.metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_waits_for_the_tenant_only_where_something_was_held() {
        let held = |held_load_balancers| TenantStatus {
            held_load_balancers,
            ..TenantStatus::default()
        };
        let told = |complete| Standing {
            complete,
            ..Standing::default()
        };
        assert!(is_ripe(&told(true), &held(6)));
        assert!(!is_ripe(&told(false), &held(6)));
        assert!(is_ripe(&told(true), &held(0)));
        assert!(
            is_ripe(&told(false), &held(0)),
            "or it would stand as a permission for what comes"
        );
    }

    #[test]
    fn a_request_is_taken_once_and_a_later_one_again() {
        assert!(!is_taken(7, None));
        assert!(is_taken(7, Some(8)), "the watch has not told yet");
        assert!(!is_taken(9, Some(8)), "the operator asks again");
    }
}
