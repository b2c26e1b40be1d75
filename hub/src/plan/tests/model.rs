//! A management cluster in a few lines: takes writes as the API server would, and gives addresses as MetalLB would.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Instant,
};

use berth_common::model::{Answer, Ingress};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::super::*;
use crate::objects::{backend_slice::ObservedSlice, record, record::ObservedRecord};

pub(super) struct Model {
    pub(super) id: Id,
    pub(super) observed: Observed,
    pub(super) policy: Policy,
    pub(super) now: Now,
    /// Every write that was ever done, with its reason.
    pub(super) writes: Vec<Action>,
    /// The last answer.
    pub(super) answer: Option<Answer>,
    /// Whether the last plan found nothing left.
    pub(super) gone: bool,
    /// Whether it left the Service parked.
    pub(super) parked: bool,
    next: u64,
    record: serde_json::Value,
}

impl Model {
    pub(super) fn new(id: Id, policy: Policy) -> Self {
        let wall = Timestamp::from_second(1_790_000_000).unwrap();
        Self {
            id,
            observed: Observed::default(),
            policy,
            now: Now {
                instant: Instant::now(),
                wall,
            },
            writes: Vec::new(),
            answer: None,
            gone: false,
            parked: false,
            next: 0,
            record: json!(null),
        }
    }

    pub(super) fn plan(&self, want: &Want) -> Plan {
        plan(&self.id, want, &self.observed, &self.policy, self.now)
    }

    /// Plans and writes until nothing is left to do; returns the number of writes.
    pub(super) fn settle(&mut self, want: &Want) -> usize {
        let before = self.writes.len();
        for _ in 0..10 {
            let plan = self.plan(want);
            if let Some(answer) = plan.answer {
                self.answer = Some(answer);
            }
            self.gone = plan.gone;
            self.parked = plan.parked;
            if plan.actions.is_empty() {
                return self.writes.len() - before;
            }
            for action in plan.actions {
                self.write(&action.write);
                self.writes.push(action);
            }
        }
        panic!("does not settle: {:#?}", self.writes);
    }

    fn seen<T>(&mut self, uid: Option<&String>, object: T) -> Arc<Seen<T>> {
        self.next += 1;
        Arc::new(Seen {
            uid: uid.cloned().unwrap_or_else(|| format!("uid-{}", self.next)),
            version: self.next,
            deleting: false,
            since: self.now.instant,
            object,
        })
    }

    pub(super) fn write(&mut self, write: &Write) {
        let id = self.id.clone();
        match write {
            Write::StripService { uid, shape } => {
                let uid = Some(uid.clone());
                let shape = shape.clone();
                self.write(&Write::Service { uid, shape });
            }
            Write::Service { uid, shape } => {
                let kept = self.observed.service.as_ref();
                assert_eq!(
                    uid.as_ref(),
                    kept.map(|seen| &seen.uid),
                    "the precondition holds"
                );
                let ingress = kept.map_or_else(Vec::new, |seen| seen.object.ingress.clone());
                let object = serde_json::from_value(shape.manifest(&id)).unwrap();
                let mut object = ObservedService::from_object(&id, &object);
                object.ingress = ingress;
                // Whose they are stands in what the API server alone writes.
                object.shape.annotations = shape.annotations.clone();
                self.observed.service = Some(self.seen(uid.as_ref(), object));
            }
            Write::Slice { uid, place, shape } => {
                let kept = self.observed.slices.get(place);
                assert_eq!(
                    uid.as_ref(),
                    kept.map(|seen| &seen.uid),
                    "the precondition holds"
                );
                assert!(shape.addresses.len() <= 1_000);
                let object = serde_json::from_value(shape.manifest(&id, *place)).unwrap();
                let (read, object) = ObservedSlice::from_object(&id, &object).unwrap();
                assert_eq!(read, *place);
                let seen = self.seen(uid.as_ref(), object);
                self.observed.slices.insert(*place, seen);
            }
            Write::Record { uid, spec } => {
                let status = self.record["status"].take();
                let generation = self.record["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
                self.record = record::manifest(&id, spec);
                self.record["metadata"]["generation"] = json!(generation);
                self.record["status"] = status;
                self.read_record(uid.as_ref());
            }
            Write::Status { shape, now } => {
                let seen = self.observed.record.clone().expect("a record");
                let manifest = shape.manifest(&id, seen.object.status.as_ref(), *now);
                self.record["status"] = manifest["status"].clone();
                self.read_record(Some(&seen.uid));
            }
            Write::Delete {
                kind: Kind::Service,
                uid,
                ..
            } => {
                assert_eq!(
                    Some(uid),
                    self.observed
                        .service
                        .take()
                        .map(|seen| seen.uid.clone())
                        .as_ref()
                );
            }
            Write::Delete {
                kind: Kind::LoadBalancer,
                ..
            } => self.lose_record(),
            Write::Delete {
                kind: Kind::EndpointSlice,
                place,
                ..
            } => {
                self.observed
                    .slices
                    .remove(&place.expect("a slice's place"));
            }
        }
    }

    fn read_record(&mut self, uid: Option<&String>) {
        let object = serde_json::from_value(self.record.clone()).unwrap();
        let object = ObservedRecord::from_object(&self.id, &object);
        self.observed.record = Some(self.seen(uid, object));
    }

    /// The record is gone, with all that it knew.
    pub(super) fn lose_record(&mut self) {
        self.observed.record = None;
        self.record = json!(null);
    }

    /// Changes the Service as somebody else would.
    pub(super) fn change_service(&mut self, change: impl FnOnce(&mut ObservedService)) {
        if let Some(seen) = self.observed.service.clone() {
            let mut object = seen.object.clone();
            change(&mut object);
            self.observed.service = Some(self.seen(Some(&seen.uid), object));
        }
    }

    /// The allocator looks at the Service: it keeps what is given, gives what is pinned, or else the first address free
    /// from `lowest` on.
    pub(super) fn allocate(&mut self, lowest: u8) {
        self.change_service(|service| {
            let pin = &service.shape.steering.pin;
            let given: BTreeSet<IpAddr> = service
                .ingress
                .iter()
                .filter_map(|ingress| match ingress {
                    Ingress::Ip(ip) => Some(*ip),
                    Ingress::Hostname(_) => None,
                })
                .collect();
            if !pin.is_empty() && given != *pin {
                service.ingress = pin.iter().copied().map(Ingress::Ip).collect();
            } else if given.is_empty() {
                service.ingress = vec![Ingress::Ip(Ipv4Addr::new(10, 10, 255, lowest).into())];
            }
        });
    }

    pub(super) fn ingress(&self) -> Vec<Ingress> {
        let service = self.observed.service.as_ref();
        service.map_or_else(Vec::new, |seen| seen.object.ingress.clone())
    }
}
