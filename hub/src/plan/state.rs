//! How far a load balancer has come, and the sentences that tell people.

use std::{net::IpAddr, time::Instant};

use berth_common::model::{Ingress, IpFamily, Outcome, Reason, Service};
use ipnet::IpNet;

use super::{
    Allocator, Fitness, Nodes, Now, Observed, PATIENCE, PATIENCE_AT_MOST, Seen, addresses::ips,
    is_unicast,
};
use crate::objects::service::{ObservedService, ServiceShape};

/// How far it has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has its addresses and backends.
    Serving,
    /// The allocator gave something that can be no address of this Service.
    Impossible(String),
    /// Nothing yet, which is no wonder before this time.
    Early(Instant),
    /// Something is missing, and people should know.
    Waiting(Reason),
}

pub(super) fn of(
    service: &Service,
    allocator: Allocator,
    desired: &ServiceShape,
    seen: &Seen<ObservedService>,
    without_nodes: Option<Reason>,
    without_backends: Option<Reason>,
    observed: &Observed,
    now: Now,
) -> State {
    let ingress = &seen.object.ingress;
    if ingress.is_empty() {
        return match &observed.allocator_says {
            Some(words) => State::Waiting(Reason::new("AllocationFailed", discreet(words))),
            None => patience(desired, seen, observed, now),
        };
    }
    let given = ips(ingress);
    let hostname = |it: &Ingress| match it {
        Ingress::Hostname(name) if allocator == Allocator::MetalLb => Some(name.clone()),
        _ => None,
    };
    if let Some(name) = ingress.iter().find_map(hostname) {
        return State::Impossible(name);
    }
    let odd = |ip: &&IpAddr| !service.families.contains(&IpFamily::of(ip)) || !is_unicast(ip);
    if let Some(ip) = given.iter().find(odd) {
        return State::Impossible(ip.to_string());
    }
    if !desired.steering.pin.is_empty() && given != desired.steering.pin {
        // It was told, and will give the right ones.
        return patience(desired, seen, observed, now);
    }
    if let Some(why) = without_nodes {
        return State::Waiting(why);
    }
    if let Some(why) = without_backends {
        return State::Waiting(why);
    }
    State::Serving
}

/// Whether it waits for an address that is not to be had at present, so that others' parked ones may be what it lacks. MetalLB
/// says so, and at once: while it is silent it is busy, or away. Of another allocator nothing is heard but its silence; then
/// it is said from when on that counts.
pub(super) fn starves(
    seen: &Seen<ObservedService>,
    allocator: Allocator,
    observed: &Observed,
    now: Now,
) -> Result<bool, Instant> {
    if !seen.object.ingress.is_empty() {
        return Ok(false);
    }
    if allocator == Allocator::MetalLb || observed.allocator_says.is_some() {
        return Ok(observed.allocator_says.is_some());
    }
    let due = quiet_since(seen, observed) + PATIENCE;
    if now.instant < due {
        Err(due)
    } else {
        Ok(true)
    }
}

fn quiet_since(seen: &Seen<ObservedService>, observed: &Observed) -> Instant {
    observed
        .allocator_gave
        .map_or(seen.since, |gave| gave.max(seen.since))
}

fn patience(
    desired: &ServiceShape,
    seen: &Seen<ObservedService>,
    observed: &Observed,
    now: Now,
) -> State {
    let due = (quiet_since(seen, observed) + PATIENCE).min(seen.since + PATIENCE_AT_MOST);
    if now.instant < due {
        State::Early(due)
    } else {
        State::Waiting(awaiting_address(desired))
    }
}

/// No node can receive traffic: they have no address, or none that may.
pub(super) fn no_node_addresses(service: &Service, nodes: &Nodes, fitness: Fitness<'_>) -> Reason {
    if let Some((reason, count, why)) = fitness.left_out(nodes, &service.families) {
        let message = format!("no node may receive traffic: {count} left out; {why}");
        return Reason::new(reason, message);
    }
    let families: Vec<&str> = service
        .families
        .iter()
        .map(|family| family.as_str())
        .collect();
    Reason::new(
        "NoNodeAddresses",
        format!(
            "no node of the cluster has an {} address that traffic could be sent to: look at the nodes' addresses, their \
             exclude-from-external-load-balancers labels and the agent's nodeAddressType",
            families.join(" or ")
        ),
    )
}

/// The allocator's words, without the names of management objects: MetalLB says which Services an address is in use by, and
/// these names are made of other tenants' and of their Services'. An operator reads them in the event.
fn discreet(words: &str) -> String {
    let said = words.split(' ').map(|word| {
        let name = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        match name.contains('/') && name.parse::<IpNet>().is_err() {
            true => word.replace(name, "a Service"),
            false => word.to_owned(),
        }
    });
    said.collect::<Vec<_>>().join(" ")
}

pub(super) fn being_deleted() -> Reason {
    Reason::new(
        "BeingDeleted",
        "the load balancer of this name is still being deleted; it is made anew right after",
    )
}

fn awaiting_address(desired: &ServiceShape) -> Reason {
    let pin: Vec<String> = desired
        .steering
        .pin
        .iter()
        .map(ToString::to_string)
        .collect();
    let message = if pin.is_empty() {
        "the management cluster's allocator has given no address yet".to_owned()
    } else {
        format!(
            "the management cluster's allocator does not give {}, which belongs to this load balancer and is not exchanged \
             for another",
            pin.join(" and ")
        )
    };
    Reason::new("AwaitingAddress", message)
}

pub(super) fn impossible_address(ip: &str) -> Outcome {
    Outcome::Refused {
        field: "status.loadBalancer".into(),
        why: Reason::new(
            "Internal",
            format!(
                "the management cluster's allocator gave {ip}, which can be no address of this Service: tell its operator"
            ),
        ),
    }
}
