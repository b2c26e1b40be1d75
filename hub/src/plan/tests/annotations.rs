//! Annotations: which reach the management Service, whose they are, and that a change is followed with the address kept.

use berth_common::annotations::Allowed;

use super::*;

const OWNER: &str = "example.com/owner";
const SHARING: &str = "metallb.io/allow-shared-ip";

fn with(allowed: &[&str], injected: &[(&str, &str)]) -> Policy {
    let injected = injected.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    let annotations = Annotations {
        allowed: Allowed::new(allowed),
        injected: injected.collect(),
    };
    Policy {
        annotations: Arc::new(annotations),
        ..policy()
    }
}

fn annotated(annotations: &[(&str, &str)]) -> Service {
    let annotations = annotations.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    Service {
        annotations: annotations.collect(),
        ..service()
    }
}

fn on_service(model: &Model) -> Vec<(String, String)> {
    let service = model.observed.service.clone().unwrap();
    let annotations = service.object.shape.annotations.clone();
    annotations.into_iter().collect()
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.into(), value.into())
}

/// Served with its address under this policy, wanting this.
fn served_with(policy: Policy, service: &Service) -> Model {
    let mut model = Model::new(id(), policy);
    let want = want(1, service.clone(), two_nodes());
    model.settle(&want);
    model.allocate(200);
    model.settle(&want);
    assert_eq!(outcome(&model), &Outcome::Programmed);
    assert_eq!(model.settle(&want), 0, "unchanged input writes nothing");
    model
}

#[test]
fn point_19_what_is_allowed_passes_what_is_injected_wins_and_nothing_else_is_there() {
    let policy = with(
        &["example.com/*"],
        &[("cloud.example/kind", "internal"), ("example.com/a", "op")],
    );
    let asked = annotated(&[
        (OWNER, "team"),
        ("example.com/a", "mine"),
        ("other.example/b", "1"),
    ]);
    let model = served_with(policy, &asked);
    let there = [
        pair("cloud.example/kind", "internal"),
        pair("example.com/a", "op"),
        pair(OWNER, "team"),
    ];
    assert_eq!(on_service(&model), there);
    let record = model.observed.record.clone().unwrap();
    let recorded: Vec<_> = record.object.spec.annotations.keys().collect();
    assert_eq!(
        recorded,
        ["example.com/a", OWNER],
        "the tenant's, as far as they pass"
    );
}

#[test]
fn point_19_a_change_by_tenant_or_operator_is_one_write_to_the_service_and_the_address_stays() {
    let mut model = served_with(with(&[OWNER], &[]), &annotated(&[(OWNER, "a")]));
    let service_writes = |model: &mut Model, want: &Want| {
        model.writes.clear();
        model.settle(want);
        assert_eq!(model.ingress(), [ip("10.10.255.200")]);
        assert_eq!(outcome(model), &Outcome::Programmed);
        let writes = model.writes.iter();
        writes
            .filter(|a| matches!(a.write, Write::Service { .. }))
            .count()
    };
    let changed = want(2, annotated(&[(OWNER, "b")]), two_nodes());
    assert_eq!(service_writes(&mut model, &changed), 1);
    assert_eq!(on_service(&model), [pair(OWNER, "b")]);
    model.policy = with(&[OWNER], &[("cloud.example/kind", "internal")]);
    assert_eq!(service_writes(&mut model, &changed), 1);
    assert_eq!(on_service(&model).len(), 2);
    model.policy = with(&[], &[("cloud.example/kind", "internal")]);
    assert_eq!(service_writes(&mut model, &changed), 1);
    assert_eq!(on_service(&model), [pair("cloud.example/kind", "internal")]);
    model.policy = with(&[OWNER], &[]);
    assert_eq!(service_writes(&mut model, &changed), 1);
    let removed = want(3, service(), two_nodes());
    assert_eq!(service_writes(&mut model, &removed), 1);
    assert_eq!(on_service(&model), []);
    assert_eq!(service_writes(&mut model, &removed), 0);
}

#[test]
fn hostile_57_and_59_nothing_that_steers_passes_whatever_the_tenant_says() {
    let everything = [
        "metallb.io/address-pool",
        "metallb.io/loadBalancerIPs",
        "metallb.universe.tf/allow-shared-ip",
        "service.beta.kubernetes.io/aws-load-balancer-type",
        "kubernetes.io/description",
    ];
    let list = [
        "metallb.io/*",
        "metallb.universe.tf/*",
        "service.beta.kubernetes.io/*",
        "kubernetes.io/*",
    ];
    let asked: Vec<_> = everything.iter().map(|key| (*key, "192.0.2.1")).collect();
    let model = served_with(with(&list, &[]), &annotated(&asked));
    assert_eq!(on_service(&model), []);
    let service = model.observed.service.clone().unwrap();
    let pin = &service.object.shape.steering.pin;
    assert!(pin.contains(&"10.10.255.200".parse().unwrap()), "{pin:?}");
}

#[test]
fn point_19_sharing_keys_are_the_tenants_own_whoever_gave_them() {
    let theirs = served_with(with(&[SHARING], &[]), &annotated(&[(SHARING, "dns")]));
    assert_eq!(on_service(&theirs), [pair(SHARING, "acme/dns")]);
    let operators = served_with(
        with(&[], &[(SHARING, "all")]),
        &annotated(&[(SHARING, "dns")]),
    );
    assert_eq!(on_service(&operators), [pair(SHARING, "acme/all")]);
}

#[test]
fn point_19_a_refused_version_keeps_the_annotations_of_the_one_that_is_served() {
    let mut model = served_with(with(&[OWNER], &[]), &annotated(&[(OWNER, "a")]));
    let mut bad = annotated(&[(OWNER, "b")]);
    bad.ports[0].node_port = None;
    model.settle(&want(2, bad, two_nodes()));
    assert_eq!(reason(&model), "NodePortMissing");
    assert_eq!(on_service(&model), [pair(OWNER, "a")]);
}
