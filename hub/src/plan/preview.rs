//! What another policy would make of a load balancer that exists: the planner's own judges, asked about what is observed. Whatever is
//! refused keeps its last good version; addresses of nodes that may not be are left out of the slices at the next plan.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use berth_common::model::{IpFamily, Service};

use super::{
    Observed, Policy, addresses,
    admit::{admit, permitted},
};
use crate::{objects::record, policy::Unfit};

/// What would become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// The version that is served stays as it is, and its tenant is told that it is refused.
    Refused,
    /// It is taken away, although its tenant wants it.
    Withdrawn,
    /// A node gets no traffic.
    NodeLeftOut,
    /// An annotation goes.
    AnnotationDropped,
}

impl Effect {
    /// In a word, for tables and machines.
    pub fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Withdrawn => "withdrawn",
            Self::NodeLeftOut => "node left out",
            Self::AnnotationDropped => "annotation dropped",
        }
    }
}

/// One thing that would happen, or that is so already.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Foreseen {
    /// What.
    pub effect: Effect,
    /// Why, in a word: the reason of a condition.
    pub reason: String,
    /// Why.
    pub why: String,
    /// It is so under the policy of today, too.
    pub already: bool,
}

/// What of a load balancer `after` finds fault with.
pub fn preview(observed: &Observed, before: &Policy, after: &Policy) -> Vec<Foreseen> {
    // What only keeps an address is judged when it is wanted again.
    let Some(service) = recorded(observed).filter(|_| !observed.rests()) else {
        return Vec::new();
    };
    // One more judge is one more line.
    let mut all = Vec::from_iter(refused(&service, observed, before, after));
    all.extend(annotations(&service, before, after));
    all.extend(nodes(observed, before, after));
    all
}

/// What of a tenant's load balancers together `after` finds fault with.
pub fn preview_all<'a>(
    observed: impl IntoIterator<Item = &'a Observed>,
    before: &Policy,
    after: &Policy,
) -> Vec<Foreseen> {
    let mut served: BTreeMap<IpFamily, BTreeSet<IpAddr>> = BTreeMap::new();
    for ip in observed.into_iter().flat_map(backends) {
        // Those that are left out anyway take nobody's place.
        if after.nodes.judge(&ip).is_none() {
            served.entry(IpFamily::of(&ip)).or_default().insert(ip);
        }
    }
    let nodes = served.values().map(BTreeSet::len).max().unwrap_or_default();
    let beyond = |policy: &Policy| {
        let quotas = policy.nodes.quotas;
        let most = quotas.nodes.filter(|most| nodes > *most)?;
        Some((most, policy.nodes.enforce))
    };
    let Some((most, enforce)) = beyond(after) else {
        return Vec::new();
    };
    let what = format!("{nodes} nodes receive traffic, and {most} may (quotas.nodes)");
    vec![Foreseen {
        effect: if enforce {
            Effect::NodeLeftOut
        } else {
            Effect::Refused
        },
        reason: "QuotaExceeded".into(),
        why: match enforce {
            true => format!("{what}: {} are left out (enforce)", nodes - most),
            false => format!("{what}: they keep it, and no other gets any"),
        },
        already: beyond(before).is_some_and(|(_, was)| was || !enforce),
    }]
}

/// The version that is served. Which nodes have endpoints is the tenant's to say, and no policy's.
fn recorded(observed: &Observed) -> Option<Service> {
    let record = observed.record.as_ref()?;
    record::service(&record.object.spec, BTreeSet::new())
}

fn refused(
    service: &Service,
    observed: &Observed,
    before: &Policy,
    after: &Policy,
) -> Option<Foreseen> {
    let judged = |policy: &Policy| {
        let known = addresses::known(Some(service), policy, observed);
        admit(service, policy, &addresses::ips(&known), &observed.taken)
    };
    let goes = |policy: &Policy| policy.nodes.enforce && permitted(service, policy).is_err();
    let refusal = judged(after).err()?;
    Some(Foreseen {
        effect: match goes(after) {
            true => Effect::Withdrawn,
            false => Effect::Refused,
        },
        reason: refusal.reason.into(),
        why: format!("{}: {}", refusal.field, refusal.message),
        already: judged(before).is_err() && (goes(before) || !goes(after)),
    })
}

fn annotations(service: &Service, before: &Policy, after: &Policy) -> Vec<Foreseen> {
    let passing = |policy: &Policy| {
        policy
            .annotations
            .filter(Cow::Borrowed(service))
            .into_owned()
    };
    let (was, stays) = (passing(before).annotations, passing(after).annotations);
    let dropped = service
        .annotations
        .keys()
        .filter(|key| !stays.contains_key(*key));
    dropped
        .map(|key| Foreseen {
            effect: Effect::AnnotationDropped,
            reason: "AnnotationNotAllowed".into(),
            why: format!("{key} does not pass any more (annotations.allowed)"),
            already: !was.contains_key(key),
        })
        .collect()
}

fn nodes(observed: &Observed, before: &Policy, after: &Policy) -> Vec<Foreseen> {
    let served: BTreeSet<IpAddr> = backends(observed).collect();
    let unfit = |ip: &IpAddr| Some((*ip, after.nodes.judge(ip)?));
    let out: Vec<_> = served.iter().filter_map(unfit).collect();
    // What serves stays where the operator narrows a list and does not enforce it.
    let stays = |unfit: Unfit, policy: &Policy| unfit == Unfit::Outside && !policy.nodes.enforce;
    let goes = |it: &&(IpAddr, Unfit)| !stays(it.1, after);
    let none_left = !out.is_empty() && out.iter().filter(goes).count() == served.len();
    out.into_iter()
        .map(|(ip, unfit)| {
            let (effect, more) = match stays(unfit, after) {
                true => (
                    Effect::Refused,
                    "; it keeps its traffic for as long as it has it",
                ),
                false if none_left => (Effect::NodeLeftOut, "; no node is left"),
                false => (Effect::NodeLeftOut, ""),
            };
            let was = before.nodes.judge(&ip);
            Foreseen {
                effect,
                reason: unfit.reason().into(),
                why: format!("{}{more}", unfit.explain(&ip)),
                already: was.is_some_and(|was| !stays(was, before) || stays(unfit, after)),
            }
        })
        .collect()
}

fn backends(observed: &Observed) -> impl Iterator<Item = IpAddr> {
    let slices = observed.slices.values();
    slices.flat_map(|seen| seen.object.shape.addresses.iter().copied())
}
