//! Which addresses belong to a load balancer, and how the allocator is told to give these and no others.

use std::{collections::BTreeSet, net::IpAddr};

use berth_common::model::{Ingress, IpFamily, Service};

use super::{Allocator, Observed, Policy, is_unicast};
use crate::objects::{
    Id,
    service::{FamilyPolicy, ServiceShape, Steering},
};

/// The addresses that belong to the load balancer, of the families that are wanted (`None`: nobody knows which those are).
/// What is on record stays, whatever the allocator says, unless it says more; and where nothing is on record, what the
/// allocator was told to give.
pub(super) fn known(
    service: Option<&Service>,
    policy: &Policy,
    observed: &Observed,
) -> Vec<Ingress> {
    let wanted =
        |ip: &IpAddr| service.is_none_or(|service| service.families.contains(&IpFamily::of(ip)));
    let possible = |ingress: &&Ingress| match ingress {
        Ingress::Ip(ip) => wanted(ip) && is_unicast(ip),
        Ingress::Hostname(_) => policy.allocator == Allocator::Other,
    };
    let given: Vec<Ingress> = observed
        .service
        .iter()
        .flat_map(|service| &service.object.ingress)
        .filter(possible)
        .cloned()
        .collect();
    if service.is_some_and(|service| asks_for_another(service, policy, observed)) {
        return Vec::new();
    }
    let mut kept: Vec<Ingress> = observed
        .record
        .iter()
        .flat_map(|record| record.object.addresses())
        .filter(possible)
        .cloned()
        .collect();
    if kept.is_empty() {
        kept = pinned(service, observed);
        kept.retain(|ingress| possible(&ingress));
    }
    if service.is_some_and(|it| it.require_dual_stack && kept.len() < it.families.len()) {
        // Half of what is required now: the allocator has to choose anew.
        kept.clear();
    }
    let follow = match policy.allocator {
        Allocator::Other => !given.is_empty(),
        Allocator::MetalLb => kept.iter().all(|address| given.contains(address)),
    };
    if follow { given } else { kept }
}

/// Whether a Service that was deleted and made anew finds the address of the former one parked, and asks for another: for that
/// people delete and create. Nobody was told of the parked one yet.
pub(super) fn asks_for_another(service: &Service, policy: &Policy, observed: &Observed) -> bool {
    let parked = observed.service.iter().filter(|_| observed.is_cut());
    let given: Vec<&Ingress> = parked.flat_map(|seen| &seen.object.ingress).collect();
    let mut asked = service.requested_ips.iter();
    policy.allocator == Allocator::MetalLb
        && !given.is_empty()
        && asked.any(|ip| !given.contains(&&Ingress::Ip(*ip)))
}

/// What the management Service is pinned to because it was given once: the only trace of it, when the allocator has
/// forgotten and the record has no address (yet, or any more). A pin that only passes a request on is none of it.
fn pinned(service: Option<&Service>, observed: &Observed) -> Vec<Ingress> {
    let requested = service.is_some_and(|service| !service.requested_ips.is_empty());
    let asked = match &observed.record {
        Some(record) => !record.object.spec.requested_ips.is_empty(),
        None => requested,
    };
    let pin = observed.service.iter().filter(|_| !asked);
    pin.flat_map(|seen| &seen.object.shape.steering.pin)
        .map(|ip| Ingress::Ip(*ip))
        .collect()
}

/// The addresses without host names.
pub(super) fn ips(addresses: &[Ingress]) -> BTreeSet<IpAddr> {
    let ip = |address: &Ingress| match address {
        Ingress::Ip(ip) => Some(*ip),
        Ingress::Hostname(_) => None,
    };
    addresses.iter().filter_map(ip).collect()
}

/// What the management Service is to be, given the addresses that belong to it.
pub(super) fn shape(
    id: &Id,
    service: &Service,
    policy: &Policy,
    known: &[Ingress],
    observed: &Observed,
) -> ServiceShape {
    let known = ips(known);
    let addresses = if known.is_empty() {
        service.requested_ips.iter().copied().collect()
    } else {
        known
    };
    let (families, pinned) = families(service, &addresses);
    let steering = match policy.allocator {
        Allocator::Other => Steering::default(),
        // The pool is for choosing an address. With one chosen it would only be in the way of a pool's renaming.
        Allocator::MetalLb if pinned => Steering {
            pin: addresses,
            pool: None,
        },
        Allocator::MetalLb => Steering {
            pin: BTreeSet::new(),
            pool: policy.pool.clone(),
        },
    };
    let class = match &observed.service {
        // Kubernetes allows no change of it.
        Some(seen) => seen.object.shape.class.clone(),
        None => policy.class.clone(),
    };
    let annotations = policy.annotations.of(&id.tenant, service);
    ServiceShape::new(service, families, class, steering, annotations)
}

/// The families of the management Service, and whether the addresses can be pinned. MetalLB takes a pin only when it
/// covers all families of a Service; so where both were welcome but only the primary one's address was to be had, the
/// management Service goes on with that family alone.
fn families(service: &Service, addresses: &BTreeSet<IpAddr>) -> ((IpFamily, FamilyPolicy), bool) {
    let primary = service.families.first().copied().unwrap_or(IpFamily::V4);
    let has = |family| addresses.iter().any(|ip| IpFamily::of(ip) == family);
    let covers_all = service.families.iter().all(|family| has(*family));
    if service.families.len() < 2 {
        return ((primary, FamilyPolicy::Single), covers_all);
    }
    if service.require_dual_stack {
        return ((primary, FamilyPolicy::Require), covers_all);
    }
    if has(primary) && !covers_all {
        return ((primary, FamilyPolicy::Single), true);
    }
    ((primary, FamilyPolicy::Prefer), covers_all)
}
