//! The Tenant objects: who is admitted, and under which policy.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use berth_common::{
    annotations::{Allowed, is_key},
    identity::TenantName,
};
use ipnet::IpNet;
use kube::api::ObjectMeta;
use tokio::sync::watch;

use super::news;
use crate::{
    api::{self, ReclaimPolicy, Tenant, TenantSpec, TenantStatus},
    audit, health,
    objects::{CONFIRM_DELETION, FINALIZER, RELEASE_HELD, service},
    plan::{Allocator, Annotations, Policy},
    policy::{CHANGES_PER_SECOND, Limits, NodePorts, NodeRules, Quotas, Rules},
    standing::Records,
    tenants::{Admission, Repetitions, Revocations},
};

/// What a Tenant object says.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantFacts {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub version: u64,
    /// Shut out by the operator.
    pub suspended: bool,
    /// The operator has deleted it, and its finalizers hold it until what it has is gone.
    pub deleting: bool,
    /// The operator has said that the deletion is meant, also where many are deleted at once.
    pub confirmed: bool,
    /// `metadata.finalizers`.
    pub finalizers: Vec<String>,
    /// Which of its certificates are good no more.
    pub revoked: Arc<Revocations>,
    /// The operator asks that what the brake holds may go.
    pub release_held: bool,
    /// The pool of new load balancers.
    pub pool: Option<String>,
    /// The class of new management Services.
    pub class: Option<String>,
    /// What the tenant may ask addresses out of.
    pub requestable: Vec<IpNet>,
    /// Which annotations its Services may bring along, and which they are given.
    pub annotations: Arc<Annotations>,
    /// For how long the address of a deleted Service is kept.
    pub release_after: Duration,
    /// Whether it is kept until an operator lets go of it.
    pub retain: bool,
    /// Which of its nodes' addresses and ports may receive traffic.
    pub nodes: Rules,
    /// How many load balancers and ports it may have in all.
    pub places: Limits,
    /// How many changes are carried out in a second.
    pub changes_per_second: NonZeroU32,
    /// How the tenant's nodes are probed.
    pub health: health::Policy,
    /// What stands in the status.
    pub status: TenantStatus,
}

impl TenantFacts {
    /// Whether nothing of it is served anew: what it has stays as it is, or goes.
    pub fn is_shut(&self) -> bool {
        self.suspended || self.deleting
    }

    /// Whether its deletion waits for the hub.
    pub fn is_guarded(&self) -> bool {
        self.finalizers.iter().any(|it| it == FINALIZER)
    }

    /// Who may have a session of it, and what counts of what that tells.
    pub fn admission(&self) -> Admission {
        Admission {
            suspended: self.suspended,
            deleting: self.deleting,
            uid: self.uid.clone(),
            cluster_uid: self.status.cluster_uid.clone(),
            former_cluster: self.status.former_cluster_uid.clone(),
            revoked: self.revoked.clone(),
            allowed: self.annotations.allowed.clone(),
            repetitions: Repetitions::of(self.changes_per_second),
            version: self.version,
        }
    }

    /// The policy for the planner.
    pub fn policy(&self, allocator: Allocator) -> Policy {
        Policy {
            allocator,
            pool: self.pool.clone(),
            class: self.class.clone(),
            requestable: self.requestable.clone(),
            annotations: self.annotations.clone(),
            release_after: self.release_after,
            retain: self.retain,
            nodes: self.nodes.clone(),
        }
    }

    /// Reads a Tenant object. `management` are the management cluster's own addresses. `None`: it has no name that is one, or no
    /// UID.
    pub fn read(tenant: Tenant, management: &Arc<[IpNet]>) -> Option<(TenantName, Self)> {
        let name = TenantName::parse(tenant.metadata.name.as_ref()?).ok()?;
        let version = version(&tenant.metadata);
        let annotations = tenant.metadata.annotations.unwrap_or_default();
        let release_after = tenant.spec.release_after_seconds.unwrap_or(RELEASE_AFTER);
        let places = places(&tenant.spec);
        let per_second = tenant
            .spec
            .quotas
            .as_ref()
            .and_then(|it| it.changes_per_second);
        let changes_per_second = per_second.map_or(CHANGES_PER_SECOND, |it| {
            NonZeroU32::new(it).unwrap_or(NonZeroU32::MIN)
        });
        let facts = Self {
            uid: tenant.metadata.uid?,
            version,
            suspended: tenant.spec.suspended,
            deleting: tenant.metadata.deletion_timestamp.is_some(),
            confirmed: is_true(&annotations, CONFIRM_DELETION),
            finalizers: tenant.metadata.finalizers.unwrap_or_default(),
            revoked: Arc::new(Revocations::from(
                tenant.spec.credentials.unwrap_or_default(),
            )),
            release_held: is_true(&annotations, RELEASE_HELD),
            pool: tenant.spec.address_pool,
            class: tenant.spec.load_balancer_class,
            // The schema lets only CIDRs in; what got in otherwise opens nothing.
            requestable: ranges(&tenant.spec.requestable_ips).collect(),
            annotations: Arc::new(read_annotations(
                tenant.spec.annotations.unwrap_or_default(),
            )),
            release_after: Duration::from_secs(release_after.into()),
            retain: tenant.spec.reclaim_policy == ReclaimPolicy::Retain,
            nodes: Arc::new(NodeRules {
                allowed: allowed(&tenant.spec.node_cidrs),
                ports: tenant
                    .spec
                    .node_port_range
                    .as_deref()
                    .map(|range| NodePorts::parse(range).unwrap_or(NO_PORT)),
                management: management.clone(),
                quotas: quotas(tenant.spec.quotas.as_ref()),
                enforce: tenant.spec.enforce,
            }),
            places,
            changes_per_second,
            health: tenant
                .spec
                .health_check
                .as_ref()
                .map(health::Policy::from)
                .unwrap_or_default(),
            status: tenant.status.unwrap_or_default(),
        };
        Some((name, facts))
    }

    /// Whether plans come out the same under both.
    fn plans_like(&self, other: &Self) -> bool {
        let policy = |facts: &Self| Self {
            version: 0,
            release_held: false,
            confirmed: false,
            finalizers: Vec::new(),
            revoked: Arc::default(),
            status: TenantStatus::default(),
            ..facts.clone()
        };
        policy(self) == policy(other)
    }
}

fn is_true(annotations: &BTreeMap<String, String>, key: &str) -> bool {
    annotations.get(key).is_some_and(|value| value == "true")
}

fn ranges(texts: &[String]) -> impl Iterator<Item = IpNet> {
    texts.iter().filter_map(|text| text.parse().ok())
}

/// Where a tenant's nodes may be. The schema lets only CIDRs in; a list of which nothing can be read allows nothing, for the
/// empty one allows everything.
fn allowed(texts: &[String]) -> Vec<IpNet> {
    let read: Vec<IpNet> = ranges(texts).collect();
    if read.is_empty() && !texts.is_empty() {
        let nowhere = |ip| IpNet::from(std::net::IpAddr::V6(ip));
        return vec![nowhere(std::net::Ipv6Addr::UNSPECIFIED)];
    }
    read
}

fn quotas(spec: Option<&api::Quotas>) -> Quotas {
    let bound = |count: Option<u32>| count.map(|count| count as usize);
    spec.map_or_else(Quotas::default, |spec| Quotas {
        ports_per_load_balancer: bound(spec.ports_per_load_balancer),
        nodes: bound(spec.nodes),
    })
}

fn places(spec: &TenantSpec) -> Limits {
    let quotas = spec.quotas.as_ref();
    let bound = |count: Option<u32>| count.map(|count| count as usize);
    Limits {
        load_balancers: bound(quotas.and_then(|quotas| quotas.load_balancers)),
        ports: bound(quotas.and_then(|quotas| quotas.ports)),
        enforce: spec.enforce,
    }
}

/// What a range that cannot be read allows. No node port is that low.
const NO_PORT: NodePorts = NodePorts { first: 0, last: 0 };

/// What no annotation can be called is left out: one of it would have the API server refuse every Service of the tenant.
fn read_annotations(spec: api::Annotations) -> Annotations {
    let mut injected = spec.injected;
    injected.retain(|key, _| is_key(key) && !service::HUBS_OWN.contains(&key.as_str()));
    Annotations {
        allowed: Allowed::new(spec.allowed),
        injected,
    }
}

/// For how long an address is kept, unless the Tenant says otherwise.
const RELEASE_AFTER: u32 = 30;

/// By which the newer of two is known; 0 where it is no number, as none is on any API server there is.
pub fn version(meta: &ObjectMeta) -> u64 {
    meta.resource_version
        .as_ref()
        .and_then(|version| version.parse().ok())
        .unwrap_or_default()
}

#[derive(Debug, Default)]
struct Known {
    synced: bool,
    tenants: BTreeMap<TenantName, Arc<TenantFacts>>,
    /// Whose object has changed last, each with whether its Services are to be planned again; and how many changes came before
    /// those.
    changes: VecDeque<(TenantName, bool)>,
    forgotten: u64,
}

/// So many changes are kept for who follows them.
const CHANGES: usize = 4_096;

impl Known {
    fn remove(&mut self, name: &str) -> bool {
        let removed = self.tenants.remove_entry(name);
        if let Some((name, _)) = &removed {
            self.note(name, false);
        }
        removed.is_some()
    }

    fn note(&mut self, name: &TenantName, replan: bool) {
        if self.changes.len() == CHANGES {
            self.changes.pop_front();
            self.forgotten += 1;
        }
        self.changes.push_back((name.clone(), replan));
    }
}

/// What has changed among the Tenants, for one who follows.
#[derive(Debug, PartialEq, Eq)]
pub enum Changes {
    /// These, each with whether its Services are to be planned again. One that is not there any more was deleted.
    Of(BTreeMap<TenantName, bool>),
    /// More than is remembered: look at all.
    Many,
}

/// All Tenant objects, as last seen.
#[derive(Debug)]
pub struct Directory {
    known: watch::Sender<Known>,
    management: Arc<[IpNet]>,
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            known: watch::Sender::new(Known::default()),
            management: Arc::default(),
        }
    }
}

impl Directory {
    /// One that knows the management cluster's own addresses, which are no tenant's backends.
    pub fn new(management: Vec<IpNet>) -> Self {
        Self {
            management: management.into(),
            ..Self::default()
        }
    }

    /// One tenant, if it is admitted.
    pub fn get(&self, tenant: &TenantName) -> Option<Arc<TenantFacts>> {
        self.known.borrow().tenants.get(tenant).cloned()
    }

    /// All tenants.
    pub fn all(&self) -> BTreeMap<TenantName, Arc<TenantFacts>> {
        self.known.borrow().tenants.clone()
    }

    /// The tenants whose operator asks that what is held may go.
    pub fn to_release(&self) -> Vec<(TenantName, Arc<TenantFacts>)> {
        let known = self.known.borrow();
        let asked = known.tenants.iter().filter(|(_, facts)| facts.release_held);
        asked
            .map(|(name, facts)| (name.clone(), facts.clone()))
            .collect()
    }

    /// Resolves when all were seen once. Before that, an unknown tenant may only be one that was not seen yet.
    pub async fn synced(&self) {
        // The sender is ours, and lives as long as the borrow.
        let _ = self.known.subscribe().wait_for(|known| known.synced).await;
    }

    /// Whether all were seen once.
    pub fn is_synced(&self) -> bool {
        self.known.borrow().synced
    }

    /// What has changed since the last time that this was asked with the same `mark`, which begins at 0, or for who has seen nothing
    /// yet at `u64::MAX`: that is many.
    pub fn changes(&self, mark: &mut u64) -> Changes {
        let known = self.known.borrow();
        let end = known.forgotten + known.changes.len() as u64;
        let from = std::mem::replace(mark, end);
        let Some(skip) = from.checked_sub(known.forgotten).filter(|_| from <= end) else {
            return Changes::Many;
        };
        let mut changes = BTreeMap::new();
        let news = known
            .changes
            .iter()
            .skip(usize::try_from(skip).unwrap_or(usize::MAX));
        for (name, replan) in news {
            *changes.entry(name.clone()).or_default() |= replan;
        }
        Changes::Of(changes)
    }

    /// Resolves when anything has changed since the call.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut known = self.known.subscribe();
        async move {
            if known.changed().await.is_err() {
                // The directory is gone, and nothing will ever change.
                std::future::pending::<()>().await;
            }
        }
    }

    /// A tenant is new or different. Returns it if its Services are to be planned again.
    pub fn reported(&self, tenant: Tenant) -> Option<TenantName> {
        let (name, facts) = TenantFacts::read(tenant, &self.management)?;
        let mut replan = true;
        let mut said = Vec::new();
        self.known.send_if_modified(|known| {
            let before = known.tenants.get(&name);
            if before.is_some_and(|b| b.uid == facts.uid && b.version > facts.version) {
                // A list of an API server that lags behind: it would unsay what was said.
                replan = false;
                return false;
            }
            replan = !before.is_some_and(|before| before.plans_like(&facts));
            let changed = before.is_none_or(|before| **before != facts);
            if changed {
                // What a first list shows may be of long ago.
                if known.synced {
                    said = news::of(before.map(|it| &**it), &facts);
                }
                known.tenants.insert(name.clone(), Arc::new(facts));
                known.note(&name, replan);
            }
            changed
        });
        for (reason, detail) in said {
            audit::tenant(&name, reason, &detail);
        }
        replan.then_some(name)
    }

    /// A tenant is gone.
    pub fn reported_gone(&self, tenant: &Tenant) {
        let name = tenant.metadata.name.as_deref();
        let Some(name) = name.and_then(|name| TenantName::parse(name).ok()) else {
            return;
        };
        let known = |known: &mut Known| known.remove(name.as_str());
        if self.known.send_if_modified(known) {
            audit::tenant(&name, "gone", "");
        }
    }

    /// A complete list. Returns the tenants whose Services are to be planned again.
    pub fn listed(&self, tenants: Vec<Tenant>) -> Vec<TenantName> {
        let names: HashSet<String> = tenants
            .iter()
            .filter_map(|tenant| tenant.metadata.name.clone())
            .collect();
        let replan = tenants
            .into_iter()
            .filter_map(|tenant| self.reported(tenant))
            .collect();
        self.known.send_modify(|known| {
            known.synced = true;
            let gone = known
                .tenants
                .keys()
                .filter(|name| !names.contains(name.as_str()));
            let gone: Vec<String> = gone.map(ToString::to_string).collect();
            for name in gone {
                known.remove(&name);
                if let Ok(name) = TenantName::parse(&name) {
                    audit::tenant(&name, "gone", "");
                }
            }
        });
        replan
    }
}

impl Records for Directory {
    fn statuses(&self) -> BTreeMap<TenantName, (TenantStatus, u64)> {
        let known = self.known.borrow();
        let status = |(name, facts): (&TenantName, &Arc<TenantFacts>)| {
            (name.clone(), (facts.status.clone(), facts.version))
        };
        known.tenants.iter().map(status).collect()
    }

    fn changed(&self) -> impl Future<Output = ()> + Send {
        Directory::changed(self)
    }
}

#[cfg(test)]
mod tests;
