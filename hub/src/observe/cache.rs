//! The last known state of every object of the hub's, by the Service it serves. Two write into it: the watches, and the
//! executor, which puts in what the API server returned, so that the next plan does not repeat a write that the watch has
//! yet to report. By `resourceVersion` the newer of the two wins: a deletion that was carried out is not undone by an older
//! report, and one that was reported not by an older reply.

mod places;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use berth_common::{
    identity::TenantName,
    model::{Ingress, ServiceKey},
};
use tokio::sync::{Notify, watch};
use tracing::info;

pub use places::Calls;

use super::{Object, Slot};
use crate::{
    audit,
    objects::{Id, Kind, backend_slice::ObservedSlice, name, service::ObservedService},
    plan::{Nodes, Observed, Rejection, Seen},
    policy::{Claims, Judged, Ledger, Rules},
};

/// The kinds that have to be listed before anything may be planned.
const KINDS: usize = 3;

/// What is observed of all tenants.
#[derive(Debug)]
pub struct Cache {
    state: RwLock<State>,
    /// How much of its quotas each tenant has taken. Locked by itself, or under the state.
    ledger: Mutex<Ledger>,
    /// What a tenant uses of its quotas has changed.
    used: Notify,
    listed: watch::Sender<HashSet<Kind>>,
}

#[derive(Debug, Default)]
struct State {
    tenants: BTreeMap<TenantName, BTreeMap<ServiceKey, Observed>>,
    /// From the objects' name, the hash in which tells them apart in all namespaces.
    names: HashMap<String, Id>,
    /// UIDs that the executor wrote and no watch has reported yet, and when that was sent: a list that is older does not
    /// have them.
    written: HashMap<String, Instant>,
    /// UIDs that the executor deleted and no watch has reported yet, and when that was sent.
    buried: HashMap<String, Instant>,
    /// How far each watch has come.
    told: HashMap<Kind, Told>,
    /// When the allocator last gave anybody an address.
    allocator_gave: Option<Instant>,
    /// Whose which address is.
    claims: Claims,
    /// What the allocator said of Services, by UID, that are not known yet: it may be faster than the answer to their making.
    early: VecDeque<(String, Arc<str>)>,
}

/// For so long the place of an object is kept that was written while a list was read which does not have it: by then the watch
/// has brought it, if it is there.
const UNLISTED: Duration = Duration::from_secs(60);
/// So many of the allocator's words wait for their Services. Most are of Services that are not the hub's.
const EARLY: usize = 256;

/// How far the watch of a kind has come.
#[derive(Debug, Default)]
struct Told {
    /// Everything up to this version was reported.
    version: u64,
    /// When the last complete list was begun.
    listed: Option<Instant>,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            state: RwLock::default(),
            ledger: Mutex::default(),
            used: Notify::new(),
            listed: watch::Sender::new(HashSet::new()),
        }
    }
}

impl Cache {
    /// What is observed for a key; empty where nothing is.
    pub fn observed(&self, id: &Id) -> Observed {
        let state = self.read();
        let known = state.tenants.get(&id.tenant);
        let known = known.and_then(|keys| keys.get(&id.key)).cloned();
        Observed {
            allocator_gave: state.allocator_gave,
            ..known.unwrap_or_default()
        }
    }

    /// The keys for which anything is observed.
    pub fn keys_of(&self, tenant: &TenantName) -> Vec<ServiceKey> {
        let state = self.read();
        state
            .tenants
            .get(tenant)
            .into_iter()
            .flat_map(BTreeMap::keys)
            .cloned()
            .collect()
    }

    /// The keys of what is more than an address that is kept: what of these a tenant does not want is missed.
    pub fn serving_keys_of(&self, tenant: &TenantName) -> Vec<ServiceKey> {
        let state = self.read();
        let known = state.tenants.get(tenant).into_iter().flatten();
        known
            .filter(|(_, observed)| !observed.rests())
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Whether nothing is observed for a key but an address that is kept, if that.
    pub fn rests(&self, id: &Id) -> bool {
        !self.observed_is(id, |observed| !observed.rests())
    }

    /// Of a tenant's load balancers, how many this does not hold of.
    pub fn left(&self, tenant: &TenantName, is_done: impl Fn(&Observed) -> bool) -> usize {
        let state = self.read();
        let known = state.tenants.get(tenant).into_iter().flatten();
        known.filter(|(_, observed)| !is_done(observed)).count()
    }

    /// How many load balancers each of these tenants has, of those who have any.
    pub fn counts(&self, of: impl Fn(&TenantName) -> bool) -> BTreeMap<TenantName, usize> {
        let state = self.read();
        let count = |keys: &BTreeMap<ServiceKey, Observed>| {
            keys.values()
                .filter(|observed| !observed.is_empty())
                .count()
        };
        let asked = state.tenants.iter().filter(|(tenant, _)| of(tenant));
        asked
            .map(|(tenant, keys)| (tenant.clone(), count(keys)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// How many Services there are, in all namespaces of the hub's.
    pub fn services(&self) -> usize {
        let state = self.read();
        let all = state.tenants.values().flat_map(BTreeMap::values);
        all.filter(|observed| observed.service.is_some()).count()
    }

    /// When the allocator last gave anybody an address.
    pub fn allocator_gave(&self) -> Option<Instant> {
        self.read().allocator_gave
    }

    /// Which addresses of a tenant's nodes may receive no traffic. Those that may are the tenant's from now on.
    pub fn judge(&self, tenant: &TenantName, nodes: &Arc<Nodes>, rules: &Rules) -> Judged {
        // Asked with every plan, and nodes rarely change.
        if let Some(barred) = self.read().claims.known(tenant, nodes, rules) {
            return Judged {
                barred,
                news: Vec::new(),
            };
        }
        let judged = self.write().claims.judge(tenant, nodes, rules);
        for (ip, unfit) in &judged.news {
            let why = unfit.explain(ip);
            info!(%tenant, reason = unfit.label(), "a node's address receives no traffic: {why}");
            audit::service(tenant, unfit.reason(), &why);
        }
        judged
    }

    /// Those of these addresses that are another tenant's load balancer's. One that is only parked is not: it goes to whoever
    /// waits for it.
    pub fn taken_by_others(&self, tenant: &TenantName, ips: &[IpAddr]) -> BTreeSet<IpAddr> {
        if ips.is_empty() {
            return BTreeSet::new();
        }
        let state = self.read();
        let has = |holder: &TenantName, ip: &IpAddr| {
            let all = state.tenants.get(holder).into_iter();
            let mut in_use = all.flat_map(BTreeMap::values).filter(|it| !it.is_cut());
            in_use.any(|it| frontends(it.service.as_deref()).contains(ip))
        };
        let taken = |ip: &&IpAddr| {
            let mut others = state.claims.others_at(tenant, ip);
            others.any(|holder| has(holder, ip))
        };
        ips.iter().filter(taken).copied().collect()
    }

    /// The tenants whose nodes are to be judged again, because an address has become free or a load balancer's. Each is told
    /// once.
    pub fn take_disputed(&self) -> BTreeSet<TenantName> {
        if !self.read().claims.is_disputed() {
            return BTreeSet::new();
        }
        self.write().claims.take_disputed()
    }

    /// The time of a parked Service is up. It counts until the Service is gone, or wanted again, or more than parked.
    pub fn release(&self, id: &Id) {
        if let Some(observed) = self.write().known(id) {
            observed.released = observed.is_cut() && observed.service.is_some();
            if observed.released {
                self.ledger().leave(&id.tenant, &id.key);
            }
        }
    }

    /// What was released is wanted again.
    pub fn keep(&self, id: &Id) {
        // Asked with every plan, and nearly always in vain.
        if self.observed_is(id, |observed| observed.released)
            && let Some(observed) = self.write().known(id)
        {
            observed.released = false;
        }
    }

    fn observed_is(&self, id: &Id, what: impl FnOnce(&Observed) -> bool) -> bool {
        let state = self.read();
        let known = state.tenants.get(&id.tenant);
        known.and_then(|keys| keys.get(&id.key)).is_some_and(what)
    }

    /// Resolves when every kind was listed once. Before that, nothing may be planned.
    pub async fn synced(&self) {
        // The sender is ours, and lives as long as the borrow.
        let _ = self
            .listed
            .subscribe()
            .wait_for(|kinds| kinds.len() == KINDS)
            .await;
    }

    /// Whether every kind was listed once.
    pub fn is_synced(&self) -> bool {
        self.listed.borrow().len() == KINDS
    }

    /// The watch reports an object. Returns whether anything changed that is of interest.
    pub fn reported(&self, id: &Id, object: Object) -> bool {
        let mut state = self.write();
        state.heard(object.slot().kind(), object.version());
        if state.buried.contains_key(object.uid()) {
            return false;
        }
        state.written.remove(object.uid());
        let changed = state.put(id, object);
        self.enter(&state, id);
        changed
    }

    /// The watch reports that an object is gone, with the version of its end.
    pub fn reported_gone(&self, id: &Id, slot: Slot, uid: &str, version: u64) -> bool {
        let mut state = self.write();
        state.heard(slot.kind(), version);
        state.written.remove(uid);
        state.buried.remove(uid);
        let taken = state.take(id, slot, uid);
        self.enter(&state, id);
        taken
    }

    /// A complete list of one kind, begun at `started`, replaces what was known of it. Returns the keys that changed.
    pub fn listed(&self, kind: Kind, objects: Vec<(Id, Object)>, started: Instant) -> Vec<Id> {
        let mut state = self.write();
        let kept: HashSet<String> = objects
            .iter()
            .map(|(_, object)| object.uid().to_owned())
            .collect();
        let mut changed = Vec::new();
        for (id, slot, uid) in state.of_kind(kind) {
            let newer = state.written.get(&uid).is_some_and(|at| *at >= started);
            if newer {
                continue;
            }
            let unreported = state.written.remove(&uid).is_some();
            if !kept.contains(&uid) && state.take(&id, slot, &uid) {
                if unreported {
                    // It was sent before the list was begun, and may have come to be after that was read.
                    self.ledger().hold(&id.tenant, &id.key, started + UNLISTED);
                }
                self.enter(&state, &id);
                changed.push(id);
            }
        }
        // What the list did not have is not reported any more.
        state
            .buried
            .retain(|uid, at| kept.contains(uid) || *at >= started);
        state.told.entry(kind).or_default().listed = Some(started);
        for (id, object) in objects {
            state.heard(kind, object.version());
            if !state.buried.contains_key(object.uid()) && state.put(&id, object) {
                self.enter(&state, &id);
                changed.push(id);
            }
        }
        drop(state);
        self.listed.send_if_modified(|kinds| kinds.insert(kind));
        changed
    }

    /// The executor wrote an object, and this is what the API server made of it. `sent` is when it was asked to.
    pub fn wrote(&self, id: &Id, object: Object, sent: Instant) {
        let mut state = self.write();
        if state.is_outdated(id, &object, sent) {
            return;
        }
        state.written.insert(object.uid().to_owned(), sent);
        state.put(id, object);
        self.enter(&state, id);
    }

    /// The executor deleted an object, or found that it is not there.
    pub fn deleted(&self, id: &Id, slot: Slot, uid: &str, sent: Instant) {
        let mut state = self.write();
        state.written.remove(uid);
        if state.take(id, slot, uid) {
            state.buried.insert(uid.to_owned(), sent);
            self.enter(&state, id);
        }
    }

    /// The API server rejected what was planned.
    pub fn rejected(&self, id: &Id, rejection: Rejection) {
        let mut state = self.write();
        state.entry(id).rejection = Some(Arc::new(rejection));
    }

    /// What was rejected is not wanted any more.
    pub fn forget_rejection(&self, id: &Id) {
        let mut state = self.write();
        state.entry(id).rejection = None;
        state.prune(id);
    }

    /// The allocator gives the Service of this name and UID no address. Returns whose it is, if that is news.
    pub fn complained(&self, service: &str, uid: &str, words: &str) -> Option<Id> {
        let mut state = self.write();
        let known = state.names.get(service).cloned();
        let seen = known.as_ref().and_then(|id| {
            let seen = state.known(id)?.service.as_ref()?;
            (seen.uid == uid).then(|| seen.object.ingress.is_empty())
        });
        let (Some(id), Some(waits)) = (known, seen) else {
            if state.early.len() >= EARLY {
                state.early.pop_front();
            }
            state.early.push_back((uid.to_owned(), words.into()));
            return None;
        };
        let observed = state.entry(&id);
        if !waits || observed.allocator_says.as_deref() == Some(words) {
            return None;
        }
        observed.allocator_says = Some(words.into());
        Some(id)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // No panic can leave the state half changed in a way that a list would not mend.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn entry(&mut self, id: &Id) -> &mut Observed {
        entry(&mut self.tenants, id)
    }

    fn known(&mut self, id: &Id) -> Option<&mut Observed> {
        self.tenants.get_mut(&id.tenant)?.get_mut(&id.key)
    }

    /// The watch of a kind has come to this version.
    fn heard(&mut self, kind: Kind, version: u64) {
        let told = self.told.entry(kind).or_default();
        told.version = told.version.max(version);
    }

    /// Whether a reply shows what the watch knows to be over: it has come further, or has listed everything since the
    /// write was sent, and the object is not there. If it is one that came just after that list, the watch brings it.
    fn is_outdated(&self, id: &Id, object: &Object, sent: Instant) -> bool {
        let slot = object.slot();
        let told = self.told.get(&slot.kind());
        let overtaken = told.is_some_and(|told| {
            told.version >= object.version() || told.listed.is_some_and(|listed| listed > sent)
        });
        overtaken && self.uid(id, slot) != Some(object.uid())
    }

    fn uid(&self, id: &Id, slot: Slot) -> Option<&str> {
        let observed = self.tenants.get(&id.tenant)?.get(&id.key)?;
        let uid = match slot {
            Slot::Service => &observed.service.as_ref()?.uid,
            Slot::Slice(place) => &observed.slices.get(&place)?.uid,
            Slot::Record => &observed.record.as_ref()?.uid,
        };
        Some(uid)
    }

    fn put(&mut self, id: &Id, object: Object) -> bool {
        self.names
            .entry(name::object(id))
            .or_insert_with(|| id.clone());
        let observed = entry(&mut self.tenants, id);
        observed.released &= matches!(object, Object::Service(_));
        match object {
            Object::Service(seen) => {
                let (served, at) = (!seen.object.ingress.is_empty(), seen.since);
                if served {
                    observed.allocator_says = None;
                }
                let known = observed.service.as_ref();
                if known.is_none_or(|known| known.uid != seen.uid)
                    && let Some(at) = self.early.iter().rposition(|(uid, _)| *uid == seen.uid)
                {
                    let words = self.early.remove(at).map(|(_, words)| words);
                    self.early.retain(|(uid, _)| *uid != seen.uid);
                    observed.allocator_says = words.filter(|_| !served);
                }
                let mut slot = observed.service.take();
                let before = frontends(slot.as_deref());
                let was = slot
                    .as_ref()
                    .is_some_and(|seen| !seen.object.ingress.is_empty());
                let changed = newer(&mut slot, seen);
                if changed {
                    self.claims
                        .frontends(&id.tenant, &before, &frontends(slot.as_deref()));
                }
                observed.service = slot;
                if changed && served && !was {
                    self.allocator_gave = Some(at);
                }
                changed
            }
            Object::Slice(place, seen) => {
                let before = observed.slices.remove(&place);
                let mut slot = before.clone();
                let changed = newer(&mut slot, seen);
                if changed {
                    let (before, after) = (backends(before.as_deref()), backends(slot.as_deref()));
                    self.claims.backends(&id.tenant, before, after);
                }
                observed.slices.extend(slot.map(|slot| (place, slot)));
                changed
            }
            Object::Record(seen) => {
                let mut slot = observed.record.take();
                let changed = newer(&mut slot, seen);
                observed.record = slot;
                changed
            }
        }
    }

    fn take(&mut self, id: &Id, slot: Slot, uid: &str) -> bool {
        let observed = entry(&mut self.tenants, id);
        let taken = match slot {
            Slot::Service => {
                let taken = observed.service.take_if(|seen| seen.uid == uid);
                if taken.is_some() {
                    let before = frontends(taken.as_deref());
                    self.claims.frontends(&id.tenant, &before, &BTreeSet::new());
                    observed.allocator_says = None;
                    observed.released = false;
                }
                taken.is_some()
            }
            Slot::Record => observed.record.take_if(|seen| seen.uid == uid).is_some(),
            Slot::Slice(place) => {
                let slices = &mut observed.slices;
                let is_it = slices.get(&place).is_some_and(|seen| seen.uid == uid);
                let taken = is_it.then(|| slices.remove(&place)).flatten();
                let before = backends(taken.as_deref());
                self.claims.backends(&id.tenant, before, &[]);
                is_it
            }
        };
        self.prune(id);
        taken
    }

    fn prune(&mut self, id: &Id) {
        let Some(keys) = self.tenants.get_mut(&id.tenant) else {
            return;
        };
        let idle = |observed: &Observed| observed.is_empty() && observed.rejection.is_none();
        if keys.get(&id.key).is_some_and(idle) {
            keys.remove(&id.key);
            self.names.remove(&name::object(id));
        }
        if keys.is_empty() {
            self.tenants.remove(&id.tenant);
            self.claims.forget(&id.tenant);
        }
    }

    fn of_kind(&self, kind: Kind) -> Vec<(Id, Slot, String)> {
        let mut found = Vec::new();
        for (tenant, keys) in &self.tenants {
            for (key, observed) in keys {
                let mut add = |slot, uid: &str| {
                    found.push((Id::new(tenant.clone(), key.clone()), slot, uid.to_owned()));
                };
                match kind {
                    Kind::Service => observed
                        .service
                        .iter()
                        .for_each(|seen| add(Slot::Service, &seen.uid)),
                    Kind::LoadBalancer => observed
                        .record
                        .iter()
                        .for_each(|seen| add(Slot::Record, &seen.uid)),
                    Kind::EndpointSlice => {
                        for (place, seen) in &observed.slices {
                            add(Slot::Slice(*place), &seen.uid);
                        }
                    }
                }
            }
        }
        found
    }
}

fn entry<'a>(
    tenants: &'a mut BTreeMap<TenantName, BTreeMap<ServiceKey, Observed>>,
    id: &Id,
) -> &'a mut Observed {
    tenants
        .entry(id.tenant.clone())
        .or_default()
        .entry(id.key.clone())
        .or_default()
}

/// The addresses at which a Service is reached.
fn frontends(seen: Option<&Seen<ObservedService>>) -> BTreeSet<IpAddr> {
    let ingress = seen.into_iter().flat_map(|seen| &seen.object.ingress);
    let ip = |ingress: &Ingress| match ingress {
        Ingress::Ip(ip) => Some(*ip),
        Ingress::Hostname(_) => None,
    };
    ingress.filter_map(ip).collect()
}

/// The addresses to which a slice leads.
fn backends(seen: Option<&Seen<ObservedSlice>>) -> &[IpAddr] {
    seen.map(|seen| seen.object.shape.addresses.as_slice())
        .unwrap_or_default()
}

/// Puts the object in its place unless what is there is newer. Returns whether anything but the version changed.
fn newer<T: PartialEq>(slot: &mut Option<Arc<Seen<T>>>, mut seen: Seen<T>) -> bool {
    if let Some(before) = slot {
        if before.version > seen.version {
            return false;
        }
        let same = before.uid == seen.uid;
        if same {
            seen.since = before.since;
        }
        if same && before.deleting == seen.deleting && before.object == seen.object {
            *slot = Some(Arc::new(seen));
            return false;
        }
    }
    *slot = Some(Arc::new(seen));
    true
}

#[cfg(test)]
mod tests;
