//! What becomes of the address of a Service that is deleted.

use super::*;

fn parked() -> Model {
    let (mut model, _) = served();
    model.settle(&Want::Deleted);
    model
}

fn reserved() -> Model {
    let (mut model, _) = served();
    model.policy.retain = true;
    assert_eq!(model.settle(&Want::Deleted), 2, "slice and status");
    model
}

/// Of the record's condition: whether, why, and in a sentence.
fn programmed(model: &Model) -> (bool, String, String) {
    let record = model.observed.record.as_ref().unwrap();
    let status = record.object.status.as_ref().unwrap();
    let programmed = status.shape.clone().unwrap().programmed;
    (programmed.status, programmed.reason, programmed.message)
}

#[test]
fn parking_a_deleted_service_loses_its_way_and_keeps_its_address() {
    let mut model = parked();
    assert!(model.observed.is_cut() && model.observed.rests());
    assert_eq!(model.ingress(), [ip("10.10.255.200")]);
    let plan = model.plan(&Want::Deleted);
    assert!(plan.gone && plan.parked && plan.actions.is_empty());
    assert_eq!(plan.answer, None, "its address is told to nobody");
    model.observed.released = true;
    assert_eq!(model.settle(&Want::Deleted), 1);
    assert!(model.gone && !model.parked && model.observed.is_empty());
}

#[test]
fn point_05_parking_who_comes_back_has_its_address_without_the_allocator() {
    let mut model = parked();
    let recreated = Service {
        uid: "other".into(),
        ..service()
    };
    let want = want(2, recreated, two_nodes());
    let plan = model.plan(&want);
    assert!(!plan.parked && !plan.gone && plan.rebound);
    assert_eq!(model.settle(&want), 3, "record and slice, and its status");
    assert_eq!(outcome(&model), &Outcome::Programmed);
    assert_eq!(
        model.answer.as_ref().unwrap().ingress,
        [ip("10.10.255.200")]
    );
    // Also where the word of its release came too late.
    model.observed.released = true;
    assert_eq!(model.settle(&want), 0);
}

#[test]
fn point_05_parking_a_crash_at_any_step_loses_no_address() {
    // What was deleted before the crash: nothing, the slice, the record, both.
    for (slice, record) in [(false, false), (true, false), (false, true), (true, true)] {
        let (mut model, want) = served();
        if slice {
            model.observed.slices.clear();
        }
        if record {
            model.lose_record();
        }
        assert_eq!(model.plan(&Want::Unknown), Plan::default());
        let mut back = Model::new(id(), policy());
        back.observed = model.observed.clone();
        model.settle(&Want::Deleted);
        assert!(model.parked && model.gone, "{slice} {record}");
        if slice || record {
            back.observed.record = None;
        }
        back.settle(&want);
        assert_eq!(back.answer.unwrap().ingress, [ip("10.10.255.200")]);
    }
}

#[test]
fn parking_what_only_keeps_an_address_needs_no_grace_and_no_brake() {
    let mut model = parked();
    let since = model.now.instant;
    for held in [true, false] {
        let plan = model.plan(&Want::Absent { since, held });
        assert!(plan.parked && plan.gone && plan.actions.is_empty());
    }
    model.observed.released = true;
    assert_eq!(model.settle(&Want::Absent { since, held: true }), 1);
}

#[test]
fn parking_is_not_for_what_serves() {
    let (mut model, want) = served();
    model.observed.released = true;
    assert_eq!(model.plan(&want).actions, [], "wanted");
    let since = model.now.instant;
    let absent = model.plan(&Want::Absent { since, held: false });
    assert!(absent.actions.is_empty() && !absent.gone && !absent.parked);
    assert_eq!(model.plan(&Want::Unknown), Plan::default());
}

#[test]
fn parking_keeps_nothing_where_there_is_no_address() {
    let mut model = Model::new(id(), policy());
    model.settle(&want(1, service(), two_nodes()));
    assert_eq!(model.settle(&Want::Deleted), 3);
    assert!(model.gone && model.observed.is_empty());
    // A pin is the trace of one.
    let mut model = parked();
    model.change_service(|service| service.ingress.clear());
    assert!(model.plan(&Want::Deleted).parked);
    model.change_service(|service| service.shape.steering.pin.clear());
    assert_eq!(model.settle(&Want::Deleted), 1);
}

#[test]
fn parking_for_no_time_is_none() {
    let (mut model, _) = served();
    model.policy.release_after = Duration::ZERO;
    assert_eq!(model.settle(&Want::Deleted), 3);
    assert!(model.gone && !model.parked);
}

#[test]
fn parking_another_address_is_had_by_deleting_and_creating() {
    let mut model = parked();
    let asks = Service {
        requested_ips: vec!["10.10.255.241".parse().unwrap()],
        ..service()
    };
    let want = want(2, asks, two_nodes());
    model.answer = None;
    model.settle(&want);
    assert_eq!(model.answer, None, "the parked one is not told");
    model.allocate(99);
    model.settle(&want);
    assert_eq!(outcome(&model), &Outcome::Programmed);
    assert_eq!(model.answer.unwrap().ingress, [ip("10.10.255.241")]);
}

#[test]
fn parking_metallbs_words_are_hunger_and_its_silence_is_not() {
    let mut model = Model::new(id(), policy());
    let want = want(1, service(), two_nodes());
    model.settle(&want);
    after(&mut model, PATIENCE_AT_MOST);
    assert!(!model.plan(&want).starving, "it may be busy, or away");
    model.observed.allocator_says = Some("no available IPs".into());
    assert!(model.plan(&want).starving);
    assert!(!model.plan(&Want::Deleted).starving);
    model.allocate(200);
    assert!(!model.plan(&want).starving);
    // Another allocator has no words.
    let mut other = Model::new(
        id(),
        Policy {
            allocator: Allocator::Other,
            ..policy()
        },
    );
    other.settle(&want);
    let due = other.now.instant + PATIENCE;
    assert_eq!(other.plan(&want).revisit, Some(due));
    after(&mut other, PATIENCE);
    assert!(other.plan(&want).starving);
}

#[test]
fn point_05_parking_retain_reserves_the_address_until_an_operator_lets_go() {
    let mut model = reserved();
    assert!(model.gone && !model.parked && model.observed.rests());
    assert_eq!(model.settle(&Want::Deleted), 0);
    let (is, reason, message) = programmed(&model);
    assert_eq!((is, reason.as_str()), (false, "Reserved"));
    let name = crate::objects::name::object(&id());
    let command = format!("kubectl delete loadbalancers.berth.dev {name} --namespace berth-acme");
    assert!(message.ends_with(&command), "{message}");
    let record = model.observed.record.as_ref().unwrap();
    assert_eq!(record.object.addresses(), [ip("10.10.255.200")]);
    // Not even after a release of something that was parked before.
    model.observed.released = true;
    let since = model.now.instant;
    assert_eq!(model.settle(&Want::Absent { since, held: true }), 0);
    assert!(model.gone, "what is reserved is not missed");
    model.observed.released = false;
    model.lose_record();
    assert_eq!(model.settle(&Want::Deleted), 0);
    assert!(model.gone && model.parked, "released like any other");
}

#[test]
fn point_05_parking_retain_who_comes_back_serves_again() {
    let mut model = reserved();
    let want = want(2, service(), two_nodes());
    model.settle(&want);
    assert_eq!(outcome(&model), &Outcome::Programmed);
    assert_eq!(
        model.answer.as_ref().unwrap().ingress,
        [ip("10.10.255.200")]
    );
    assert_eq!(
        programmed(&model),
        (true, "Programmed".into(), String::new())
    );
}

#[test]
fn parking_retain_is_not_said_to_be_gone_before_it_is_said_to_be_reserved() {
    let (mut model, _) = served();
    model.policy.retain = true;
    model.observed.slices.clear();
    let plan = model.plan(&Want::Deleted);
    assert_eq!((plan.actions.len(), plan.gone), (1, false));
    assert!(!model.observed.rests(), "or it would be missed");
}

#[test]
fn parking_retain_absence_is_reserved_after_its_grace_and_another_policy_lets_go() {
    let (mut model, _) = served();
    model.policy.retain = true;
    let since = model.now.instant;
    let absent = Want::Absent { since, held: false };
    assert_eq!(model.settle(&absent), 0);
    after(&mut model, ABSENCE_GRACE);
    assert_eq!(model.settle(&absent), 2);
    assert!(model.gone && model.observed.rests());
    model.policy.retain = false;
    assert_eq!(model.settle(&Want::Deleted), 1, "the record");
    assert!(model.parked);
}
