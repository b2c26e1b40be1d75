//! What the judge knows of Tenant objects: which quotas the hub has heard of since when, who stands in line, what is to be left of
//! a Tenant that is gone. All of it is counted from the operator's doings and from what really stands in the management cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use berth_hub::{
    objects::{Id, KEPT, Kind},
    plan::{Plan, Write},
    policy::{Limits, Verdict},
};

use crate::{
    cluster::{ports, service_key},
    ledger::{Ledger, Violation, broken},
    management::{Management, Objects},
    op::{KEYS, Version},
    tenants::TenantObject,
    world::World,
};

pub(crate) const EXACT: &str = "a quota is exact: no load balancer is written beyond it";
pub(crate) const FIRST: &str = "who waits first is served first";
pub(crate) const WITHDRAWN: &str = "what a tenant has is withdrawn only where that is enforced";
pub(crate) const DEPARTED: &str =
    "of a deleted Tenant goes what its policy lets go, when it may, and of a lost one nothing";

/// How long a deletion is looked at before anything goes. The judge's own number.
const SETTLE: Duration = Duration::from_secs(5);

/// How the judge counts what is not bounded.
const ENDLESS: usize = usize::MAX;

/// The most that was allowed.
#[derive(Clone, Copy, Debug, Default)]
struct Most {
    load_balancers: usize,
    ports: usize,
}

impl Most {
    fn of(limits: Limits) -> Self {
        Self {
            load_balancers: limits.load_balancers.unwrap_or(ENDLESS),
            ports: limits.ports.unwrap_or(ENDLESS),
        }
    }

    fn raise(&mut self, other: Self) {
        self.load_balancers = self.load_balancers.max(other.load_balancers);
        self.ports = self.ports.max(other.ports);
    }
}

/// One key and its place.
#[derive(Clone, Debug, Default)]
struct Place {
    /// The most that stood since it was last refused, or not wanted: what is written for it was granted since.
    most: Most,
    /// It may be written.
    granted: bool,
    /// In line: since which turn, and for how many ports.
    waits: Option<(u64, usize)>,
    /// Nothing of it is there.
    empty: bool,
    /// It was withdrawn, and its turn is not known from here.
    uncertain: bool,
    /// Until then something may come of what was written for it, and its place is kept for that.
    doubt: Option<Instant>,
    /// Who got a place that it could have had.
    passed_by: Option<u8>,
}

/// What has to be there still of a Tenant that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    service: u64,
    record: u64,
    ip: IpAddr,
}

/// How a Tenant came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Deleted { retain: bool },
    Lost,
}

/// What the judge knows of one Tenant object.
#[derive(Clone, Debug)]
pub(crate) struct Regime {
    /// What the hub's process has heard.
    heard: Option<TenantObject>,
    /// Since when it knows of the deletion.
    leaves_since: Option<Instant>,
    end: Option<End>,
    kept: BTreeMap<u8, Kept>,
    /// Somebody else had his hands in these.
    excused: BTreeSet<u8>,
    places: Vec<Place>,
    turns: u64,
}

impl Default for Regime {
    fn default() -> Self {
        Self {
            heard: None,
            leaves_since: None,
            end: None,
            kept: BTreeMap::new(),
            excused: BTreeSet::new(),
            places: vec![Place::default(); usize::from(KEYS)],
            turns: 0,
        }
    }
}

impl Regime {
    pub(crate) fn hub_restarted(&mut self) {
        self.heard = None;
        self.leaves_since = None;
        self.places = vec![Place::default(); usize::from(KEYS)];
    }

    /// An operator had his hands in it, or an allocator without memory.
    pub(crate) fn excuse(&mut self, k: u8) {
        self.kept.remove(&k);
        self.excused.insert(k);
    }

    /// Whether addresses of deleted Services are kept for good.
    pub(crate) fn keeps(&self) -> bool {
        self.heard.is_some_and(|it| it.retain)
    }

    pub(crate) fn is_bounded(&self) -> bool {
        self.limits().is_bounded()
    }

    fn limits(&self) -> Limits {
        self.heard.map(|it| it.limits).unwrap_or_default()
    }

    fn place(&mut self, k: u8) -> &mut Place {
        &mut self.places[usize::from(k)]
    }
}

impl Ledger {
    /// The hub's process hears what a Tenant object is.
    pub(crate) fn tenant_heard(&mut self, t: u8, object: Option<TenantObject>, now: Instant) {
        let regime = &mut self.regimes[usize::from(t)];
        let before = std::mem::replace(&mut regime.heard, object);
        let most = Most::of(regime.limits());
        let is_other = before.map(|it| it.uid) != object.map(|it| it.uid);
        if object.is_none_or(|it| !it.deleting) || is_other {
            regime.leaves_since = None;
        }
        if object.is_some_and(|it| it.deleting) {
            regime.leaves_since.get_or_insert(now);
        }
        for place in &mut regime.places {
            match is_other {
                true => place.most = most,
                false => place.most.raise(most),
            }
        }
    }

    /// The operator has deleted a Tenant: what its cluster knows the address of is kept, or all of it goes.
    pub(crate) fn tenant_deleted(&mut self, t: u8, retain: bool, management: &Management) {
        self.end_of(t, End::Deleted { retain }, management);
        if !retain {
            self.regimes[usize::from(t)].kept.clear();
        }
    }

    /// A Tenant is gone, and nobody has deleted it before the hub's eyes.
    pub(crate) fn tenant_lost(&mut self, t: u8, management: &Management) {
        if let Some(End::Deleted { retain: false }) = self.regimes[usize::from(t)].end {
            // Of what was going already, some is there and some is not.
            self.regimes[usize::from(t)].end = None;
            return;
        }
        self.end_of(t, End::Lost, management);
    }

    fn end_of(&mut self, t: u8, end: End, management: &Management) {
        let mut kept = BTreeMap::new();
        for k in 0..KEYS {
            let id = Id::new(self.name(t), service_key(k));
            let known = self.known(t, k);
            let objects = management.objects.get(&id);
            if let Some((service, record)) = objects.and_then(Objects::uids)
                && let Some(ip) = objects.and_then(Objects::safe)
                && known == Some(ip)
            {
                let it = Kept {
                    service,
                    record,
                    ip,
                };
                kept.insert(k, it);
            }
        }
        let regime = &mut self.regimes[usize::from(t)];
        regime.end = Some(end);
        regime.kept = kept;
        regime.excused.clear();
    }

    pub(crate) fn tenant_created(&mut self, t: u8) {
        let regime = &mut self.regimes[usize::from(t)];
        regime.end = None;
        regime.kept.clear();
    }

    /// The hub asked its ledger for a place; `there` is whether it sees anything of the key.
    pub(crate) fn asked(
        &mut self,
        id: &Id,
        ports: Option<usize>,
        verdict: Verdict,
        there: bool,
        now: Instant,
    ) -> Result<(), Violation> {
        let Some((t, k)) = self.number(id) else {
            return Ok(());
        };
        let regime = &mut self.regimes[usize::from(t)];
        let limits = regime.limits();
        let place = regime.place(k);
        place.doubt = place.doubt.filter(|until| *until > now);
        if place.doubt.is_none() && (verdict != Verdict::Granted || ports.is_none()) {
            place.most = Most::of(limits);
            place.granted = false;
        }
        let Some(ports) = ports else {
            let (most, granted, doubt) = (place.most, place.granted, place.doubt);
            *place = Place {
                most,
                granted,
                doubt,
                ..Place::default()
            };
            return Ok(());
        };
        if verdict != Verdict::Granted {
            regime.turns += 1;
            let turn = regime.turns;
            let place = regime.place(k);
            place.empty = !there;
            place.uncertain |= matches!(verdict, Verdict::Withdrawn(_));
            let (turn, before) = *place.waits.get_or_insert((turn, ports));
            place.waits = Some((turn, ports));
            if before != ports || there || never(limits, ports) {
                place.passed_by = None;
            }
            return match place.passed_by {
                Some(by) => {
                    let what = format!("{id}: refused, and s{by} that came later has a place");
                    Err(broken(FIRST, what))
                }
                None => Ok(()),
            };
        }
        let place = std::mem::take(regime.place(k));
        if !place.granted && !there && !place.uncertain {
            let mine = place.waits.map_or(u64::MAX, |(turn, _)| turn);
            for other in &mut regime.places {
                if let Some((turn, its)) = other.waits
                    && turn < mine
                    && its <= ports
                    && other.empty
                    && !other.uncertain
                    && !never(limits, its)
                {
                    other.passed_by = Some(k);
                }
            }
        }
        *regime.place(k) = Place {
            most: place.most,
            granted: true,
            doubt: place.doubt,
            ..Place::default()
        };
        Ok(())
    }

    /// What was written for a key may have come to be, or not.
    pub(crate) fn doubted(&mut self, id: &Id, until: Instant) {
        if let Some((t, k)) = self.number(id) {
            let place = self.regimes[usize::from(t)].place(k);
            place.doubt = Some(until).filter(|_| place.granted);
        }
    }

    /// Something was written: what the tenant had taken before, and what it has now, in load balancers and ports.
    pub(crate) fn wrote(
        &mut self,
        id: &Id,
        before: (usize, usize),
        after: (usize, usize),
    ) -> Result<(), Violation> {
        let Some((t, k)) = self.number(id) else {
            return Ok(());
        };
        let most = self.regimes[usize::from(t)].place(k).most;
        let beyond = after.0 > before.0 && after.0 > most.load_balancers
            || after.1 > before.1 && after.1 > most.ports;
        if !beyond {
            return Ok(());
        }
        let what = format!(
            "{id}: with it there are {} load balancers with {} ports, and no more than {} and {} were allowed since it was asked for",
            after.0, after.1, most.load_balancers, most.ports
        );
        Err(broken(EXACT, what))
    }

    /// The quotas call for the release of a parked one.
    pub(crate) fn evicted(&mut self, id: &Id) -> Result<(), Violation> {
        let Some((t, k)) = self.number(id) else {
            return Ok(());
        };
        if !self.regimes[usize::from(t)].limits().is_bounded() {
            let what = format!("{id}: let go for want of room, and there is no quota");
            return Err(broken(EXACT, what));
        }
        self.let_go(t, k);
        Ok(())
    }

    /// Whether the hub knows of a Tenant that is not being deleted.
    pub(crate) fn is_heard(&self, t: u8) -> bool {
        self.regimes[usize::from(t)]
            .heard
            .is_some_and(|it| !it.deleting)
    }

    /// Whether what a tenant wants may be taken away from it: its policy says so, or nothing of it serves yet.
    pub(crate) fn may_withdraw(&self, t: u8, cut: bool) -> bool {
        let limits = self.regimes[usize::from(t)].limits();
        limits.is_bounded() && (limits.enforce || cut)
    }

    /// Whether somebody was passed by.
    pub(crate) fn is_passed(&self, t: u8, k: u8) -> bool {
        let place = &self.regimes[usize::from(t)].places[usize::from(k)];
        place.passed_by.is_some()
    }

    /// Whether anybody was.
    pub(crate) fn has_passed_by(&self) -> bool {
        let mut places = self.regimes.iter().flat_map(|regime| &regime.places);
        places.any(|place| place.passed_by.is_some())
    }

    /// The hub has planned for a key of a Tenant that leaves, or is not there. `None`: it is another's, and the rules are others.
    pub(crate) fn departing(
        &self,
        id: &Id,
        plan: &Plan,
        management: &Management,
        now: Instant,
    ) -> Option<Result<(), Violation>> {
        let (t, k) = self.number(id)?;
        let regime = &self.regimes[usize::from(t)];
        let objects = management.objects.get(id);
        let marked = objects.is_some_and(Objects::is_marked);
        let bad = |what: &str| Some(Err(broken(DEPARTED, format!("{id}: {what}"))));
        match regime.heard {
            Some(object) if !object.deleting => return None,
            None => {
                // The operator has deleted the record of what was kept.
                let cut = objects.is_none_or(Objects::is_cut);
                let only = plan.actions.iter().all(|action| {
                    matches!(
                        &action.write,
                        Write::Delete {
                            kind: Kind::Service,
                            ..
                        }
                    )
                });
                let may = plan.actions.is_empty() || only && marked && cut;
                if !may {
                    return bad(&format!("there is no Tenant, and {:?}", plan.actions));
                }
            }
            Some(object) => {
                let due = regime.leaves_since.map(|since| since + SETTLE);
                let too_soon = !object.confirmed && due.is_none_or(|due| now < due);
                let serves = objects.is_some_and(|it| !it.is_cut());
                if !plan.actions.is_empty() && too_soon && serves {
                    return bad("its Tenant was deleted just now, and something goes already");
                }
                let is_kept = regime.kept.contains_key(&k) && self.known(t, k).is_some();
                for action in &plan.actions {
                    match &action.write {
                        Write::Delete {
                            kind: Kind::EndpointSlice,
                            ..
                        } => {}
                        Write::Delete { .. } if is_kept => {
                            return bad(&format!("is to be kept, and {:?}", action.write));
                        }
                        Write::Delete { .. } => {}
                        Write::Status { .. } if object.retain => {}
                        Write::Service { shape, .. }
                            if object.retain && shape.annotations.contains_key(KEPT) => {}
                        other => return bad(&format!("its Tenant is deleted, and {other:?}")),
                    }
                }
            }
        }
        Some(Ok(()))
    }

    /// What is not as it should be of what a Tenant left that is gone.
    pub(crate) fn lack_of_former(&self, t: u8, management: &Management) -> Option<String> {
        let regime = &self.regimes[usize::from(t)];
        let end = regime.end?;
        for k in 0..KEYS {
            let id = Id::new(self.name(t), service_key(k));
            let objects = management.objects.get(&id);
            let expected = regime.kept.get(&k);
            if let (Some(kept), true) = (expected, self.known(t, k).is_some()) {
                let is = objects.and_then(|it| {
                    let (service, record) = it.uids()?;
                    let ip = it.safe()?;
                    Some(Kept {
                        service,
                        record,
                        ip,
                    })
                });
                if is.as_ref() != Some(kept) && !regime.excused.contains(&k) {
                    return Some(format!(
                        "{id}: {kept:?} was to be kept, and there is {is:?}"
                    ));
                }
            }
            let Some(objects) = objects else { continue };
            let stays = match end {
                _ if regime.excused.contains(&k) => true,
                End::Lost => true,
                End::Deleted { retain } => {
                    retain && objects.slices.is_empty() && objects.is_marked() && !objects.is_cut()
                }
            };
            if !stays {
                return Some(format!("{id}: its Tenant was deleted, and it is there"));
            }
        }
        None
    }
}

/// Whether there can never be room for so many ports.
fn never(limits: Limits, ports: usize) -> bool {
    limits.load_balancers == Some(0) || limits.ports.is_some_and(|most| ports > most)
}

impl World {
    /// Of a Service that is refused for want of room: whether there is none.
    pub(crate) fn lack_of_room(&self, t: u8, k: u8, version: Version) -> Option<String> {
        let tenant = &self.tenants[usize::from(t)];
        let limits = tenant.object?.limits;
        let (count, all) = self.management.places(&tenant.name);
        let own = self.management.objects.get(&self.id(t, k));
        let own = own.and_then(Objects::ports);
        let more = ports(version).saturating_sub(own.unwrap_or(0));
        let count = count + usize::from(own.is_none());
        let full = limits.load_balancers.is_some_and(|most| count > most) && own.is_none();
        let short = limits.ports.is_some_and(|most| all + more > most);
        if self.ledger.is_passed(t, k) {
            return Some("is refused, and another that came later has a place".into());
        }
        (!full && !short).then(|| format!("is refused, and there is room: {count} of {limits:?}"))
    }

    /// Whether a tenant has more than a quota that is enforced, of what it wants.
    pub(crate) fn lack_of_enforcement(&self, t: u8) -> Option<String> {
        let tenant = &self.tenants[usize::from(t)];
        let limits = tenant.object?.limits;
        let wanted = tenant.cluster.services.keys();
        let there = wanted.filter_map(|k| self.management.objects.get(&self.id(t, *k))?.ports());
        let (count, ports) = there.fold((0, 0), |(count, sum), it| (count + 1, sum + it));
        let beyond = limits.load_balancers.is_some_and(|most| count > most)
            || limits.ports.is_some_and(|most| ports > most);
        (beyond && limits.enforce)
            .then(|| format!("has {count} load balancers with {ports} ports, and {limits:?}"))
    }
}
