//! What the queue hands out, and in which order.

use proptest::prelude::*;

use super::{super::company::BUSY, *};

fn id(tenant: &str, name: &str) -> Id {
    Id::new(
        TenantName::parse(tenant).unwrap(),
        ServiceKey::new("default", name),
    )
}

fn drain(queue: &mut Queue, now: Instant) -> Vec<Id> {
    std::iter::from_fn(|| queue.next(now)).collect()
}

#[test]
fn hostile_41_ten_thousand_changes_of_one_key_are_one_entry() {
    let mut queue = Queue::new(8);
    for _ in 0..10_000 {
        queue.add(&id("acme", "a"));
    }
    assert_eq!(queue.len(), 1);
    assert_eq!(drain(&mut queue, Instant::now()), [id("acme", "a")]);
}

#[test]
fn tenants_take_turns_however_much_one_has() {
    let mut queue = Queue::new(100);
    for n in 0..50 {
        queue.add(&id("loud", &format!("s{n}")));
    }
    queue.add(&id("quiet", "s"));
    let order = drain(&mut queue, Instant::now());
    assert_eq!(order[1], id("quiet", "s"));
    assert_eq!(order.len(), 26, "a quarter of the slots, beside another");
}

#[test]
fn one_tenant_never_takes_all_slots() {
    let now = Instant::now();
    let mut queue = Queue::new(2);
    for n in 0..5 {
        queue.add(&id("loud", &format!("s{n}")));
    }
    let running = drain(&mut queue, now);
    assert_eq!(running.len(), 2);
    queue.done(&running[0], Done::Settled(None), now);
    assert_eq!(drain(&mut queue, now).len(), 1);
}

#[test]
fn who_is_alone_has_more_slots_than_who_has_company() {
    let mut now = Instant::now();
    let mut queue = Queue::new(8);
    for n in 0..30 {
        queue.add(&id("loud", &format!("s{n:02}")));
    }
    let mut running = drain(&mut queue, now);
    assert_eq!(running.len(), 8);
    queue.add(&id("quiet", "s"));
    let other = drain(&mut queue, now);
    assert_eq!(other, [id("quiet", "s")], "it is served beside them");
    queue.done(&other[0], Done::Settled(None), now);
    for left in (0..8).rev() {
        queue.done(&running.pop().unwrap(), Done::Settled(None), now);
        let next = drain(&mut queue, now);
        assert_eq!(next.len(), usize::from(left < 2), "{left} run");
        running.extend(next.into_iter().take(usize::from(left == 0)));
    }
    now += BUSY;
    queue.done(&running.pop().unwrap(), Done::Settled(None), now);
    assert_eq!(drain(&mut queue, now).len(), 7, "one of two runs yet");
}

#[test]
fn a_change_while_running_runs_once_more_and_never_at_the_same_time() {
    let now = Instant::now();
    let mut queue = Queue::new(8);
    let a = id("acme", "a");
    queue.add(&a);
    assert_eq!(queue.next(now), Some(a.clone()));
    queue.add(&a);
    queue.add(&a);
    assert_eq!(queue.next(now), None);
    queue.done(&a, Done::Settled(None), now);
    assert_eq!(queue.next(now), Some(a.clone()));
    queue.done(&a, Done::Settled(None), now);
    assert_eq!(queue.next(now), None);
    assert!(queue.is_empty() && queue.tenants.is_empty() && queue.ring.is_empty());
}

#[test]
fn a_failure_waits_whatever_changes_and_longer_each_time() {
    let mut now = Instant::now();
    let mut queue = Queue::new(8);
    let a = id("acme", "a");
    queue.add(&a);
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert_eq!(queue.next(now), Some(a.clone()));
        queue.done(&a, Done::Failed, now);
        queue.add(&a);
        assert_eq!(queue.next(now), None);
        let due = queue.due().unwrap();
        waits.push(due - now);
        now = due;
    }
    assert!(
        waits[0] <= FIRST_RETRY && waits[7] > LAST_RETRY / 3,
        "{waits:?}"
    );
    assert!(waits.iter().all(|wait| *wait <= LAST_RETRY));
}

#[test]
fn a_rest_ends_by_time_or_by_a_change() {
    let now = Instant::now();
    let later = now + Duration::from_secs(5);
    let mut queue = Queue::new(8);
    for change in [false, true] {
        let a = id("acme", "a");
        queue.add(&a);
        queue.next(now);
        queue.done(&a, Done::Settled(Some(later)), now);
        assert_eq!((queue.next(now), queue.due()), (None, Some(later)));
        let woken = if change {
            queue.add(&a);
            queue.next(now)
        } else {
            queue.next(later)
        };
        assert_eq!(woken, Some(a.clone()));
        queue.done(&a, Done::Settled(None), now);
        assert_eq!(queue.due(), None);
    }
}

fn one() -> NonZeroU32 {
    NonZeroU32::new(1).unwrap()
}

#[test]
fn hostile_41_who_changes_without_end_waits_in_its_own_line_and_others_do_not() {
    let mut now = Instant::now();
    let mut queue = Queue::new(8);
    let (loud, quiet) = (id("loud", "a"), id("quiet", "a"));
    let mut runs = 0;
    // One a second, and a minute's at once.
    let began = now;
    while now < began + Duration::from_secs(30) {
        queue.add(&loud);
        queue.add(&quiet);
        let mut served = Vec::new();
        while let Some(id) = queue.next(now) {
            if id == loud {
                runs += 1;
                queue.spend(&loud.tenant, one(), now);
            }
            queue.done(&id, Done::Settled(None), now);
            served.push(id);
        }
        assert!(served.contains(&quiet), "{served:?}");
        now += Duration::from_millis(50);
    }
    assert!((88..=91).contains(&runs), "{runs}");
    assert!(queue.throttled(&loud.tenant, now).is_some());
    assert_eq!(queue.throttled(&quiet.tenant, now), None);
    // What waits is not lost, and is said to be due.
    queue.add(&loud);
    queue.spend(&loud.tenant, one(), now);
    assert_eq!((queue.next(now), queue.resting()), (None, 1));
    let due = queue.due().unwrap();
    assert_eq!(queue.next(due), Some(loud));
}

#[derive(Clone, Debug)]
enum Step {
    Add(u8, u8),
    Next,
    Done(usize, u8),
    Spend(u8),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u8..3, 0_u8..4).prop_map(|(tenant, key)| Step::Add(tenant, key)),
        Just(Step::Next),
        (any::<usize>(), 0_u8..3).prop_map(|(which, how)| Step::Done(which, how)),
        (0_u8..3).prop_map(Step::Spend),
        (0_u64..3_000).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn no_key_is_lost_doubled_or_run_twice_at_once(steps in prop::collection::vec(steps(), 0..200)) {
        let mut now = Instant::now();
        let mut queue = Queue::new(2);
        let mut running: Vec<Id> = Vec::new();
        let mut owed: std::collections::HashSet<Id> = Default::default();
        for step in steps {
            match step {
                Step::Add(tenant, key) => {
                    let id = id(&format!("t{tenant}"), &format!("k{key}"));
                    queue.add(&id);
                    owed.insert(id);
                }
                Step::Next => if let Some(id) = queue.next(now) {
                    prop_assert!(!running.contains(&id));
                    owed.remove(&id);
                    running.push(id);
                    let tenant = &running[running.len() - 1].tenant;
                    prop_assert!(running.iter().filter(|id| id.tenant == *tenant).count() <= 2);
                },
                Step::Done(which, how) if !running.is_empty() => {
                    let id = running.swap_remove(which % running.len());
                    let done = match how {
                        0 => { owed.insert(id.clone()); Done::Failed }
                        1 => Done::Settled(Some(now + Duration::from_millis(500))),
                        _ => Done::Settled(None),
                    };
                    queue.done(&id, done, now);
                }
                Step::Done(..) => {}
                Step::Spend(tenant) => {
                    let tenant = TenantName::parse(&format!("t{tenant}")).unwrap();
                    for _ in 0..20 {
                        queue.spend(&tenant, one(), now);
                    }
                }
                Step::Wait(ms) => now += Duration::from_millis(ms),
            }
            prop_assert!(queue.len() <= 12);
        }
        // In the end everything owed is handed out, and the queue is empty of it.
        for _ in 0..1_000 {
            now += Duration::from_secs(5);
            for id in running.drain(..) {
                queue.done(&id, Done::Settled(None), now);
            }
            while let Some(id) = queue.next(now) {
                owed.remove(&id);
                running.push(id);
            }
        }
        prop_assert!(owed.is_empty(), "{owed:?}");
        prop_assert!(queue.is_empty() && queue.times.is_empty() && queue.tenants.is_empty());
    }
}
