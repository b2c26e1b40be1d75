//! Which cluster an identity belongs to, and what an operator's rebinding does to sessions that are live.

use super::*;

fn bound_to(uid: &str, version: u64) -> Admission {
    Admission {
        cluster_uid: Some(uid.into()),
        version,
        ..Admission::default()
    }
}

fn unbound(version: u64) -> Admission {
    Admission {
        version,
        ..Admission::default()
    }
}

fn admit(tenants: &Tenants, admission: Admission) {
    tenants.admit(BTreeMap::from([(acme(), admission)]));
}

fn claim(tenants: &Tenants) -> Option<String> {
    tenants.standings()[&acme()].claim.clone()
}

fn is_refused(result: Result<Vec<Event>, Rejected>, bound: &str) -> bool {
    matches!(
        result,
        Err(Rejected::Refused(Refused::OtherCluster { bound: b, .. })) if b == bound
    )
}

/// A hub whose tenant is bound to `old` on record, and has a session of it.
fn settled() -> (Arc<Tenants>, AgentSession, Seat) {
    let (tenants, _) = hub(&[("acme", unbound(1))]);
    let mut old = agent("old");
    let seat = connect(&tenants, &mut old);
    talk(&mut old, &seat).unwrap();
    assert_eq!(claim(&tenants).as_deref(), Some("old"), "the first owns it");
    tenants.recorded(&acme(), "old", 2);
    admit(&tenants, bound_to("old", 2));
    assert_eq!(claim(&tenants), None);
    (tenants, old, seat)
}

#[test]
fn a_cleared_binding_is_the_next_clusters_and_the_live_session_does_not_take_it_back() {
    let (tenants, mut old, first) = settled();
    admit(&tenants, unbound(3));
    assert_eq!(claim(&tenants), None, "or the hub would write it back");
    talk(&mut old, &first).unwrap();
    assert_eq!(tenants.live(), 1, "it goes on while nobody else has come");

    let mut new = agent("new");
    let second = connect(&tenants, &mut new);
    talk(&mut new, &second).unwrap();
    assert!(matches!(
        first.next(Instant::now()),
        Next::End(Ending::Fenced)
    ));
    assert_eq!(claim(&tenants).as_deref(), Some("new"));
    drop(first);
    let third = connect(&tenants, &mut old);
    assert!(
        is_refused(talk(&mut old, &third), "new"),
        "before it is on record"
    );
    tenants.recorded(&acme(), "new", 4);
    admit(&tenants, bound_to("new", 4));
    let third = connect(&tenants, &mut old);
    assert!(is_refused(talk(&mut old, &third), "new"), "and after");
    talk(&mut new, &second).unwrap();
}

#[test]
fn the_former_cluster_comes_back_as_a_guest_also_to_a_hub_that_has_just_started() {
    let former = Admission {
        former_cluster: Some("old".into()),
        ..unbound(3)
    };
    let (tenants, _) = hub(&[("acme", former)]);
    let (mut old, mut new) = (agent("old"), agent("new"));
    let first = connect(&tenants, &mut old);
    talk(&mut old, &first).unwrap();
    assert_eq!(claim(&tenants), None, "a guest");
    let second = connect(&tenants, &mut new);
    talk(&mut new, &second).unwrap();
    assert_eq!(claim(&tenants).as_deref(), Some("new"));
}

#[test]
fn a_binding_cleared_by_hand_leaves_its_cluster_a_guest_when_that_reconnects() {
    let (tenants, mut old, first) = settled();
    admit(&tenants, unbound(3));
    drop(first);
    let again = connect(&tenants, &mut old);
    talk(&mut old, &again).unwrap();
    // The directory changes for other reasons, and still says nothing of a former cluster.
    admit(&tenants, unbound(4));
    assert_eq!(claim(&tenants), None);
}

#[test]
fn a_binding_to_another_cluster_ends_the_live_session_at_once() {
    let (tenants, mut old, first) = settled();
    admit(&tenants, bound_to("new", 3));
    assert!(matches!(
        first.next(Instant::now()),
        Next::End(Ending::Refused(Refused::OtherCluster { bound, other, .. }))
            if bound == "new" && other == "old"
    ));
    drop(first);
    let again = connect(&tenants, &mut old);
    assert!(is_refused(talk(&mut old, &again), "new"));
    drop(again);
    let mut new = agent("new");
    let second = connect(&tenants, &mut new);
    talk(&mut new, &second).unwrap();
    assert_eq!(claim(&tenants), None, "the object says it already");
}

/// The hub writes the binding, and sees the object as it was before; then the operator clears it.
#[test]
fn an_older_version_of_the_object_does_not_undo_a_binding_and_a_newer_one_does() {
    let (tenants, _) = hub(&[("acme", unbound(1))]);
    let (mut old, mut new) = (agent("old"), agent("new"));
    let first = connect(&tenants, &mut old);
    talk(&mut old, &first).unwrap();
    tenants.recorded(&acme(), "old", 5);
    assert_eq!(claim(&tenants), None, "written once");
    admit(&tenants, unbound(4));
    let second = connect(&tenants, &mut new);
    assert!(is_refused(talk(&mut new, &second), "old"));
    drop(second);
    // Version 5 itself was never seen: the operator was as fast as the watch.
    admit(&tenants, unbound(6));
    let second = connect(&tenants, &mut new);
    talk(&mut new, &second).unwrap();
}

#[test]
fn hostile_24_an_agent_that_does_not_know_its_cluster_does_not_disturb_one_that_does() {
    let (tenants, mut old, first) = settled();
    let mut nobody = AgentSession::new(AgentInfo {
        version: "0.1.0".into(),
        instance_id: "n".into(),
    });
    let second = connect(&tenants, &mut nobody);
    assert!(matches!(
        talk(&mut nobody, &second),
        Err(Rejected::Refused(Refused::ClusterUnknown { holder, .. })) if holder == "old"
    ));
    drop(second);
    talk(&mut old, &first).unwrap();
    drop(first);
    let second = connect(&tenants, &mut nobody);
    talk(&mut nobody, &second).unwrap();
}
