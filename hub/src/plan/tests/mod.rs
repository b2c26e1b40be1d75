//! The planner against a model of the management cluster.

mod annotations;
mod departed;
mod enforced;
mod health;
mod history;
mod model;
mod nodes;
mod parked;
mod preview;
mod refusals;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use berth_common::{
    identity::TenantName,
    model::{Ingress, IpFamily, Node, Outcome, Port, Protocol, ServiceKey, TrafficPolicy},
};
use model::Model;

use super::*;

fn id() -> Id {
    Id::new(
        TenantName::parse("acme").unwrap(),
        ServiceKey::new("default", "backend"),
    )
}

fn policy() -> Policy {
    Policy {
        allocator: Allocator::MetalLb,
        pool: Some("management-pool".into()),
        class: None,
        requestable: vec!["10.10.255.240/28".parse().unwrap()],
        annotations: Arc::default(),
        release_after: Duration::from_secs(30),
        retain: false,
        nodes: Arc::default(),
    }
}

fn ip(text: &str) -> Ingress {
    Ingress::Ip(text.parse().unwrap())
}

fn service() -> Service {
    Service {
        uid: "7f1c".into(),
        ports: vec![Port {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 3000,
            node_port: Some(31000),
            app_protocol: None,
        }],
        families: vec![IpFamily::V4],
        require_dual_stack: false,
        affinity_seconds: None,
        source_ranges: BTreeSet::new(),
        traffic_policy: TrafficPolicy::Cluster,
        local_nodes: BTreeSet::new(),
        health_check_node_port: None,
        requested_ips: Vec::new(),
        annotations: BTreeMap::new(),
    }
}

fn nodes(addresses: &[(&str, &str)]) -> Arc<Nodes> {
    let node = |(name, ip): &(&str, &str)| {
        let addresses = BTreeSet::from([ip.parse().unwrap()]);
        (NodeName((*name).into()), Node { addresses })
    };
    Arc::new(addresses.iter().map(node).collect())
}

fn two_nodes() -> Arc<Nodes> {
    nodes(&[("a1", "10.10.2.1"), ("a2", "10.10.2.2")])
}

fn want(generation: u64, service: Service, nodes: Arc<Nodes>) -> Want {
    Want::Present {
        generation: Generation(generation),
        service: Arc::new(service),
        nodes,
    }
}

fn unreadable(generation: u64, last: Option<Arc<Service>>, nodes: Arc<Nodes>) -> Want {
    Want::Unreadable {
        generation: Generation(generation),
        refusal: refuse("spec.ports", "Invalid", "no ports"),
        last,
        nodes,
    }
}

/// A load balancer with its address.
fn served() -> (Model, Want) {
    let mut model = Model::new(id(), policy());
    let want = want(1, service(), two_nodes());
    model.settle(&want);
    model.allocate(200);
    model.settle(&want);
    (model, want)
}

fn outcome(model: &Model) -> &Outcome {
    &model.answer.as_ref().unwrap().outcome
}

fn reason(model: &Model) -> &str {
    match outcome(model) {
        Outcome::Pending(why) | Outcome::Refused { why, .. } => &why.reason,
        Outcome::Programmed => "Programmed",
        Outcome::Deleted => panic!("the planner does not say so"),
    }
}

fn after(model: &mut Model, time: Duration) {
    model.now.instant += time;
}

#[test]
fn a_new_service_takes_five_writes_and_the_service_comes_first() {
    let (model, want) = served();
    let kinds: Vec<String> = model
        .writes
        .iter()
        .map(|action| match &action.write {
            Write::Service { uid, shape } => format!(
                "{} Service, pin {:?}, pool {:?}",
                if uid.is_some() { "change" } else { "create" },
                shape.steering.pin,
                shape.steering.pool
            ),
            Write::Slice { .. } => "create EndpointSlice".into(),
            Write::Record { .. } => "create LoadBalancer".into(),
            Write::Status { .. } => "status of LoadBalancer".into(),
            other => format!("{other:?}"),
        })
        .collect();
    insta::assert_yaml_snapshot!(kinds);
    assert_eq!(outcome(&model), &Outcome::Programmed);
    assert_eq!(
        model.answer.as_ref().unwrap().ingress,
        [ip("10.10.255.200")]
    );
    assert_eq!(model.plan(&want).actions, []);
}

#[test]
fn the_answer_does_not_wait_for_pin_and_status() {
    let mut model = Model::new(id(), policy());
    let want = want(1, service(), two_nodes());
    model.settle(&want);
    assert_eq!(model.answer, None, "nothing to say yet");
    model.allocate(200);
    let plan = model.plan(&want);
    assert_eq!(plan.answer.unwrap().outcome, Outcome::Programmed);
    assert_eq!(plan.actions.len(), 2, "pin and status at once");
}

#[test]
fn point_33_a_restart_of_the_hub_writes_nothing() {
    let (model, want) = served();
    let mut restarted = Model::new(id(), policy());
    restarted.observed = model.observed;
    assert_eq!(restarted.settle(&want), 0);
    assert_eq!(outcome(&restarted), &Outcome::Programmed);
}

#[test]
fn nothing_is_planned_for_a_tenant_that_has_not_synced() {
    let (model, _) = served();
    assert_eq!(model.plan(&Want::Unknown), Plan::default());
}

#[test]
fn point_07_delete_is_idempotent_and_done_when_nothing_serves() {
    let (mut model, _) = served();
    assert!(!model.plan(&Want::Deleted).gone);
    for writes in [2, 0] {
        assert_eq!(model.settle(&Want::Deleted), writes);
        assert!(model.gone);
    }
}

#[test]
fn a_deletion_waits_for_somebody_elses_finalizer() {
    let (mut model, _) = served();
    let mut seen = (*model.observed.service.clone().unwrap()).clone();
    seen.deleting = true;
    model.observed.service = Some(Arc::new(seen));
    assert_eq!(model.settle(&Want::Deleted), 2, "slice and record");
    assert!(!model.gone);
    model.observed.service = None;
    model.settle(&Want::Deleted);
    assert!(model.gone);
}

#[test]
fn absence_deletes_after_its_grace_and_never_while_held() {
    let (mut model, _) = served();
    let since = model.now.instant;
    let absent = |held| Want::Absent { since, held };
    after(&mut model, ABSENCE_GRACE - Duration::from_millis(1));
    let plan = model.plan(&absent(false));
    assert_eq!(
        (plan.actions.len(), plan.revisit),
        (0, Some(since + ABSENCE_GRACE))
    );
    after(&mut model, Duration::from_millis(1));
    let held = Plan {
        // Nobody tells it that the brake is off.
        revisit: Some(model.now.instant + ABSENCE_GRACE),
        ..Plan::default()
    };
    assert_eq!(model.plan(&absent(true)), held);
    assert_eq!(model.settle(&absent(false)), 2);
    assert!(model.gone && model.parked);
}

#[test]
fn point_05_a_recreated_service_keeps_its_address() {
    let (mut model, _) = served();
    let recreated = Service {
        uid: "other".into(),
        ..service()
    };
    let want = want(2, recreated, two_nodes());
    assert!(model.plan(&want).rebound);
    model.settle(&want);
    assert_eq!(outcome(&model), &Outcome::Programmed);
    assert_eq!(model.ingress(), [ip("10.10.255.200")]);
    assert!(!model.plan(&want).rebound, "that is said once");
    let record = model.observed.record.as_ref().unwrap();
    assert_eq!(record.object.spec.source.uid, "other");
}

#[test]
fn a_vanished_management_service_comes_back_with_its_address() {
    let (mut model, want) = served();
    model.observed.service = None;
    model.settle(&want);
    model.allocate(99);
    model.settle(&want);
    assert_eq!(model.ingress(), [ip("10.10.255.200")]);
    assert_eq!(outcome(&model), &Outcome::Programmed);
}

/// kube-proxy takes the port of a backend from the slices: a Service that is written for it would cost it a second sync, and
/// the allocator a look.
#[test]
fn point_10_a_changed_node_port_is_the_slices_and_not_the_services() {
    let (mut model, _) = served();
    let before = model.observed.service.clone().unwrap().version;
    let mut moved = service();
    moved.ports[0].node_port = Some(31_555);
    model.writes.clear();
    model.settle(&want(2, moved, two_nodes()));
    assert_eq!(model.observed.service.clone().unwrap().version, before);
    let slice = model.observed.slices.values().next().unwrap();
    let ports: Vec<_> = slice.object.shape.ports.values().collect();
    assert_eq!(ports, [&(Protocol::Tcp, 31_555)]);
    let plan = &model.writes[..2];
    assert!(
        plan.iter().any(|a| matches!(a.write, Write::Slice { .. }))
            && plan.iter().any(|a| matches!(a.write, Write::Record { .. })),
        "both at once: {plan:?}"
    );
    assert_eq!(outcome(&model), &Outcome::Programmed);
}

#[test]
fn an_address_that_stands_in_the_pin_alone_stays() {
    let (mut model, want) = served();
    model.change_service(|service| service.ingress.clear());
    model.lose_record();
    model.settle(&want);
    model.allocate(230);
    model.settle(&want);
    assert_eq!(model.ingress(), [ip("10.10.255.200")]);
    assert_eq!(outcome(&model), &Outcome::Programmed);
}

#[test]
fn an_address_that_was_only_asked_for_is_not_yet_the_load_balancers() {
    let policy = Policy {
        requestable: vec!["10.10.255.208/28".parse().unwrap()],
        ..policy()
    };
    let mut model = Model::new(id(), policy);
    let asks = |ip: &str| Service {
        requested_ips: vec![ip.parse().unwrap()],
        ..service()
    };
    for recorded in [true, false] {
        model.settle(&want(1, asks("10.10.255.210"), two_nodes()));
        if !recorded {
            model.lose_record();
        }
        model.settle(&want(2, asks("10.10.255.211"), two_nodes()));
        let service = model.observed.service.clone().unwrap();
        let pin: Vec<_> = service.object.shape.steering.pin.iter().collect();
        assert_eq!(pin, [&"10.10.255.211".parse::<IpAddr>().unwrap()]);
    }
}

#[test]
fn the_address_of_a_service_that_is_being_deleted_is_not_relayed() {
    let (mut model, want) = served();
    let mut dying = (**model.observed.service.as_ref().unwrap()).clone();
    dying.deleting = true;
    model.observed.service = Some(Arc::new(dying));
    model.lose_record();
    model.settle(&want);
    assert_eq!(reason(&model), "BeingDeleted");
    assert_eq!(model.answer.unwrap().ingress, []);
}

#[test]
fn an_address_that_cannot_be_had_again_is_pending_and_not_exchanged() {
    let (mut model, want) = served();
    model.change_service(|service| service.ingress.clear());
    after(&mut model, PATIENCE);
    model.settle(&want);
    assert_eq!(reason(&model), "AwaitingAddress");
    let Outcome::Pending(why) = outcome(&model) else {
        panic!()
    };
    assert!(why.message.contains("10.10.255.200"), "{}", why.message);
    let pin = &model
        .observed
        .service
        .as_ref()
        .unwrap()
        .object
        .shape
        .steering
        .pin;
    assert_eq!(pin.len(), 1);
    let record = model.observed.record.as_ref().unwrap();
    assert_eq!(
        record.object.addresses(),
        [ip("10.10.255.200")],
        "still on record"
    );
}

#[test]
fn an_address_taken_over_by_drift_is_brought_back() {
    let (mut model, want) = served();
    model.change_service(|service| {
        service.shape.steering.pin.clear();
        service.ingress = vec![ip("10.10.255.207")];
    });
    model.settle(&want);
    model.allocate(99);
    model.settle(&want);
    assert_eq!(model.ingress(), [ip("10.10.255.200")]);
}

#[test]
fn pending_is_told_after_patience_with_the_allocators_words() {
    let mut model = Model::new(id(), policy());
    let want = want(1, service(), two_nodes());
    model.settle(&want);
    let plan = model.plan(&want);
    assert_eq!(
        (plan.answer, plan.revisit),
        (None, Some(model.now.instant + PATIENCE))
    );
    after(&mut model, PATIENCE);
    model.settle(&want);
    assert_eq!(reason(&model), "AwaitingAddress");
    model.observed.allocator_says = Some("no available IPs".into());
    model.settle(&want);
    assert_eq!(reason(&model), "AllocationFailed");
}

#[test]
fn waiting_is_no_news_while_the_allocator_serves_others_and_is_some_when_it_lasts() {
    let mut model = Model::new(id(), policy());
    let want = want(1, service(), two_nodes());
    model.settle(&want);
    let created = model.now.instant;
    after(&mut model, PATIENCE);
    let gave = model.now.instant;
    model.observed.allocator_gave = Some(gave);
    let plan = model.plan(&want);
    assert_eq!((plan.answer, plan.revisit), (None, Some(gave + PATIENCE)));
    model.now.instant = created + PATIENCE_AT_MOST;
    model.observed.allocator_gave = Some(model.now.instant);
    model.settle(&want);
    assert_eq!(reason(&model), "AwaitingAddress");
}

#[test]
fn point_23_without_a_node_address_nothing_is_created() {
    let mut model = Model::new(id(), policy());
    for (nodes, why) in [
        (nodes(&[]), "NoNodeAddresses"),
        (nodes(&[("a1", "2001:db8::1")]), "NoNodeAddresses"),
        (nodes(&[("a1", "127.0.0.1")]), "AddressNotAllowed"),
    ] {
        assert_eq!(model.settle(&want(1, service(), nodes)), 0);
        assert_eq!(reason(&model), why);
    }
}

#[test]
fn nodes_that_vanish_empty_the_slices_and_keep_the_address() {
    let (mut model, _) = served();
    model.settle(&want(1, service(), nodes(&[])));
    assert_eq!(reason(&model), "NoNodeAddresses");
    assert_eq!(
        model.answer.as_ref().unwrap().ingress,
        [ip("10.10.255.200")]
    );
    let slice = model.observed.slices.values().next().unwrap();
    assert!(slice.object.shape.addresses.is_empty());
}

#[test]
fn point_24_local_policy_takes_only_nodes_with_endpoints() {
    let mut model = Model::new(id(), policy());
    let local = Service {
        traffic_policy: TrafficPolicy::Local,
        local_nodes: BTreeSet::from([NodeName("a2".into())]),
        ..service()
    };
    let local_want = want(1, local.clone(), two_nodes());
    model.settle(&local_want);
    model.allocate(200);
    model.settle(&local_want);
    let slice = model.observed.slices.values().next().unwrap();
    assert_eq!(
        slice.object.shape.addresses,
        ["10.10.2.2".parse::<IpAddr>().unwrap()]
    );
    let moved = Service {
        local_nodes: BTreeSet::from([NodeName("a1".into())]),
        ..local
    };
    assert_eq!(
        model.settle(&want(2, moved, two_nodes())),
        1,
        "a moved pod is one write"
    );
}

#[test]
fn point_10_the_address_survives_port_changes() {
    let (mut model, _) = served();
    let mut changed = service();
    changed.ports[0].port = 4000;
    changed.ports[0].node_port = Some(31999);
    let writes = model.settle(&want(2, changed, two_nodes()));
    assert_eq!(writes, 4, "Service, slice, record, status");
    assert_eq!(outcome(&model), &Outcome::Programmed);
    assert_eq!(model.ingress(), [ip("10.10.255.200")]);
}

#[test]
fn point_16_a_changed_primary_family_takes_a_new_service() {
    let (mut model, _) = served();
    let v6 = Service {
        families: vec![IpFamily::V6],
        ..service()
    };
    let nodes = nodes(&[("a1", "2001:db8::1")]);
    model.settle(&want(2, v6, nodes));
    let shape = &model.observed.service.as_ref().unwrap().object.shape;
    assert_eq!(shape.primary, IpFamily::V6);
    assert!(
        shape.steering.pin.is_empty(),
        "the old address is of the other family"
    );
}

#[test]
fn point_16_where_both_families_were_welcome_the_one_given_is_pinned() {
    let mut model = Model::new(id(), policy());
    let both = Service {
        families: vec![IpFamily::V4, IpFamily::V6],
        ..service()
    };
    let want = want(1, both, two_nodes());
    model.settle(&want);
    model.allocate(200);
    model.settle(&want);
    let shape = &model.observed.service.as_ref().unwrap().object.shape;
    assert_eq!(
        shape.family_policy,
        crate::objects::service::FamilyPolicy::Single
    );
    assert_eq!(
        shape.steering.pin,
        BTreeSet::from(["10.10.255.200".parse().unwrap()])
    );
    assert_eq!(outcome(&model), &Outcome::Programmed);
}

#[test]
fn what_others_put_into_the_service_is_taken_away() {
    let (mut model, want) = served();
    model.change_service(|service| service.foreign_fields = true);
    assert_eq!(model.settle(&want), 1);
    model.change_service(|service| {
        let extra = service.shape.ports.values().next().unwrap().clone();
        service.shape.ports.insert((9, Protocol::Tcp), extra);
    });
    assert_eq!(model.settle(&want), 1);
    assert!(matches!(
        model.writes.last().unwrap().write,
        Write::StripService { .. }
    ));
    model.change_service(|service| service.shape.affinity_seconds = Some(1));
    assert_eq!(model.settle(&want), 1);
}

#[test]
fn point_30_another_allocators_choice_is_followed_and_never_pinned() {
    let mut model = Model::new(
        id(),
        Policy {
            allocator: Allocator::Other,
            ..policy()
        },
    );
    let want = want(1, service(), two_nodes());
    model.settle(&want);
    for name in ["one.lb.example", "two.lb.example"] {
        let given = vec![Ingress::Hostname(name.into())];
        model.change_service(|service| service.ingress = given.clone());
        model.settle(&want);
        assert_eq!(model.answer.as_ref().unwrap().ingress, given);
        assert_eq!(
            model.observed.record.as_ref().unwrap().object.addresses(),
            given
        );
    }
    let steering = &model
        .observed
        .service
        .as_ref()
        .unwrap()
        .object
        .shape
        .steering;
    assert_eq!(steering, &crate::objects::service::Steering::default());
}
