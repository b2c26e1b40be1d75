//! Whether a load balancer has nodes that can take its traffic, and what people are told of it. What comes and goes with
//! single nodes is no news here: a condition changes when all of them fail, or none is left, and costs no write before.

use std::time::Instant;

use berth_common::model::{Reason, Service};

use super::{Fitness, Nodes, Now, Observed, PATIENCE, backends, state};
use crate::objects::record::ConditionShape;

/// All of them answer, or enough do.
const HEALTHY: &str = "Healthy";
/// The operator does not want the tenant's nodes probed.
const NOT_PROBED: &str = "NotProbed";
/// None answers, and so all serve (fail open).
const ALL_FAILING: &str = "AllFailing";
/// There is none.
const NO_BACKENDS: &str = "NoBackends";

/// What is behind a load balancer.
pub(super) struct Backing {
    /// The record's condition.
    pub(super) condition: ConditionShape,
    /// There is no backend, and people should know.
    pub(super) none: Option<Reason>,
    /// When to look again whether there still is none.
    pub(super) again: Option<Instant>,
}

/// `since` is when the Service was first seen.
pub(super) fn backing(
    service: &Service,
    nodes: &Nodes,
    fitness: Fitness<'_>,
    since: Instant,
    observed: &Observed,
    now: Now,
) -> Backing {
    let recorded = recorded(observed);
    let families = || {
        service.families.iter().map(|family| {
            let wanted = backends::of_family(nodes, fitness, service, *family);
            (*family, wanted)
        })
    };
    if families().all(|(_, wanted)| wanted.is_empty()) {
        let has_nodes = backends::any(nodes, fitness, &service.families);
        let why = if has_nodes {
            no_endpoints()
        } else {
            state::no_node_addresses(service, nodes, fitness)
        };
        // A Service is often there before its pods are. What was told once is not told otherwise after a restart.
        let due = since + PATIENCE;
        let known = recorded.is_some_and(|condition| condition.reason == NO_BACKENDS);
        if has_nodes && now.instant < due && !known {
            return Backing {
                again: Some(due),
                ..fine(HEALTHY)
            };
        }
        return Backing {
            condition: no(NO_BACKENDS, why.message.clone()),
            none: Some(why),
            again: None,
        };
    }
    let fine = |reason| match fitness.left_out(nodes, &service.families) {
        // The others serve. It is told here, and changes when the nodes do.
        Some((reason, count, why)) => Backing {
            condition: ConditionShape {
                message: some_left_out(count, nodes.len(), &why),
                ..fine(reason).condition
            },
            ..fine(HEALTHY)
        },
        None => fine(reason),
    };
    let Some(health) = &observed.health else {
        return fine(NOT_PROBED);
    };
    let served = || families().filter(|(_, wanted)| !wanted.is_empty());
    let failing: Vec<&str> = served()
        .filter(|(_, wanted)| wanted.is_subset(&health.failing))
        .map(|(family, _)| family.as_str())
        .collect();
    if !failing.is_empty() {
        return Backing {
            condition: no(ALL_FAILING, all_failing(&failing)),
            none: None,
            again: None,
        };
    }
    let judged = served().all(|(_, wanted)| !wanted.is_disjoint(&health.good));
    match recorded {
        // Nobody has answered yet that was asked by this process: what an earlier one found stands until then.
        Some(condition) if !judged && condition.reason == ALL_FAILING => Backing {
            condition: condition.clone(),
            none: None,
            again: None,
        },
        _ => fine(HEALTHY),
    }
}

fn recorded(observed: &Observed) -> Option<&ConditionShape> {
    let status = observed.record.as_ref()?.object.status.as_ref()?;
    status.shape.as_ref().map(|shape| &shape.backends_healthy)
}

fn fine(reason: &str) -> Backing {
    Backing {
        condition: ConditionShape {
            status: true,
            reason: reason.into(),
            message: String::new(),
        },
        none: None,
        again: None,
    }
}

fn no(reason: &str, message: String) -> ConditionShape {
    ConditionShape {
        status: false,
        reason: reason.into(),
        message,
    }
}

fn some_left_out(count: usize, all: usize, why: &str) -> String {
    format!("{count} of {all} nodes have an address that receives no traffic; {why}")
}

fn all_failing(families: &[&str]) -> String {
    format!(
        "no node answers the hub's health check over {}, so all of them go on receiving traffic: look whether the hub's pods \
         may reach the nodes' port 10256 and node ports, and what the Tenant's healthCheck says",
        families.join(" and ")
    )
}

/// There are nodes, and none of them may receive the Service's traffic: only the policy Local does that.
fn no_endpoints() -> Reason {
    Reason::new(
        NO_BACKENDS,
        "externalTrafficPolicy is Local, and no node that may receive traffic has a ready endpoint of this Service: it keeps \
         its address, and serves again when a pod is ready",
    )
}
