//! Failing nodes leave the slices; what is told of it, and what is not.

use super::*;
use crate::objects::record::ConditionShape;

fn ips(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|ip| ip.parse().unwrap()).collect()
}

fn verdicts(good: &[&str], failing: &[&str]) -> Option<Arc<Verdicts>> {
    Some(Arc::new(Verdicts {
        good: ips(good),
        failing: ips(failing),
    }))
}

fn backends(model: &Model) -> BTreeSet<IpAddr> {
    let slices = model.observed.slices.values();
    slices
        .flat_map(|slice| slice.object.shape.addresses.clone())
        .collect()
}

fn condition(model: &Model) -> ConditionShape {
    let record = model.observed.record.as_ref().unwrap();
    let status = record.object.status.as_ref().unwrap();
    status.shape.as_ref().unwrap().backends_healthy.clone()
}

const A1: &str = "10.10.2.1";
const A2: &str = "10.10.2.2";

/// A load balancer of two nodes that are known to be good.
fn healthy() -> (Model, Want) {
    let mut model = Model::new(id(), policy());
    model.observed.health = verdicts(&[A1, A2], &[]);
    let want = want(1, service(), two_nodes());
    model.settle(&want);
    model.allocate(200);
    model.settle(&want);
    (model, want)
}

#[test]
fn point_26_a_failing_node_leaves_by_one_write_a_slice_and_comes_back_by_one() {
    let (mut model, want) = healthy();
    model.observed.health = verdicts(&[A1], &[A2]);
    assert_eq!(model.settle(&want), 1, "the slice, and no status");
    assert_eq!(backends(&model), ips(&[A1]));
    assert_eq!(outcome(&model), &Outcome::Programmed);
    model.observed.health = verdicts(&[A1, A2], &[]);
    assert_eq!(model.settle(&want), 1);
    assert_eq!(backends(&model), ips(&[A1, A2]));
}

#[test]
fn point_26_all_failing_all_serve_and_the_record_says_so() {
    let (mut model, want) = healthy();
    model.observed.health = verdicts(&[A1], &[A2]);
    model.settle(&want);
    model.observed.health = verdicts(&[], &[A1, A2]);
    assert_eq!(model.settle(&want), 2, "slice and status");
    assert_eq!(backends(&model), ips(&[A1, A2]));
    assert_eq!(
        outcome(&model),
        &Outcome::Programmed,
        "it may be the hub alone that hears nobody"
    );
    insta::assert_yaml_snapshot!(
        "all_failing",
        model.observed.record.as_ref().map(|record| {
            let shape = record
                .object
                .status
                .as_ref()
                .unwrap()
                .shape
                .clone()
                .unwrap();
            let manifest = shape.manifest(&id(), None, model.now.wall);
            manifest["status"]["conditions"][2].clone()
        })
    );
    model.observed.health = verdicts(&[A1], &[A2]);
    assert_eq!(model.settle(&want), 2);
    assert!(condition(&model).status);
}

#[test]
fn point_33_a_hub_that_has_just_started_changes_nothing_that_health_decided() {
    let (mut model, want) = healthy();
    for known in [verdicts(&[A1], &[A2]), verdicts(&[], &[A1, A2])] {
        model.observed.health = known.clone();
        model.settle(&want);
        // It knows nothing of anybody, and then learns what its predecessor knew.
        for health in [verdicts(&[], &[]), known] {
            model.observed.health = health;
            assert_eq!(model.settle(&want), 0);
        }
    }
}

#[test]
fn a_new_node_receives_traffic_with_its_first_answer() {
    let (mut model, _) = healthy();
    let three = nodes(&[("a1", A1), ("a2", A2), ("a3", "10.10.2.3")]);
    let want = want(1, service(), three);
    assert_eq!(model.settle(&want), 0);
    model.observed.health = verdicts(&[A1, A2, "10.10.2.3"], &[]);
    assert_eq!(model.settle(&want), 1);
    assert_eq!(backends(&model).len(), 3);
}

#[test]
fn a_first_service_does_not_wait_for_probes() {
    let mut model = Model::new(id(), policy());
    model.observed.health = verdicts(&[], &[]);
    let want = want(1, service(), two_nodes());
    model.settle(&want);
    model.allocate(200);
    assert_eq!(model.settle(&want), 2, "pin and status");
    assert_eq!(backends(&model), ips(&[A1, A2]));
    assert_eq!(outcome(&model), &Outcome::Programmed);
    model.observed.health = verdicts(&[A1, A2], &[]);
    assert_eq!(model.settle(&want), 0, "that they are good is no news");
}

#[test]
fn nodes_that_are_not_probed_all_serve() {
    let (mut model, want) = served();
    assert_eq!(condition(&model).reason, "NotProbed");
    model.observed.health = verdicts(&[A1], &[A2]);
    model.settle(&want);
    model.observed.health = None;
    model.settle(&want);
    assert_eq!(backends(&model), ips(&[A1, A2]));
}

/// A Service whose pods decide which nodes serve.
fn local(nodes: &[&str]) -> Service {
    Service {
        traffic_policy: TrafficPolicy::Local,
        local_nodes: nodes.iter().map(|name| NodeName((*name).into())).collect(),
        ..service()
    }
}

#[test]
fn point_26_with_the_policy_local_the_only_node_stays_although_it_fails() {
    let (mut model, _) = healthy();
    model.observed.health = verdicts(&[A1], &[A2]);
    model.settle(&want(2, local(&["a2"]), two_nodes()));
    assert_eq!(backends(&model), ips(&[A2]));
    assert_eq!(condition(&model).reason, "AllFailing");
}

#[test]
fn point_25_without_a_usable_backend_the_tenant_is_told_and_keeps_its_address() {
    let (mut model, _) = healthy();
    after(&mut model, PATIENCE);
    let gone = want(2, local(&[]), two_nodes());
    model.settle(&gone);
    assert_eq!(reason(&model), "NoBackends");
    let answer = model.answer.clone().unwrap();
    assert_eq!(answer.ingress, [ip("10.10.255.200")]);
    assert!(!condition(&model).status);
    assert!(backends(&model).is_empty());

    // A hub that starts now has not seen the Service for long, and says the same.
    let mut restarted = Model::new(id(), policy());
    restarted.observed = model.observed.clone();
    let seen = Arc::make_mut(restarted.observed.service.as_mut().unwrap());
    seen.since = restarted.now.instant;
    assert_eq!(restarted.settle(&gone), 0);
    assert_eq!(restarted.answer, Some(answer));

    model.settle(&want(3, local(&["a1"]), two_nodes()));
    assert_eq!(outcome(&model), &Outcome::Programmed);
    assert_eq!(condition(&model).reason, "Healthy");
}

#[test]
fn point_25_a_new_service_may_be_there_before_its_pods_are() {
    let mut model = Model::new(id(), policy());
    let early = want(1, local(&[]), two_nodes());
    model.settle(&early);
    model.allocate(200);
    model.settle(&early);
    assert_eq!(outcome(&model), &Outcome::Programmed);
    let due = model.plan(&early).revisit;
    assert_eq!(due, Some(model.now.instant + PATIENCE));
    after(&mut model, PATIENCE);
    assert_eq!(model.settle(&early), 1, "the status");
    assert_eq!(reason(&model), "NoBackends");
}
