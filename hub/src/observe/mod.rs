//! What the management cluster has: watches on the hub's own objects, on Tenants, and on the allocator's complaints, each
//! object projected at once to what the planner wants to know. It knows how to watch and what changed; what to make of it
//! is the planner's. Every change marks its key as work.

mod cache;
mod complaint;
mod former;
mod news;
mod project;
mod tenants;
mod watch;

use std::sync::Arc;

use k8s_openapi::api::{core::v1 as core, discovery::v1::EndpointSlice};
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use cache::{Cache, Calls};
pub use former::{Former, deleted_at};
pub use project::{Object, Project, Slot};
pub use tenants::{Changes, Directory, TenantFacts, version};
pub(crate) use watch::follow;

use crate::{api, work::Work};

/// Watches until stopped. [`Cache::synced`] and [`Directory::synced`] tell when everything has been seen once.
pub async fn run(
    client: Client,
    cache: Arc<Cache>,
    directory: Arc<Directory>,
    former: Arc<Former>,
    work: Arc<Work>,
    stop: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    tasks.spawn(watch::objects::<core::Service>(
        client.clone(),
        cache.clone(),
        work.clone(),
    ));
    tasks.spawn(watch::objects::<EndpointSlice>(
        client.clone(),
        cache.clone(),
        work.clone(),
    ));
    tasks.spawn(watch::objects::<api::LoadBalancer>(
        client.clone(),
        cache.clone(),
        work.clone(),
    ));
    tasks.spawn(watch::tenants(
        client.clone(),
        directory,
        cache.clone(),
        work.clone(),
    ));
    tasks.spawn(watch::former(client.clone(), former));
    tasks.spawn(watch::complaints(client, cache, work));
    // The watches end with the set that holds them; before that, only by a panic.
    tokio::select! {
        () = stop.cancelled() => {}
        Some(ended) = tasks.join_next() => tracing::error!(?ended, "a watch has ended"),
    }
}
