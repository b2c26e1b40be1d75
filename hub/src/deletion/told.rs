//! What people are told of Tenants that are deleted: by the condition `Deleting`, events, audit lines and figures.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use berth_common::identity::TenantName;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource as _,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{MetricType, family::Family, gauge::Gauge},
};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::judge::{SETTLE, Verdict};
use crate::{
    api::{Tenant, TenantStatus},
    audit,
    objects::MANAGER,
    observe::{Cache, Directory, TenantFacts},
    plan::has_departed,
};

/// The condition of a Tenant that is being deleted.
pub const DELETING: &str = "Deleting";
/// Its reason where the operator is waited for.
pub const HELD: &str = "ManyAtOnce";

/// A request that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the Tenant says of itself that its deletion is held.
pub(super) fn is_held(status: &TenantStatus) -> bool {
    let mut conditions = status.conditions.iter();
    conditions.any(|it| it.type_ == DELETING && it.reason == HELD)
}

/// How it stands with those who leave.
#[derive(Debug, Default)]
pub struct Departures {
    leaving: RwLock<BTreeMap<TenantName, (Verdict, usize)>>,
    changed: Notify,
}

impl Departures {
    /// Whether what a deleted Tenant has goes now.
    pub fn goes(&self, tenant: &TenantName) -> bool {
        let leaving = self.leaving.read().unwrap_or_else(PoisonError::into_inner);
        leaving.get(tenant).is_some_and(|it| it.0 == Verdict::Go)
    }

    /// The condition [`DELETING`] of a Tenant: reason and message.
    pub fn condition(&self, tenant: &TenantName) -> Option<(&'static str, String)> {
        let leaving = self.leaving.read().unwrap_or_else(PoisonError::into_inner);
        let (verdict, left) = *leaving.get(tenant)?;
        let load_balancers = counted(left);
        Some(match verdict {
            Verdict::Wait => (
                "Announced",
                format!("{load_balancers} will go; nothing has been touched yet"),
            ),
            Verdict::Held(..) => (HELD, held(tenant, verdict, left)),
            Verdict::Go if left == 0 => ("Ending", "nothing is left that has to go".into()),
            Verdict::Go => ("LoadBalancersLeft", format!("{load_balancers} left")),
        })
    }

    /// Resolves when any of it has changed since the call.
    pub fn changed(&self) -> impl Future<Output = ()> + Send {
        self.changed.notified()
    }

    /// How many wait for the operator.
    fn held(&self) -> usize {
        let leaving = self.leaving.read().unwrap_or_else(PoisonError::into_inner);
        let held = |it: &&(Verdict, usize)| matches!(it.0, Verdict::Held(..));
        leaving.values().filter(held).count()
    }

    /// All others have gone, or were saved.
    pub(super) fn only(&self, leaving: &BTreeSet<TenantName>) {
        self.change(|all| {
            let before = all.len();
            all.retain(|name, _| leaving.contains(name));
            all.len() != before
        });
    }

    /// Returns whether that is news.
    pub(super) fn decided(&self, tenant: &TenantName, verdict: Verdict, left: usize) -> bool {
        self.change(|all| match all.get_mut(tenant) {
            Some(it) if it.0 == verdict => false,
            Some(it) => {
                it.0 = verdict;
                true
            }
            None => all.insert(tenant.clone(), (verdict, left)).is_none(),
        })
    }

    pub(super) fn left(&self, tenant: &TenantName, left: usize) {
        self.change(|all| match all.get_mut(tenant) {
            Some(it) => std::mem::replace(&mut it.1, left) != left,
            None => false,
        });
    }

    fn change(
        &self,
        change: impl FnOnce(&mut BTreeMap<TenantName, (Verdict, usize)>) -> bool,
    ) -> bool {
        let mut leaving = self.leaving.write().unwrap_or_else(PoisonError::into_inner);
        let news = change(&mut leaving);
        drop(leaving);
        if news {
            self.changed.notify_waiters();
        }
        news
    }
}

fn counted(count: usize) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} load balancer{plural}")
}

fn held(tenant: &TenantName, verdict: Verdict, count: usize) -> String {
    let together = match verdict {
        // By an earlier process, and the others were saved.
        Verdict::Held(at_once, _) if at_once < 2 => "many Tenants were deleted at once".to_owned(),
        Verdict::Held(at_once, of) => {
            format!("{at_once} of {of} Tenants with load balancers were deleted at once")
        }
        Verdict::Wait | Verdict::Go => String::new(),
    };
    format!(
        "{together}, so {} of {tenant} stay as they are, and serve. If it is meant: berth-hub tenant delete {tenant} --yes. If not: save the \
         Tenant's manifest, take the finalizers off it (kubectl patch tenant {tenant} --type merge -p '{{\"metadata\":{{\"finalizers\":null}}}}'), \
         and create it again",
        counted(count)
    )
}

/// Of the load balancers that there are, those of which there is no Tenant, by tenant: what was kept by a reclaim policy is none.
pub(super) fn orphaned<T>(
    cache: &Cache,
    all: &BTreeMap<TenantName, T>,
) -> BTreeMap<TenantName, usize> {
    let without = cache.counts(|name| !all.contains_key(name));
    let left = |name: &TenantName| cache.left(name, |it| it.is_empty() || has_departed(it));
    without
        .into_keys()
        .map(|name| {
            let left = left(&name);
            (name, left)
        })
        .filter(|(_, left)| *left > 0)
        .collect()
}

/// Writes events and audit lines.
pub(super) struct Teller(Recorder);

impl Teller {
    pub(super) fn new(client: Client) -> Self {
        let reporter = Reporter {
            controller: MANAGER.into(),
            instance: None,
        };
        Self(Recorder::new(client, reporter))
    }

    /// Something was decided about a Tenant that is being deleted.
    pub(super) async fn decided(
        &self,
        name: &TenantName,
        facts: &TenantFacts,
        verdict: Verdict,
        count: usize,
        is_first: bool,
    ) {
        let policy = if facts.retain { "Retain" } else { "Delete" };
        let fate = format!("{} (reclaimPolicy {policy})", counted(count));
        if is_first {
            info!(tenant = %name, load_balancers = count, policy, "the Tenant is being deleted");
            audit::tenant(name, "deleting", &fate);
        }
        match verdict {
            Verdict::Wait => {
                let seconds = SETTLE.as_secs();
                let note = format!(
                    "the Tenant is being deleted: its sessions end, and in {seconds} s its traffic; {fate}"
                );
                self.event(name, facts, EventType::Normal, "Deleting", note)
                    .await;
            }
            Verdict::Held(..) => {
                let note = held(name, verdict, count);
                warn!(tenant = %name, "its deletion is held: {note}");
                audit::tenant(name, "deletion_held", &note);
                self.event(name, facts, EventType::Warning, "DeletionHeld", note)
                    .await;
            }
            Verdict::Go if count > 0 => {
                let how = if facts.confirmed { "confirmed, " } else { "" };
                audit::tenant(name, "withdrawn", &format!("{how}{fate}"));
                let note = format!("the Tenant is being deleted, and its traffic stops: {fate}");
                self.event(name, facts, EventType::Normal, "Withdrawing", note)
                    .await;
            }
            Verdict::Go => {}
        }
    }

    /// Its finalizer is gone.
    pub(super) async fn gone(&self, name: &TenantName, facts: &TenantFacts, kept: usize) {
        let home = name.namespace();
        let note = match kept {
            0 => format!(
                "nothing is left of the Tenant but the namespace {home}, which may be deleted when its last certificate has ended"
            ),
            kept => format!(
                "the addresses of {} are kept in the namespace {home} (reclaimPolicy Retain)",
                counted(kept)
            ),
        };
        info!(tenant = %name, kept, "the Tenant is gone: {note}");
        audit::tenant(name, "deleted", &note);
        self.event(name, facts, EventType::Normal, "Deleted", note)
            .await;
    }

    async fn event(
        &self,
        name: &TenantName,
        facts: &TenantFacts,
        type_: EventType,
        reason: &str,
        note: String,
    ) {
        let reference = ObjectReference {
            api_version: Some(Tenant::api_version(&()).into_owned()),
            kind: Some(Tenant::kind(&()).into_owned()),
            name: Some(name.to_string()),
            uid: Some(facts.uid.clone()),
            ..ObjectReference::default()
        };
        let event = Event {
            type_,
            reason: reason.into(),
            note: Some(note),
            action: "Delete".into(),
            secondary: None,
        };
        match tokio::time::timeout(PATIENCE, self.0.publish(&event, &reference)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "an event was not written"),
            Err(_) => debug!("an event was not written in time"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TenantLabel {
    tenant: String,
}

/// Counts at each scrape what has no Tenant, and which deletions wait for the operator.
pub struct OrphanedLoadBalancers {
    /// The Tenants.
    pub directory: Arc<Directory>,
    /// What there is.
    pub cache: Arc<Cache>,
    /// Those who leave.
    pub departures: Arc<Departures>,
}

impl std::fmt::Debug for OrphanedLoadBalancers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OrphanedLoadBalancers")
    }
}

impl Collector for OrphanedLoadBalancers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let family: Family<TenantLabel, Gauge> = Family::default();
        // Before both were listed, everything would look like it.
        if self.directory.is_synced() && self.cache.is_synced() {
            for (name, count) in orphaned(&self.cache, &self.directory.all()) {
                let tenant = name.to_string();
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                family.get_or_create(&TenantLabel { tenant }).set(count);
            }
        }
        let described = encoder.encode_descriptor(
            "berth_load_balancers_orphaned",
            "Load balancers of which there is no Tenant: they stay as they are",
            None,
            MetricType::Gauge,
        )?;
        family.encode(described)?;
        let held: Gauge = Gauge::default();
        held.set(i64::try_from(self.departures.held()).unwrap_or(i64::MAX));
        let described = encoder.encode_descriptor(
            "berth_tenant_deletions_held",
            "Deleted Tenants whose load balancers stay until the operator says that it is meant, for many were deleted at once",
            None,
            MetricType::Gauge,
        )?;
        held.encode(described)
    }
}
