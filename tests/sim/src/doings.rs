//! What each op does to the world, and what happens to agents and clusters besides their connections.

use std::time::{Duration, Instant};

use berth_common::wire::generation_of;
use berth_hub::objects::Id;

use crate::{
    agent::{AgentId, Removed},
    cluster::{Cluster, TenantService, service_body, service_key},
    executor::{slot, watch_index},
    net::Conn,
    op::{KEYS, Kind, NODES, Op, Version},
    world::{Event, KINDS, World},
};

impl World {
    /// An op happens. What finds nothing to happen to is passed over.
    pub(crate) fn happen(&mut self, op: Op) {
        self.note(|_| format!("{op:?}"));
        if self.take_op(op) {
            *self.stats.faults.entry(op.name()).or_default() += 1;
        }
    }

    fn take_op(&mut self, op: Op) -> bool {
        let until = |ms: u32| self.now + Duration::from_millis(ms.into());
        match op {
            Op::Apply { t, k, v } => self.apply(t, k, v),
            Op::Delete { t, k } => self.delete(t, k),
            Op::ForceDelete { t, k } => self.force_delete(t, k),
            Op::NodeUp { t, n } => self.node(t, n, true),
            Op::NodeDown { t, n } => self.node(t, n, false),
            Op::Backup { t } => {
                let tenant = self.tenant(t);
                tenant.backup = tenant.cluster.clone();
                true
            }
            Op::Restore { t } => self.restore(t),
            Op::Swap { t } => self.swap(t, true),
            Op::SwapBack { t } => self.swap(t, false),
            Op::Rebind { t } => self.rebind(t),
            Op::SourceLost { t, ms } => {
                let until = until(ms);
                self.lose_source(t, until);
                true
            }
            Op::AgentRestart { t, ms } => {
                let id = self.tenants[usize::from(t)].agent;
                let running = self.agents.contains_key(&id);
                if running {
                    let late = self.net.bool();
                    self.stop_agent(id, late);
                    self.after(Duration::from_millis(ms.into()), Event::StartAgent(t));
                }
                running
            }
            Op::Twin { t, ms } => {
                let id = self.add_agent(t, false);
                self.after(Duration::from_millis(ms.into()), Event::StopAgent(id));
                true
            }
            Op::Impostor { t } => {
                let other = &mut self.tenant(t).other;
                if other.services.is_empty() {
                    fill(other, 1_000);
                }
                self.add_agent(t, true);
                true
            }
            Op::HubKill { ms } => {
                let running = self.hub.is_some();
                if running {
                    self.lose_hub();
                    self.after(Duration::from_millis(ms.into()), Event::StartHub);
                }
                running
            }
            Op::HubDrain => {
                if let Some(hub) = &self.hub {
                    hub.tenants.drain(Duration::from_secs(2), "drained");
                }
                self.hub.is_some()
            }
            Op::CutOff { t, how } => self.cut(t, how),
            Op::HalfOpen { t, way } => self.with_conn(t, |conn| conn.pipe(way).swallows = true),
            Op::CutBehind { t, count } => {
                self.tenant(t).cut_behind = Some(count);
                true
            }
            Op::Lose { t, way, count } => self.with_conn(t, |conn| conn.pipe(way).loses = count),
            Op::Stall { t, way, ms } => {
                let until = until(ms);
                self.with_conn(t, |conn| {
                    let pipe = conn.pipe(way);
                    pipe.busy_until = pipe.busy_until.max(until);
                })
            }
            Op::Slow { t, ms } => {
                let until = until(30_000);
                self.tenant(t).slow = (until, Duration::from_millis(ms.into()));
                true
            }
            Op::ApiDown { ms } => {
                self.api_down_until = until(ms);
                for kind in 0..KINDS.len() {
                    self.break_watch(kind, ms);
                }
                true
            }
            Op::ApiSlow { ms } => {
                self.api_slow = (until(20_000), Duration::from_millis(ms.into()));
                true
            }
            Op::FailWrites { count } => {
                self.fail_writes = count;
                true
            }
            Op::LoseReplies { count } => {
                self.lose_replies = count;
                true
            }
            Op::WatchLag { ms } => {
                self.watch_lag = (until(20_000), Duration::from_millis(ms.into()));
                true
            }
            Op::WatchBreak { kind, ms } => {
                self.break_watch(watch_index(kind), ms);
                true
            }
            Op::Vandal { t, k, kind } => self.vandalize(t, k, kind),
            Op::Drift { t, k } => {
                let id = self.id(t, k);
                let found = self.management.objects.contains_key(&id);
                if found {
                    let now = self.now;
                    self.management.drift(&id, now);
                    self.dirty = true;
                }
                found
            }
            Op::AllocatorDown { ms } => {
                self.allocator_down_until = until(ms);
                true
            }
            Op::AllocatorAmnesia => {
                let now = self.now;
                for id in self.management.forget_allocations(now) {
                    self.ledger.tampered(&id);
                }
                self.dirty = true;
                true
            }
            Op::ReleaseHeld { t } => {
                self.release(t);
                true
            }
            Op::Quota { .. }
            | Op::DeleteTenant { .. }
            | Op::LoseTenant { .. }
            | Op::CreateTenant { .. }
            | Op::ConfirmDeletion { .. } => self.operate(op),
        }
    }

    pub(crate) fn tenant(&mut self, t: u8) -> &mut crate::world::Tenant {
        &mut self.tenants[usize::from(t)]
    }

    pub(crate) fn id(&self, t: u8, k: u8) -> Id {
        Id::new(self.tenants[usize::from(t)].name.clone(), service_key(k))
    }

    fn apply(&mut self, t: u8, k: u8, version: Version) -> bool {
        let tenant = self.tenant(t);
        let known = tenant.cluster.services.get(&k);
        let service = match known {
            Some(known) if known.deleting || known.version == version => return false,
            Some(known) => TenantService {
                version,
                ..known.clone()
            },
            None => {
                tenant.next_uid += 1;
                TenantService {
                    uid: tenant.next_uid,
                    version,
                    deleting: false,
                    finalizer: false,
                    view: Vec::new(),
                    programmed: false,
                }
            }
        };
        tenant.cluster.services.insert(k, service);
        self.know(t, k);
        self.service_changed(t, k);
        true
    }

    /// The judge learns what the true cluster has.
    fn know(&mut self, t: u8, k: u8) {
        let cluster = &self.tenants[usize::from(t)].cluster;
        let there = cluster.has(k);
        let version = cluster.services.get(&k).map(|it| (it.uid, it.version));
        self.ledger.truth(t, k, there, self.now);
        if let Some((uid, version)) = version {
            let generation = generation_of(&service_body(uid, version));
            self.ledger.born(t, k, uid, generation);
        }
    }

    fn delete(&mut self, t: u8, k: u8) -> bool {
        let Some(service) = self.tenant(t).cluster.services.get_mut(&k) else {
            return false;
        };
        if service.deleting {
            return false;
        }
        if !service.finalizer {
            return self.force_delete(t, k);
        }
        service.deleting = true;
        self.know(t, k);
        self.service_changed(t, k);
        true
    }

    fn force_delete(&mut self, t: u8, k: u8) -> bool {
        if self.tenant(t).cluster.services.remove(&k).is_none() {
            return false;
        }
        self.know(t, k);
        self.service_gone(t, k);
        true
    }

    /// The agents that see the tenant's true cluster as it changes.
    fn watchers(&self, t: u8) -> Vec<AgentId> {
        if self.tenants[usize::from(t)].swapped {
            return Vec::new();
        }
        self.agents
            .iter()
            .filter(|(_, agent)| agent.tenant == t && !agent.impostor && agent.reading)
            .map(|(id, _)| *id)
            .collect()
    }

    fn service_changed(&mut self, t: u8, k: u8) {
        let Some(service) = self.tenants[usize::from(t)]
            .cluster
            .services
            .get(&k)
            .cloned()
        else {
            return;
        };
        for id in self.watchers(t) {
            if let Some(agent) = self.agents.get_mut(&id) {
                let removed = agent.apply(k, &service);
                self.saw(t, removed);
                self.write_status(t, id, k);
            }
        }
    }

    /// The agents that look see a Service go.
    pub(crate) fn service_gone(&mut self, t: u8, k: u8) {
        for id in self.watchers(t) {
            if let Some(agent) = self.agents.get_mut(&id) {
                let removed = agent.gone(k);
                self.saw(t, removed);
            }
        }
    }

    fn saw(&mut self, t: u8, removed: impl IntoIterator<Item = Removed>) {
        for Removed { k, uid } in removed {
            self.ledger.removed(t, k, uid);
        }
    }

    fn write_status(&mut self, t: u8, id: AgentId, k: u8) {
        let tenant = &mut self.tenants[usize::from(t)];
        let Some(agent) = self.agents.get(&id) else {
            return;
        };
        if agent.write(&mut tenant.cluster, k) {
            self.know(t, k);
            self.service_gone(t, k);
        }
    }

    fn node(&mut self, t: u8, n: u8, is_there: bool) -> bool {
        let nodes = &mut self.tenant(t).cluster.nodes;
        let changed = if is_there {
            nodes.insert(n)
        } else {
            nodes.remove(&n)
        };
        for id in self.watchers(t) {
            if let Some(agent) = self.agents.get_mut(&id) {
                agent.node(n, is_there);
            }
        }
        changed
    }

    fn restore(&mut self, t: u8) -> bool {
        let tenant = self.tenant(t);
        let mut old = tenant.backup.clone();
        // The machines are what they are, whatever the backup says.
        old.nodes.clone_from(&tenant.cluster.nodes);
        old.uid.clone_from(&tenant.cluster.uid);
        tenant.cluster = old;
        for k in 0..KEYS {
            self.know(t, k);
            let service = self.tenant(t).cluster.services.get(&k);
            if let Some(uid) = service.filter(|it| it.deleting).map(|it| it.uid) {
                // The cluster says that it is being deleted, whatever came after the backup.
                self.ledger.removed(t, k, uid);
            }
        }
        let soon = self.now + Self::some(&mut self.net, 50, 3_000);
        self.lose_source(t, soon);
        true
    }

    fn swap(&mut self, t: u8, away: bool) -> bool {
        let tenant = self.tenant(t);
        if tenant.swapped == away {
            return false;
        }
        tenant.swapped = away;
        if away && tenant.other.services.is_empty() {
            fill(&mut tenant.other, 1_000);
        }
        let soon = self.now + Self::some(&mut self.net, 50, 3_000);
        self.lose_source(t, soon);
        true
    }

    /// The operator clears `status.clusterUID`, and the cluster that is there now is bound.
    fn rebind(&mut self, t: u8) -> bool {
        let tenant = self.tenant(t);
        if !tenant.swapped {
            return false;
        }
        let mut other = std::mem::replace(&mut tenant.other, Cluster::new(String::new()));
        // The next cluster in its place is again another one.
        let number: u32 = other
            .uid
            .rsplit('-')
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
        tenant.other = Cluster::new(format!("{}-other-{}", tenant.name, number + 1));
        std::mem::swap(&mut tenant.cluster, &mut other);
        tenant.backup = Cluster::new(tenant.cluster.uid.clone());
        tenant.bound.clone_from(&tenant.cluster.uid);
        tenant.swapped = false;
        tenant.next_uid += 2_000;
        for k in 0..KEYS {
            self.ledger.truth(t, k, false, self.now);
            self.know(t, k);
        }
        let impostors: Vec<AgentId> = self
            .agents
            .iter()
            .filter(|(_, agent)| agent.tenant == t && agent.impostor)
            .map(|(id, _)| *id)
            .collect();
        for id in impostors {
            self.stop_agent(id, false);
        }
        self.change_tenant(t, |_| true);
        // Whatever it has seen of it so far was not seen as the tenant's.
        let soon = self.now + Duration::from_millis(100);
        self.lose_source(t, soon);
        true
    }

    fn lose_source(&mut self, t: u8, until: Instant) {
        let tenant = self.tenant(t);
        tenant.source_down_until = tenant.source_down_until.max(until);
        let until = tenant.source_down_until;
        for agent in self.agents.values_mut() {
            if agent.tenant == t && !agent.impostor {
                agent.lost_source(self.mutation);
            }
        }
        self.at(until, Event::SourceBack(t));
    }

    pub(crate) fn source_back(&mut self, t: u8) {
        if self.now < self.tenants[usize::from(t)].source_down_until {
            return;
        }
        let ids: Vec<AgentId> = self
            .agents
            .iter()
            .filter(|(_, agent)| agent.tenant == t && !agent.impostor && !agent.reading)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let delay = Self::some(&mut self.net, 5, 200);
            self.after(delay, Event::Relist(id));
        }
    }

    pub(crate) fn relist(&mut self, id: AgentId) {
        let Some(agent) = self.agents.get(&id) else {
            return;
        };
        let (t, impostor) = (agent.tenant, agent.impostor);
        if !impostor && self.now < self.tenants[usize::from(t)].source_down_until {
            return;
        }
        let cluster = self.readable(t, impostor).clone();
        let is_true = !impostor && !self.tenants[usize::from(t)].swapped;
        let mutation = self.mutation;
        let Some(agent) = self.agents.get_mut(&id) else {
            return;
        };
        let (removed, redial) = agent.relist(&cluster, mutation);
        let known = agent.known();
        if is_true {
            self.saw(t, removed);
            for k in known {
                self.write_status(t, id, k);
            }
        }
        if redial {
            self.stats.effect("agent found another cluster");
            self.close_agent_end(id);
            self.at(self.now, Event::Dial(id));
        }
    }

    fn with_conn(&mut self, t: u8, change: impl FnOnce(&mut Conn)) -> bool {
        let id = self.tenants[usize::from(t)].agent;
        let number = self.agents.get(&id).and_then(|agent| agent.conn);
        let Some(conn) = number.and_then(|number| self.conns.get_mut(&number)) else {
            return false;
        };
        change(conn);
        true
    }

    fn break_watch(&mut self, kind: usize, ms: u32) {
        let Some(hub) = &mut self.hub else {
            return;
        };
        if !hub.watching[kind] {
            return;
        }
        hub.watching[kind] = false;
        let epoch = hub.epoch;
        self.after(
            Duration::from_millis(ms.into()),
            Event::ListRead(epoch, kind),
        );
    }

    fn vandalize(&mut self, t: u8, k: u8, kind: Kind) -> bool {
        let id = self.id(t, k);
        let Some(objects) = self.management.objects.get(&id) else {
            return false;
        };
        let before = objects.claims();
        self.ledger.regimes[usize::from(t)].excuse(k);
        self.management.vandalize(&id, slot(kind));
        let after = self.management.objects.get(&id);
        let safe = after.is_some_and(|objects| {
            let mut kept = objects.pinned();
            kept.extend(objects.recorded());
            before.is_subset(&kept)
        });
        if !safe {
            self.ledger.tampered(&id);
        }
        self.dirty = true;
        true
    }

    pub(crate) fn release(&mut self, t: u8) {
        self.ledger.released[usize::from(t)] = true;
        // The hub plans all of the tenant's again, for its object has changed.
        if let Some(hub) = &self.hub {
            let name = &self.tenants[usize::from(t)].name;
            for key in hub.cache.keys_of(name) {
                hub.queue().add(&Id::new(name.clone(), key));
            }
        }
    }
}

/// What another cluster has.
fn fill(cluster: &mut Cluster, uid: u64) {
    for n in 0..NODES {
        cluster.nodes.insert(n);
    }
    for k in 0..3 {
        cluster.services.insert(
            k,
            TenantService {
                uid: uid + u64::from(k),
                version: Version::Good(3),
                deleting: false,
                finalizer: false,
                view: Vec::new(),
                programmed: false,
            },
        );
    }
}
