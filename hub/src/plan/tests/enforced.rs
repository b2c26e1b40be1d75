//! What becomes of a load balancer that policy, or its tenant's quotas, have no room for any more.

use super::*;
use crate::{
    objects::record::StatusShape,
    policy::{NodePorts, NodeRules, Shortage},
};

fn range(text: &str, enforce: bool) -> Arc<NodeRules> {
    Arc::new(NodeRules {
        ports: NodePorts::parse(text),
        enforce,
        ..NodeRules::default()
    })
}

fn status(model: &Model) -> StatusShape {
    let record = model.observed.record.as_ref().unwrap();
    record
        .object
        .status
        .as_ref()
        .unwrap()
        .shape
        .clone()
        .unwrap()
}

fn short(withdrawn: bool) -> Refusal {
    let shortage = Shortage::LoadBalancers {
        most: 2,
        reserved: false,
        withdrawn,
    };
    shortage.refusal()
}

#[test]
fn policy_that_changes_leaves_what_exists_and_reports_it() {
    let (mut model, want) = served();
    model.policy.nodes = range("30000-30999", false);
    assert_eq!(model.settle(&want), 1, "the status");
    assert_eq!(reason(&model), "NodePortOutOfRange");
    assert_eq!(
        model.answer.as_ref().unwrap().ingress,
        [ip("10.10.255.200")]
    );
    let told = status(&model);
    assert_eq!(
        (told.accepted.status, told.accepted.reason.as_str()),
        (false, "NodePortOutOfRange")
    );
    assert_eq!(
        (told.programmed.status, told.programmed.reason.as_str()),
        (true, "PolicyViolated")
    );
    assert!(
        told.programmed.message.contains("nodePortRange"),
        "{}",
        told.programmed.message
    );
    model.policy.nodes = range("30000-31000", false);
    model.settle(&want);
    assert_eq!(outcome(&model), &Outcome::Programmed);
    assert!(status(&model).accepted.status);
}

#[test]
fn policy_that_is_enforced_withdraws_and_parks_and_gives_the_address_back_when_it_fits_again() {
    let (mut model, want) = served();
    model.policy.nodes = range("30000-30999", true);
    assert!(model.plan(&want).withdrawn.is_some(), "told once");
    assert_eq!(model.settle(&want), 2, "slice and record");
    assert!(model.parked && !model.gone, "its tenant wants it still");
    assert_eq!(reason(&model), "NodePortOutOfRange");
    assert_eq!(model.answer.as_ref().unwrap().ingress, []);
    assert_eq!(model.plan(&want).withdrawn, None);
    model.policy.nodes = range("30000-31000", true);
    model.settle(&want);
    assert_eq!(outcome(&model), &Outcome::Programmed);
    assert_eq!(model.ingress(), [ip("10.10.255.200")]);
    // And once its time is up it goes.
    model.policy.nodes = range("30000-30999", true);
    model.settle(&want);
    model.observed.released = true;
    assert_eq!(model.settle(&want), 1);
    assert!(model.observed.is_empty());
    assert_eq!(model.settle(&want), 0, "and is not made again");
    assert_eq!(reason(&model), "NodePortOutOfRange");
}

#[test]
fn policy_that_is_enforced_leaves_a_record_that_says_why_where_the_address_is_retained() {
    let (mut model, want) = served();
    model.policy.retain = true;
    model.policy.nodes = range("30000-30999", true);
    model.settle(&want);
    let told = status(&model);
    assert_eq!(
        (told.accepted.status, told.accepted.reason.as_str()),
        (false, "NodePortOutOfRange")
    );
    assert_eq!(told.programmed.reason, "Reserved");
    for said in [&told.accepted.message, &told.programmed.message] {
        assert!(said.contains("nodePortRange"), "{said}");
    }
    assert!(!told.programmed.message.contains("no such Service"));
    assert_eq!(told.addresses, [ip("10.10.255.200")]);
    model.policy.nodes = range("30000-31000", true);
    model.settle(&want);
    assert!(status(&model).accepted.status && status(&model).programmed.status);
    assert_eq!(model.ingress(), [ip("10.10.255.200")]);
}

#[test]
fn policy_that_is_enforced_leaves_the_last_version_that_fits() {
    let (mut model, _) = served();
    model.policy.nodes = range("31000-31000", true);
    let mut other = service();
    other.ports[0].node_port = Some(31_001);
    model.settle(&want(2, other, two_nodes()));
    assert_eq!(reason(&model), "NodePortOutOfRange");
    assert_eq!(
        model.answer.as_ref().unwrap().ingress,
        [ip("10.10.255.200")]
    );
    assert_eq!(status(&model).programmed.reason, "LastGoodVersion");
    // What it may not ask for any more is withdrawn as well.
    let mut model = Model::new(id(), policy());
    let asking = Service {
        requested_ips: vec!["10.10.255.241".parse().unwrap()],
        ..service()
    };
    let asking = want(1, asking, two_nodes());
    model.settle(&asking);
    model.allocate(1);
    model.settle(&asking);
    model.policy.requestable.clear();
    model.settle(&asking);
    assert_eq!(status(&model).programmed.reason, "PolicyViolated");
    model.policy.nodes = range("30000-32767", true);
    model.settle(&asking);
    assert!(model.observed.is_cut());
}

#[test]
fn quota_without_room_makes_nothing_of_a_new_one_and_leaves_what_is_there_of_another() {
    let mut model = Model::new(id(), policy());
    model.observed.room = Room::None(short(false));
    let wanted = want(1, service(), two_nodes());
    assert_eq!(model.settle(&wanted), 0);
    assert_eq!(reason(&model), "QuotaExceeded");
    assert_eq!(model.plan(&wanted).ports, None, "it takes nothing");
    model.observed.room = Room::Enough;
    assert_eq!(model.plan(&wanted).ports, Some(1));
    model.settle(&wanted);
    model.allocate(200);
    model.settle(&wanted);
    let mut more = service();
    more.ports.push(Port {
        name: "more".into(),
        port: 3001,
        ..more.ports[0].clone()
    });
    let more = want(2, more, two_nodes());
    assert_eq!(model.plan(&more).ports, Some(2));
    model.observed.room = Room::None(short(false));
    model.settle(&more);
    assert_eq!(
        model
            .observed
            .service
            .as_ref()
            .unwrap()
            .object
            .shape
            .ports
            .len(),
        1
    );
    assert_eq!(status(&model).programmed.reason, "LastGoodVersion");
    assert_eq!(model.plan(&more).ports, Some(1), "what it has");
    // Beyond a quota that is enforced it goes, also where it is kept otherwise.
    model.observed.room = Room::Gone(short(true));
    model.settle(&more);
    assert!(model.parked && model.observed.is_cut());
    assert_eq!(reason(&model), "QuotaExceeded");
}

#[test]
fn quota_a_parked_address_is_held_while_a_version_of_it_is_refused_for_something_else() {
    let (mut model, _) = served();
    model.settle(&Want::Deleted);
    let mut bad = service();
    bad.ports[0].node_port = None;
    let bad = want(2, bad, two_nodes());
    assert_eq!(model.settle(&bad), 0);
    assert_eq!(
        (reason(&model), model.plan(&bad).ports),
        ("NodePortMissing", Some(1))
    );
}
