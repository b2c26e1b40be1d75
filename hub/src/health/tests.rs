//! The fleet in virtual time, with generated histories of nodes and of the hub's own network.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use berth_common::identity::TenantName;
use proptest::prelude::*;

use super::{
    Mode, Policy, Verdicts,
    demand::Demand,
    fleet::{Fleet, Start},
    node::{Heard, Outcome, Probe},
};

const MS: Duration = Duration::from_millis(1);

fn tenant(name: &str) -> TenantName {
    TenantName::parse(name).unwrap()
}

fn ip(n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    IpAddr::from([10, 0, high, low])
}

fn ips(numbers: impl IntoIterator<Item = u16>) -> BTreeSet<IpAddr> {
    numbers.into_iter().map(ip).collect()
}

fn demand(addresses: BTreeSet<IpAddr>) -> Demand {
    Demand {
        policy: Policy::default(),
        addresses,
        ports: vec![30_000],
    }
}

/// A fleet, and a network in which each host answers as the closure says, at the time since the start.
struct World<F> {
    fleet: Fleet,
    start: Instant,
    now: Instant,
    under_way: BTreeMap<(Instant, u64), (Start, Instant, Outcome)>,
    random: fastrand::Rng,
    answer: F,
    asked: Vec<(Duration, IpAddr)>,
    told: Vec<(Duration, TenantName, Arc<Verdicts>)>,
}

impl<F: FnMut(IpAddr, Probe, Duration) -> Outcome> World<F> {
    fn new(seed: u64, answer: F) -> Self {
        let start = Instant::now();
        Self {
            fleet: Fleet::default(),
            start,
            now: start,
            under_way: BTreeMap::new(),
            random: fastrand::Rng::with_seed(seed),
            answer,
            asked: Vec::new(),
            told: Vec::new(),
        }
    }

    fn want(&mut self, name: &str, demand: Option<Demand>) {
        let random = &mut self.random;
        self.fleet
            .demand(&tenant(name), demand, self.now, || random.f64());
    }

    fn run_until(&mut self, end: Duration) {
        let end = self.start + end;
        loop {
            while let Some(start) = self.fleet.start(self.now) {
                let at = self.now - self.start;
                let outcome = (self.answer)(start.address, start.probe, at);
                let took = if outcome == Outcome::Silent {
                    start.timeout
                } else {
                    MS
                };
                self.asked.push((at, start.address));
                self.under_way
                    .insert((self.now + took, start.id), (start, self.now, outcome));
            }
            for (tenant, verdicts) in self.fleet.tell(self.now) {
                self.told.push((self.now - self.start, tenant, verdicts));
            }
            let next = self.under_way.keys().next().map(|(at, _)| *at);
            let next = next.into_iter().chain(self.fleet.due()).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            assert!(next >= self.now, "time goes on");
            self.now = next;
            while let Some((key, (start, began, outcome))) = self.under_way.pop_first() {
                if key.0 > self.now {
                    self.under_way.insert(key, (start, began, outcome));
                    break;
                }
                let heard = Heard {
                    probe: start.probe,
                    outcome,
                    began,
                    now: self.now,
                };
                self.fleet.heard(start.id, heard, self.random.f64());
            }
        }
    }

    /// What was told last until then.
    fn verdicts(&self, at: Duration) -> Verdicts {
        let told = self.told.iter().rev().find(|(when, ..)| *when <= at);
        told.map_or_else(Verdicts::default, |(.., verdicts)| (**verdicts).clone())
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Requests succeed again after three seconds, of which kube-proxy may take one and the writes their part: a node whose link
    /// is cut is told within 1.9 s, wherever in the interval that happens, and also where several are cut at once.
    #[test]
    fn point_26_a_dead_node_is_told_within_the_bound(
        seed: u64, nodes in 2_u16..40, dead in 1_u16..20, cut in 10.0..12.0_f64,
    ) {
        let dead = dead.min(nodes - 1);
        let mut world = World::new(seed, |address, _, at| {
            let is_dead = address < ip(dead) && at >= seconds(cut);
            if is_dead { Outcome::Silent } else { Outcome::Good }
        });
        world.want("acme", Some(demand(ips(0..nodes))));
        world.run_until(seconds(20.0));
        let before = world.verdicts(seconds(cut));
        prop_assert!(before.failing.is_empty() && before.good.len() == usize::from(nodes));
        // One by itself is told as soon as it is found; of many the last may wait for the next telling.
        let bound = if dead == 1 { 1.9 } else { 2.3 };
        let verdicts = world.verdicts(seconds(cut + bound));
        prop_assert_eq!(verdicts.failing, ips(0..dead), "told: {:?}", world.told);
        prop_assert_eq!(verdicts.good, ips(dead..nodes));
    }

    /// A node that was dead before the hub asked it for the first time leaves too.
    #[test]
    fn point_26_a_node_dead_from_the_start_is_told(seed: u64, nodes in 2_u16..40) {
        let mut world = World::new(seed, |address, _, _| {
            if address == ip(0) { Outcome::Silent } else { Outcome::Good }
        });
        world.want("acme", Some(demand(ips(0..nodes))));
        world.run_until(seconds(3.0));
        prop_assert_eq!(world.verdicts(seconds(3.0)).failing, ips([0]));
    }

    /// When the hub cannot be heard, nodes fall silent one after the other; none of them is blamed for it, and when all
    /// are silent, all serve.
    #[test]
    fn point_26_the_hubs_own_outage_takes_nobody_out(
        seed: u64, nodes in 1_u16..40, cut in 5.0..7.0_f64, lasts in 0.1..20.0_f64,
    ) {
        let mut world = World::new(seed, |_, _, at| {
            let out = at >= seconds(cut) && at < seconds(cut + lasts);
            if out { Outcome::Silent } else { Outcome::Good }
        });
        world.want("acme", Some(demand(ips(0..nodes))));
        world.run_until(seconds(cut + lasts));
        for (at, _, verdicts) in &world.told {
            let failing = verdicts.failing.len();
            prop_assert!(failing == 0 || failing == usize::from(nodes), "{at:?}: {verdicts:?}");
        }
        world.run_until(seconds(cut + lasts + 5.0));
        let after = world.verdicts(seconds(cut + lasts + 5.0));
        prop_assert!(after.failing.is_empty(), "{after:?}");
    }

    /// Whatever happens: those told to fail have been silent or have said so, somebody else answers unless all fail, and
    /// when it is over, everybody is good again.
    #[test]
    fn every_history_ends_well(
        seed: u64,
        nodes in 1_u16..6,
        spans in prop::collection::vec((0_u16..6, 0_u8..5, 0.0..30.0_f64, 0.0..10.0_f64), 0..20),
    ) {
        let mut world = World::new(seed, |address, probe, at| {
            let span = spans.iter().find(|(node, _, from, lasts)| {
                ip(*node) == address && at >= seconds(*from) && at < seconds(from + lasts)
            });
            match (span.map(|(_, kind, ..)| *kind), probe) {
                (Some(0), _) => Outcome::Silent,
                (Some(1), Probe::Healthz(_)) => Outcome::Draining,
                (Some(2), Probe::Healthz(_)) | (Some(3), Probe::Connect(_)) => Outcome::Silent,
                (Some(4), Probe::Healthz(_)) => Outcome::Refused,
                _ => Outcome::Good,
            }
        });
        world.want("acme", Some(demand(ips(0..nodes))));
        world.run_until(seconds(120.0));
        let troubled = ips(spans.iter().map(|(node, ..)| *node));
        for (_, _, verdicts) in &world.told {
            prop_assert!(verdicts.failing.is_subset(&troubled));
            prop_assert!(verdicts.failing.is_disjoint(&verdicts.good));
        }
        prop_assert_eq!(world.verdicts(seconds(120.0)).good, ips(0..nodes));
    }
}

#[test]
fn point_27_a_hundred_flapping_nodes_are_told_once_a_second() {
    let mut world = World::new(7, |address, _, at| {
        let IpAddr::V4(v4) = address else {
            panic!("{address}")
        };
        let phase = u64::from(v4.octets()[3]) * 30;
        let up = ((at.as_millis() as u64 + phase) / 1_500).is_multiple_of(2);
        if up || v4.octets()[3] >= 100 {
            Outcome::Good
        } else {
            Outcome::Silent
        }
    });
    world.want("acme", Some(demand(ips(0..103))));
    world.run_until(seconds(60.0));
    let told = world.told.len();
    assert!((3..=63).contains(&told), "{told} tellings in a minute");
}

#[test]
fn the_cost_of_many_nodes_is_bounded_and_one_tenant_slows_down_itself() {
    let mut world = World::new(1, |_, _, _| Outcome::Good);
    world.want("big", Some(demand(ips(0..5_000))));
    world.want("small", Some(demand(ips(60_000..60_003))));
    world.run_until(seconds(20.0));
    let asked = |from: u16, to: u16| {
        let late = |(at, address): &&(Duration, IpAddr)| {
            *at >= seconds(10.0) && (ip(from)..ip(to)).contains(address)
        };
        world.asked.iter().filter(late).count()
    };
    assert!(
        (9_000..=11_000).contains(&asked(0, 5_000)),
        "1,000 a second"
    );
    // 5,003 addresses at 4,000 a second are asked every 1.25 s.
    let small = asked(60_000, 60_003);
    assert!((21..=30).contains(&small), "{small}");
}

#[test]
fn probes_under_way_are_bounded_and_do_not_get_lost() {
    let mut world = World::new(1, |address, _, _| {
        if address < ip(900) {
            Outcome::Silent
        } else {
            Outcome::Good
        }
    });
    world.want("acme", Some(demand(ips(0..1_000))));
    let mut most = 0;
    for step in 0..2_000_u32 {
        world.run_until(MS * 10 * step);
        most = most.max(world.under_way.len());
        // Nodes go and come back while they are asked.
        if step % 50 == 0 {
            let first = u16::try_from(step / 50 % 2).unwrap() * 500;
            world.want("acme", Some(demand(ips(first..1_000))));
        }
    }
    assert!((200..=256 + 500).contains(&most), "{most}");
    world.want("acme", Some(demand(ips(0..1_000))));
    world.run_until(seconds(40.0));
    assert_eq!(world.verdicts(seconds(40.0)).failing, ips(0..900));
    world.want("acme", None);
    let asked = world.asked.len();
    world.run_until(seconds(50.0));
    assert_eq!((world.asked.len(), world.fleet.due()), (asked, None));
}

#[test]
fn a_family_that_the_hub_cannot_reach_counts_as_healthy() {
    let v6: IpAddr = "2001:db8::1".parse().unwrap();
    let mut world = World::new(1, |address, _, _| {
        if address.is_ipv6() {
            Outcome::NoRoute
        } else {
            Outcome::Good
        }
    });
    let all = BTreeSet::from([ip(1), v6]);
    world.want("acme", Some(demand(all.clone())));
    world.run_until(seconds(5.0));
    assert_eq!(world.verdicts(seconds(5.0)).good, all);
}

#[test]
fn a_node_that_routers_cannot_find_fails_beside_one_that_they_can() {
    let mut world = World::new(1, |address, _, _| {
        if address == ip(1) {
            Outcome::NoRoute
        } else {
            Outcome::Good
        }
    });
    world.want("acme", Some(demand(ips([1, 2]))));
    world.run_until(seconds(5.0));
    assert_eq!(world.verdicts(seconds(5.0)).failing, ips([1]));
}

#[test]
fn a_changed_policy_judges_anew_and_none_ends_the_probes() {
    let mut world = World::new(1, |_, _, _| Outcome::Good);
    world.want("acme", Some(demand(ips([1, 2]))));
    world.run_until(seconds(3.0));
    let mut other = demand(ips([1, 2]));
    other.policy.mode = Mode::NodePort;
    world.want("acme", Some(other.clone()));
    world.run_until(seconds(6.0));
    assert_eq!(world.verdicts(seconds(6.0)).good, ips([1, 2]));
    other.policy.mode = Mode::None;
    world.want("acme", Some(other));
    assert_eq!(
        (world.fleet.probed(&tenant("acme")), world.fleet.due()),
        (0, None)
    );
}
