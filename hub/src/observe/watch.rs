//! The watches. A list is buffered and swapped in as a whole; a watch that fails comes back within two seconds, so that the
//! end of an outage is noticed at once; and one whose version the API server has dropped begins anew.

use std::{
    fmt::Debug,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Event as CoreEvent, Namespace};
use kube::{
    Api, Client, Resource,
    runtime::watcher::{self, Config, Event, watcher},
};
use serde::de::DeserializeOwned;
use tracing::{debug, info, warn};

use super::{
    Cache, Directory, Former,
    complaint::{Complaint, latest},
    project::Project,
};
use crate::{
    api::Tenant,
    objects::{Id, MANAGED_BY, MANAGER},
    work::Work,
};

/// Below the idle timeout of load balancers in front of API servers, in seconds.
const TIMEOUT: u32 = 200;
/// The first wait after a failure, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(1_500));

/// Watches the hub's objects of one kind.
pub(super) async fn objects<K>(client: Client, cache: Arc<Cache>, work: Arc<Work>)
where
    K: Project + Watchable + Resource<DynamicType = ()>,
{
    let config = Config::default().labels(&format!("{MANAGED_BY}={MANAGER}"));
    let mut list: Option<(Instant, Vec<_>)> = None;
    events::<K>(Api::all(client), config, |event| {
        let now = Instant::now();
        match event {
            Event::Init => list = Some((now, Vec::new())),
            Event::InitApply(object) => {
                if let Some((_, objects)) = &mut list {
                    objects.extend(object.project(now));
                }
            }
            Event::InitDone => {
                if let Some((started, objects)) = list.take() {
                    let found = objects.len();
                    let changed = cache.listed(K::KIND, objects, started);
                    info!(kind = %K::KIND, found, changed = changed.len(), "listed");
                    changed.iter().for_each(|id| work.add(id));
                }
            }
            Event::Apply(object) => {
                if let Some((id, object)) = object.project(now)
                    && cache.reported(&id, object)
                {
                    work.add(&id);
                }
            }
            Event::Delete(object) => {
                if let Some((id, object)) = object.project(now)
                    && cache.reported_gone(&id, object.slot(), object.uid(), object.version())
                {
                    work.add(&id);
                }
            }
        }
    })
    .await;
}

/// Watches the Tenants.
pub(super) async fn tenants(
    client: Client,
    directory: Arc<Directory>,
    cache: Arc<Cache>,
    work: Arc<Work>,
) {
    let replan = |tenant| {
        if let Some(facts) = directory.get(&tenant) {
            cache.limit(&tenant, (facts.version, facts.places));
            follow(&cache, &work);
        }
        for key in cache.keys_of(&tenant) {
            work.add(&Id::new(tenant.clone(), key));
        }
    };
    let mut list = Vec::new();
    events::<Tenant>(Api::all(client), Config::default(), |event| match event {
        Event::Init => list.clear(),
        Event::InitApply(tenant) => list.push(tenant),
        Event::InitDone => directory
            .listed(std::mem::take(&mut list))
            .into_iter()
            .for_each(replan),
        Event::Apply(tenant) => directory.reported(tenant).into_iter().for_each(replan),
        Event::Delete(tenant) => directory.reported_gone(&tenant),
    })
    .await;
}

/// Watches the namespaces, for when their Tenants were deleted.
pub(super) async fn former(client: Client, former: Arc<Former>) {
    let mut list = Vec::new();
    events::<Namespace>(Api::all(client), Config::default(), |event| match event {
        Event::Init => list.clear(),
        Event::InitApply(namespace) => list.push(namespace),
        Event::InitDone => former.listed(&std::mem::take(&mut list)),
        Event::Apply(namespace) => former.reported(&namespace),
        Event::Delete(namespace) => former.reported_gone(&namespace),
    })
    .await;
}

/// Does what the quotas call for. Returns how many parked ones were let go.
pub(crate) fn follow(cache: &Cache, work: &Work) -> usize {
    let calls = cache.take_calls();
    calls.release.iter().for_each(|id| cache.release(id));
    calls
        .plan
        .iter()
        .chain(&calls.release)
        .for_each(|id| work.add(id));
    calls.release.len()
}

/// Watches the allocator's complaints: MetalLB tells why it gives no address by an event on the Service and nowhere else.
pub(super) async fn complaints(client: Client, cache: Arc<Cache>, work: Arc<Work>) {
    // An event that came before its Service would be about nobody.
    cache.synced().await;
    let config = Config::default().fields("involvedObject.kind=Service,reason=AllocationFailed");
    let heard = |complaint: Complaint| {
        let Complaint {
            service,
            uid,
            words,
            ..
        } = complaint;
        if let Some(id) = cache.complained(&service, &uid, &words) {
            work.add(&id);
        }
    };
    let mut list = Vec::new();
    events::<CoreEvent>(Api::all(client), config, |event| match event {
        Event::Init => list.clear(),
        Event::InitApply(event) => list.extend(Complaint::read(event)),
        Event::InitDone => latest(std::mem::take(&mut list)).for_each(heard),
        Event::Apply(event) => {
            Complaint::read(event).into_iter().for_each(heard);
        }
        Event::Delete(_) => {}
    })
    .await;
}

/// What the watcher asks of a kind.
pub(super) trait Watchable: Clone + Debug + DeserializeOwned + Send + 'static {}

impl<K: Clone + Debug + DeserializeOwned + Send + 'static> Watchable for K {}

/// Hands every event to `take`, for ever.
async fn events<K>(api: Api<K>, config: Config, mut take: impl FnMut(Event<K>))
where
    K: Watchable + Resource<DynamicType = ()>,
{
    let kind = K::kind(&());
    let config = config.timeout(TIMEOUT);
    let mut failures: u32 = 0;
    loop {
        let mut stream = pin!(watcher(api.clone(), config.clone()));
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => {
                    if failures > 0 && !matches!(event, Event::Init) {
                        info!(%kind, failures, "the watch works again");
                        failures = 0;
                    }
                    take(event);
                }
                Err(error) => {
                    if failures == 0 {
                        warn!(%kind, %error, "the watch failed; trying again");
                    } else {
                        debug!(%kind, %error, failures, "the watch failed again");
                    }
                    tokio::time::sleep(retry_after(failures)).await;
                    failures = failures.saturating_add(1);
                    if is_outdated(&error) {
                        break;
                    }
                }
            }
        }
    }
}

/// The version to watch from is gone. When that is said while a watch is being started, the watcher would ask for the same
/// version for ever; a new watcher lists anew.
fn is_outdated(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        _ => false,
    }
}

/// Doubling, with up to half of it taken off at random.
fn retry_after(failures: u32) -> Duration {
    let (first, last) = RETRY;
    let ceiling = first.saturating_mul(1 << failures.min(10)).min(last);
    ceiling.mul_f64(1.0 - fastrand::f64() / 2.0)
}
