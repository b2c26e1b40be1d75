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
    policy::{Limits, NodePorts, NodeRules, Quotas, Rules},
    standing::Records,
    tenants::Revocations,
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
        let changes_per_second =
            NonZeroU32::new(per_second.unwrap_or(CHANGES_PER_SECOND)).unwrap_or(NonZeroU32::MIN);
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

/// How many changes are carried out in a second, unless the Tenant says otherwise: three thousand new Services at once are no
/// matter.
const CHANGES_PER_SECOND: u32 = 200;

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
    pub(super) fn reported(&self, tenant: Tenant) -> Option<TenantName> {
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

    pub(super) fn reported_gone(&self, tenant: &Tenant) {
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
    pub(crate) fn listed(&self, tenants: Vec<Tenant>) -> Vec<TenantName> {
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
mod tests {
    use super::*;

    fn tenant(name: &str, change: impl FnOnce(&mut Tenant)) -> Tenant {
        let mut tenant = Tenant::new(name, TenantSpec::default());
        tenant.metadata.uid = Some("u".into());
        change(&mut tenant);
        tenant
    }

    fn name(name: &str) -> TenantName {
        TenantName::parse(name).unwrap()
    }

    #[tokio::test]
    async fn a_list_replaces_and_tells_whom_to_plan_again() {
        let directory = Directory::default();
        assert!(!directory.is_synced());
        let both = vec![tenant("a", |_| ()), tenant("b", |_| ())];
        assert_eq!(directory.listed(both), [name("a"), name("b")]);
        directory.synced().await;
        let changed = directory.changed();
        let suspended = tenant("b", |tenant| tenant.spec.suspended = true);
        assert_eq!(directory.listed(vec![suspended]), [name("b")]);
        changed.await;
        assert!(directory.get(&name("a")).is_none());
        assert!(directory.get(&name("b")).unwrap().suspended);
    }

    #[test]
    fn a_written_status_is_no_reason_to_plan() {
        let directory = Directory::default();
        directory.listed(vec![tenant("a", |_| ())]);
        let with_status = tenant("a", |tenant| {
            tenant.status = Some(TenantStatus {
                agent_version: Some("1".into()),
                ..TenantStatus::default()
            });
        });
        assert_eq!(directory.reported(with_status), None);
        assert_eq!(
            directory.statuses()[&name("a")].0.agent_version.as_deref(),
            Some("1")
        );
        let released = tenant("a", |tenant| {
            tenant.metadata.annotations = Some([(RELEASE_HELD.into(), "true".into())].into());
        });
        assert_eq!(directory.reported(released), None, "nor is a release");
        assert_eq!(directory.to_release().len(), 1);
        assert_eq!(directory.to_release()[0].0, name("a"));
    }

    #[test]
    fn an_operators_changes_are_told_by_what_they_mean() {
        let read = |change: fn(&mut Tenant)| {
            let (_, facts) = TenantFacts::read(tenant("a", change), &Arc::default()).unwrap();
            facts
        };
        let words = |before: Option<&TenantFacts>, after: &TenantFacts| -> Vec<_> {
            news::of(before, after).into_iter().map(|it| it.0).collect()
        };
        let plain = read(|_| ());
        assert_eq!(words(None, &plain), ["created"]);
        assert_eq!(words(Some(&plain), &plain), Vec::<&str>::new());
        let changed = read(|tenant| {
            tenant.metadata.annotations = Some([(CONFIRM_DELETION.into(), "true".into())].into());
            tenant.spec.suspended = true;
            tenant.spec.credentials = Some(api::Credentials {
                not_before: None,
                revoked_serials: vec!["3F:09".into()],
            });
            tenant.spec.address_pool = Some("other".into());
            tenant.spec.reclaim_policy = ReclaimPolicy::Retain;
            tenant.status = Some(TenantStatus {
                cluster_uid: Some("c".into()),
                ..TenantStatus::default()
            });
        });
        let told = news::of(Some(&plain), &changed);
        let told: Vec<(&str, &str)> = told.iter().map(|(word, it)| (*word, &**it)).collect();
        let expected = [
            ("suspended", ""),
            ("credentials", "3f09 is revoked"),
            ("deletion_confirmed", ""),
            ("binding", "from cluster none to c"),
            ("policy", "addressPool, reclaimPolicy"),
        ];
        assert_eq!(told, expected);
        assert_eq!(
            words(Some(&changed), &plain)[..2],
            ["resumed", "credentials"]
        );
        let other = read(|tenant| tenant.metadata.uid = Some("other".into()));
        assert_eq!(words(Some(&plain), &other), ["created"]);
    }

    #[test]
    fn a_deletion_is_planned_and_a_finalizer_is_not() {
        let directory = Directory::default();
        directory.listed(vec![tenant("a", |_| ())]);
        let guarded = tenant("a", |tenant| {
            tenant.metadata.finalizers = Some(vec![FINALIZER.into()]);
        });
        assert_eq!(directory.reported(guarded.clone()), None);
        assert!(directory.get(&name("a")).unwrap().is_guarded());
        let mut deleted = guarded;
        let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
        deleted.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        assert_eq!(directory.reported(deleted), Some(name("a")));
        let facts = directory.get(&name("a")).unwrap();
        assert!(facts.deleting && facts.is_shut());
    }

    #[test]
    fn parking_addresses_are_kept_as_the_tenant_says_and_a_change_of_it_is_planned() {
        let directory = Directory::default();
        let kept = |change: fn(&mut TenantSpec)| {
            let replan = directory.reported(tenant("a", |tenant| change(&mut tenant.spec)));
            assert_eq!(replan, Some(name("a")));
            let policy = directory
                .get(&name("a"))
                .unwrap()
                .policy(Allocator::MetalLb);
            (policy.release_after.as_secs(), policy.retain)
        };
        assert_eq!(kept(|_| ()), (30, false));
        assert_eq!(
            kept(|spec| spec.release_after_seconds = Some(0)),
            (0, false)
        );
        let retain = kept(|spec| spec.reclaim_policy = ReclaimPolicy::Retain);
        assert_eq!(retain, (30, true));
    }

    #[test]
    fn point_19_a_tenants_annotations_are_read_and_a_change_of_them_is_planned() {
        let directory = Directory::default();
        directory.listed(vec![tenant("a", |_| ())]);
        let spec = api::Annotations {
            allowed: vec!["example.com/*".into(), "not a key".into()],
            injected: [
                ("cloud.example/kind", "internal"),
                ("metallb.io/loadBalancerIPs", "192.0.2.1"),
                ("not a key", ""),
            ]
            .map(|(key, value)| (key.into(), value.into()))
            .into(),
        };
        let changed = tenant("a", |tenant| tenant.spec.annotations = Some(spec));
        assert_eq!(directory.reported(changed), Some(name("a")));
        let facts = directory.get(&name("a")).unwrap();
        assert_eq!(facts.annotations.allowed.patterns(), ["example.com/*"]);
        let injected: Vec<_> = facts.annotations.injected.keys().collect();
        assert_eq!(injected, ["cloud.example/kind"], "the pin is the hub's own");
    }

    #[test]
    fn a_tenants_node_rules_are_read_and_what_cannot_be_read_allows_nothing() {
        let directory = Directory::new(vec!["10.0.0.0/16".parse().unwrap()]);
        let rules = |cidrs: &[&str], ports: Option<&str>| {
            let changed = tenant("a", |tenant| {
                tenant.spec.node_cidrs = cidrs.iter().map(|cidr| (*cidr).to_owned()).collect();
                tenant.spec.node_port_range = ports.map(str::to_owned);
            });
            assert_eq!(directory.reported(changed), Some(name("a")), "planned anew");
            directory.get(&name("a")).unwrap().nodes.clone()
        };
        let ip = "10.10.2.1".parse().unwrap();
        let open = rules(&[], None);
        assert_eq!(open.judge(&ip), None);
        assert!(open.judge(&"10.0.0.1".parse().unwrap()).is_some());
        let bound = rules(&["10.10.0.0/16"], Some("30000-30010"));
        assert_eq!(bound.judge(&ip), None);
        assert!(bound.has_port(30_010) && !bound.has_port(30_011));
        assert_eq!(bound.quotas, Quotas::default());
        let bounded = tenant("a", |tenant| {
            tenant.spec.quotas = Some(api::Quotas {
                nodes: Some(3),
                ..api::Quotas::default()
            });
        });
        assert_eq!(directory.reported(bounded), Some(name("a")));
        let facts = directory.get(&name("a")).unwrap();
        assert_eq!(facts.nodes.quotas.nodes, Some(3));
        let broken = rules(&["10.10.0.0"], Some("all"));
        assert!(broken.judge(&ip).is_some());
        assert!(!broken.has_port(30_000));
    }

    #[test]
    fn who_follows_is_told_who_has_changed_and_a_status_is_no_policy() {
        let directory = Directory::default();
        let mut mark = 0;
        directory.listed(vec![tenant("a", |_| ()), tenant("b", |_| ())]);
        let both = [(name("a"), true), (name("b"), true)].into();
        assert_eq!(directory.changes(&mut mark), Changes::Of(both));
        assert_eq!(directory.changes(&mut mark), Changes::Of([].into()));
        let status = |version: &str| {
            let version = version.to_owned();
            tenant("a", |tenant| {
                tenant.status = Some(TenantStatus {
                    agent_version: Some(version),
                    ..TenantStatus::default()
                });
            })
        };
        directory.reported(status("1"));
        directory.reported_gone(&tenant("b", |_| ()));
        let changed = [(name("a"), false), (name("b"), false)].into();
        assert_eq!(directory.changes(&mut mark), Changes::Of(changed));
        assert!(directory.get(&name("b")).is_none());
        for n in 0..=CHANGES {
            directory.reported(status(&format!("{n}.0")));
        }
        assert_eq!(directory.changes(&mut mark), Changes::Many);
    }

    #[test]
    fn an_older_version_of_a_tenant_unsays_nothing() {
        let directory = Directory::default();
        let bound = |version: &str, uid: Option<&str>| {
            tenant("a", |tenant| {
                tenant.metadata.resource_version = Some(version.into());
                tenant.status = Some(TenantStatus {
                    cluster_uid: uid.map(str::to_owned),
                    ..TenantStatus::default()
                });
            })
        };
        let cluster = || directory.statuses()[&name("a")].0.cluster_uid.clone();
        directory.listed(vec![bound("10", Some("c"))]);
        directory.listed(vec![bound("9", None)]);
        assert_eq!(cluster().as_deref(), Some("c"));
        directory.reported(bound("11", None));
        assert_eq!(cluster(), None);
    }
}
