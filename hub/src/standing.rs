//! Keeps `status` of the `Tenant` objects: which cluster holds the identity, which agent, and whether it is connected. Good
//! news is written at once, bad news only after it has lasted: a restart of agent or hub writes nothing.

mod certificate;
mod contest;
mod usage;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use berth_common::{
    identity::TenantName,
    tls::{Validity, format_time, renewal},
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    api::{Tenant, TenantStatus},
    ca::Issuing,
    certificates::Certificates,
    deletion::{DELETING, Departures},
    objects::FIELD_MANAGER,
    observe::{self, Cache},
    plan::held_message,
    tenants::{Standing, Tenants},
    work::Work,
};

/// Bad news that goes away within this time is nobody's business.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at all tenants: what changes meanwhile is seen by the next one.
const AT_MOST_EVERY: Duration = Duration::from_millis(200);

const CONNECTED: &str = "Connected";
const HELD: &str = "DeletionsHeld";
const EXPIRING: &str = "CertificateExpiring";

const HOUR: Duration = Duration::from_secs(3_600);

/// How a tenant's connection reads to people.
#[derive(Clone, Debug, PartialEq, Eq)]
struct News {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl News {
    fn of(standing: &Standing) -> Self {
        match (standing.connected, &standing.unsynced) {
            (true, None) => Self {
                status: "True",
                reason: "SessionOpen",
                message: "the agent has a session and reads its cluster".into(),
            },
            (true, Some(why)) => Self {
                status: "True",
                reason: "Unsynced",
                message: format!(
                    "the agent has a session, but cannot read its cluster ({why}): what it told last stays"
                ),
            },
            (false, _) => Self {
                status: "False",
                reason: "NoSession",
                message: "the agent has no session: what it told last stays. In its cluster, run \
                          `berth-agent doctor`"
                    .into(),
            },
        }
    }

    fn is_good(&self) -> bool {
        self.reason == "SessionOpen"
    }

    fn is_in(&self, conditions: &[Condition]) -> bool {
        conditions.iter().any(|c| {
            c.type_ == CONNECTED
                && c.status == self.status
                && c.reason == self.reason
                && c.message == self.message
        })
    }
}

/// The condition that stands while the brake holds deletions (DESIGN.md rule 5), and its message.
fn held(name: &TenantName, standing: &Standing) -> Option<String> {
    let held = standing.held;
    (held > 0).then(|| held_message(name, held, held + standing.services))
}

/// The message of the condition that stands while a certificate should have been renewed long ago, and when to look again: it counts
/// hours, so that it is written once in an hour.
fn expiring(validity: &Validity, now: SystemTime) -> (Option<String>, Duration) {
    const SOON: Duration = Duration::from_millis(100);
    let left = validity.left(now);
    if let Ok(until) = renewal::late(validity).duration_since(now)
        && !until.is_zero()
    {
        return (None, until.max(SOON));
    }
    let hours = left.as_secs() / HOUR.as_secs() + 1;
    let plural = if hours == 1 { "hour" } else { "hours" };
    let end = format_time(validity.not_after);
    let advice = "the agent's log says why it is not renewed; without another one it has to be admitted anew with `berth-hub token create`";
    let message = match left.is_zero() {
        true => format!("the agent's certificate has expired on {end}: {advice}"),
        false => format!(
            "the agent's certificate ends in less than {hours} {plural}, on {end}: {advice}"
        ),
    };
    let next = left.saturating_sub(HOUR * u32::try_from(hours - 1).unwrap_or(0));
    (Some(message), next.max(SOON))
}

/// Puts a condition in, changes its message, or takes it away.
fn stand(
    conditions: &mut Vec<Condition>,
    kind: &'static str,
    reason: &'static str,
    message: Option<String>,
    wall: Timestamp,
) {
    let told = conditions.iter().position(|c| c.type_ == kind);
    match (told, message) {
        (None, None) => {}
        (Some(at), None) => {
            conditions.remove(at);
        }
        (Some(at), Some(message)) => {
            conditions[at].message = message;
            conditions[at].reason = reason.into();
        }
        (None, Some(message)) => conditions.push(Condition {
            type_: kind.into(),
            status: "True".into(),
            reason: reason.into(),
            message,
            last_transition_time: Time(wall),
            observed_generation: None,
        }),
    }
}

/// What to write about one tenant now, and when to look again. `since` is when the standing began to be what it is.
fn due(
    name: &TenantName,
    standing: &Standing,
    current: &TenantStatus,
    since: Instant,
    now: Instant,
    wall: Timestamp,
) -> (Option<TenantStatus>, Option<Instant>) {
    let news = News::of(standing);
    let mut next = current.clone();
    // Only a claim is written, never whoever has a session: what an operator cleared would come back at once.
    if standing.claim.is_some() && current.cluster_uid.is_none() {
        next.cluster_uid.clone_from(&standing.claim);
        next.former_cluster_uid = None;
    }
    if standing.agent_version.is_some() {
        next.agent_version.clone_from(&standing.agent_version);
    }
    let known = current.conditions.iter().find(|c| c.type_ == CONNECTED);
    let ripe = since + PATIENCE;
    let mut again = None;
    if !news.is_in(&current.conditions) {
        // Bad news about a tenant that never was connected is no news.
        if news.is_good() || (known.is_some() && now >= ripe) {
            let transition = known
                .filter(|c| c.status == news.status)
                .map_or(Time(wall), |c| c.last_transition_time.clone());
            next.conditions.retain(|c| c.type_ != CONNECTED);
            next.conditions.push(Condition {
                type_: CONNECTED.into(),
                status: news.status.into(),
                reason: news.reason.into(),
                message: news.message,
                last_transition_time: transition,
                observed_generation: None,
            });
        } else if known.is_some() {
            again = Some(ripe);
        }
    }
    if !standing.complete {
        // What an earlier process held is not known to be back.
        return ((next != *current).then_some(next), again);
    }
    next.held_load_balancers = u32::try_from(standing.held).unwrap_or(u32::MAX);
    let told = current.conditions.iter().find(|c| c.type_ == HELD);
    match held(name, standing) {
        Some(message) if told.is_none_or(|c| c.message != message) => {
            next.conditions.retain(|c| c.type_ != HELD);
            next.conditions.push(Condition {
                type_: HELD.into(),
                status: "True".into(),
                reason: "MuchIsAbsent".into(),
                message,
                last_transition_time: told.map_or(Time(wall), |c| c.last_transition_time.clone()),
                observed_generation: None,
            });
        }
        Some(_) => {}
        None => next.conditions.retain(|c| c.type_ != HELD),
    }
    ((next != *current).then_some(next), again)
}

/// The tenants' objects as last seen, by whoever watches them.
pub trait Records: Send + Sync {
    /// The status of every `Tenant` object, and the object's version.
    fn statuses(&self) -> BTreeMap<TenantName, (TenantStatus, u64)>;
    /// Resolves when an object may have changed since the call.
    fn changed(&self) -> impl Future<Output = ()> + Send;
}

/// Where what is known of tenants comes from.
pub struct Sources<R> {
    /// Their sessions.
    pub tenants: Arc<Tenants>,
    /// Their objects.
    pub records: Arc<R>,
    /// What they have.
    pub cache: Arc<Cache>,
    /// Who changes too much.
    pub work: Arc<Work>,
    /// Their certificates.
    pub certificates: Arc<Certificates>,
    /// By whom these should be, where this hub issues any.
    pub issuing: Option<Arc<Issuing>>,
    /// How far their deletions have come.
    pub departures: Arc<Departures>,
}

/// Runs until stopped. `started` is when this process began: a tenant that has not come yet is not missed before
/// [`PATIENCE`] has passed since.
pub async fn keep(
    client: Client,
    sources: Sources<impl Records>,
    started: Instant,
    stop: CancellationToken,
) {
    let Sources {
        tenants,
        records,
        cache,
        work,
        certificates,
        issuing,
        departures,
    } = sources;
    let api: Api<Tenant> = Api::all(client);
    let mut seen: BTreeMap<TenantName, (Standing, Instant)> = BTreeMap::new();
    let mut usages = usage::Usages::default();
    loop {
        let changed = tenants.changed();
        let moved = records.changed();
        let shown = certificates.changed();
        let exchanged = issuing.as_ref().map(|issuing| issuing.changed());
        let exchanged = async move {
            match exchanged {
                Some(exchanged) => exchanged.await,
                None => std::future::pending().await,
            }
        };
        let left = departures.changed();
        let used = cache.used();
        let throttling = work.throttling();
        tokio::pin!(changed, moved, shown, exchanged, left, used, throttling);
        let wanted = issuing.as_ref().map(|issuing| issuing.wanted());
        let now = Instant::now();
        let standings = tenants.standings();
        let mut again = None;
        for (name, (current, version)) in records.statuses() {
            let standing = standings.get(&name).cloned().unwrap_or_default();
            let first = !seen.contains_key(&name);
            let entry = seen
                .entry(name.clone())
                .or_insert_with(|| (standing.clone(), if first { started } else { now }));
            if News::of(&entry.0) != News::of(&standing) {
                entry.1 = now;
            }
            entry.0 = standing;
            let wall = Timestamp::now();
            let (write, revisit) = due(&name, &entry.0, &current, entry.1, now, wall);
            again = earlier(again, revisit);
            let mut next = write.unwrap_or_else(|| current.clone());
            // Of whom no certificate was seen since this process began, nothing new is known.
            if let Some(validity) = certificates.of(&name) {
                let (message, in_time) = expiring(&validity, SystemTime::now());
                stand(&mut next.conditions, EXPIRING, "NotRenewed", message, wall);
                if !validity.left(SystemTime::now()).is_zero() {
                    again = earlier(again, Some(now + in_time));
                }
            }
            next.certificate = certificate::known(current.certificate.as_ref(), &entry.0);
            if let (Some(known), Some(wanted)) = (&next.certificate, &wanted)
                && entry.0.renews
                && certificate::is_outdated(known, wanted)
            {
                tenants.reissue(&name, wanted.version);
            }
            let (reason, message) = departures.condition(&name).unzip();
            let reason = reason.unwrap_or_default();
            stand(&mut next.conditions, DELETING, reason, message, wall);
            let restless = tenants.restless(&name, now);
            let (message, look) = usage::throttled(work.throttled(&name, now), restless, now);
            stand(
                &mut next.conditions,
                "Throttled",
                "ChangesWait",
                message,
                wall,
            );
            again = earlier(again, look);
            let contested = tenants.contested(&name, now);
            again = earlier(
                again,
                contest::tell(contested, &mut next, &name, (started, now, wall)),
            );
            // What the hub's objects say counts when all were seen, and who waits when the tenant has told what it wants.
            if cache.is_synced() {
                let mut found = usage::Found {
                    usage: cache.usage(&name),
                    tolerated: entry.0.complete.then(|| cache.tolerated(&name)),
                };
                if !entry.0.complete {
                    found.usage.waiting = current.waiting as usize;
                }
                again = earlier(again, usages.put(&name, found, &mut next, (now, wall)));
            }
            if next != current {
                let status = next;
                let claimed = status
                    .cluster_uid
                    .clone()
                    .filter(|_| current.cluster_uid.is_none());
                match write_status(&api, &name, status, claimed.is_some().then_some(version)).await
                {
                    Ok(version) => {
                        if let Some(cluster) = claimed {
                            tenants.recorded(&name, &cluster, version);
                        }
                    }
                    // Somebody was faster, or the Tenant is gone, and the watch will tell what there is now.
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                        again = earlier(again, Some(now + Duration::from_secs(1)));
                    }
                    Err(error) => {
                        warn!(tenant = %name, %error, "cannot write the Tenant's status; trying again");
                        again = earlier(again, Some(now + Duration::from_secs(5)));
                    }
                }
            }
        }
        let wake = again.unwrap_or(now + Duration::from_secs(3600));
        tokio::select! {
            () = stop.cancelled() => return,
            () = &mut changed => {}
            () = &mut moved => {}
            () = &mut shown => {}
            () = &mut exchanged => {}
            () = &mut left => {}
            () = &mut used => {}
            () = &mut throttling => {}
            () = tokio::time::sleep_until(wake.into()) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until((now + AT_MOST_EVERY).into()) => {}
        }
    }
}

/// Writes a status, where `only_at` is given only over that version of the object: a binding must not overwrite one that an
/// operator has just made. Returns the new version.
async fn write_status(
    api: &Api<Tenant>,
    name: &TenantName,
    status: TenantStatus,
    only_at: Option<u64>,
) -> kube::Result<u64> {
    let mut body = serde_json::json!({ "status": status });
    if let Some(version) = only_at {
        body["metadata"] = serde_json::json!({ "resourceVersion": version.to_string() });
    }
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PatchParams::default()
    };
    let written = api
        .patch_status(name.as_str(), &params, &Patch::Merge(body))
        .await?;
    Ok(observe::version(&written.metadata))
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

#[cfg(test)]
mod tests;
