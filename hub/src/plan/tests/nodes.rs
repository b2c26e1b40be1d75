//! Which of a tenant's nodes receive traffic under the operator's policy, and what is said of the others.

use super::*;
use crate::policy::{Barred, NodePorts, NodeRules, Quotas, Unfit};

fn ips(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|ip| ip.parse().unwrap()).collect()
}

fn under(rules: NodeRules) -> Model {
    let nodes = Arc::new(rules);
    Model::new(id(), Policy { nodes, ..policy() })
}

fn serve(model: &mut Model, want: &Want) {
    model.settle(want);
    model.allocate(200);
    model.settle(want);
}

fn backends(model: &Model) -> BTreeSet<IpAddr> {
    let slices = model.observed.slices.values();
    let addresses = slices.flat_map(|slice| slice.object.shape.addresses.clone());
    addresses.collect()
}

/// Reason and message of the record's condition `BackendsHealthy`.
fn told(model: &Model) -> (String, String) {
    let record = model.observed.record.as_ref().unwrap();
    let status = record.object.status.as_ref().unwrap();
    let healthy = &status.shape.as_ref().unwrap().backends_healthy;
    (healthy.reason.clone(), healthy.message.clone())
}

fn management(range: &str) -> NodeRules {
    NodeRules {
        management: [range.parse().unwrap()].into(),
        ..NodeRules::default()
    }
}

fn message(model: &Model) -> &str {
    match outcome(model) {
        Outcome::Pending(why) | Outcome::Refused { why, .. } => &why.message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn hostile_54_a_node_with_managements_address_is_left_out_and_the_rest_serves() {
    let mut model = under(management("10.10.2.2/32"));
    let want = want(1, service(), two_nodes());
    serve(&mut model, &want);
    assert_eq!(backends(&model), ips(&["10.10.2.1"]));
    assert_eq!(outcome(&model), &Outcome::Programmed);
    let (reason, message) = told(&model);
    assert_eq!(reason, "AddressNotAllowed");
    assert!(
        message.starts_with("1 of 2 nodes") && message.contains("node a2: 10.10.2.2"),
        "{message}"
    );
    assert_eq!(model.settle(&want), 0, "and nothing is written again");
}

#[test]
fn hostile_54_where_no_node_may_be_nothing_is_made_and_the_service_says_what_to_do() {
    let mut model = under(management("10.10.0.0/16"));
    assert_eq!(model.settle(&want(1, service(), two_nodes())), 0);
    assert_eq!(reason(&model), "AddressNotAllowed");
    assert!(
        message(&model).contains("give the node an address of its network"),
        "{}",
        message(&model)
    );
}

#[test]
fn hostile_55_what_is_another_tenants_or_a_load_balancers_is_left_out_and_comes_back_when_it_is_free()
 {
    let (mut model, want) = served();
    let found = |found: &[(&str, Unfit)]| {
        let of = |(ip, why): &(&str, Unfit)| (ip.parse().unwrap(), *why);
        Some(Arc::new(found.iter().map(of).collect::<Barred>()))
    };
    model.observed.barred = found(&[("10.10.2.1", Unfit::LoadBalancer)]);
    model.settle(&want);
    assert_eq!(backends(&model), ips(&["10.10.2.2"]));
    model.observed.barred = found(&[
        ("10.10.2.1", Unfit::LoadBalancer),
        ("10.10.2.2", Unfit::OtherTenant),
    ]);
    model.settle(&want);
    assert_eq!(backends(&model), ips(&[]));
    assert_eq!(reason(&model), "AddressNotAllowed");
    assert_eq!(
        model.answer.as_ref().unwrap().ingress,
        [ip("10.10.255.200")],
        "it keeps its own address"
    );
    model.observed.barred = found(&[]);
    model.settle(&want);
    assert_eq!(backends(&model), ips(&["10.10.2.1", "10.10.2.2"]));
    assert_eq!(outcome(&model), &Outcome::Programmed);
}

#[test]
fn a_node_outside_of_the_tenants_cidrs_is_no_backend_and_its_other_addresses_are() {
    let mut model = under(NodeRules {
        allowed: vec!["10.10.2.0/24".parse().unwrap()],
        ..NodeRules::default()
    });
    let addresses = ips(&["10.10.2.1", "10.11.2.1"]);
    let nodes = Arc::new(Nodes::from([(NodeName("a1".into()), Node { addresses })]));
    serve(&mut model, &want(1, service(), nodes));
    assert_eq!(backends(&model), ips(&["10.10.2.1"]));
    assert!(told(&model).1.contains("ask the operator (nodeCIDRs)"));
}

#[test]
fn hostile_49_a_node_port_out_of_the_tenants_range_is_refused_and_what_was_served_stays() {
    let (mut model, want) = served();
    let rules = |range| {
        Arc::new(NodeRules {
            ports: NodePorts::parse(range),
            ..NodeRules::default()
        })
    };
    model.policy.nodes = rules("30000-31000");
    assert_eq!(model.settle(&want), 0, "31000 is in it");
    model.policy.nodes = rules("30000-30999");
    model.settle(&want);
    assert_eq!(reason(&model), "NodePortOutOfRange");
    assert!(message(&model).contains("30000-30999"));
    assert_eq!(backends(&model), ips(&["10.10.2.1", "10.10.2.2"]));
}

fn ports(most: usize) -> Rules {
    Arc::new(NodeRules {
        quotas: Quotas {
            ports_per_load_balancer: Some(most),
            ..Quotas::default()
        },
        ..NodeRules::default()
    })
}

#[test]
fn quota_of_ports_refuses_what_is_beyond_it_and_withdraws_nothing() {
    let two = || {
        let mut two = service();
        let port = Port {
            name: "https".into(),
            port: 3001,
            node_port: Some(31001),
            ..two.ports[0].clone()
        };
        two.ports.push(port);
        two
    };
    let (mut model, _) = served();
    model.policy.nodes = ports(1);
    model.settle(&want(2, two(), two_nodes()));
    assert_eq!(reason(&model), "QuotaExceeded");
    assert!(message(&model).contains("2 ports, and 1"));
    assert_eq!(backends(&model), ips(&["10.10.2.1", "10.10.2.2"]));
    model.policy.nodes = ports(2);
    model.settle(&want(2, two(), two_nodes()));
    assert_eq!(outcome(&model), &Outcome::Programmed);
    model.policy.nodes = ports(1);
    model.settle(&want(2, two(), two_nodes()));
    assert_eq!(reason(&model), "QuotaExceeded");
    let served = model.observed.service.as_ref().unwrap();
    assert_eq!(served.object.shape.ports.len(), 2, "what exists stays");
}

#[test]
fn quota_of_nodes_is_told_with_its_own_reason() {
    let (mut model, want) = served();
    let over = ("10.10.2.2".parse().unwrap(), Unfit::Quota(1));
    model.observed.barred = Some(Arc::new(Barred::from([over])));
    model.settle(&want);
    assert_eq!(backends(&model), ips(&["10.10.2.1"]));
    let (reason, message) = told(&model);
    assert_eq!(reason, "QuotaExceeded");
    assert!(
        message.contains("ask the operator (quotas.nodes)"),
        "{message}"
    );
}
