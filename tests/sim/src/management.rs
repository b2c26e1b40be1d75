//! A model of the management cluster: the objects as they truly are, writes as the API server takes them, and an allocator
//! that gives the lowest free address, so that a freed one has a new owner soon. Latency, outages and lost replies are the
//! world's; here every call happens at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    time::Instant,
};

use berth_common::{identity::TenantName, model::Ingress};
use berth_hub::{
    objects::{
        Id, Kind, backend_slice::ObservedSlice, record::ObservedRecord, service::ObservedService,
    },
    observe::{Object, Slot},
    plan::{Seen, Write},
};

use crate::{cluster::REJECTED_PORT, status::told};

pub(crate) use crate::objects::{Objects, ips};

/// An object as it truly is.
#[derive(Clone, Debug)]
pub(crate) struct Stored<T> {
    pub(crate) uid: u64,
    pub(crate) version: u64,
    pub(crate) deleting: bool,
    pub(crate) object: T,
}

impl<T: Clone> Stored<T> {
    fn seen(&self, now: Instant) -> Seen<T> {
        Seen {
            uid: uid_text(self.uid),
            version: self.version,
            deleting: self.deleting,
            since: now,
            object: self.object.clone(),
        }
    }
}

fn uid_text(uid: u64) -> String {
    format!("uid-{uid}")
}

/// What a watch reports.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "few are under way at a time, and none is moved in a hot loop"
)]
pub(crate) enum Report {
    Is(Object),
    /// With the version of its end.
    Gone(Slot, String, u64),
}

impl Report {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Is(object) => object.slot().kind(),
            Self::Gone(slot, ..) => slot.kind(),
        }
    }
}

/// What came of a write.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "few are under way at a time, and none is moved in a hot loop"
)]
pub(crate) enum Reply {
    /// Done: the object after it.
    Is(Object),
    /// Done: the object is gone, or was.
    Gone(Slot, String),
    /// What was to be changed is not there: `Failure::Outdated`.
    Outdated(Slot, String),
    /// The API server will not have it.
    Rejected,
    /// It may work later; or, where this says so, it may have been done.
    Failed(bool),
}

/// The management cluster.
pub(crate) struct Management {
    pub(crate) objects: BTreeMap<Id, Objects>,
    /// Every write that was taken.
    pub(crate) writes: u64,
    /// What the watches have to report, in order.
    pub(crate) reports: Vec<(Id, Report)>,
    /// Services the allocator should look at.
    pub(crate) unsettled: BTreeSet<Id>,
    /// Deleted Services that wait for their finalizer.
    pub(crate) leaving: Vec<(Id, u64)>,
    slow_deletion: bool,
    next: u64,
    pool: u8,
}

impl Management {
    pub(crate) fn new(pool: u8, slow_deletion: bool) -> Self {
        Self {
            objects: BTreeMap::new(),
            writes: 0,
            reports: Vec::new(),
            unsettled: BTreeSet::new(),
            leaving: Vec::new(),
            slow_deletion,
            next: 0,
            pool,
        }
    }

    /// Of two Services the newer is known: as many seconds as there were writes.
    fn next_second(&self) -> i64 {
        i64::try_from(self.next).unwrap_or(i64::MAX)
    }

    /// What a tenant has taken of its quotas: load balancers, and their ports.
    pub(crate) fn places(&self, tenant: &TenantName) -> (usize, usize) {
        let all = self.objects.iter().filter(|(id, _)| id.tenant == *tenant);
        let ports = all.filter_map(|(_, objects)| objects.ports());
        ports.fold((0, 0), |(count, sum), ports| (count + 1, sum + ports))
    }

    /// A complete list of one kind.
    pub(crate) fn list(&self, kind: Kind, now: Instant) -> Vec<(Id, Object)> {
        let mut all = Vec::new();
        for (id, objects) in &self.objects {
            match kind {
                Kind::Service => all.extend(
                    objects
                        .service
                        .iter()
                        .map(|it| (id.clone(), Object::Service(it.seen(now)))),
                ),
                Kind::LoadBalancer => all.extend(
                    objects
                        .record
                        .iter()
                        .map(|it| (id.clone(), Object::Record(it.seen(now)))),
                ),
                Kind::EndpointSlice => all.extend(
                    objects
                        .slices
                        .iter()
                        .map(|(place, it)| (id.clone(), Object::Slice(*place, it.seen(now)))),
                ),
            }
        }
        all
    }

    /// Takes a write as the API server would.
    pub(crate) fn write(&mut self, id: &Id, write: &Write, now: Instant) -> Reply {
        let reply = self.take_in(id, write, now);
        // What was rejected is tried again every minute: a person may have changed the API server's mind.
        if !matches!(reply, Reply::Rejected) {
            self.writes += 1;
        }
        self.prune(id);
        reply
    }

    fn take_in(&mut self, id: &Id, write: &Write, now: Instant) -> Reply {
        match write {
            Write::Service { uid, shape } => {
                if shape.ports.keys().any(|(port, _)| *port == REJECTED_PORT) {
                    return Reply::Rejected;
                }
                let object = ObservedService {
                    shape: shape.clone(),
                    sound: true,
                    foreign_fields: false,
                    created: self.next_second(),
                    ingress: Vec::new(),
                };
                self.put_service(id, uid.as_deref(), object, now)
            }
            Write::StripService { uid, shape } => {
                let object = ObservedService {
                    shape: shape.clone(),
                    sound: true,
                    foreign_fields: false,
                    created: self.next_second(),
                    ingress: Vec::new(),
                };
                self.put_service(id, Some(uid), object, now)
            }
            Write::Slice { uid, place, shape } => {
                let stored = self.entry(id).slices.get(place).cloned();
                let slot = Slot::Slice(*place);
                if let Some(reply) = outdated(uid.as_deref(), stored.as_ref(), slot) {
                    return reply;
                }
                let object = ObservedSlice {
                    shape: shape.clone(),
                    sound: true,
                };
                let stored = self.next_version(stored, object);
                let seen = stored.seen(now);
                self.entry(id).slices.insert(*place, stored);
                self.changed(id, Object::Slice(*place, seen))
            }
            Write::Record { uid, spec } => {
                let stored = self.entry(id).record.clone();
                if let Some(reply) = outdated(uid.as_deref(), stored.as_ref(), Slot::Record) {
                    return reply;
                }
                let before = stored.as_ref().map(|it| &it.object);
                let same = before.is_some_and(|it| it.spec == **spec);
                let object = ObservedRecord {
                    spec: (**spec).clone(),
                    sound: true,
                    generation: before.map_or(0, |it| it.generation) + i64::from(!same),
                    status: before.and_then(|it| it.status.clone()),
                };
                self.put_record(id, stored, object, now)
            }
            Write::Status { shape, now: wall } => {
                let Some(stored) = self.entry(id).record.clone() else {
                    return Reply::Outdated(Slot::Record, String::new());
                };
                let mut object = stored.object.clone();
                object.status = told(id, &object, shape, *wall);
                self.put_record(id, Some(stored), object, now)
            }
            Write::Delete { kind, place, uid } => {
                let slot = match (kind, place) {
                    (Kind::Service, _) => Slot::Service,
                    (Kind::LoadBalancer, _) => Slot::Record,
                    (Kind::EndpointSlice, Some(place)) => Slot::Slice(*place),
                    (Kind::EndpointSlice, None) => return Reply::Failed(false),
                };
                self.delete(id, slot, uid, now)
            }
        }
    }

    fn put_service(
        &mut self,
        id: &Id,
        uid: Option<&str>,
        mut object: ObservedService,
        now: Instant,
    ) -> Reply {
        let stored = self.entry(id).service.clone();
        if let Some(reply) = outdated(uid, stored.as_ref(), Slot::Service) {
            return reply;
        }
        if let Some(before) = &stored {
            object.ingress.clone_from(&before.object.ingress);
            object.created = before.object.created;
        }
        let stored = self.next_version(stored, object);
        let seen = stored.seen(now);
        self.entry(id).service = Some(stored);
        self.unsettled.insert(id.clone());
        self.changed(id, Object::Service(seen))
    }

    fn put_record(
        &mut self,
        id: &Id,
        before: Option<Stored<ObservedRecord>>,
        object: ObservedRecord,
        now: Instant,
    ) -> Reply {
        let stored = self.next_version(before, object);
        let seen = stored.seen(now);
        self.entry(id).record = Some(stored);
        self.changed(id, Object::Record(seen))
    }

    fn delete(&mut self, id: &Id, slot: Slot, uid: &str, now: Instant) -> Reply {
        let gone = Reply::Gone(slot, uid.to_owned());
        let Some(found) = self.uid(id, slot).filter(|it| uid_text(*it) == uid) else {
            return gone;
        };
        if slot == Slot::Service && self.slow_deletion {
            let Some(stored) = self.entry(id).service.clone() else {
                return gone;
            };
            if !stored.deleting {
                self.leaving.push((id.clone(), found));
            }
            let object = stored.object.clone();
            let mut stored = self.next_version(Some(stored), object);
            stored.deleting = true;
            let seen = stored.seen(now);
            self.entry(id).service = Some(stored);
            self.reports
                .push((id.clone(), Report::Is(Object::Service(seen.clone()))));
            return Reply::Is(Object::Service(seen));
        }
        self.take(id, slot);
        gone
    }

    /// The finalizer of a deleted Service goes, if it is still that one.
    pub(crate) fn finalized(&mut self, id: &Id, uid: u64) {
        if self.uid(id, Slot::Service) == Some(uid) {
            self.take(id, Slot::Service);
        }
    }

    /// Somebody deletes an object.
    pub(crate) fn vandalize(&mut self, id: &Id, slot: Slot) {
        if self.uid(id, slot).is_some() {
            self.take(id, slot);
        }
    }

    /// Somebody changes a Service's ports.
    pub(crate) fn drift(&mut self, id: &Id, now: Instant) {
        if let Some(stored) = self.entry(id).service.clone() {
            let mut object = stored.object.clone();
            object.shape.ports.clear();
            self.replace_service(id, stored, object, now);
        }
        self.prune(id);
    }

    fn replace_service(
        &mut self,
        id: &Id,
        before: Stored<ObservedService>,
        object: ObservedService,
        now: Instant,
    ) {
        let deleting = before.deleting;
        let mut stored = self.next_version(Some(before), object);
        stored.deleting = deleting;
        let seen = stored.seen(now);
        self.entry(id).service = Some(stored);
        self.reports
            .push((id.clone(), Report::Is(Object::Service(seen))));
    }

    fn uid(&self, id: &Id, slot: Slot) -> Option<u64> {
        let objects = self.objects.get(id)?;
        match slot {
            Slot::Service => objects.service.as_ref().map(|it| it.uid),
            Slot::Record => objects.record.as_ref().map(|it| it.uid),
            Slot::Slice(place) => objects.slices.get(&place).map(|it| it.uid),
        }
    }

    fn take(&mut self, id: &Id, slot: Slot) {
        let Some(uid) = self.uid(id, slot) else {
            return;
        };
        let objects = self.entry(id);
        match slot {
            Slot::Service => objects.service = None,
            Slot::Record => objects.record = None,
            Slot::Slice(place) => {
                objects.slices.remove(&place);
            }
        }
        if slot == Slot::Service {
            // Whoever waits for an address may have this one.
            for (id, objects) in &self.objects {
                if objects
                    .service
                    .as_ref()
                    .is_some_and(|service| service.object.ingress.is_empty())
                {
                    self.unsettled.insert(id.clone());
                }
            }
        }
        self.prune(id);
        self.next += 1;
        let report = Report::Gone(slot, uid_text(uid), self.next);
        self.reports.push((id.clone(), report));
    }

    fn prune(&mut self, id: &Id) {
        if self.objects.get(id).is_some_and(Objects::is_empty) {
            self.objects.remove(id);
        }
    }

    fn changed(&mut self, id: &Id, object: Object) -> Reply {
        self.reports.push((id.clone(), Report::Is(object.clone())));
        Reply::Is(object)
    }

    fn entry(&mut self, id: &Id) -> &mut Objects {
        self.objects.entry(id.clone()).or_default()
    }

    fn next_version<T>(&mut self, before: Option<Stored<T>>, object: T) -> Stored<T> {
        self.next += 1;
        Stored {
            uid: before.as_ref().map_or(self.next, |it| it.uid),
            version: self.next,
            deleting: before.is_some_and(|it| it.deleting),
            object,
        }
    }

    /// The allocator looks at a Service. Returns those whose address this one was given although it stands with them: their
    /// own Service was gone at the moment.
    pub(crate) fn allocate(&mut self, id: &Id, now: Instant) -> Vec<Id> {
        let Some(stored) = self.objects.get(id).and_then(|it| it.service.clone()) else {
            return Vec::new();
        };
        let taken: BTreeSet<IpAddr> = self
            .objects
            .iter()
            .filter(|(other, _)| *other != id)
            .flat_map(|(_, objects)| objects.given())
            .collect();
        let pin = &stored.object.shape.steering.pin;
        let given: BTreeSet<IpAddr> = ips(&stored.object.ingress).into_iter().collect();
        let mut ingress: Vec<IpAddr> = given.iter().copied().collect();
        if !pin.is_empty() {
            if given != *pin {
                ingress = if pin.iter().any(|ip| taken.contains(ip)) {
                    Vec::new()
                } else {
                    pin.iter().copied().collect()
                };
            }
        } else if given.is_empty() {
            ingress = (1..=self.pool)
                .map(|last| IpAddr::from(Ipv4Addr::new(198, 51, 100, last)))
                .find(|ip| !taken.contains(ip))
                .into_iter()
                .collect();
        }
        if ingress.iter().copied().collect::<BTreeSet<_>>() == given {
            return Vec::new();
        }
        let robbed = self
            .objects
            .iter()
            .filter(|(other, objects)| {
                *other != id && objects.claims().iter().any(|ip| ingress.contains(ip))
            })
            .map(|(other, _)| other.clone())
            .collect();
        let mut object = stored.object.clone();
        object.ingress = ingress.into_iter().map(Ingress::Ip).collect();
        self.replace_service(id, stored, object, now);
        robbed
    }

    /// The allocator forgets everything: pinned Services get their address back later, others any. Returns those whose address
    /// is not pinned to anything.
    pub(crate) fn forget_allocations(&mut self, now: Instant) -> Vec<Id> {
        let given: Vec<(Id, Stored<ObservedService>)> = self
            .objects
            .iter()
            .filter_map(|(id, objects)| Some((id.clone(), objects.service.clone()?)))
            .filter(|(_, stored)| !stored.object.ingress.is_empty())
            .collect();
        let mut lost = Vec::new();
        for (id, stored) in given.into_iter().rev() {
            if stored.object.shape.steering.pin.is_empty() {
                lost.push(id.clone());
            }
            let mut object = stored.object.clone();
            object.ingress.clear();
            self.replace_service(&id, stored, object, now);
            self.unsettled.insert(id);
        }
        lost
    }
}

/// The reply to a write about an object that is not the one that was observed.
fn outdated<T>(uid: Option<&str>, stored: Option<&Stored<T>>, slot: Slot) -> Option<Reply> {
    let uid = uid?;
    if stored.is_some_and(|it| uid_text(it.uid) == uid) {
        None
    } else {
        Some(Reply::Outdated(slot, uid.to_owned()))
    }
}
