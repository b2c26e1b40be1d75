//! What is missed all at once is held, an operator lets it go, and that was for that once.

use std::collections::BTreeSet;

use super::*;

fn key(n: usize) -> ServiceKey {
    ServiceKey::new("default", format!("s{n}"))
}

/// A tenant with so many Services.
fn tenant(services: usize) -> (Arc<Tenants>, Arc<Recorder>, AgentSession) {
    let (tenants, marks) = hub(&[("acme", Admission::default())]);
    let mut agent = agent("c");
    for n in 0..services {
        agent.upsert(Key::Service(key(n)), service());
    }
    let seat = connect(&tenants, &mut agent);
    talk(&mut agent, &seat).unwrap();
    (tenants, marks, agent)
}

/// The agent comes again with these Services missing, which nobody has deleted.
fn lose(tenants: &Arc<Tenants>, agent: &mut AgentSession, lost: std::ops::Range<usize>) {
    for n in lost {
        agent.forget(&Key::Service(key(n)));
    }
    let seat = connect(tenants, agent);
    talk(agent, &seat).unwrap();
}

fn standing(tenants: &Tenants) -> Standing {
    tenants.standings()[&acme()].clone()
}

fn all_held(tenants: &Tenants, range: std::ops::Range<usize>) -> bool {
    let keys: BTreeSet<ServiceKey> = range.map(key).collect();
    keys.iter().all(|key| tenants.holds(&acme(), key)) && tenants.held(&acme()) == keys
}

#[test]
fn rule_5_a_release_is_for_what_is_held_and_the_next_absence_is_held_again() {
    let (tenants, marks, mut agent) = tenant(20);
    lose(&tenants, &mut agent, 0..6);
    assert!(all_held(&tenants, 0..6));
    assert_eq!((standing(&tenants).absent, standing(&tenants).held), (6, 6));

    marks.0.lock().unwrap().clear();
    let held = tenants.held(&acme());
    assert_eq!(tenants.release(&acme(), held), 6);
    assert_eq!(marks.0.lock().unwrap().len(), 6, "planned at once");
    assert!((0..6).all(|n| !tenants.holds(&acme(), &key(n))));
    assert_eq!((standing(&tenants).absent, standing(&tenants).held), (6, 0));

    // Before they are gone, others are missed; then the first are gone.
    lose(&tenants, &mut agent, 6..12);
    assert!(all_held(&tenants, 6..12));
    for n in 0..6 {
        tenants.gone(&acme(), &key(n));
    }
    assert!(all_held(&tenants, 6..12));
    assert_eq!((standing(&tenants).absent, standing(&tenants).held), (6, 6));
}

#[test]
fn what_was_released_and_came_back_is_held_when_it_is_missed_again() {
    let (tenants, _, mut agent) = tenant(20);
    lose(&tenants, &mut agent, 0..6);
    tenants.release(&acme(), tenants.held(&acme()));
    for n in 0..6 {
        agent.upsert(Key::Service(key(n)), service());
    }
    lose(&tenants, &mut agent, 20..20);
    assert_eq!((standing(&tenants).absent, standing(&tenants).held), (0, 0));
    lose(&tenants, &mut agent, 0..6);
    assert!(all_held(&tenants, 0..6));
}

#[test]
fn only_what_is_absent_still_is_released() {
    let (tenants, _, mut agent) = tenant(20);
    lose(&tenants, &mut agent, 0..6);
    let asked = tenants.held(&acme());
    agent.upsert(Key::Service(key(0)), service());
    lose(&tenants, &mut agent, 20..20);
    assert_eq!(tenants.release(&acme(), asked), 5);
}

/// The hub was restarted, and the tenant's cluster is empty: what is observed of an earlier process counts at once.
#[test]
fn rule_5_what_a_restarted_hub_finds_is_missed_all_at_once() {
    struct Found;
    impl Marks for Found {
        fn service(&self, _: &TenantName, _: &ServiceKey) {}
        fn observed(&self, _: &TenantName) {}
        fn keys(&self, _: &TenantName) -> Vec<ServiceKey> {
            (0..8).map(key).collect()
        }
    }
    let tenants = Arc::new(Tenants::new(1, Limits::default(), Arc::new(Found)));
    tenants.admit(BTreeMap::from([(acme(), Admission::default())]));
    let mut agent = agent("c");
    let seat = connect(&tenants, &mut agent);
    assert!(!standing(&tenants).complete);
    talk(&mut agent, &seat).unwrap();
    assert!(standing(&tenants).complete);
    assert!(all_held(&tenants, 0..8));
}
