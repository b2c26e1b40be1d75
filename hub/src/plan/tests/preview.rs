//! What another policy would make of what exists, beside what it then does.

use super::*;
use crate::policy::{NodePorts, NodeRules, Quotas};

fn with(rules: NodeRules) -> Policy {
    Policy {
        nodes: Arc::new(rules),
        ..policy()
    }
}

fn words(found: &[Foreseen]) -> Vec<(Effect, &str, bool)> {
    let mut words = Vec::new();
    for it in found {
        words.push((it.effect, it.reason.as_str(), it.already));
    }
    words
}

#[test]
fn a_policy_that_fits_has_nothing_to_say() {
    let (model, _) = served();
    assert_eq!(preview(&model.observed, &policy(), &policy()), []);
    assert_eq!(preview_all([&model.observed], &policy(), &policy()), []);
}

#[test]
fn what_is_foreseen_to_be_refused_is_refused_under_that_policy() {
    let ports = with(NodeRules {
        ports: Some(NodePorts { first: 1, last: 2 }),
        ..NodeRules::default()
    });
    let (mut model, want) = served();
    let found = preview(&model.observed, &policy(), &ports);
    let expected = [(Effect::Refused, "NodePortOutOfRange", false)];
    assert_eq!(words(&found), expected);
    assert!(found[0].why.contains("nodePortRange"), "{found:?}");
    let found = preview(&model.observed, &ports, &ports);
    assert!(found[0].already, "it is so today");
    model.policy = ports;
    model.settle(&want);
    assert_eq!(reason(&model), "NodePortOutOfRange");
}

#[test]
fn nodes_that_are_foreseen_to_be_left_out_are() {
    let one = with(NodeRules {
        allowed: vec!["10.10.2.1/32".parse().unwrap()],
        enforce: true,
        ..NodeRules::default()
    });
    let (mut model, want) = served();
    let found = preview(&model.observed, &policy(), &one);
    let expected = [(Effect::NodeLeftOut, "AddressNotAllowed", false)];
    assert_eq!(words(&found), expected);
    assert!(found[0].why.starts_with("10.10.2.2 is not among"));
    assert!(!found[0].why.contains("no node is left"));
    model.policy = one;
    model.settle(&want);
    let slice = model.observed.slices.values().next().unwrap();
    assert_eq!(slice.object.shape.addresses.len(), 1);

    let none = with(NodeRules {
        allowed: vec!["192.0.2.0/24".parse().unwrap()],
        enforce: true,
        ..NodeRules::default()
    });
    let found = preview(&served().0.observed, &policy(), &none);
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|it| it.why.contains("no node is left")));
    // Where it is not enforced they keep what they have.
    let tolerant = with(NodeRules {
        allowed: none.nodes.allowed.clone(),
        ..NodeRules::default()
    });
    let found = preview(&served().0.observed, &policy(), &tolerant);
    let stays = (Effect::Refused, "AddressNotAllowed", false);
    assert_eq!(words(&found), [stays, stays]);
    assert!(found[0].why.contains("it keeps its traffic"), "{found:?}");
    let found = preview(&served().0.observed, &tolerant, &none);
    assert!(found.iter().all(|it| !it.already), "{found:?}");
    let found = preview(&served().0.observed, &none, &tolerant);
    assert!(found.iter().all(|it| it.already), "{found:?}");
}

#[test]
fn what_is_foreseen_to_be_withdrawn_is_under_an_enforced_policy() {
    let ports = |enforce| {
        with(NodeRules {
            ports: Some(NodePorts { first: 1, last: 2 }),
            enforce,
            ..NodeRules::default()
        })
    };
    let (mut model, want) = served();
    let found = preview(&model.observed, &policy(), &ports(true));
    let expected = [(Effect::Withdrawn, "NodePortOutOfRange", false)];
    assert_eq!(words(&found), expected);
    let found = preview(&model.observed, &ports(false), &ports(true));
    assert!(!found[0].already, "it is refused today, and would go");
    model.policy = ports(true);
    model.settle(&want);
    assert!(model.observed.is_cut(), "it did");
}

#[test]
fn nodes_beyond_a_quota_are_counted_over_all_load_balancers_and_go_only_where_it_is_enforced() {
    let (model, _) = served();
    let quota = |enforce| {
        with(NodeRules {
            quotas: Quotas {
                nodes: Some(1),
                ..Quotas::default()
            },
            enforce,
            ..NodeRules::default()
        })
    };
    let both = [&model.observed, &model.observed];
    let found = preview_all(both, &policy(), &quota(false));
    assert_eq!(words(&found), [(Effect::Refused, "QuotaExceeded", false)]);
    let found = preview_all(both, &quota(false), &quota(true));
    let expected = [(Effect::NodeLeftOut, "QuotaExceeded", false)];
    assert_eq!(words(&found), expected);
    assert!(found[0].why.contains("1 are left out"), "{found:?}");
    assert!(preview_all(both, &quota(false), &quota(false))[0].already);
}

#[test]
fn annotations_that_do_not_pass_any_more_are_named() {
    let passes = |patterns: &[&str]| Policy {
        annotations: Arc::new(Annotations {
            allowed: berth_common::annotations::Allowed::new(patterns),
            ..Annotations::default()
        }),
        ..policy()
    };
    let mut model = Model::new(id(), passes(&["example.com/*"]));
    let annotated = Service {
        annotations: [("example.com/owner".to_owned(), "me".to_owned())].into(),
        ..service()
    };
    let want = want(1, annotated, two_nodes());
    model.settle(&want);
    model.allocate(200);
    model.settle(&want);
    let before = model.policy.clone();
    let found = preview(&model.observed, &before, &passes(&[]));
    let expected = [(Effect::AnnotationDropped, "AnnotationNotAllowed", false)];
    assert_eq!(words(&found), expected);
    assert!(found[0].why.starts_with("example.com/owner"), "{found:?}");
}

#[test]
fn what_only_keeps_an_address_is_not_judged() {
    let (mut model, _) = served();
    model.policy.retain = true;
    model.settle(&Want::Deleted);
    let none = with(NodeRules {
        ports: Some(NodePorts { first: 1, last: 2 }),
        ..NodeRules::default()
    });
    assert_eq!(preview(&model.observed, &policy(), &none), []);
}
