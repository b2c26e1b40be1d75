//! The plan for a Service that its tenant has. A version that is refused, or cannot be read, changes nothing: the one on
//! record, accepted earlier, is planned for instead, so that it stays alive while nodes come and go.

use std::{borrow::Cow, collections::BTreeSet};

use berth_common::{
    model::{Answer, Generation, Ingress, NodeName, Outcome, Reason, Service, TrafficPolicy},
    wire::Refusal,
};

use super::{
    Fitness, Nodes, Now, Observed, Plan, Policy, REJECTION_STANDS, Rejection, Room, Write,
    addresses,
    admit::{IN_USE, admit, permitted},
    answer, backends, diff, health,
    state::{self, State},
    unwanted,
};
use crate::objects::{Id, Kind, record};

/// What the tenant wants, as far as it is known.
pub(super) struct Wish<'a> {
    /// The version.
    pub(super) generation: Generation,
    /// What it says, or why it cannot be read.
    pub(super) version: Result<&'a Service, &'a Refusal>,
    /// The nodes that have endpoints. `None`: nobody has told this process.
    pub(super) local_nodes: Option<&'a BTreeSet<NodeName>>,
}

/// A refusal, by the planner or by the API server.
struct Fault {
    field: String,
    why: Reason,
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self {
            field: refusal.field,
            why: Reason::new(refusal.reason, refusal.message),
        }
    }
}

impl From<Fault> for Outcome {
    fn from(fault: Fault) -> Self {
        Self::Refused {
            field: fault.field,
            why: fault.why,
        }
    }
}

pub(super) fn plan(
    id: &Id,
    wish: &Wish<'_>,
    nodes: &Nodes,
    observed: &Observed,
    policy: &Policy,
    now: Now,
) -> Plan {
    let generation = wish.generation;
    if let Some(refusal) = withdrawal(wish, observed, policy) {
        return withdraw(id, generation, refusal, observed, policy, now);
    }
    let mut plan = Plan::default();
    let fault = fault(wish, observed, policy, now);
    let effective = effective(wish, fault.is_some(), observed)
        .map(|service| policy.annotations.filter(service));
    let known = addresses::known(effective.as_deref().or(wish.version.ok()), policy, observed);
    let say = |outcome| {
        Some(Answer {
            generation,
            outcome,
            ingress: relayed(&known, observed),
        })
    };

    // Only what was rejected for this version: an earlier one's rejection says nothing of the version on record.
    let rejection = standing_rejection(wish, observed, now).filter(|_| fault.is_some());
    if let Some(rejection) = rejection {
        plan.revisit_at(rejection.until);
    }
    if fault.as_ref().is_some_and(|it| it.why.reason == IN_USE) {
        plan.revisit_at(now.instant + REJECTION_STANDS);
    }
    let service = match effective.as_deref() {
        Some(service) if observed.service.is_some() || rejection.is_none() => service,
        _ => {
            // Refused, and nothing was ever accepted, or something that is not ours is in its place.
            plan.answer = fault.map(Outcome::from).and_then(say);
            match &observed.service {
                None => diff::clear_slices(&mut plan, observed),
                // Of a former Service of this name the address was kept, and waits for a version that is not refused.
                Some(seen) => plan.ports = Some(seen.object.shape.ports.len()),
            }
            return plan;
        }
    };
    let fitness = Fitness::new(policy, observed);
    let without_nodes = (!backends::any(nodes, fitness, &service.families))
        .then(|| state::no_node_addresses(service, nodes, fitness));
    let shape = addresses::shape(id, service, policy, &known, observed);
    let ports = Some(shape.ports.len());
    let Some(seen) = &observed.service else {
        match without_nodes {
            Some(why) if observed.is_empty() => plan.answer = say(Outcome::Pending(why)),
            _ => {
                plan.ports = ports;
                plan.act(
                    "the Service does not exist",
                    Write::Service { uid: None, shape },
                );
            }
        }
        return plan;
    };
    plan.ports = ports;
    if seen.deleting {
        // It is made anew as soon as it is gone: that is an event.
        let outcome = fault.map_or_else(|| Outcome::Pending(state::being_deleted()), Outcome::from);
        plan.answer = say(outcome);
        return plan;
    }
    match state::starves(seen, policy.allocator, observed, now) {
        Ok(starving) => plan.starving = starving,
        Err(due) => plan.revisit_at(due),
    }
    let anew = if shape.primary != seen.object.shape.primary {
        Some("the primary IP family changes, which takes a new Service")
    } else if addresses::asks_for_another(service, policy, observed) {
        Some("another address is asked for than the one that is parked")
    } else {
        None
    };
    if let Some(reason) = anew {
        let write = Write::Delete {
            kind: Kind::Service,
            place: None,
            uid: seen.uid.clone(),
        };
        plan.act(reason, write);
        return plan;
    }

    if !diff::service(&mut plan, seen, &shape) {
        return plan;
    }
    // Where nobody knows the endpoints the backends stay as they are.
    let slices_ready = service.traffic_policy == TrafficPolicy::Local && wish.local_nodes.is_none()
        || diff::slices(&mut plan, service, nodes, fitness, observed);
    let record_ready = match &fault {
        None => diff::record(&mut plan, id, generation, service, observed),
        Some(_) => true,
    };
    let backing = health::backing(service, nodes, fitness, seen.since, observed, now);
    if let Some(due) = backing.again {
        plan.revisit_at(due);
    }
    let state = state::of(
        service,
        &shape,
        seen,
        without_nodes,
        backing.none,
        observed,
        now,
    );
    let state = state::stray_hostname(seen, policy.allocator).unwrap_or(state);
    let serving = state == State::Serving;
    let last = match fault.is_some() && is_let_in(id, wish, observed, policy) {
        true => answer::Last::Same,
        false => answer::Last::Former,
    };
    let outcome = match (fault, state) {
        (Some(fault), _) => fault.into(),
        (None, State::Impossible(ip)) => state::impossible_address(&ip),
        // What is being written right now decides what there is to say; the next plan says it.
        (None, _) if !slices_ready || !record_ready => return plan,
        (None, State::Serving) => Outcome::Programmed,
        (None, State::Waiting(why)) => Outcome::Pending(why),
        (None, State::Early(due)) => {
            plan.revisit_at(due);
            return plan;
        }
    };
    if let Some(record) = observed.record.as_ref().filter(|seen| !seen.deleting) {
        let healthy = backing.condition;
        let serving = serving.then_some(last);
        let status = answer::status(&outcome, &known, serving, healthy, &record.object);
        diff::status(&mut plan, status, &record.object, now);
    }
    plan.answer = say(outcome);
    plan
}

/// Why what is there has to go, though its tenant wants it: there is no room for it, or policy is enforced, and neither what is
/// wanted nor what is there fits it.
fn withdrawal(wish: &Wish<'_>, observed: &Observed, policy: &Policy) -> Option<Refusal> {
    if let Room::Gone(refusal) = &observed.room {
        return Some(refusal.clone());
    }
    if !policy.nodes.enforce || observed.service.is_none() && observed.record.is_none() {
        return None;
    }
    let wanted = |service| permitted(service, policy);
    if wish.version.is_ok_and(|service| wanted(service).is_ok()) {
        return None;
    }
    let there = match &observed.record {
        Some(record) => Cow::Owned(record::service(&record.object.spec, BTreeSet::new())?),
        None => Cow::Borrowed(wish.version.ok()?),
    };
    wanted(&there).err()
}

/// Whether the version that policy refuses is the one on record: policy has changed since.
fn is_let_in(id: &Id, wish: &Wish<'_>, observed: &Observed, policy: &Policy) -> bool {
    let (Ok(wanted), Some(record)) = (wish.version, &observed.record) else {
        return false;
    };
    let filtered = policy.annotations.filter(Cow::Borrowed(wanted));
    let spec = record::spec(id, wish.generation, &filtered);
    record::same_request(&record.object.spec, &spec) && permitted(wanted, policy).is_err()
}

/// It goes as if its tenant had deleted it, and is told why.
fn withdraw(
    id: &Id,
    generation: Generation,
    refusal: Refusal,
    observed: &Observed,
    policy: &Policy,
    now: Now,
) -> Plan {
    let mut plan = unwanted::withdrawn(id, &refusal, observed, policy, now);
    plan.gone = false;
    plan.withdrawn = (!observed.rests() && observed.room == Room::Enough)
        .then(|| (refusal.reason, refusal.message.clone()));
    plan.answer = Some(Answer {
        generation,
        outcome: Fault::from(refusal).into(),
        ingress: Vec::new(),
    });
    plan
}

/// Why the wanted version is not to be had: it cannot be read, or the planner's own reasons, or the API server's of a
/// little while ago.
fn fault(wish: &Wish<'_>, observed: &Observed, policy: &Policy, now: Now) -> Option<Fault> {
    let wanted = match wish.version {
        Ok(wanted) => wanted,
        Err(refusal) => return Some(refusal.clone().into()),
    };
    let known = addresses::ips(&addresses::known(Some(wanted), policy, observed));
    if let Err(refusal) = admit(wanted, policy, &known, &observed.taken) {
        return Some(refusal.into());
    }
    let rejection = match &observed.room {
        // Room would not help what the API server has rejected, and this is not said in turns.
        Room::None(refusal) => match rejected(wish, observed) {
            None => return Some(refusal.clone().into()),
            rejected => rejected,
        },
        _ => standing_rejection(wish, observed, now),
    }?;
    Some(Fault {
        field: rejection.field.clone(),
        why: rejection.why.clone(),
    })
}

/// What the API server rejected of this version when it was last tried.
fn rejected<'a>(wish: &Wish<'_>, observed: &'a Observed) -> Option<&'a Rejection> {
    let rejection = observed.rejection.as_deref()?;
    (rejection.generation == wish.generation).then_some(rejection)
}

/// What the API server rejected of this version a little while ago.
fn standing_rejection<'a>(
    wish: &Wish<'_>,
    observed: &'a Observed,
    now: Now,
) -> Option<&'a Rejection> {
    rejected(wish, observed).filter(|rejection| rejection.until > now.instant)
}

/// The version to plan for: the wanted one, or where that is refused the one on record. Where the endpoints are is always
/// taken from the tenant's word, for that is not what is refused.
fn effective<'a>(wish: &Wish<'a>, refused: bool, observed: &Observed) -> Option<Cow<'a, Service>> {
    if let (Ok(wanted), false) = (wish.version, refused) {
        return Some(Cow::Borrowed(wanted));
    }
    let record = observed.record.as_ref()?;
    let local_nodes = wish.local_nodes.cloned().unwrap_or_default();
    let service = record::service(&record.object.spec, local_nodes)?;
    Some(Cow::Owned(service))
}

/// What the tenant is told: of what the allocator gives, that which belongs to the load balancer. The address of a Service
/// that is being deleted may be anybody's in the next moment.
fn relayed(known: &[Ingress], observed: &Observed) -> Vec<Ingress> {
    observed
        .service
        .iter()
        .filter(|seen| !seen.deleting)
        .flat_map(|seen| &seen.object.ingress)
        .filter(|given| known.contains(given))
        .cloned()
        .collect()
}
