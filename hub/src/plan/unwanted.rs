//! The plan for a Service that its tenant does not have any more. Traffic loses its way at once: slices and record go. What
//! becomes of the address is the operator's policy: the Service stays *parked* with it for a while, or record and Service
//! stay for good, *reserved*. Both are seen in the objects alone, so that a crash at any step loses nothing.
//!
//! When the Tenant itself is deleted, nobody is left who could come back, and nothing is parked. What is reserved is marked on its
//! Service: from then on no Tenant says what an absent record means, and the mark does.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use berth_common::{identity::TenantName, wire::Refusal};

use super::{ABSENCE_GRACE, Now, Observed, Plan, Policy, RESERVED, Seen, Write, addresses, diff};
use crate::objects::{
    Id, KEPT, Kind, name,
    record::{ConditionShape, ObservedRecord, StatusShape},
    service::ObservedService,
};

/// Nobody has said that it is deleted: it goes after a grace, unless the brake holds it.
pub(super) fn absent(
    id: &Id,
    since: Instant,
    held: bool,
    observed: &Observed,
    policy: &Policy,
    now: Now,
) -> Plan {
    let due = since + ABSENCE_GRACE;
    if observed.rests() {
        let reason = "the tenant has no such Service, and nothing was served";
        return plan(id, observed, policy, now, reason);
    }
    if !held && now.instant >= due {
        let reason = "the tenant's cluster has had no such Service for 60 s";
        return plan(id, observed, policy, now, reason);
    }
    let mut plan = Plan::default();
    // Nothing tells this key when others have come back and the brake is off: it looks again by itself.
    plan.revisit_at(if held {
        now.instant + ABSENCE_GRACE
    } else {
        due
    });
    plan
}

/// It may go now.
pub(super) fn plan(
    id: &Id,
    observed: &Observed,
    policy: &Policy,
    now: Now,
    reason: &'static str,
) -> Plan {
    let said = message(
        &id.tenant,
        &name::object(id),
        "the tenant has no such Service any more, and the address is kept for it",
    );
    go(observed, policy, now, reason, said)
}

/// Its tenant wants it, and policy does not allow it any more: what is done is the same, and what is kept says why.
pub(super) fn withdrawn(
    id: &Id,
    refusal: &Refusal,
    observed: &Observed,
    policy: &Policy,
    now: Now,
) -> Plan {
    let why = format!("{}: {}", refusal.field, refusal.message);
    let kept = "policy does not allow it any more, and the address is kept for it";
    let said = Said {
        programmed: message(&id.tenant, &name::object(id), &format!("{kept} ({why})")),
        refused: Some((refusal.reason, why)),
    };
    go(
        observed,
        policy,
        now,
        "policy does not allow it any more",
        said,
    )
}

/// What the record of a reserved address says.
struct Said {
    programmed: String,
    /// Why it is not accepted: the reason's word and sentence.
    refused: Option<(&'static str, String)>,
}

impl From<String> for Said {
    fn from(programmed: String) -> Self {
        let refused = None;
        Self {
            programmed,
            refused,
        }
    }
}

/// The Tenant is deleted.
pub(super) fn departing(id: &Id, observed: &Observed, policy: &Policy, now: Now) -> Plan {
    let at_once = Policy {
        release_after: Duration::ZERO,
        ..policy.clone()
    };
    let said = message(
        &id.tenant,
        &name::object(id),
        "the Tenant was deleted, and the address is kept for one of the same name",
    );
    let reason = "the operator deleted the Tenant";
    let mut plan = go(observed, &at_once, now, reason, said);
    if let Some(service) = observed.service.as_ref()
        && reserved(observed, policy).is_some()
        && !is_marked(service)
    {
        let mut shape = service.object.shape.clone();
        shape.annotations.insert(KEPT.into(), "true".into());
        let uid = Some(service.uid.clone());
        plan.act(reason, Write::Service { uid, shape });
        plan.gone = false;
    }
    plan
}

/// Whether a load balancer of a Tenant that is deleted is where [`departing`] leads to: gone, or kept for good.
pub fn has_departed(observed: &Observed) -> bool {
    let kept = observed.service.as_ref().is_some_and(is_marked);
    observed.is_empty() || kept && observed.rests() && observed.record.is_some()
}

/// There is no Tenant. An operator who deletes the record of what was kept lets go of the address; nothing else is anybody's word.
pub(super) fn orphaned(observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    if let Some(service) = &observed.service
        && is_marked(service)
        && observed.is_cut()
    {
        let reason =
            "its Tenant is gone, and the operator deleted the LoadBalancer that kept the address";
        delete(&mut plan, reason, Kind::Service, service, None);
    }
    plan
}

fn is_marked(service: &Arc<Seen<ObservedService>>) -> bool {
    service.object.shape.annotations.contains_key(KEPT)
}

fn go(
    observed: &Observed,
    policy: &Policy,
    now: Now,
    reason: &'static str,
    said: impl Into<Said>,
) -> Plan {
    let mut plan = Plan::default();
    for (place, slice) in &observed.slices {
        delete(&mut plan, reason, Kind::EndpointSlice, slice, Some(*place));
    }
    if let Some(record) = reserved(observed, policy) {
        let status = status(record, policy, observed, said.into());
        diff::status(&mut plan, status, record, now);
        // Told as reserved, it is not missed when its deletion is forgotten.
        plan.gone = plan.actions.is_empty() && observed.slices.is_empty();
        return plan;
    }
    if let Some(record) = &observed.record {
        delete(&mut plan, reason, Kind::LoadBalancer, record, None);
    }
    let service = observed.service.as_ref();
    plan.gone = observed.is_cut() && service.is_none_or(|seen| !seen.deleting);
    let Some(service) = service.filter(|seen| !seen.deleting) else {
        return plan;
    };
    if observed.released {
        let reason = "its address was kept for long enough";
        delete(&mut plan, reason, Kind::Service, service, None);
    } else if policy.release_after.is_zero() || !has_address(&service.object) {
        delete(&mut plan, reason, Kind::Service, service, None);
    } else {
        plan.parked = observed.is_cut();
    }
    plan
}

fn delete<T>(
    plan: &mut Plan,
    reason: &'static str,
    kind: Kind,
    seen: &Seen<T>,
    place: Option<crate::objects::backend_slice::Place>,
) {
    if !seen.deleting {
        let uid = seen.uid.clone();
        plan.act(reason, Write::Delete { kind, place, uid });
    }
}

/// Whether there is anything to keep: an address, or one that the allocator was told to give and will.
fn has_address(service: &ObservedService) -> bool {
    !service.ingress.is_empty() || !service.shape.steering.pin.is_empty()
}

/// The record of what is kept for good. Where an operator deleted the record, or there never was one, nothing is.
fn reserved<'a>(observed: &'a Observed, policy: &Policy) -> Option<&'a ObservedRecord> {
    let service = observed.service.as_ref().filter(|seen| !seen.deleting)?;
    let record = observed.record.as_ref().filter(|seen| !seen.deleting)?;
    let keeps = policy.retain && has_address(&service.object);
    keeps.then_some(&record.object)
}

fn status(
    record: &ObservedRecord,
    policy: &Policy,
    observed: &Observed,
    said: Said,
) -> StatusShape {
    let known = addresses::known(None, policy, observed);
    let because = |message: String| ConditionShape {
        status: false,
        reason: RESERVED.into(),
        message,
    };
    StatusShape {
        addresses: if known.is_empty() {
            record.addresses().to_vec()
        } else {
            known
        },
        accepted: match said.refused {
            None => ConditionShape {
                status: true,
                reason: "Accepted".into(),
                message: String::new(),
            },
            Some((reason, message)) => ConditionShape {
                status: false,
                reason: reason.into(),
                message,
            },
        },
        programmed: because(said.programmed),
        backends_healthy: because(String::new()),
        observed_generation: record.generation,
    }
}

fn message(tenant: &TenantName, name: &str, why: &str) -> String {
    format!(
        "{why} (reclaimPolicy Retain); to let go of the address: kubectl delete loadbalancers.berth.dev {name} --namespace {}",
        tenant.namespace()
    )
}
