//! Keeps `status` of the `Tenant` objects: which cluster holds the identity, which agent, and whether it is connected. Good
//! news is written at once, bad news only after it has lasted: a restart of agent or hub writes nothing.

mod certificate;
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
            let (message, look) = usage::throttled(work.throttled(&name, now), now);
            stand(
                &mut next.conditions,
                "Throttled",
                "ChangesWait",
                message,
                wall,
            );
            again = earlier(again, look);
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
mod tests {
    use super::*;

    fn connected() -> Standing {
        Standing {
            connected: true,
            agent_version: Some("0.1.0".into()),
            claim: Some("uid".into()),
            complete: true,
            ..Standing::default()
        }
    }

    fn acme() -> TenantName {
        TenantName::parse("acme").unwrap()
    }

    #[test]
    fn an_old_certificate_is_told_by_the_hour_and_a_new_one_takes_that_back() {
        let start = SystemTime::UNIX_EPOCH + 1_000 * HOUR;
        let validity = Validity {
            not_before: start - renewal::CLOCK_SKEW,
            not_after: start + 24 * HOUR,
        };
        let minute = Duration::from_secs(60);
        let (none, again) = expiring(&validity, start + 12 * HOUR);
        assert_eq!((none, again), (None, 4 * HOUR));
        let (told, again) = expiring(&validity, start + 17 * HOUR + 10 * minute);
        assert!(told.unwrap().contains("in less than 7 hours"));
        assert_eq!(again, 50 * minute);
        let (told, _) = expiring(&validity, start + 23 * HOUR + minute);
        let told = told.unwrap();
        assert!(told.contains("in less than 1 hour,"), "{told}");
        let (over, _) = expiring(&validity, start + 25 * HOUR);
        assert!(over.unwrap().contains("has expired on"));

        let mut conditions = Vec::new();
        stand(
            &mut conditions,
            EXPIRING,
            "NotRenewed",
            Some(told.clone()),
            at(0),
        );
        stand(
            &mut conditions,
            EXPIRING,
            "NotRenewed",
            Some("later".into()),
            at(9),
        );
        assert_eq!(conditions[0].message, "later");
        assert_eq!(conditions[0].last_transition_time, Time(at(0)));
        stand(&mut conditions, EXPIRING, "NotRenewed", None, at(10));
        assert!(conditions.is_empty());
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_first_session_is_written_at_once_and_then_nothing() {
        let start = Instant::now();
        let (first, _) = due(
            &acme(),
            &connected(),
            &TenantStatus::default(),
            start,
            start,
            at(0),
        );
        let first = first.unwrap();
        assert_eq!(first.cluster_uid.as_deref(), Some("uid"));
        assert_eq!(first.conditions[0].status, "True");
        let later = start + Duration::from_secs(500);
        assert_eq!(
            due(&acme(), &connected(), &first, start, later, at(500)),
            (None, None)
        );
    }

    #[test]
    fn a_restart_writes_nothing_and_a_lasting_absence_is_told_once() {
        let start = Instant::now();
        let (first, _) = due(
            &acme(),
            &connected(),
            &TenantStatus::default(),
            start,
            start,
            at(0),
        );
        let known = first.unwrap();
        let gone = Standing {
            connected: false,
            ..connected()
        };
        let lost = start + Duration::from_secs(100);
        let soon = lost + Duration::from_secs(29);
        assert_eq!(
            due(&acme(), &gone, &known, lost, soon, at(129)),
            (None, Some(lost + PATIENCE))
        );
        let (told, _) = due(&acme(), &gone, &known, lost, lost + PATIENCE, at(130));
        let told = told.unwrap();
        assert_eq!(told.conditions[0].status, "False");
        assert_eq!(told.conditions[0].last_transition_time, Time(at(130)));
        assert_eq!(
            told.cluster_uid.as_deref(),
            Some("uid"),
            "the binding stays"
        );
        assert_eq!(
            due(&acme(), &gone, &told, lost, lost + 10 * PATIENCE, at(400)),
            (None, None)
        );
    }

    #[test]
    fn a_tenant_that_never_came_is_not_reported_as_lost() {
        let start = Instant::now();
        let nobody = Standing::default();
        let later = start + 10 * PATIENCE;
        assert_eq!(
            due(
                &acme(),
                &nobody,
                &TenantStatus::default(),
                start,
                later,
                at(300)
            ),
            (None, None)
        );
    }

    #[test]
    fn rule_5_what_the_brake_holds_is_on_the_tenant_until_it_is_over() {
        let start = Instant::now();
        let (known, _) = due(
            &acme(),
            &connected(),
            &TenantStatus::default(),
            start,
            start,
            at(0),
        );
        let missing = Standing {
            absent: 7,
            held: 6,
            services: 4,
            ..connected()
        };
        let (told, _) = due(&acme(), &missing, &known.unwrap(), start, start, at(1));
        let told = told.unwrap();
        assert_eq!(told.held_load_balancers, 6);
        let condition = told.conditions.iter().find(|c| c.type_ == HELD).unwrap();
        assert!(
            condition.message.starts_with("6 of 10 load balancers"),
            "{}",
            condition.message
        );
        assert_eq!(due(&acme(), &missing, &told, start, start, at(2)).0, None);
        let unknown = Standing {
            complete: false,
            absent: 0,
            held: 0,
            ..connected()
        };
        assert_eq!(
            due(&acme(), &unknown, &told, start, start, at(2)).0,
            None,
            "a hub that has just started knows nothing of it"
        );
        let (over, _) = due(&acme(), &connected(), &told, start, start, at(3));
        let over = over.unwrap();
        assert!(over.conditions.iter().all(|c| c.type_ != HELD));
        assert_eq!(over.held_load_balancers, 0);
    }

    #[test]
    fn only_a_claim_is_written_and_a_binding_that_was_cleared_does_not_come_back() {
        let start = Instant::now();
        let write = |standing: &Standing, current: &TenantStatus| {
            due(&acme(), standing, current, start, start, at(0)).0
        };
        let bound = write(&connected(), &TenantStatus::default()).unwrap();
        assert_eq!(bound.cluster_uid.as_deref(), Some("uid"));
        let cleared = TenantStatus {
            cluster_uid: None,
            former_cluster_uid: Some("uid".into()),
            ..bound.clone()
        };
        let still_there = Standing {
            claim: None,
            ..connected()
        };
        assert_eq!(write(&still_there, &cleared), None);
        let newcomer = Standing {
            claim: Some("other".into()),
            ..connected()
        };
        let taken = write(&newcomer, &cleared).unwrap();
        assert_eq!(taken.cluster_uid.as_deref(), Some("other"));
        assert_eq!(taken.former_cluster_uid, None);
        assert_eq!(write(&newcomer, &bound), None, "an operator was faster");
    }
}
