//! The ledger against a management cluster of a few lines, which takes writes late or not at all, whose watch lags behind, and
//! whose hub dies.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// The API server's truth of one key, and how far its watch is behind.
#[derive(Clone, Copy, Debug, Default)]
struct Truth {
    ports: Option<usize>,
    observed: Option<usize>,
}

#[derive(Clone, Debug)]
enum Step {
    Wants(u8, usize),
    Deletes(u8),
    /// The oldest write under way lands, and is heard of or not.
    Lands(usize, bool),
    /// It does not, and that is known or not.
    Fails(usize, bool),
    /// The watch reports the present state of a key, perhaps once more.
    Reports(u8),
    Waits(u64),
    Restarts,
    Quota(usize, usize),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u8..12, 1_usize..4).prop_map(|(key, ports)| Step::Wants(key, ports)),
        3 => (0_u8..12).prop_map(Step::Deletes),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(which, heard)| Step::Lands(which, heard)),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(which, known)| Step::Fails(which, known)),
        4 => (0_u8..12).prop_map(Step::Reports),
        1 => (0_u64..100).prop_map(Step::Waits),
        1 => Just(Step::Restarts),
        1 => (4_usize..8, 8_usize..14).prop_map(|(count, ports)| Step::Quota(count, ports)),
    ]
}

/// With so many ports. A change names the object that was seen, and makes none where that is gone.
#[derive(Clone, Copy, Debug)]
enum Write {
    Create(usize),
    Change(usize),
    Delete,
}

impl Write {
    fn lands(self, truth: &mut Truth) {
        match self {
            Self::Create(ports) => truth.ports = Some(ports),
            Self::Change(ports) => truth.ports = truth.ports.map(|_| ports),
            Self::Delete => truth.ports = None,
        }
    }
}

/// A hub of a few lines around the ledger: it plans one key at a time, as the executor does.
struct World {
    desk: Desk,
    truth: BTreeMap<u8, Truth>,
    wants: BTreeMap<u8, usize>,
    /// Writes under way, one of a key at most.
    writing: Vec<(u8, Write)>,
    released: BTreeSet<u8>,
}

fn name(key: u8) -> String {
    format!("s{key:02}")
}

impl World {
    /// Plans a key, and whomever the ledger calls for it.
    fn plan(&mut self, key: u8) {
        let mut todo = vec![key];
        for round in 0.. {
            assert!(round < 1_000, "it does not come to rest");
            let Some(key) = todo.pop() else { return };
            self.plan_one(key);
            todo.extend(self.called());
        }
    }

    fn plan_one(&mut self, key: u8) {
        if self.writing.iter().any(|(other, _)| *other == key) {
            return;
        }
        let observed = self.truth.entry(key).or_default().observed;
        match self.wants.get(&key).copied() {
            Some(ports) => match self.desk.ask(&name(key), ports) {
                Verdict::Granted => {
                    self.released.remove(&key);
                    match observed {
                        None => self.writing.push((key, Write::Create(ports))),
                        Some(seen) if seen != ports => {
                            self.writing.push((key, Write::Change(ports)));
                        }
                        Some(_) => {}
                    }
                }
                Verdict::Withdrawn(_) => self.unwanted(key),
                Verdict::Refused(_) => {}
            },
            None => {
                self.desk.need_not(&name(key));
                self.unwanted(key);
            }
        }
    }

    fn unwanted(&mut self, key: u8) {
        if self.truth[&key].observed.is_none() {
            return;
        }
        if self.released.contains(&key) {
            self.writing.push((key, Write::Delete));
        } else {
            self.desk.ledger.park(&acme(), &super::key(&name(key)));
        }
    }

    /// Whom the ledger calls.
    fn called(&mut self) -> Vec<u8> {
        let number = |name: &String| name[1..].parse::<u8>().unwrap();
        let (plan, release) = self.desk.news();
        self.released.extend(release.iter().map(number));
        plan.iter().chain(&release).map(number).collect()
    }

    fn report(&mut self, key: u8) {
        let truth = self.truth.entry(key).or_default();
        truth.observed = truth.ports;
        match truth.ports {
            Some(ports) => self.desk.seen(&name(key), ports, key.into()),
            None => {
                self.released.remove(&key);
                self.desk.gone(&name(key));
            }
        }
        let called = self.called();
        called
            .into_iter()
            .chain([key])
            .for_each(|key| self.plan(key));
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Wants(key, ports) => {
                self.wants.insert(key, ports);
                self.plan(key);
            }
            Step::Deletes(key) => {
                self.wants.remove(&key);
                self.plan(key);
            }
            Step::Lands(which, heard) if !self.writing.is_empty() => {
                let (key, write) = self.writing.remove(which % self.writing.len());
                write.lands(self.truth.entry(key).or_default());
                if heard {
                    self.report(key);
                } else {
                    self.doubt(key);
                    self.plan(key);
                }
            }
            Step::Fails(which, known) if !self.writing.is_empty() => {
                let (key, _) = self.writing.remove(which % self.writing.len());
                if !known {
                    self.doubt(key);
                }
                self.plan(key);
            }
            Step::Lands(..) | Step::Fails(..) => {}
            Step::Reports(key) => self.report(key),
            Step::Waits(seconds) => {
                // Whatever was in doubt is reported before its time is up.
                (0..12).for_each(|key| self.report(key));
                self.desk.now += Duration::from_secs(seconds);
                (0..12).for_each(|key| self.plan(key));
            }
            Step::Restarts => {
                for (key, write) in std::mem::take(&mut self.writing) {
                    if key % 2 == 0 {
                        write.lands(self.truth.entry(key).or_default());
                    }
                }
                self.desk.ledger = Ledger::default();
                self.released.clear();
                // Everything is listed before anything is planned.
                for (key, truth) in &mut self.truth {
                    truth.observed = truth.ports;
                    if let Some(ports) = truth.ports {
                        self.desk.seen(&name(*key), ports, (*key).into());
                    }
                }
                (0..12).for_each(|key| self.plan(key));
            }
            Step::Quota(count, ports) => {
                // Never lower than what is there: what becomes of that is asked elsewhere.
                let Limits {
                    load_balancers,
                    ports: most,
                    ..
                } = self.desk.limits.1;
                let limits = limits(
                    count.max(load_balancers.unwrap_or(0)),
                    ports.max(most.unwrap_or(0)),
                    false,
                );
                self.desk.limit(limits);
                let called = self.called();
                called.into_iter().for_each(|key| self.plan(key));
            }
        }
    }

    fn doubt(&mut self, key: u8) {
        let until = self.desk.now + DOUBT;
        let key = super::key(&name(key));
        self.desk.ledger.doubt(&acme(), &key, until);
    }

    fn taken(&self) -> (usize, usize) {
        let there = self.truth.values().filter_map(|truth| truth.ports);
        (there.clone().count(), there.sum())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn quota_is_never_exceeded_and_no_place_is_lost(steps in prop::collection::vec(steps(), 0..150)) {
        let mut world = World {
            desk: Desk::new(limits(4, 8, false)),
            truth: BTreeMap::new(),
            wants: BTreeMap::new(),
            writing: Vec::new(),
            released: BTreeSet::new(),
        };
        for step in steps {
            world.step(step.clone());
            let (count, ports) = world.taken();
            let Limits { load_balancers, ports: most, .. } = world.desk.limits.1;
            prop_assert!(count <= load_balancers.unwrap() && ports <= most.unwrap(), "{count} with {ports} after {step:?}");
        }
        // It comes to rest.
        for _ in 0..40 {
            while !world.writing.is_empty() {
                world.step(Step::Lands(0, true));
            }
            world.step(Step::Waits(80));
        }
        prop_assert!(world.writing.is_empty());
        let served = |key: &u8| world.truth.get(key).is_some_and(|truth| truth.ports == world.wants.get(key).copied());
        let (count, ports) = world.taken();
        let Limits { load_balancers, ports: most, .. } = world.desk.limits.1;
        let kept = world.truth.iter().filter(|(key, truth)| truth.ports.is_some() && !world.wants.contains_key(key));
        let (waiting, parked) = (world.wants.keys().filter(|key| !served(key)).count(), kept.count());
        for (key, wanted) in world.wants.iter().filter(|(key, _)| !served(key)) {
            let has = world.truth[key].ports.unwrap_or(0);
            let room = count < load_balancers.unwrap() || has > 0;
            prop_assert!(
                !room || ports + wanted - has > most.unwrap(),
                "{key} wants {wanted}, has {has}, and there is room: {count} with {ports}"
            );
        }
        prop_assert!(waiting == 0 || parked == 0, "{waiting} wait while {parked} are parked");
    }
}
