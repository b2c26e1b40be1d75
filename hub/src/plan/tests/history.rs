//! Random histories: whatever happens, and in whatever order, once it stops the plan comes to rest, and what must never
//! happen has not.

use proptest::prelude::*;

use super::*;
use crate::objects::KEPT;

/// Something that happens between two rounds of planning.
#[derive(Clone, Debug)]
enum Event {
    Wants(Service),
    Unreadable,
    Nodes(u8),
    /// Which nodes answer, and which do not, bit by bit; none of both is not judged.
    Health(Option<(u8, u8)>),
    Deletes,
    GoesAbsent,
    LosesSync,
    TenantDeleted,
    NoTenant,
    Waits(u64),
    Allocates(u8),
    AllocatorForgets,
    Drifts(u8),
    VanishesService,
    VanishesSlices,
    VanishesRecord,
    Releases,
}

fn services() -> impl Strategy<Value = Service> {
    let port = (
        0_u8..4,
        1_u16..4,
        prop::option::weighted(0.9, 31_000_u16..31_003),
        0_u8..12,
    );
    let ports = prop::collection::btree_map((1_u16..4, any::<bool>()), port, 1..3);
    (ports, 0_u8..8, prop::option::of(1_u32..3), any::<bool>()).prop_map(
        |(ports, families, affinity_seconds, local)| {
            let ports = ports.into_iter().enumerate().map(
                |(index, ((number, udp), (_, _, node_port, odd)))| Port {
                    name: format!("p{index}"),
                    protocol: match (odd, udp) {
                        (0, _) => Protocol::Sctp,
                        (_, true) => Protocol::Udp,
                        (_, false) => Protocol::Tcp,
                    },
                    port: number,
                    node_port,
                    app_protocol: None,
                },
            );
            let (families, require_dual_stack) = match families {
                0 => (vec![IpFamily::V6], false),
                1 => (vec![IpFamily::V4, IpFamily::V6], false),
                2 => (vec![IpFamily::V4, IpFamily::V6], true),
                _ => (vec![IpFamily::V4], false),
            };
            Service {
                ports: ports.collect(),
                families,
                require_dual_stack,
                affinity_seconds,
                traffic_policy: if local {
                    TrafficPolicy::Local
                } else {
                    TrafficPolicy::Cluster
                },
                local_nodes: BTreeSet::from([NodeName("n1".into())]),
                ..service()
            }
        },
    )
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => services().prop_map(Event::Wants),
        1 => Just(Event::Unreadable),
        2 => (0_u8..4).prop_map(Event::Nodes),
        3 => prop::option::weighted(0.9, (0_u8..16, 0_u8..16)).prop_map(Event::Health),
        1 => Just(Event::Deletes),
        1 => Just(Event::GoesAbsent),
        1 => Just(Event::LosesSync),
        1 => Just(Event::TenantDeleted),
        1 => Just(Event::NoTenant),
        2 => (0_u64..90).prop_map(Event::Waits),
        4 => (200_u8..250).prop_map(Event::Allocates),
        1 => Just(Event::AllocatorForgets),
        2 => (0_u8..4).prop_map(Event::Drifts),
        1 => Just(Event::VanishesService),
        1 => Just(Event::VanishesSlices),
        1 => Just(Event::VanishesRecord),
        1 => Just(Event::Releases),
    ]
}

fn node_list(count: u8) -> Arc<Nodes> {
    let node = |n: u8| {
        let addresses = [format!("10.10.2.{n}"), format!("2001:db8::{n}")];
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        (NodeName(format!("n{n}")), Node { addresses })
    };
    Arc::new((1..=count).map(node).collect())
}

/// What the tenant has come to want, and what it wanted first of a life of the load balancer.
struct World {
    model: Model,
    want: Want,
    generation: u64,
    nodes: Arc<Nodes>,
}

impl World {
    fn happen(&mut self, event: Event) {
        match event {
            Event::Wants(service) => {
                self.generation += 1;
                self.want = want(self.generation, service, self.nodes.clone());
            }
            Event::Unreadable => {
                self.generation += 1;
                let last = match &self.want {
                    Want::Present { service, .. } => Some(service.clone()),
                    Want::Unreadable { last, .. } => last.clone(),
                    _ => None,
                };
                self.want = unreadable(self.generation, last, self.nodes.clone());
            }
            Event::Nodes(count) => {
                self.nodes = node_list(count);
                if let Want::Present { nodes, .. } | Want::Unreadable { nodes, .. } = &mut self.want
                {
                    *nodes = self.nodes.clone();
                }
            }
            Event::Health(verdicts) => {
                let of = |bits: u8| {
                    let nodes = node_list(4);
                    let some = nodes
                        .values()
                        .enumerate()
                        .filter(|(n, _)| bits >> n & 1 == 1);
                    some.flat_map(|(_, node)| node.addresses.clone()).collect()
                };
                let verdicts = verdicts.map(|(good, failing)| Verdicts {
                    good: of(good & !failing),
                    failing: of(failing),
                });
                self.model.observed.health = verdicts.map(Arc::new);
            }
            Event::Deletes => self.want = Want::Deleted,
            Event::GoesAbsent => {
                self.want = Want::Absent {
                    since: self.model.now.instant,
                    held: false,
                };
            }
            Event::LosesSync => self.want = Want::Unknown,
            Event::TenantDeleted => self.want = Want::TenantDeleted,
            Event::NoTenant => self.want = Want::NoTenant,
            Event::Waits(seconds) => self.model.now.instant += Duration::from_secs(seconds),
            Event::Allocates(lowest) => self.model.allocate(lowest),
            Event::AllocatorForgets => self.model.change_service(|service| service.ingress.clear()),
            Event::Drifts(0) => self.model.change_service(|service| service.sound = false),
            Event::Drifts(1) => self
                .model
                .change_service(|service| service.foreign_fields = true),
            Event::Drifts(2) => self
                .model
                .change_service(|service| service.shape.steering.pin.clear()),
            Event::Drifts(_) => self
                .model
                .change_service(|service| service.shape.ports.clear()),
            Event::VanishesService => self.model.observed.service = None,
            Event::VanishesSlices => self.model.observed.slices.clear(),
            Event::VanishesRecord => self.model.lose_record(),
            Event::Releases => {
                let observed = &mut self.model.observed;
                observed.released = observed.is_cut() && observed.service.is_some();
            }
        }
    }

    /// Whether the tenant or an operator's time limit has said that it may go.
    fn may_delete(&self) -> bool {
        match &self.want {
            Want::Deleted | Want::TenantDeleted => true,
            Want::Absent { since, .. } => self.model.now.instant >= *since + ABSENCE_GRACE,
            Want::Present { .. } | Want::Unreadable { .. } | Want::Unknown | Want::NoTenant => {
                false
            }
        }
    }
}

fn is_marked(model: &Model) -> bool {
    let service = model.observed.service.as_ref();
    service.is_some_and(|seen| seen.object.shape.annotations.contains_key(KEPT))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn every_history_comes_to_rest_and_deletes_only_what_was_to_go(
        history in prop::collection::vec(events(), 1..25),
        retain in any::<bool>(),
    ) {
        let mut world = World {
            model: Model::new(id(), Policy { retain, ..policy() }),
            want: Want::Unknown,
            generation: 0,
            nodes: node_list(2),
        };
        for event in history {
            let before = world.model.writes.len();
            world.happen(event);
            let (rests, released) = (world.model.observed.rests(), world.model.observed.released);
            let addresses = world.model.ingress();
            let recorded = world.model.observed.record.is_some();
            let let_go = world.model.observed.is_cut() && is_marked(&world.model);
            world.model.settle(&world.want);
            prop_assert_eq!(world.model.plan(&world.want).actions, vec![], "rest");
            for action in &world.model.writes[before..] {
                let Write::Delete { kind, .. } = &action.write else { continue };
                let renewed = *kind == Kind::Service && action.reason.starts_with("the primary IP family");
                let unused = rests && matches!(world.want, Want::Absent { .. });
                if matches!(world.want, Want::NoTenant) {
                    prop_assert!(let_go && *kind == Kind::Service, "{action:?}");
                    continue;
                }
                prop_assert!(world.may_delete() || unused || renewed || *kind == Kind::EndpointSlice, "{action:?}");
                if matches!(world.want, Want::TenantDeleted) && !retain {
                    continue;
                }
                // Of a deleted Tenant it is the record that keeps it.
                let nobodys = matches!(world.want, Want::TenantDeleted) && !recorded;
                let kept = !addresses.is_empty() && !released && !renewed && !nobodys;
                prop_assert!(*kind != Kind::Service || !kept, "{addresses:?} is kept: {action:?}");
            }
            if matches!(world.want, Want::Unknown) {
                prop_assert_eq!(world.model.writes.len(), before, "unknown means hands off");
            }
        }
        // However it went: what is wanted now is had as soon as the allocator has done its work, and nothing of what is
        // not wanted is left.
        world.happen(Event::Waits(90));
        world.model.settle(&world.want);
        world.model.allocate(200);
        world.model.settle(&world.want);
        match &world.want {
            Want::Present { generation, .. } | Want::Unreadable { generation, .. } => {
                let answer = world.model.answer.clone().expect("an answer");
                prop_assert_eq!(answer.generation, *generation);
            }
            Want::Deleted | Want::Absent { .. } => prop_assert!(world.model.gone),
            Want::TenantDeleted => {
                prop_assert!(world.model.gone && has_departed(&world.model.observed));
                prop_assert!(retain || world.model.observed.is_empty());
            }
            Want::Unknown | Want::NoTenant => {}
        }
    }

    /// DESIGN.md's first invariant: as long as the tenant has the Service in the same family, and somebody remembers the
    /// address, it stays.
    #[test]
    fn a_known_address_stays(history in prop::collection::vec(events(), 1..25)) {
        let (mut model, first) = served();
        let known = model.ingress();
        model.now.instant += PATIENCE;
        let mut world = World { model, want: first, generation: 1, nodes: two_nodes() };
        for event in history {
            let observed = &world.model.observed;
            let known_ip = |ip: &IpAddr| known.contains(&Ingress::Ip(*ip));
            let recorded = observed.record.as_ref();
            let recorded = recorded.is_some_and(|it| it.object.addresses() == known);
            let given = world.model.ingress() == known;
            let pinned = observed.service.as_ref();
            let pinned = pinned.is_some_and(|it| it.object.shape.steering.pin.iter().any(known_ip));
            let breaks_identity = match &event {
                Event::Wants(service) => service.families != [IpFamily::V4],
                Event::Deletes | Event::GoesAbsent | Event::TenantDeleted | Event::NoTenant => true,
                // Somebody has to remember it.
                Event::VanishesRecord => !given && !pinned,
                Event::VanishesService => !recorded,
                Event::Drifts(2) => !recorded && !given,
                Event::AllocatorForgets => !recorded && !pinned,
                _ => false,
            };
            if breaks_identity {
                continue;
            }
            world.happen(event);
            world.model.settle(&world.want);
            let answered = &world.model.answer.as_ref().unwrap().ingress;
            prop_assert!(answered.is_empty() || *answered == known, "{answered:?}");
        }
        // Whatever drift the hub did not see or had no right to mend: with the tenant back, the address is.
        world.happen(Event::Wants(service()));
        world.happen(Event::Nodes(2));
        for _ in 0..2 {
            world.model.settle(&world.want);
            world.model.allocate(250);
        }
        world.model.settle(&world.want);
        prop_assert_eq!(world.model.ingress(), known);
        prop_assert_eq!(outcome(&world.model), &Outcome::Programmed);
    }
}
