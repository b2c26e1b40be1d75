//! The index against examples, and against a naive model over random histories.

use std::collections::{BTreeMap, BTreeSet};

use berth_common::model::{
    Body, IpFamily, Key, Node, NodeName, Port, Protocol, Service, ServiceKey, TrafficPolicy,
};
use proptest::prelude::*;

use super::*;
use crate::project::{ResourceVersion, SeenStatus, Wish};

fn claims() -> Claims {
    Claims {
        classless: true,
        classes: BTreeSet::from(["ours".to_owned()]),
    }
}

fn index() -> Index {
    Index::new(claims(), vec![AddressType::InternalIp])
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("ns", name)
}

fn port(node_port: u16) -> Port {
    Port {
        name: String::new(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: Some(node_port),
        app_protocol: None,
    }
}

fn service(version: u64, node_port: u16, local: bool) -> SeenService {
    SeenService {
        uid: "u".into(),
        version: ResourceVersion(version.to_string()),
        generation: None,
        deleting: false,
        finalizers: Vec::new(),
        wish: Some(Wish {
            class: None,
            service: Some(Service {
                uid: "u".into(),
                ports: vec![port(node_port)],
                families: vec![IpFamily::V4],
                require_dual_stack: false,
                affinity_seconds: None,
                source_ranges: BTreeSet::new(),
                traffic_policy: if local {
                    TrafficPolicy::Local
                } else {
                    TrafficPolicy::Cluster
                },
                local_nodes: BTreeSet::new(),
                health_check_node_port: None,
                requested_ips: Vec::new(),
                annotations: BTreeMap::new(),
            }),
            ..Wish::default()
        }),
        status: SeenStatus::default(),
    }
}

fn node(address: &str, ready: bool) -> SeenNode {
    SeenNode {
        excluded: false,
        deleting: false,
        doomed: false,
        ready,
        addresses: address.parse().into_iter().collect(),
        types: BTreeSet::from(["InternalIP".to_owned()]),
    }
}

fn name(name: &str) -> NodeName {
    NodeName(name.to_owned())
}

/// What the effects say of nodes: +a, -a, ?a.
fn nodes_of(effects: &Effects) -> Vec<String> {
    effects
        .changes
        .iter()
        .filter_map(|change| match change {
            Change::Upsert(Key::Node(name), _) => Some(format!("+{name}")),
            Change::Remove(Key::Node(name)) => Some(format!("-{name}")),
            Change::Forget(Key::Node(name)) => Some(format!("?{name}")),
            _ => None,
        })
        .collect()
}

fn removes(effects: &Effects) -> bool {
    effects
        .changes
        .iter()
        .any(|c| matches!(c, Change::Remove(_)))
}

fn upserts(effects: &Effects) -> usize {
    effects
        .changes
        .iter()
        .filter(|c| matches!(c, Change::Upsert(..)))
        .count()
}

#[test]
fn point_33_a_write_of_our_own_coming_back_changes_nothing_for_the_hub() {
    let mut index = index();
    assert_eq!(
        upserts(&index.apply_service(key("a"), service(1, 30000, false), true)),
        1
    );
    let mut written = service(2, 30000, false);
    written.finalizers = vec!["berth.dev/load-balancer".into()];
    written.status.ours = true;
    let effects = index.apply_service(key("a"), written, true);
    assert!(effects.changes.is_empty());
    assert!(effects.touched.contains(&key("a")));
}

#[test]
fn an_older_version_that_arrives_late_is_ignored() {
    let mut index = index();
    index.apply_service(key("a"), service(10, 30001, false), true);
    let late = index.apply_service(key("a"), service(9, 30000, false), true);
    assert_eq!(late, Effects::default());
    assert_eq!(index.service(&key("a")).unwrap().seen.version.0, "10");
}

#[test]
fn point_04_a_type_that_left_and_comes_back() {
    let mut index = index();
    let mut held = service(1, 30000, false);
    held.finalizers = vec![crate::claims::STANDARD_FINALIZER.into()];
    index.apply_service(key("a"), held.clone(), true);
    let mut left = held.clone();
    left.version = ResourceVersion("2".into());
    left.wish = None;
    let effects = index.apply_service(key("a"), left, true);
    assert!(removes(&effects));
    assert_eq!(effects.departing, [key("a")]);
    held.version = ResourceVersion("3".into());
    let effects = index.apply_service(key("a"), held, true);
    assert_eq!(
        upserts(&effects),
        1,
        "it is wanted again, before the teardown was confirmed"
    );
}

#[test]
fn point_05_a_new_uid_under_the_same_name_is_rebound() {
    let mut index = index();
    index.apply_service(key("a"), service(1, 30000, false), true);
    let mut other = service(5, 30000, false);
    other.uid = "v".into();
    other.wish.as_mut().unwrap().service.as_mut().unwrap().uid = "v".into();
    let effects = index.apply_service(key("a"), other, true);
    assert_eq!((upserts(&effects), removes(&effects)), (1, false));
    assert!(index.service(&key("a")).unwrap().rebound);
}

#[test]
fn point_06_after_a_restart_what_needs_cleanup_is_removed_without_an_event() {
    let mut index = index();
    let mut deleting = service(1, 30000, false);
    deleting.deleting = true;
    deleting.finalizers = vec![crate::claims::STANDARD_FINALIZER.into()];
    let effects = index.reset_services(BTreeMap::from([(key("a"), deleting)]));
    assert!(removes(&effects));
    assert!(effects.departing.is_empty());
}

#[test]
fn what_a_re_read_came_without_is_forgotten_and_not_deleted() {
    let mut index = index();
    index.reset_services(BTreeMap::from([(key("a"), service(1, 30000, false))]));
    let effects = index.reset_services(BTreeMap::new());
    assert_eq!(effects.changes, [Change::Forget(Key::Service(key("a")))]);
    assert_eq!(effects.gone, [key("a")]);
    index.reset_nodes(BTreeMap::from([(name("n"), node("10.0.0.1", true))]));
    assert_eq!(nodes_of(&index.reset_nodes(BTreeMap::new())), ["?n"]);
}

#[test]
fn point_21_the_autoscalers_taint_alone_changes_nothing_until_something_else_does() {
    let mut index = index();
    let both = [("a", "10.0.0.1"), ("b", "10.0.0.2")];
    index.reset_nodes(both.map(|(n, a)| (name(n), node(a, true))).into());
    let mut doomed = node("10.0.0.1", true);
    doomed.doomed = true;
    assert!(nodes_of(&index.apply_node(name("a"), doomed)).is_empty());
    assert_eq!(
        nodes_of(&index.apply_node(name("b"), node("10.0.0.3", true))),
        ["+b", "-a"]
    );
}

#[test]
fn point_21_a_node_that_is_spared_comes_back_by_itself() {
    let mut index = index();
    let both = [("a", "10.0.0.1"), ("b", "10.0.0.2")];
    index.reset_nodes(both.map(|(n, a)| (name(n), node(a, true))).into());
    let spared = || node("10.0.0.1", true);
    let doomed = || SeenNode {
        doomed: true,
        ..spared()
    };
    index.apply_node(name("a"), doomed());
    assert!(nodes_of(&index.apply_node(name("a"), spared())).is_empty());
    index.apply_node(name("a"), doomed());
    index.delete_node(&name("b"));
    assert_eq!(nodes_of(&index.apply_node(name("a"), spared())), ["+a"]);
}

#[test]
fn point_22_unready_nodes_go_while_any_is_ready_and_return_when_none_is() {
    let mut index = index();
    let three = [("a", true), ("b", true), ("c", false)];
    let effects = index.reset_nodes(
        three
            .map(|(n, ready)| (name(n), node("10.0.0.1", ready)))
            .into(),
    );
    assert_eq!(nodes_of(&effects), ["+a", "+b"]);
    let effects = index.apply_node(name("a"), node("10.0.0.1", false));
    assert_eq!(nodes_of(&effects), ["-a"]);
    let effects = index.apply_node(name("b"), node("10.0.0.1", false));
    assert_eq!(
        nodes_of(&effects),
        ["+a", "+c"],
        "none is ready: all of them stay"
    );
    let effects = index.apply_node(name("c"), node("10.0.0.1", true));
    assert_eq!(nodes_of(&effects), ["-a", "-b"]);
}

#[test]
fn point_23_no_address_of_a_wanted_type_is_explained_and_mended() {
    let mut index = Index::new(claims(), vec![AddressType::ExternalIp]);
    index.apply_service(key("a"), service(1, 30000, false), true);
    assert_eq!(
        index.problem(&key("a")),
        None,
        "the nodes have not been read"
    );
    let effects = index.reset_nodes(BTreeMap::from([(name("n"), node("", true))]));
    assert!(effects.touched.contains(&key("a")));
    let problem = index.problem(&key("a")).unwrap();
    assert_eq!(problem.reason, "NoNodeAddress");
    assert!(
        problem.message.contains("type ExternalIP"),
        "{}",
        problem.message
    );
    assert!(
        problem.message.contains("present: InternalIP"),
        "{}",
        problem.message
    );
    let effects = index.apply_node(name("n"), node("192.0.2.1", true));
    assert!(effects.touched.contains(&key("a")));
    assert_eq!(index.problem(&key("a")), None);
    index.delete_node(&name("n"));
    assert_eq!(index.problem(&key("a")).unwrap().reason, "NoNodes");
}

#[test]
fn point_24_local_services_wait_for_slices_and_follow_their_nodes() {
    let mut index = index();
    let slice = |nodes: &[&str]| SeenSlice {
        service: key("a"),
        ready: nodes.iter().map(|n| name(n)).collect(),
        terminating: BTreeSet::from([name("t")]),
    };
    let slice_key = |n: &str| SliceKey {
        namespace: "ns".into(),
        name: n.into(),
    };
    let local_nodes = |effects: &Effects| match effects.changes.as_slice() {
        [Change::Upsert(_, Body::Service(service))] => service
            .local_nodes
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" "),
        other => panic!("{other:?}"),
    };
    assert!(!index.wants_slices());
    assert_eq!(
        upserts(&index.apply_service(key("a"), service(1, 30000, true), true)),
        0
    );
    assert!(index.wants_slices() && !index.slices_synced());
    let effects = index.reset_slices(BTreeMap::from([(slice_key("1"), slice(&["x"]))]));
    assert_eq!(local_nodes(&effects), "x");
    assert_eq!(
        local_nodes(&index.apply_slice(slice_key("2"), slice(&["y"]))),
        "x y"
    );
    assert!(
        index
            .apply_slice(slice_key("2"), slice(&["y"]))
            .changes
            .is_empty()
    );
    index.delete_slice(&slice_key("2"));
    assert_eq!(
        local_nodes(&index.apply_slice(slice_key("1"), slice(&[]))),
        "t"
    );
    let effects = index.apply_service(key("a"), service(2, 30000, false), true);
    assert_eq!(local_nodes(&effects), "");
    assert!(!index.wants_slices());
}

#[test]
fn a_fault_keeps_what_is_served_and_starts_nothing() {
    let fault = Some(crate::project::Fault {
        field: "spec.loadBalancerIP",
        message: "\"x\" is not an IP address".into(),
    });
    let mut index = index();
    let mut new = service(1, 30000, false);
    new.wish.as_mut().unwrap().fault.clone_from(&fault);
    assert_eq!(
        upserts(&index.apply_service(key("new"), new.clone(), true)),
        0
    );
    assert_eq!(index.problem(&key("new")).unwrap().reason, "Invalid");
    let mut served = new;
    served.status.ours = true;
    assert_eq!(
        upserts(&index.apply_service(key("told"), served.clone(), true)),
        0,
        "a condition alone is no service"
    );
    served.status.ingress = vec![crate::project::SeenIngress {
        ip: Some("192.0.2.1".into()),
        hostname: None,
        ip_mode: None,
    }];
    assert_eq!(
        upserts(&index.apply_service(key("served"), served, true)),
        1
    );
}

#[derive(Clone, Debug)]
enum Op {
    Service {
        name: u8,
        port: u16,
        local: bool,
        foreign: bool,
        deleting: bool,
    },
    DeleteService(u8),
    Node {
        name: u8,
        address: u8,
        ready: bool,
        excluded: bool,
        doomed: bool,
    },
    DeleteNode(u8),
    /// A re-read that finds the nodes or Services of the model, less one.
    Relist {
        services: bool,
        without: u8,
    },
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..4u8, 30000..30003u16, any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.2)).prop_map(
            |(name, port, local, foreign, deleting)| Op::Service { name, port, local, foreign, deleting }),
        1 => (0..4u8).prop_map(Op::DeleteService),
        4 => (0..4u8, 0..3u8, any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.2)).prop_map(
            |(name, address, ready, excluded, doomed)| Op::Node { name, address, ready, excluded, doomed }),
        1 => (0..4u8).prop_map(Op::DeleteNode),
        1 => (any::<bool>(), 0..8u8).prop_map(|(services, without)| Op::Relist { services, without }),
    ]
}

/// What there is, and nothing else; what the hub should hold is computed from it from scratch.
#[derive(Default)]
struct Model {
    services: BTreeMap<ServiceKey, SeenService>,
    nodes: BTreeMap<NodeName, SeenNode>,
}

impl Model {
    fn table(&self) -> BTreeMap<Key, Body> {
        let services = self
            .services
            .iter()
            .filter(|(_, s)| !s.deleting)
            .filter_map(|(key, s)| {
                let body = Body::Service(s.wish.as_ref()?.service.clone()?);
                Some((Key::Service(key.clone()), body))
            });
        let usable: Vec<_> = self
            .nodes
            .iter()
            .filter(|(_, n)| !n.excluded && !n.doomed && !n.deleting)
            .collect();
        let any_ready = usable.iter().any(|(_, n)| n.ready);
        let nodes = usable
            .into_iter()
            .filter(|(_, n)| n.ready || !any_ready)
            .filter(|(_, n)| !n.addresses.is_empty());
        let nodes = nodes.map(|(name, n)| {
            let addresses = n.addresses.clone();
            (Key::Node(name.clone()), Body::Node(Node { addresses }))
        });
        services.chain(nodes).collect()
    }
}

proptest! {
    #[test]
    fn the_changes_add_up_to_what_there_is(history in prop::collection::vec(ops(), 1..60)) {
        let mut index = index();
        let mut model = Model::default();
        let mut table = BTreeMap::new();
        let mut version = 0;
        let mut run = |effects: Effects| {
            for change in effects.changes {
                match change {
                    Change::Upsert(key, body) => { table.insert(key, body); }
                    Change::Remove(key) | Change::Forget(key) => { table.remove(&key); }
                }
            }
        };
        run(index.reset_nodes(BTreeMap::new()));
        run(index.reset_slices(BTreeMap::new()));
        for op in history {
            version += 1;
            match op {
                Op::Service { name, port, local, foreign, deleting } => {
                    let mut seen = service(version, port, local);
                    seen.deleting = deleting;
                    if foreign {
                        seen.wish = None;
                    }
                    let key = key(&name.to_string());
                    run(index.apply_service(key.clone(), seen.clone(), true));
                    model.services.insert(key, seen);
                }
                Op::DeleteService(name) => {
                    let key = key(&name.to_string());
                    run(index.delete_service(&key));
                    model.services.remove(&key);
                }
                Op::Node { name, address, ready, excluded, doomed } => {
                    let address = if address == 0 { String::new() } else { format!("10.0.{name}.{address}") };
                    let mut seen = node(&address, ready);
                    seen.excluded = excluded;
                    // The taint alone is not acted on; here it comes with a new type, which is.
                    seen.doomed = doomed;
                    seen.types.insert(version.to_string());
                    let name = super::tests::name(&name.to_string());
                    run(index.apply_node(name.clone(), seen.clone()));
                    model.nodes.insert(name, seen);
                }
                Op::DeleteNode(name) => {
                    let name = super::tests::name(&name.to_string());
                    run(index.delete_node(&name));
                    model.nodes.remove(&name);
                }
                Op::Relist { services: true, without } => {
                    model.services.remove(&key(&without.to_string()));
                    run(index.reset_services(model.services.clone()));
                }
                Op::Relist { services: false, without } => {
                    model.nodes.remove(&name(&without.to_string()));
                    run(index.reset_nodes(model.nodes.clone()));
                }
            }
        }
        prop_assert_eq!(table, model.table());
    }
}

fn annotated(version: u64, annotations: &[(&str, &str)], steering: &[&str]) -> SeenService {
    let mut seen = service(version, 30_080, false);
    let wish = seen.wish.as_mut().unwrap();
    let own = |text: &&str| (*text).to_owned();
    wish.steering = steering.iter().map(own).collect();
    wish.service.as_mut().unwrap().annotations = annotations
        .iter()
        .map(|(key, value)| (own(key), own(value)))
        .collect();
    seen
}

fn told(effects: &Effects) -> Option<Vec<&str>> {
    effects.changes.iter().find_map(|change| match change {
        Change::Upsert(_, Body::Service(service)) => {
            Some(service.annotations.keys().map(String::as_str).collect())
        }
        _ => None,
    })
}

#[test]
fn point_19_only_what_the_hub_lets_pass_leaves_the_cluster() {
    let mut index = index();
    let both = [("example.com/owner", "a"), ("secret", "s")];
    let effects = index.apply_service(key("web"), annotated(1, &both, &[]), true);
    assert_eq!(told(&effects), Some(Vec::new()), "before the hub said so");
    let effects = index.allow(Allowed::new(["example.com/*"]));
    assert_eq!(told(&effects), Some(vec!["example.com/owner"]));
    assert!(
        effects.touched.is_empty(),
        "nothing to write to the Service"
    );
    assert_eq!(
        index.allow(Allowed::new(["example.com/*"])),
        Effects::default()
    );

    let changed = [("example.com/owner", "a"), ("secret", "other")];
    let effects = index.apply_service(key("web"), annotated(2, &changed, &[]), true);
    assert_eq!(
        told(&effects),
        None,
        "what does not pass is no news for the hub"
    );
    let effects = index.apply_service(key("web"), annotated(3, &changed[1..], &[]), true);
    assert_eq!(told(&effects), Some(Vec::new()), "it was removed");
}

#[test]
fn point_19_people_are_told_what_steers_and_does_not_pass() {
    let mut index = index();
    let [pool, sharing] = ["metallb.io/address-pool", "metallb.io/allow-shared-ip"];
    let seen = annotated(1, &[(sharing, "k")], &[pool, sharing]);
    index.apply_service(key("web"), seen, true);
    let note = index.note(&key("web")).unwrap();
    assert!(
        note.contains(&format!("annotations {pool}, {sharing};")),
        "{note}"
    );
    let effects = index.allow(Allowed::new([sharing]));
    assert_eq!(told(&effects), Some(vec![sharing]));
    assert!(effects.touched.contains(&key("web")), "its note is another");
    let note = index.note(&key("web")).unwrap();
    assert!(note.contains(&format!("annotation {pool};")), "{note}");
    index.apply_service(key("web"), service(2, 30_080, false), true);
    assert_eq!(index.note(&key("web")), None);
}
