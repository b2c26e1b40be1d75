//! Reads the tenant's cluster: Kubernetes watches on one side, the broker on the other, and in between each object is
//! projected and dropped at once. A re-read counts only when it is whole; any error begins a new one, so that no state
//! of the library's survives it (PITFALLS 14 to 17). Nothing here ever deletes because of an error.

mod cluster;
mod feed;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, pin::pin, time::Duration};

use futures::{Stream, StreamExt as _};
use kube::{
    Api,
    runtime::watcher::{self, Event, watcher},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::explain;

pub use self::{
    cluster::{ClusterError, cluster_uid, follow_cluster_uid},
    feed::{Feed, NodesFeed, ServicesFeed, SlicesFeed},
};

/// Below the idle timeouts of common load balancers in front of API servers.
const WATCH_SECONDS: u32 = 200;
/// Objects in one page of a list.
const PAGE_SIZE: u32 = 500;
/// The pause after the first error; doubled with each.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// No pause is longer: an API server that is back is read again within this.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Follows all objects of a kind until `stop` is cancelled.
pub async fn follow<F: Feed>(feed: F, api: Api<F::Object>, stop: CancellationToken) {
    let mut failures = 0_u32;
    loop {
        let config = watcher::Config::default()
            .timeout(WATCH_SECONDS)
            .page_size(PAGE_SIZE);
        let ended = tokio::select! {
            ended = drain(&feed, watcher(api.clone(), config)) => ended,
            () = stop.cancelled() => return,
        };
        failures = if ended.synced {
            1
        } else {
            failures.saturating_add(1)
        };
        let reason = explain(&ended.error);
        if feed.lost(&reason) {
            warn!(
                "cannot read {} of this cluster: {reason}; what the hub holds stays as it is",
                F::CACHE
            );
        }
        tokio::select! {
            () = tokio::time::sleep(pause(failures, fastrand::f64())) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Follows EndpointSlices while anybody needs them: most clusters have none of the Services that do.
pub async fn follow_slices(
    feed: SlicesFeed,
    api: Api<k8s_openapi::api::discovery::v1::EndpointSlice>,
    stop: CancellationToken,
) {
    let mut wanted = feed.broker().slices_wanted();
    loop {
        tokio::select! {
            wanted = wanted.wait_for(|wanted| *wanted) => if wanted.is_err() { return },
            () = stop.cancelled() => return,
        }
        let watching = stop.child_token();
        tokio::select! {
            () = follow(feed.clone(), api.clone(), watching) => {}
            _ = wanted.wait_for(|wanted| !*wanted) => {}
        }
        feed.broker().slices_dropped();
    }
}

/// How a watch ended.
struct Ended {
    error: watcher::Error,
    /// Whether it had read everything before.
    synced: bool,
}

/// Feeds until the first error.
async fn drain<F: Feed>(
    feed: &F,
    events: impl Stream<Item = Result<Event<F::Object>, watcher::Error>>,
) -> Ended {
    let mut events = pin!(events);
    let mut buffer = BTreeMap::new();
    let mut synced = false;
    loop {
        match events.next().await {
            Some(Ok(Event::Init)) => buffer.clear(),
            Some(Ok(Event::InitApply(object))) => buffer.extend(feed.project(object)),
            Some(Ok(Event::InitDone)) => {
                feed.reset(std::mem::take(&mut buffer));
                synced = true;
            }
            Some(Ok(Event::Apply(object))) => {
                let key = F::key(&object);
                match (feed.project(object), key) {
                    (Some((key, seen)), _) => feed.apply(key, seen),
                    // It has become something that does not concern us.
                    (None, Some(key)) => feed.delete(&key),
                    (None, None) => {}
                }
            }
            Some(Ok(Event::Delete(object))) => {
                if let Some(key) = F::key(&object) {
                    feed.delete(&key);
                }
            }
            Some(Err(error)) => return Ended { error, synced },
            // The library's stream has no end; a new one is right in any case.
            None => {
                let error = watcher::Error::NoResourceVersion;
                return Ended { error, synced };
            }
        }
    }
}

fn pause(failures: u32, jitter: f64) -> Duration {
    let factor = 1_u32 << failures.saturating_sub(1).min(16);
    FIRST_PAUSE
        .saturating_mul(factor)
        .min(LONGEST_PAUSE)
        .mul_f64(0.5 + jitter / 2.0)
}

/// In one line, without the library's repetitions, and with what to do where that is known.
fn explain(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(source) | WatchStartFailed(source) | WatchFailed(source) => {
            explain::explain(source)
        }
        WatchError(status) => status.message.clone(),
        watcher::Error::NoResourceVersion => "the API server gave no resource version".to_owned(),
    }
}
