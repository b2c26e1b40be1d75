//! All tenants' nodes: whom to ask next, and the verdicts about each tenant's addresses. One loop of probes for each address,
//! however many Services are behind it. Pure: time and randomness are parameters.
//!
//! What it costs is bounded: so many probes a second for one tenant and for all together, and beyond that each address is
//! asked less often. Verdicts are told at once, and where they keep changing, once a second.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use berth_common::{identity::TenantName, model::IpFamily};

use super::{
    Mode, Policy, Verdicts,
    demand::Demand,
    node::{Heard, Node, Probe, Standing},
};
use crate::pace::Pace;

/// Probes a second for all tenants.
const RATE: f64 = 4_000.0;
/// Probes a second for one tenant, so that one with many nodes does not slow down the others' probes.
const TENANT_RATE: f64 = 1_000.0;
/// Probes under way for all tenants.
pub const IN_FLIGHT: usize = 1_024;
/// Probes under way for one tenant.
const TENANT_IN_FLIGHT: usize = 256;
/// When there is no room for a probe, it is looked at again after this.
const NO_ROOM: Duration = Duration::from_millis(50);
/// Share of the interval by which it varies either way.
const JITTER: f64 = 0.1;
/// Between two looks at a tenant's verdicts.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A probe to send.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// To be given back with the outcome.
    pub id: u64,
    /// Whom to ask.
    pub address: IpAddr,
    /// What.
    pub probe: Probe,
    /// For how long to wait.
    pub timeout: Duration,
}

#[derive(Debug)]
struct Slot {
    tenant: TenantName,
    address: IpAddr,
    node: Node,
    /// None: a probe is under way.
    due: Option<Instant>,
}

/// One tenant.
#[derive(Debug)]
struct Group {
    policy: Policy,
    ports: Vec<u16>,
    members: BTreeMap<IpAddr, u64>,
    in_flight: usize,
    /// When the latest question began that was answered, by anybody of the family.
    answered: BTreeMap<IpFamily, Instant>,
    /// Somebody is silent, and nobody has answered since.
    waiting: bool,
    told: Arc<Verdicts>,
    /// How often its verdicts are told.
    pace: Pace,
    /// When its verdicts were looked at last.
    looked: Option<Instant>,
    /// When they are looked at next.
    look: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Fleet {
    slots: HashMap<u64, Slot>,
    groups: BTreeMap<TenantName, Group>,
    due: BTreeSet<(Instant, u64)>,
    looks: BTreeSet<(Instant, TenantName)>,
    in_flight: usize,
    next: u64,
}

impl Fleet {
    /// What is to be probed for a tenant from now on. `random` is between 0 and 1.
    pub fn demand(
        &mut self,
        tenant: &TenantName,
        demand: Option<Demand>,
        now: Instant,
        mut random: impl FnMut() -> f64,
    ) {
        let wanted = demand.filter(|d| d.policy.mode != Mode::None && !d.addresses.is_empty());
        let Some(demand) = wanted else {
            self.forget(tenant);
            return;
        };
        if self
            .groups
            .get(tenant)
            .is_some_and(|group| group.policy != demand.policy)
        {
            // Judged anew; until then everything stays as it is.
            self.forget(tenant);
        }
        let group = self
            .groups
            .entry(tenant.clone())
            .or_insert_with(|| Group::new(demand.policy));
        group.ports = demand.ports;
        let gone: Vec<IpAddr> = group
            .members
            .keys()
            .filter(|ip| !demand.addresses.contains(*ip))
            .copied()
            .collect();
        let new: Vec<IpAddr> = demand
            .addresses
            .into_iter()
            .filter(|ip| !group.members.contains_key(ip))
            .collect();
        if gone.is_empty() && new.is_empty() {
            return;
        }
        for ip in gone {
            if let Some(id) = group.members.remove(&ip) {
                let under_way = drop_slot(&mut self.slots, &mut self.due, id);
                group.in_flight -= usize::from(under_way);
                self.in_flight -= usize::from(under_way);
            }
        }
        // A hub that was just started has thousands to ask: not all in the same moment.
        let spread = Duration::from_secs_f64(new.len() as f64 / RATE);
        for address in new {
            let id = self.next;
            self.next += 1;
            let due = now + spread.mul_f64(random());
            group.members.insert(address, id);
            self.due.insert((due, id));
            let slot = Slot {
                tenant: tenant.clone(),
                address,
                node: Node::default(),
                due: Some(due),
            };
            self.slots.insert(id, slot);
        }
        look_soon(&mut self.looks, tenant, group, now);
    }

    /// The next probe to send now, if any.
    pub fn start(&mut self, now: Instant) -> Option<Start> {
        while self.in_flight < IN_FLIGHT {
            let (at, id) = *self.due.first()?;
            if at > now {
                return None;
            }
            self.due.pop_first();
            let all = self.slots.len();
            let Some(slot) = self.slots.get_mut(&id) else {
                continue;
            };
            let Some(group) = self.groups.get_mut(&slot.tenant) else {
                continue;
            };
            if group.in_flight >= TENANT_IN_FLIGHT {
                slot.due = Some(now + NO_ROOM);
                self.due.insert((now + NO_ROOM, id));
                continue;
            }
            let Some(probe) = slot.node.next(&group.policy, &group.ports, now) else {
                let before = slot.node.standing();
                slot.node.unasked(now);
                let due = now + group.interval(all);
                slot.due = Some(due);
                self.due.insert((due, id));
                if slot.node.standing() != before {
                    look_soon(&mut self.looks, &slot.tenant, group, now);
                }
                continue;
            };
            slot.due = None;
            group.in_flight += 1;
            self.in_flight += 1;
            return Some(Start {
                id,
                address: slot.address,
                probe,
                timeout: group.policy.timeout,
            });
        }
        None
    }

    /// What came of a probe. `random` is between 0 and 1.
    pub fn heard(&mut self, id: u64, heard: Heard, random: f64) {
        let all = self.slots.len();
        // It may have been forgotten meanwhile.
        let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.due.is_none()) else {
            return;
        };
        let Some(group) = self.groups.get_mut(&slot.tenant) else {
            return;
        };
        self.in_flight -= 1;
        group.in_flight -= 1;
        let before = slot.node.standing();
        let interval = group
            .interval(all)
            .mul_f64(1.0 - JITTER + 2.0 * JITTER * random);
        let ports = !group.ports.is_empty();
        let due = slot.node.heard(heard, &group.policy, ports, interval);
        slot.due = Some(due);
        self.due.insert((due, id));
        let mut news = slot.node.standing() != before;
        if heard.outcome.is_answer() {
            let family = IpFamily::of(&slot.address);
            let answered = group.answered.entry(family).or_insert(heard.began);
            *answered = heard.began.max(*answered);
            news |= group.waiting;
        }
        if news {
            look_soon(&mut self.looks, &slot.tenant, group, heard.now);
        }
    }

    /// The verdicts that are to be told now.
    pub fn tell(&mut self, now: Instant) -> Vec<(TenantName, Arc<Verdicts>)> {
        let mut told = Vec::new();
        while self.looks.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, tenant)) = self.looks.pop_first() else {
                break;
            };
            let Some(group) = self.groups.get_mut(&tenant) else {
                continue;
            };
            group.look = None;
            group.looked = Some(now);
            let verdicts = group.judge(&self.slots);
            if *group.told != verdicts {
                group.told = Arc::new(verdicts);
                group.pace.tell(now);
                told.push((tenant, group.told.clone()));
            }
        }
        told
    }

    /// When there is something to do again, without anything being heard before.
    pub fn due(&self) -> Option<Instant> {
        let probe = self
            .due
            .first()
            .filter(|_| self.in_flight < IN_FLIGHT)
            .map(|(at, _)| *at);
        let look = self.looks.first().map(|(at, _)| *at);
        probe.into_iter().chain(look).min()
    }

    /// How many addresses of a tenant are probed.
    pub fn probed(&self, tenant: &TenantName) -> usize {
        self.groups
            .get(tenant)
            .map_or(0, |group| group.members.len())
    }

    fn forget(&mut self, tenant: &TenantName) {
        let Some(group) = self.groups.remove(tenant) else {
            return;
        };
        for id in group.members.values() {
            let under_way = drop_slot(&mut self.slots, &mut self.due, *id);
            self.in_flight -= usize::from(under_way);
        }
        if let Some(look) = group.look {
            self.looks.remove(&(look, tenant.clone()));
        }
    }
}

/// Returns whether a probe was under way.
fn drop_slot(slots: &mut HashMap<u64, Slot>, due: &mut BTreeSet<(Instant, u64)>, id: u64) -> bool {
    match slots.remove(&id).map(|slot| slot.due) {
        Some(Some(at)) => {
            due.remove(&(at, id));
            false
        }
        Some(None) => true,
        None => false,
    }
}

/// Has a tenant's verdicts looked at as soon as its pace allows.
fn look_soon(
    looks: &mut BTreeSet<(Instant, TenantName)>,
    tenant: &TenantName,
    group: &mut Group,
    now: Instant,
) {
    if group.look.is_none() {
        let looked = group.looked.map_or(now, |at| at + LOOK_EVERY);
        let at = group.pace.next(now).max(looked);
        group.look = Some(at);
        looks.insert((at, tenant.clone()));
    }
}

impl Group {
    fn new(policy: Policy) -> Self {
        Self {
            policy,
            ports: Vec::new(),
            members: BTreeMap::new(),
            in_flight: 0,
            answered: BTreeMap::new(),
            waiting: false,
            told: Arc::default(),
            pace: Pace::default(),
            looked: None,
            look: None,
        }
    }

    /// Between two probes of one address, as long as there are so many in all.
    fn interval(&self, all: usize) -> Duration {
        let least = (self.members.len() as f64 / TENANT_RATE).max(all as f64 / RATE);
        self.policy.interval.max(Duration::from_secs_f64(least))
    }

    fn judge(&mut self, slots: &HashMap<u64, Slot>) -> Verdicts {
        self.waiting = false;
        let mut verdicts = Verdicts::default();
        for family in [IpFamily::V4, IpFamily::V6] {
            let members: Vec<(IpAddr, Standing)> = self
                .members
                .iter()
                .filter(|(ip, _)| IpFamily::of(ip) == family)
                .filter_map(|(ip, id)| Some((*ip, slots.get(id)?.node.standing())))
                .collect();
            let fails = |standing| matches!(standing, Standing::Draining | Standing::Silent { .. });
            if members.iter().all(|(_, standing)| fails(*standing)) {
                let no_way = |(_, standing): &(IpAddr, Standing)| {
                    matches!(standing, Standing::Silent { no_route: true, .. })
                };
                // The hub's own network may have no IPv6, and nodes that have it are none the worse.
                let side = if members.iter().all(no_way) {
                    &mut verdicts.good
                } else {
                    &mut verdicts.failing
                };
                side.extend(members.iter().map(|(ip, _)| *ip));
                continue;
            }
            let answered = self.answered.get(&family).copied();
            for (ip, standing) in members {
                match standing {
                    Standing::Unjudged => {}
                    Standing::Good => {
                        verdicts.good.insert(ip);
                    }
                    Standing::Draining => {
                        verdicts.failing.insert(ip);
                    }
                    Standing::Silent { since, .. } => {
                        if answered.is_some_and(|at| at >= since) {
                            verdicts.failing.insert(ip);
                        } else {
                            self.waiting = true;
                        }
                    }
                }
            }
        }
        verdicts
    }
}
