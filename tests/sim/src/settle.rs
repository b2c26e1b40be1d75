//! The end of a schedule: faults stop, the world has to become what the tenants want, and then to stay as it is, whatever
//! restarts.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use berth_common::{
    backoff::Cause,
    model::{Body, Outcome},
};
use berth_hub::{plan::brake, policy::QUOTA_EXCEEDED};

use crate::{
    cluster::{node_address, service_body},
    ledger::{CONVERGES, NO_WRITES, Violation, broken},
    management::Objects,
    op::{KEYS, Version, Way},
    quota::FIRST,
    world::{Event, KINDS, World},
};

/// How long the system may take after the last fault: a half-open connection is found (30 s), the agent stays away (60 s), and
/// what is absent waits for its grace (60 s) and its address is kept for a while (half a minute with the batch that it goes in),
/// with half a minute for what is to be done in between.
pub const BOUND: Duration = Duration::from_secs(210);
/// For how long it must be so: longer than the hub's patience with an allocator, and than any wait before a retry.
const STABLE: Duration = Duration::from_secs(3);
/// How often it is looked whether it has converged.
const LOOK: Duration = Duration::from_millis(250);
/// How long nothing may happen after that: longer than any grace or rejection would wait.
const QUIET: Duration = Duration::from_secs(75);

impl World {
    /// Every fault ends. Connections that are broken stay so: who holds them has to find out.
    pub(crate) fn heal(&mut self) {
        self.note(|_| "faults stop".into());
        let now = self.now;
        self.api_down_until = now;
        self.api_slow.0 = now;
        self.watch_lag.0 = now;
        self.fail_writes = 0;
        self.lose_replies = 0;
        self.allocator_down_until = now;
        for t in 0..self.tenants.len() {
            let t = u8::try_from(t).unwrap_or(u8::MAX);
            let tenant = self.tenant(t);
            tenant.slow.0 = now;
            tenant.cut_behind = None;
            tenant.source_down_until = now;
            let (agent, swapped) = (tenant.agent, std::mem::take(&mut tenant.swapped));
            let extra: Vec<_> = self
                .agents
                .iter()
                .filter(|(id, it)| it.tenant == t && **id != agent)
                .map(|(id, _)| *id)
                .collect();
            for id in extra {
                self.stop_agent(id, false);
            }
            self.start_agent(t);
            if swapped {
                let mutation = self.mutation;
                for agent in self.agents.values_mut().filter(|it| it.tenant == t) {
                    agent.lost_source(mutation);
                }
            }
            self.source_back(t);
            self.confirm_deletion(t);
        }
        let arrivals = self.arrivals();
        for (number, conn) in &mut self.conns {
            for way in [Way::Up, Way::Down] {
                let pipe = conn.pipe(way);
                pipe.loses = 0;
                pipe.busy_until = arrivals.get(&(*number, way)).copied().unwrap_or(now);
            }
        }
        let lossy: Vec<_> = self
            .conns
            .values()
            .filter(|conn| conn.lost.is_for_good())
            .map(|conn| conn.agent)
            .collect();
        for id in lossy {
            self.agent_lets_go(id, Cause::Lost);
        }
        self.start_hub();
        let epoch = self.epoch;
        for kind in 0..KINDS.len() {
            if self.hub.as_ref().is_some_and(|hub| !hub.watching[kind]) {
                self.after(Duration::from_millis(5), Event::ListRead(epoch, kind));
            }
        }
        let held: Vec<_> = self.management.objects.keys().cloned().collect();
        self.management.unsettled.extend(held);
    }

    /// Runs until everything is as it should be, and returns how long that took.
    pub(crate) fn converge(&mut self, bound: Duration) -> Result<Duration, Violation> {
        let start = self.now;
        let mut since = None;
        loop {
            match self.lack() {
                None => {
                    let since: Instant = *since.get_or_insert(self.now);
                    if self.now - since >= STABLE {
                        return Ok(since - start);
                    }
                }
                Some(lack) if self.now - start > bound => {
                    let rule = match self.ledger.has_passed_by() {
                        true => FIRST,
                        false => CONVERGES,
                    };
                    return Err(broken(
                        rule,
                        format!("{} s after the last fault: {lack}", bound.as_secs()),
                    ));
                }
                Some(_) => since = None,
            }
            self.run_until(self.now + LOOK)?;
        }
    }

    /// Nothing happens for a while; then every process is restarted, and nothing is written.
    pub(crate) fn prove_rest(&mut self) -> Result<(), Violation> {
        let (writes, words) = (self.management.writes, self.words);
        self.run_until(self.now + QUIET)?;
        if self.words != words {
            return Err(broken(
                NO_WRITES,
                format!("{} messages though nothing had changed", self.words - words),
            ));
        }
        self.still(writes, "though nothing had changed")?;
        for t in 0..self.tenants.len() {
            let t = u8::try_from(t).unwrap_or(u8::MAX);
            let id = self.tenants[usize::from(t)].agent;
            self.stop_agent(id, false);
            self.start_agent(t);
        }
        self.converge(BOUND)?;
        self.run_until(self.now + Duration::from_secs(2))?;
        self.still(writes, "after a restart of the agents")?;
        self.kill_hub();
        self.start_hub();
        self.converge(BOUND)?;
        self.run_until(self.now + QUIET)?;
        self.still(writes, "after a restart of the hub")?;
        match self.lack() {
            Some(lack) => Err(broken(CONVERGES, format!("and later no more: {lack}"))),
            None => Ok(()),
        }
    }

    fn still(&self, writes: u64, when: &str) -> Result<(), Violation> {
        if self.management.writes == writes {
            return Ok(());
        }
        Err(broken(
            NO_WRITES,
            format!("{} writes {when}", self.management.writes - writes),
        ))
    }

    /// What is not as it should be.
    fn lack(&self) -> Option<String> {
        let Some(hub) = self.hub.as_ref().filter(|hub| hub.is_ready()) else {
            return Some("no hub".into());
        };
        if !hub.runs.is_empty() || self.has_writes() || self.has_ops() {
            return Some("the hub is at work".into());
        }
        if self
            .conns
            .values()
            .any(|conn| conn.up.in_flight + conn.down.in_flight > 0)
        {
            return Some("messages are on their way".into());
        }
        for (t, tenant) in self.tenants.iter().enumerate() {
            let t = u8::try_from(t).unwrap_or(u8::MAX);
            match tenant.object {
                None => match self.ledger.lack_of_former(t, &self.management) {
                    None => continue,
                    lack => return lack,
                },
                Some(object) if object.deleting => {
                    return Some(format!("{} is being deleted", tenant.name));
                }
                Some(object) if !object.guarded => {
                    return Some(format!("{} has no finalizer", tenant.name));
                }
                Some(_) => {}
            }
            let Some(agent) = self.agents.get(&tenant.agent) else {
                return Some(format!("{} has no agent", tenant.name));
            };
            let connected = agent
                .conn
                .and_then(|number| self.conns.get(&number))
                .is_some_and(|conn| {
                    conn.seat.is_some() && !conn.up.swallows && !conn.down.swallows
                });
            if !connected || !agent.session.is_synced() || !agent.reading {
                return Some(format!("{} is not synced", tenant.name));
            }
            for k in 0..KEYS {
                if let Some(lack) = self.lack_of(t, k) {
                    return Some(format!("{} s{k}: {lack}", tenant.name));
                }
            }
            if let Some(lack) = self.lack_of_enforcement(t) {
                return Some(format!("{}: {lack}", tenant.name));
            }
        }
        None
    }

    fn lack_of(&self, t: u8, k: u8) -> Option<String> {
        let tenant = &self.tenants[usize::from(t)];
        let objects = self.management.objects.get(&self.id(t, k));
        let Some(service) = tenant.cluster.services.get(&k) else {
            return match objects {
                // The brake does not hold what is only parked.
                Some(objects) if objects.is_cut() || !self.is_held(t) => {
                    Some("objects of what is not wanted".into())
                }
                _ => None,
            };
        };
        if service.deleting {
            return Some("waits for its finalizer to go".into());
        }
        let agent = self.agents.get(&tenant.agent)?;
        if service.version == Version::Rejected
            && objects.is_none()
            && tenant.cluster.nodes.is_empty()
            && agent
                .current(k)
                .is_some_and(|answer| matches!(answer.outcome, Outcome::Refused { .. }))
        {
            // It is tried again after a while, and then there is nowhere to send it to.
            return Some("a rejection still stands".into());
        }
        let Some(answer) = agent.current(k) else {
            return Some("has no answer to its present version".into());
        };
        let managed = objects.and_then(|objects| objects.service.as_ref());
        let given: Vec<IpAddr> = objects.map(|it| it.given()).unwrap_or_default();
        if service.view != given && !self.ledger.is_robbed(t, k) {
            return Some(format!(
                "shows {:?}, and its management Service has {given:?}",
                service.view
            ));
        }
        if let Outcome::Refused { why, .. } = &answer.outcome
            && why.reason == QUOTA_EXCEEDED
            && matches!(service.version, Version::Good(_) | Version::Rejected)
        {
            let lack = self.lack_of_room(t, k, service.version);
            let last = objects.filter(|it| it.service.is_some() && !it.is_cut());
            return lack.or_else(|| last.and_then(|it| self.lack_of_backends(t, it)));
        }
        let Version::Good(_) = service.version else {
            return match &answer.outcome {
                // What was accepted before goes on, unless somebody took its Service away.
                Outcome::Refused { .. } => objects
                    .filter(|it| it.service.is_some())
                    .and_then(|it| self.lack_of_backends(t, it)),
                // Nobody has tried yet.
                Outcome::Pending(_)
                    if service.version == Version::Rejected && tenant.cluster.nodes.is_empty() =>
                {
                    None
                }
                other => Some(format!("should be refused, and is {other:?}")),
            };
        };
        if let Outcome::Pending(why) = &answer.outcome
            && (why.reason == "NoNodeAddresses" && tenant.cluster.nodes.is_empty()
                || why.reason == "AwaitingAddress" && self.ledger.is_robbed(t, k))
        {
            return None;
        }
        if answer.outcome != Outcome::Programmed || !service.programmed {
            return Some(format!("should be programmed, and is {:?}", answer.outcome));
        }
        let (Some(objects), Some(managed)) = (objects, managed) else {
            return Some("has no management Service".into());
        };
        let pinned: Vec<IpAddr> = objects.pinned().into_iter().collect();
        if given.len() != 1 || pinned != given || objects.recorded() != given {
            return Some(format!(
                "has {given:?}, is pinned to {pinned:?} and on record with {:?}",
                objects.recorded()
            ));
        }
        let Body::Service(wanted) = service_body(service.uid, service.version) else {
            return None;
        };
        let ports: BTreeSet<u16> = wanted.ports.iter().map(|port| port.port).collect();
        let numbers = managed.object.shape.ports.keys().map(|(number, _)| *number);
        if managed.deleting || numbers.collect::<BTreeSet<u16>>() != ports {
            return Some("its management Service is that of another version".into());
        }
        let targets: BTreeSet<u16> = wanted.ports.iter().filter_map(|it| it.node_port).collect();
        if objects.recorded_ports() != targets {
            return Some("its record is that of another version".into());
        }
        self.lack_of_backends(t, objects)
    }

    /// Whether the backends are the tenant's nodes, at the ports of the version on record. What was never accepted has none.
    fn lack_of_backends(&self, t: u8, objects: &Objects) -> Option<String> {
        let recorded = objects.recorded_ports();
        if recorded.is_empty() {
            return None;
        }
        let nodes = &self.tenants[usize::from(t)].cluster.nodes;
        let nodes: BTreeSet<IpAddr> = nodes.iter().map(|n| node_address(t, *n)).collect();
        let slices = || objects.slices.values().map(|slice| &slice.object.shape);
        let backends: BTreeSet<IpAddr> = slices()
            .flat_map(|slice| slice.addresses.iter().copied())
            .collect();
        let ports_right = slices().all(|slice| {
            let ports = slice.ports.values().map(|(_, number)| *number);
            ports.collect::<BTreeSet<u16>>() == recorded
        });
        (backends != nodes || !ports_right).then(|| {
            format!("its backends are {backends:?} and should be {nodes:?}, at {recorded:?}")
        })
    }

    /// Whether the brake holds a tenant's deletions, by the hub's own count.
    fn is_held(&self, t: u8) -> bool {
        let Some(hub) = &self.hub else { return false };
        let name = &self.tenants[usize::from(t)].name;
        let (absent, total) = hub.tenants.missed(name);
        brake(absent, total) && !self.ledger.released[usize::from(t)]
    }

    /// Lets the operator release what the brake holds.
    pub(crate) fn release_all(&mut self) {
        for t in 0..self.tenants.len() {
            self.release(u8::try_from(t).unwrap_or(u8::MAX));
        }
    }

    /// The moment of the last op has come.
    pub(crate) fn run_ops(&mut self) -> Result<(), Violation> {
        while self.has_ops() {
            let next: Instant = self.now + Duration::from_secs(1);
            self.run_until(next)?;
        }
        Ok(())
    }
}
