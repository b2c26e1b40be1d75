use std::time::SystemTime;

use proptest::prelude::*;

use super::*;
use crate::ca::{Authority, DEFAULT_AUTHORITY_LIFETIME, Kept};

const HOUR: Duration = Duration::from_secs(3_600);

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000 + seconds)
}

fn key(n: u8) -> KeyId {
    KeyId::from_bytes(&[n; 8]).unwrap()
}

fn report(tenant: &str, authority: u8, trusts: &[u8]) -> Report {
    Report {
        tenant: tenant.parse().unwrap(),
        connected: true,
        certificate: Some(Shown {
            authority: Some(key(authority)),
            trusts: trusts.iter().map(|&n| key(n)).collect(),
            ends: at(0) + 24 * HOUR,
            renews: true,
        }),
        known: true,
    }
}

fn away(mut report: Report) -> Report {
    report.connected = false;
    report
}

fn by_hand(mut report: Report) -> Report {
    report.certificate.as_mut().unwrap().renews = false;
    report
}

fn waits(step: Step) -> Vec<(String, Why)> {
    let Step::Wait(wait) = step else {
        panic!("{step:?}")
    };
    assert_eq!(wait.settles, None);
    let tenants = wait.tenants.into_iter();
    tenants.map(|(name, why)| (name.to_string(), why)).collect()
}

#[test]
fn the_switch_waits_for_those_who_are_connected_and_for_nobody_else() {
    let stage = Stage::Published {
        next: key(2),
        since: at(0),
    };
    let keys = Keys {
        signer: Some(key(1)),
        previous: None,
    };
    let go = |reports: &[Report], now| step(stage, keys, reports, Wishes::default(), now);
    let Step::Wait(early) = go(&[report("told", 1, &[1, 2])], at(3)) else {
        panic!("before every replica knows of it");
    };
    assert_eq!((early.settles, early.tenants), (Some(at(15)), vec![]));
    let reports = [
        report("told", 1, &[1, 2]),
        report("untold", 1, &[1]),
        away(report("away", 1, &[1])),
        by_hand(report("files", 1, &[])),
        report("another-hub", 9, &[9]),
    ];
    assert_eq!(waits(go(&reports, at(60))), [("untold".into(), Why::Asked)]);
    assert_eq!(go(&reports[..1], at(60)), Step::Switch);
    assert_eq!(go(&reports[2..], at(60)), Step::Switch);
    let counted = counts(&reports, keys.signer, Some(key(2)), at(60));
    assert_eq!((counted.all, counted.trusting, counted.issued), (4, 1, 0));
}

#[test]
fn the_end_waits_for_the_last_certificate_of_the_former_authority_however_it_is_kept() {
    let stage = Stage::Switched { since: at(0) };
    let day = at(0) + 24 * HOUR;
    let keys = Keys {
        signer: Some(key(2)),
        previous: Some(key(1)),
    };
    let go = |reports: &[Report], wishes, now| step(stage, keys, reports, wishes, now);
    let never = Report {
        certificate: None,
        known: false,
        ..report("never", 1, &[])
    };
    let unknown = Report {
        certificate: None,
        ..report("unknown", 1, &[])
    };
    let reports = [
        report("new", 2, &[1, 2]),
        never,
        report("another-hub", 9, &[9]),
        report("old", 1, &[1, 2]),
        away(report("away", 1, &[1])),
        by_hand(report("files", 1, &[])),
        unknown,
    ];
    let waited = waits(go(&reports, Wishes::default(), at(60)));
    let expected = [
        ("old".to_owned(), Why::Asked),
        ("away".into(), Why::Away(day)),
        ("files".into(), Why::ByHand(day)),
        ("unknown".into(), Why::Unknown),
    ];
    assert_eq!(waited, expected);
    // What has ended is good for nothing in any case.
    assert_eq!(
        waits(go(&reports, Wishes::default(), day)),
        [("unknown".into(), Why::Unknown)]
    );
    assert_eq!(go(&reports[..3], Wishes::default(), at(60)), Step::Drop);
    let finish = Wishes {
        finish: true,
        again: false,
    };
    assert_eq!(go(&reports, finish, at(60)), Step::Drop);
    assert!(
        matches!(go(&reports, finish, at(5)), Step::Wait(wait) if wait.tenants.is_empty()),
        "every replica has to know of the switch in any case"
    );
}

#[test]
fn a_command_that_comes_after_the_end_begins_nothing_by_mistake() {
    let go = |again, now| {
        let wishes = Wishes {
            again,
            finish: false,
        };
        step(Stage::Rest(Some(at(0))), Keys::default(), &[], wishes, now)
    };
    assert_eq!(go(false, at(60)), Step::Done(at(0)));
    assert_eq!(go(true, at(60)), Step::Publish);
    assert_eq!(go(false, at(0) + RECENT), Step::Publish);
    let first = step(
        Stage::Rest(None),
        Keys::default(),
        &[],
        Wishes::default(),
        at(0),
    );
    assert_eq!(first, Step::Publish);
}

/// What may happen between two looks of the command.
#[derive(Clone, Debug)]
enum Happening {
    /// The command is run, and ended by somebody after so many steps, the last of which it may not have written.
    Command { steps: usize, lost: bool },
    /// Time passes.
    Pass(u64),
    /// This tenant's agent comes or goes.
    Connect(usize, bool),
    /// It renews, whether asked or not.
    Renew(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => (0..4_usize, any::<bool>()).prop_map(|(steps, lost)| Happening::Command { steps, lost }),
        3 => (1..40_000_u64).prop_map(Happening::Pass),
        2 => (0..3_usize, any::<bool>()).prop_map(|(who, is)| Happening::Connect(who, is)),
        3 => (0..3_usize).prop_map(Happening::Renew),
    ]
}

/// A place, tenants with certificates that live a day, and a command that is ended anywhere.
struct World {
    kept: Kept,
    now: u64,
    tenants: Vec<Report>,
}

impl World {
    fn new() -> Self {
        let made = Authority::create(Default::default(), DEFAULT_AUTHORITY_LIFETIME, at(0));
        let mut world = Self {
            kept: Kept::new(&made.unwrap()),
            now: 0,
            tenants: ["a", "b", "c"].map(|name| report(name, 0, &[])).to_vec(),
        };
        (0..3).for_each(|who| world.renew(who));
        world
    }

    fn authority(&self) -> Authority {
        self.kept.authority(None, "the place").unwrap()
    }

    fn signer(&self) -> KeyId {
        self.authority().trusted()[0]
    }

    fn renew(&mut self, who: usize) {
        let authority = self.authority();
        let tenant = &mut self.tenants[who];
        let ended = tenant
            .certificate
            .as_ref()
            .is_some_and(|it| it.ends <= at(self.now));
        if tenant.connected && !ended {
            tenant.certificate = Some(Shown {
                authority: Some(authority.trusted()[0]),
                trusts: authority.trusted().iter().copied().collect(),
                ends: at(self.now) + 24 * HOUR,
                renews: true,
            });
        }
    }

    fn step(&self) -> Step {
        let stage = self.kept.stage("the place").unwrap();
        let keys = Keys {
            signer: Some(self.signer()),
            previous: self.kept.previous_key("the place").unwrap(),
        };
        let now = at(self.now);
        step(stage, keys, &self.tenants, Wishes::default(), now)
    }

    /// One step of the command. False where it has nothing to write.
    fn go(&mut self, lost: bool) -> bool {
        let now = at(self.now);
        let next = match self.step() {
            Step::Publish => {
                let (next, cross) = self
                    .authority()
                    .succeed(DEFAULT_AUTHORITY_LIFETIME, now)
                    .unwrap();
                self.kept.publish(&next, cross, now)
            }
            Step::Switch => self.kept.switch(now).unwrap(),
            Step::Drop => {
                self.assert_nobody_is_cut();
                self.kept.drop_previous(now)
            }
            Step::Wait(_) | Step::Done(_) => return false,
        };
        if !lost {
            self.kept = next;
        }
        true
    }

    fn assert_nobody_is_cut(&self) {
        let signer = Some(self.signer());
        for tenant in &self.tenants {
            let shown = tenant.certificate.as_ref().unwrap();
            assert!(shown.authority == signer || shown.ends <= at(self.now));
        }
    }

    /// At every moment: what signs is trusted, and whoever has a good certificate and trusts what it was given last can verify the hub.
    fn check(&self) {
        let authority = self.authority();
        let trusted: BTreeSet<KeyId> = authority.trusted().iter().copied().collect();
        assert!(trusted.len() <= 2);
        let previous = self.kept.previous_key("the place").unwrap();
        for tenant in &self.tenants {
            let shown = tenant.certificate.as_ref().unwrap();
            if shown.ends <= at(self.now) {
                continue;
            }
            assert!(trusted.contains(&shown.authority.unwrap()), "cut");
            let by_cross = authority.cross().is_some();
            let verifies = shown.trusts.contains(&authority.trusted()[0])
                || (by_cross && previous.is_some_and(|it| shown.trusts.contains(&it)));
            assert!(verifies, "cannot verify the hub");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_history_cuts_anybody_and_a_command_that_is_left_alone_ends(
        history in proptest::collection::vec(happening(), 0..40),
    ) {
        let mut world = World::new();
        for happening in history {
            match happening {
                Happening::Command { steps, lost } => {
                    for step in 0..steps {
                        if !world.go(lost && step + 1 == steps) {
                            break;
                        }
                    }
                }
                Happening::Pass(seconds) => world.now += seconds,
                Happening::Connect(who, is) => world.tenants[who].connected = is,
                Happening::Renew(who) => world.renew(who),
            }
            world.check();
        }
        let first = world.signer();
        let resting = matches!(world.kept.stage("the place").unwrap(), Stage::Rest(_));
        world.now += RECENT.as_secs();
        let mut steps = 0;
        // One whole rotation, or the rest of one: nobody who is away keeps it longer than a certificate lives.
        loop {
            steps += 1;
            prop_assert!(steps < 40);
            if !world.go(false) {
                if matches!(world.step(), Step::Done(_)) {
                    break;
                }
                (0..3).for_each(|who| world.renew(who));
                world.now += 6 * 3_600;
            }
            if matches!(world.kept.stage("the place").unwrap(), Stage::Rest(Some(since)) if since == at(world.now)) {
                break;
            }
            world.check();
        }
        prop_assert_eq!(world.authority().trusted().len(), 1);
        prop_assert!(world.kept.next.is_none() && world.kept.previous.is_none() && world.kept.cross.is_none());
        prop_assert!(!resting || world.signer() != first);
    }
}
