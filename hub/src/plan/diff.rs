//! Object by object: what is to be written so that what is observed becomes what it should be. Equal is nothing to do.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use berth_common::model::{Generation, IpFamily, Service};

use super::{Fitness, Nodes, Now, Observed, Plan, Seen, Write, backends};
use crate::objects::{
    Id, Kind,
    backend_slice::{self, ObservedSlice, Place, SliceShape, arrange},
    record::{self, ObservedRecord, StatusShape},
    service::{ObservedService, ServiceShape},
};

/// Brings the Service to its shape. Returns whether it already leads traffic where it should, so that the rest may be
/// looked at.
pub(super) fn service(
    plan: &mut Plan,
    seen: &Seen<ObservedService>,
    desired: &ServiceShape,
) -> bool {
    let object = &seen.object;
    let mut kept = object.shape.clone();
    kept.ports.retain(|key, _| desired.ports.contains_key(key));
    let shape = desired.clone();
    if !object.sound || kept != *desired {
        let reason = if object.sound && kept.same_path(desired) {
            "the annotations are others"
        } else {
            "the Service is not as it should be"
        };
        let uid = Some(seen.uid.clone());
        plan.act(reason, Write::Service { uid, shape });
    } else if object.foreign_fields || object.shape.ports.len() > desired.ports.len() {
        // Applying does not take away what another manager wrote.
        let uid = seen.uid.clone();
        plan.act(
            "the Service has more than it should",
            Write::StripService { uid, shape },
        );
    }
    object.sound && !object.foreign_fields && object.shape.same_path(desired)
}

/// Brings the slices to the nodes. Returns whether they are there already.
pub(super) fn slices(
    plan: &mut Plan,
    service: &Service,
    nodes: &Nodes,
    fitness: Fitness<'_>,
    observed: &Observed,
) -> bool {
    let before = plan.actions.len();
    for family in [IpFamily::V4, IpFamily::V6] {
        let seen = || {
            let slices = observed.slices.iter();
            slices.filter(move |(place, _)| place.family == family)
        };
        let wanted = if service.families.contains(&family) {
            let all = backends::of_family(nodes, fitness, service, family);
            let present = |ip: &IpAddr| {
                seen().any(|(_, slice)| slice.object.shape.addresses.binary_search(ip).is_ok())
            };
            match &observed.health {
                Some(health) => health.fit(all, present),
                None => all,
            }
        } else {
            BTreeSet::new()
        };
        let addresses = |slice: &Arc<Seen<ObservedSlice>>| slice.object.shape.addresses.clone();
        let present: Vec<_> = seen()
            .map(|(place, slice)| (place.index, addresses(slice)))
            .collect();
        let arranged = arrange(
            &wanted,
            present.iter().map(|(index, ips)| (*index, ips.as_slice())),
        );
        for (place, slice) in seen().filter(|(place, _)| !arranged.contains_key(&place.index)) {
            delete_slice(plan, "no backend is left in it", *place, slice);
        }
        for (index, addresses) in arranged {
            let place = Place { family, index };
            let shape = SliceShape {
                addresses,
                ports: backend_slice::ports(service),
            };
            let seen = observed.slices.get(&place);
            let settled = seen.is_some_and(|slice| {
                slice.deleting || slice.object.sound && slice.object.shape == shape
            });
            if !settled {
                let uid = seen.map(|slice| slice.uid.clone());
                plan.act(
                    "the backends are others",
                    Write::Slice { uid, place, shape },
                );
            }
        }
    }
    plan.actions.len() == before
}

/// Slices that name a Service which is not ours would be its backends.
pub(super) fn clear_slices(plan: &mut Plan, observed: &Observed) {
    for (place, slice) in &observed.slices {
        delete_slice(
            plan,
            "the Service that it belongs to is not there",
            *place,
            slice,
        );
    }
}

fn delete_slice(plan: &mut Plan, reason: &'static str, place: Place, slice: &Seen<ObservedSlice>) {
    if !slice.deleting {
        let write = Write::Delete {
            kind: Kind::EndpointSlice,
            place: Some(place),
            uid: slice.uid.clone(),
        };
        plan.act(reason, write);
    }
}

/// Records the request. Returns whether it is on record already.
pub(super) fn record(
    plan: &mut Plan,
    id: &Id,
    generation: Generation,
    service: &Service,
    observed: &Observed,
) -> bool {
    let spec = record::spec(id, generation, service);
    match &observed.record {
        Some(seen) if seen.deleting => false,
        Some(seen) if seen.object.sound && record::same_request(&seen.object.spec, &spec) => true,
        seen => {
            let write = Write::Record {
                uid: seen.as_ref().map(|seen| seen.uid.clone()),
                spec: Box::new(spec),
            };
            plan.rebound = is_another(service, observed);
            plan.act("the request is to be on record", write);
            false
        }
    }
}

/// Whether what is there was a former Service's: it is on record, or only its address was kept.
fn is_another(service: &Service, observed: &Observed) -> bool {
    match (&observed.record, &observed.service) {
        (Some(seen), _) => seen.object.spec.source.uid != service.uid,
        (None, Some(parked)) => observed.is_cut() && !parked.object.shape.steering.pin.is_empty(),
        (None, None) => false,
    }
}

/// Writes the status if it says anything else than before.
pub(super) fn status(plan: &mut Plan, status: StatusShape, record: &ObservedRecord, now: Now) {
    let before = record
        .status
        .as_ref()
        .and_then(|status| status.shape.as_ref());
    if before != Some(&status) {
        let write = Write::Status {
            shape: Box::new(status),
            now: now.wall,
        };
        plan.act("the status is another", write);
    }
}
