//! The simulated world: virtual time, everything in it, and what happens next. Each event is one step, and after each the
//! invariants are checked. Nothing here reads a clock or waits.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use berth_common::{backoff::Cause, identity::TenantName, model::Generation};
use berth_hub::{
    objects::{Id, Kind},
    observe::Object,
    plan::{Plan, Write},
};
use berth_wire::v1;
use fastrand::Rng;

use crate::{
    agent::{Agent, AgentId, ConnId},
    cluster::Cluster,
    departures::Step,
    hub::Hub,
    ledger::{LIVENESS, Ledger, Violation, broken},
    management::{Management, Reply, Report},
    mutation::Mutation,
    net::Conn,
    op::{KEYS, Op, Schedule, Way},
    runner::Case,
    stats::Stats,
    tenants::TenantObject,
};

/// The kinds of managed object, in the order of the watches.
pub(crate) const KINDS: [Kind; 3] = [Kind::Service, Kind::EndpointSlice, Kind::LoadBalancer];
/// So many events without an end are a storm.
const MAX_STEPS: u64 = 60_000;

/// Something that happens at a moment.
pub(crate) enum Event {
    Op(Op),
    Dial(AgentId),
    Up(ConnId, Box<v1::AgentMessage>),
    UpEnd(ConnId),
    Down(ConnId, Box<v1::HubMessage>),
    DownEnd(ConnId, Cause),
    Relist(AgentId),
    SourceBack(u8),
    StartAgent(u8),
    StopAgent(AgentId),
    StartHub,
    ListRead(u32, usize),
    Listed(u32, usize, Instant, Vec<(Id, Object)>),
    Report(u32, Id, Report),
    Planned(u32, Id, Box<Plan>, Option<Generation>),
    Land(u32, Id, Box<Write>, Option<Generation>),
    Reply(u32, Id, Reply, Option<Generation>),
    Allocate(Id),
    Finalize(Id, u64),
    TenantIs(u32, u8, Option<TenantObject>),
    Admit(u32, u8, bool),
    Departs(u32, u8, u64, Step),
}

/// A tenant.
pub(crate) struct Tenant {
    pub(crate) name: TenantName,
    /// The operator's word.
    pub(crate) object: Option<TenantObject>,
    /// What is true.
    pub(crate) cluster: Cluster,
    /// Another cluster, and whether it answers in place of the true one.
    pub(crate) other: Cluster,
    pub(crate) swapped: bool,
    pub(crate) backup: Cluster,
    /// Its API server cannot be reached before this.
    pub(crate) source_down_until: Instant,
    /// The cluster UID in the `Tenant` object's status.
    pub(crate) bound: String,
    pub(crate) agent: AgentId,
    pub(crate) next_uid: u64,
    /// Its agent's connection is cut behind so many messages more.
    pub(crate) cut_behind: Option<u8>,
    pub(crate) slow: (Instant, Duration),
}

/// See the module.
pub(crate) struct World {
    base: Instant,
    pub(crate) now: Instant,
    queue: BTreeMap<(Instant, u64), Event>,
    sequence: u64,
    pub(crate) net: Rng,
    pub(crate) api: Rng,
    pub(crate) operators: Rng,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) tenants: Vec<Tenant>,
    /// The newest version of any Tenant object.
    pub(crate) tenant_version: u64,
    pub(crate) agents: BTreeMap<AgentId, Agent>,
    pub(crate) next_agent: AgentId,
    pub(crate) conns: BTreeMap<ConnId, Conn>,
    pub(crate) next_conn: ConnId,
    pub(crate) hub: Option<Hub>,
    pub(crate) epoch: u32,
    pub(crate) management: Management,
    pub(crate) ledger: Ledger,
    pub(crate) stats: Stats,
    /// Faults of the management side, until when or how many.
    pub(crate) api_down_until: Instant,
    pub(crate) api_slow: (Instant, Duration),
    pub(crate) watch_lag: (Instant, Duration),
    pub(crate) fail_writes: u8,
    pub(crate) lose_replies: u8,
    pub(crate) allocator_down_until: Instant,
    /// Per tenant, the connection and number of the newest session that was welcomed by this hub.
    pub(crate) newest: BTreeMap<u8, (ConnId, u64)>,
    /// Services whose finalizer went in this step.
    pub(crate) seen_gone: Vec<(u8, u8)>,
    /// An agent that was asked to leave in this step, and when it comes back.
    pub(crate) drained: Option<(AgentId, Duration)>,
    /// Messages that carry more than a sign of life.
    pub(crate) words: u64,
    /// What a write broke.
    pub(crate) broken: Option<Violation>,
    /// Something that the invariants speak of has changed.
    pub(crate) dirty: bool,
    pub(crate) trace: Option<Vec<String>>,
}

impl World {
    /// The world before anything has happened. `base` is only a point to count from.
    pub(crate) fn new(schedule: &Schedule, case: Case, base: Instant) -> Self {
        // The work queue's retries are jittered from the thread's own source.
        fastrand::seed(schedule.seed);
        let name = |t: u8| {
            #[allow(clippy::expect_used, reason = "the three are names")]
            TenantName::parse(["acme", "bolt", "core"][usize::from(t)]).expect("a name")
        };
        let names: Vec<TenantName> = (0..schedule.tenants).map(name).collect();
        let tenants = names.iter().map(|name| {
            let cluster = Cluster::new(format!("{name}-cluster"));
            Tenant {
                name: name.clone(),
                object: Some(TenantObject::new(0, 0)),
                backup: cluster.clone(),
                bound: cluster.uid.clone(),
                other: Cluster::new(format!("{name}-other-1")),
                cluster,
                swapped: false,
                source_down_until: base,
                agent: 0,
                next_uid: 1,
                cut_behind: None,
                slow: (base, Duration::ZERO),
            }
        });
        let tenants: Vec<Tenant> = tenants.collect();
        let pool = schedule.tenants * KEYS + 3;
        let mut world = Self {
            base,
            now: base,
            queue: BTreeMap::new(),
            sequence: 0,
            net: Rng::with_seed(schedule.seed ^ 1),
            api: Rng::with_seed(schedule.seed ^ 2),
            operators: Rng::with_seed(schedule.seed ^ 4),
            tenant_version: 0,
            mutation: case.mutation,
            agents: BTreeMap::new(),
            next_agent: 1,
            conns: BTreeMap::new(),
            next_conn: 1,
            hub: None,
            epoch: 0,
            management: Management::new(pool, schedule.slow_deletion),
            ledger: Ledger::new(names),
            stats: Stats::default(),
            api_down_until: base,
            api_slow: (base, Duration::ZERO),
            watch_lag: (base, Duration::ZERO),
            fail_writes: 0,
            lose_replies: 0,
            allocator_down_until: base,
            newest: BTreeMap::new(),
            seen_gone: Vec::new(),
            drained: None,
            words: 0,
            broken: None,
            dirty: false,
            trace: None,
            tenants,
        };
        world.at(world.now, Event::StartHub);
        for t in 0..schedule.tenants {
            world.at(world.now, Event::StartAgent(t));
        }
        let mut when = base;
        for (after, op) in &schedule.ops {
            when += *after;
            world.at(when, Event::Op(*op));
        }
        world
    }

    /// Virtual time since the beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.base
    }

    pub(crate) fn at(&mut self, when: Instant, event: Event) {
        self.sequence += 1;
        self.queue.insert((when, self.sequence), event);
    }

    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(crate) fn note(&mut self, text: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>9.3} {}", self.elapsed().as_secs_f64(), text(self));
            self.trace.get_or_insert_default().push(line);
        }
    }

    /// Whether ops are still to come.
    pub(crate) fn has_ops(&self) -> bool {
        self.queue
            .values()
            .any(|event| matches!(event, Event::Op(_)))
    }

    /// Whether anybody is still at work on the management side.
    pub(crate) fn has_writes(&self) -> bool {
        self.queue.values().any(|event| {
            matches!(
                event,
                Event::Planned(..)
                    | Event::Land(..)
                    | Event::Reply(..)
                    | Event::Report(..)
                    | Event::Listed(..)
                    | Event::Allocate(_)
                    | Event::TenantIs(..)
                    | Event::Admit(..)
                    | Event::Departs(..)
            )
        })
    }

    /// Takes the writes of a dead process that are still on their way.
    pub(crate) fn take_writes(&mut self) -> Vec<(Id, Box<Write>)> {
        let keys: Vec<(Instant, u64)> = self
            .queue
            .iter()
            .filter(|(_, event)| matches!(event, Event::Land(..)))
            .map(|(key, _)| *key)
            .collect();
        keys.into_iter()
            .filter_map(|key| match self.queue.remove(&key) {
                Some(Event::Land(_, id, write, _)) => Some((id, write)),
                _ => None,
            })
            .collect()
    }

    /// Lets time pass until `end`, step by step.
    pub(crate) fn run_until(&mut self, end: Instant) -> Result<(), Violation> {
        loop {
            let deadline = self.pump()?;
            self.check()?;
            let first = self.queue.first_key_value().map(|((at, _), _)| *at);
            let next = [first, deadline].into_iter().flatten().min();
            match next {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => {
                    self.now = end;
                    return Ok(());
                }
            }
            if first == next
                && let Some((_, event)) = self.queue.pop_first()
            {
                self.step(event)?;
            }
        }
    }

    fn step(&mut self, event: Event) -> Result<(), Violation> {
        self.stats.steps += 1;
        if self.stats.steps > MAX_STEPS {
            return Err(broken(
                LIVENESS,
                format!("{MAX_STEPS} steps and no end: somebody repeats himself"),
            ));
        }
        match event {
            Event::Op(op) => self.happen(op),
            Event::Dial(agent) => self.dial(agent),
            Event::Up(conn, message) => self.arrive_up(conn, *message)?,
            Event::UpEnd(conn) => self.end_up(conn)?,
            Event::Down(conn, message) => self.arrive_down(conn, *message)?,
            Event::DownEnd(conn, cause) => self.end_down(conn, cause),
            Event::Relist(agent) => self.relist(agent),
            Event::SourceBack(t) => self.source_back(t),
            Event::StartAgent(t) => self.start_agent(t),
            Event::StopAgent(agent) => self.stop_agent(agent, false),
            Event::StartHub => self.start_hub(),
            Event::ListRead(epoch, kind) => self.read_list(epoch, kind),
            Event::Listed(epoch, kind, started, objects) => {
                self.listed(epoch, kind, started, objects);
            }
            Event::Report(epoch, id, report) => self.report(epoch, &id, report),
            Event::Planned(epoch, id, plan, generation) => {
                self.carry_out(epoch, id, *plan, generation)?;
            }
            Event::Land(epoch, id, write, generation) => self.land(epoch, id, &write, generation),
            Event::Reply(epoch, id, reply, generation) => {
                self.replied(epoch, id, reply, generation)?;
            }
            Event::Allocate(id) => self.allocate(&id),
            Event::Finalize(id, uid) => {
                self.management.finalized(&id, uid);
                self.dirty = true;
            }
            Event::TenantIs(epoch, t, object) => self.tenant_is(epoch, t, object)?,
            Event::Admit(epoch, t, replan) => self.admit(epoch, t, replan),
            Event::Departs(epoch, t, version, step) => self.departs(epoch, t, version, step),
        }
        Ok(())
    }

    /// Everybody who has something to say or to do does so. Returns when somebody will have next, although nothing happens.
    fn pump(&mut self) -> Result<Option<Instant>, Violation> {
        let mut next: Option<Instant> = None;
        for due in [
            self.pump_agents()?,
            self.pump_seats()?,
            self.pump_planned(),
            // Before the executor, which plans for those that are let go.
            self.pump_parking()?,
            self.pump_executor()?,
            self.pump_departures(),
        ] {
            next = [next, due].into_iter().flatten().min();
        }
        self.pump_management();
        match next {
            Some(at) if at <= self.now => Err(broken(
                LIVENESS,
                format!(
                    "something is due since {:?}, and nothing is done about it",
                    self.now - at
                ),
            )),
            next => Ok(next),
        }
    }

    fn check(&mut self) -> Result<(), Violation> {
        if let Some(violation) = self.broken.take() {
            return Err(violation);
        }
        if std::mem::take(&mut self.dirty) {
            self.stats.checks += 1;
            self.ledger.check(&self.management)?;
        }
        Ok(())
    }

    /// Some time between the two.
    pub(crate) fn some(rng: &mut Rng, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_micros(rng.u64(least_ms * 1_000..=most_ms * 1_000))
    }
}

impl World {
    /// What is on its way up a connection arrives at `when`, in the same order.
    pub(crate) fn postpone_up(&mut self, number: ConnId, when: Instant) {
        for event in self.take_up(number) {
            self.at(when, event);
        }
    }

    /// When the last of what is on its way arrives, by connection and direction.
    pub(crate) fn arrivals(&self) -> BTreeMap<(ConnId, Way), Instant> {
        let arrival = |((at, _), event): (&(Instant, u64), &Event)| match event {
            Event::Up(number, _) => Some(((*number, Way::Up), *at)),
            Event::Down(number, _) => Some(((*number, Way::Down), *at)),
            _ => None,
        };
        // In order: of each pipe the last one stays.
        self.queue.iter().filter_map(arrival).collect()
    }

    /// What is on its way up a connection is lost.
    pub(crate) fn drop_up(&mut self, number: ConnId) {
        self.take_up(number);
    }

    fn take_up(&mut self, number: ConnId) -> Vec<Event> {
        let keys: Vec<(Instant, u64)> = self
            .queue
            .iter()
            .filter(|(_, event)| matches!(event, Event::Up(it, _) if *it == number))
            .map(|(key, _)| *key)
            .collect();
        keys.into_iter()
            .filter_map(|key| self.queue.remove(&key))
            .collect()
    }
}
