//! What the executor asks before it plans, as in the hub's own wiring: what a tenant wants of a key, and under which policy.

use std::time::Instant;

use berth_common::session::held::Wanted;
use berth_hub::{
    objects::Id,
    plan::{Allocator, Policy, Want, brake},
};

use crate::{hub::Hub, mutation::Mutation};

/// Where a deletion by absence is concerned the judge and the hub have the same operator.
pub(crate) fn want(
    hub: &Hub,
    id: &Id,
    brake_works: bool,
    mutation: Option<Mutation>,
    now: Instant,
) -> Want {
    match hub.directory.get(&id.tenant) {
        None if mutation == Some(Mutation::OrphansDeleted) => return Want::TenantDeleted,
        None => return Want::NoTenant,
        Some(facts) if facts.deleting && hub.keeper.goes(&id.tenant) => {
            return Want::TenantDeleted;
        }
        // Until that is decided, everything stays as it is.
        Some(facts) if facts.deleting => return Want::Unknown,
        // What is held is what the former one of that name wanted.
        Some(facts) if !hub.tenants.is_admitted(&id.tenant, &facts.uid) => return Want::Unknown,
        Some(_) => {}
    }
    let (wanted, nodes) = hub.tenants.wanted(&id.tenant, &id.key);
    let long_ago = |at: Instant| at.checked_sub(berth_hub::plan::ABSENCE_GRACE).unwrap_or(at);
    match wanted {
        Wanted::Present(generation, service) => Want::Present {
            generation,
            service,
            nodes,
        },
        Wanted::Unreadable {
            generation,
            refusal,
            last,
        } => Want::Unreadable {
            generation,
            refusal,
            last,
            nodes,
        },
        Wanted::Deleted(_) => {
            if mutation == Some(Mutation::DeletedTooEarly) {
                hub.tenants.gone(&id.tenant, &id.key);
            }
            Want::Deleted
        }
        Wanted::Absent if mutation == Some(Mutation::AbsenceIsDeletion) => Want::Deleted,
        Wanted::Absent if hub.cache.rests(id) => Want::Deleted,
        Wanted::Absent => {
            let Some(since) = hub.tenants.miss(&id.tenant, &id.key, now) else {
                return Want::Unknown;
            };
            let (absent, total) = hub.tenants.missed(&id.tenant);
            Want::Absent {
                since: if mutation == Some(Mutation::NoGrace) {
                    long_ago(since)
                } else {
                    since
                },
                held: brake(absent, total) && brake_works && mutation != Some(Mutation::NoBrake),
            }
        }
        Wanted::Unknown if mutation == Some(Mutation::UnknownIsAbsent) => Want::Absent {
            since: long_ago(now),
            held: false,
        },
        Wanted::Unknown => Want::Unknown,
    }
}

/// What the Tenant object says, as far as this process has heard.
pub(crate) fn policy(hub: &Hub, id: &Id, mutation: Option<Mutation>) -> Policy {
    let mut policy = match hub.directory.get(&id.tenant) {
        Some(facts) => facts.policy(Allocator::MetalLb),
        None => Policy::nobodys(Allocator::MetalLb),
    };
    if mutation == Some(Mutation::RetainIgnored) {
        policy.retain = false;
    }
    policy
}
