//! When what a deleted Tenant has may go. One that was deleted by name goes a few seconds later. Where many are deleted at once,
//! somebody has deleted them all, or their CRD, by mistake: they are held until the operator says of each that it is meant. Pure:
//! the time is a parameter, and what is remembered may be lost with the process, for what is held is told in the Tenant's status too.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use berth_common::identity::TenantName;

/// How long a deletion is looked at before anything is stopped: deletions of many come one after the other.
pub(super) const SETTLE: Duration = Duration::from_secs(5);
/// Deletions this close to each other are one doing.
const TOGETHER: Duration = Duration::from_secs(60);
/// Of those who have load balancers, more than one in so many at once are held.
const PART: usize = 5;
/// And more than so many in any case.
const MOST: usize = 20;

/// A Tenant that is being deleted.
#[derive(Clone, Debug)]
pub struct Leaver {
    /// Which one of that name.
    pub uid: String,
    /// The operator has said that it is meant.
    pub confirmed: bool,
    /// It was held before, maybe by an earlier process.
    pub held: bool,
    /// How many load balancers it has.
    pub load_balancers: usize,
}

/// What is to become of it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Wait,
    /// Nothing, until the operator has said that it is meant: so many are deleted at once, of so many.
    Held(usize, usize),
    /// What it has goes.
    Go,
}

#[derive(Debug)]
struct Seen {
    uid: String,
    since: Instant,
    held: Option<(usize, usize)>,
    goes: bool,
}

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub struct Judge {
    seen: BTreeMap<TenantName, Seen>,
    /// When those went whom nobody had confirmed.
    went: Vec<Instant>,
}

impl Judge {
    /// Judges all who are being deleted. `others` is how many others have load balancers. Also says when to look again.
    pub fn judge(
        &mut self,
        leavers: &BTreeMap<TenantName, Leaver>,
        others: usize,
        now: Instant,
    ) -> (BTreeMap<TenantName, Verdict>, Option<Instant>) {
        self.seen
            .retain(|name, seen| leavers.get(name).is_some_and(|it| it.uid == seen.uid));
        self.went.retain(|went| now < *went + TOGETHER);
        for (name, leaver) in leavers {
            self.seen.entry(name.clone()).or_insert_with(|| Seen {
                uid: leaver.uid.clone(),
                since: now,
                held: leaver.held.then_some((1, 1)),
                goes: false,
            });
        }
        let unsaid = leavers.iter().filter(|(name, leaver)| {
            let goes = self.seen.get(*name).is_some_and(|seen| seen.goes);
            !leaver.confirmed && leaver.load_balancers > 0 && !goes
        });
        let at_once = unsaid.count() + self.went.len();
        let of = at_once + others;
        let too_many = at_once > 1 && (at_once * PART > of || at_once > MOST);
        let mut again: Option<Instant> = None;
        let mut verdicts = BTreeMap::new();
        for (name, leaver) in leavers {
            let Some(seen) = self.seen.get_mut(name) else {
                continue;
            };
            if too_many && seen.held.is_some() {
                seen.held = Some((at_once, of));
            }
            let due = seen.since + SETTLE;
            let verdict = if seen.goes || leaver.confirmed || leaver.load_balancers == 0 {
                seen.goes = true;
                Verdict::Go
            } else if let Some((at_once, of)) = seen.held {
                // Also when the others were saved meanwhile: saving them one by one must not let go the last.
                Verdict::Held(at_once, of)
            } else if now < due {
                again = Some(again.map_or(due, |earlier| earlier.min(due)));
                Verdict::Wait
            } else if too_many {
                seen.held = Some((at_once, of));
                Verdict::Held(at_once, of)
            } else {
                seen.goes = true;
                self.went.push(now);
                Verdict::Go
            };
            verdicts.insert(name.clone(), verdict);
        }
        (verdicts, again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaver(load_balancers: usize) -> Leaver {
        Leaver {
            uid: "u".into(),
            confirmed: false,
            held: false,
            load_balancers,
        }
    }

    fn leavers(count: usize, each: &Leaver) -> BTreeMap<TenantName, Leaver> {
        let name = |n| TenantName::parse(&format!("t{n}")).unwrap();
        (0..count).map(|n| (name(n), each.clone())).collect()
    }

    fn all(verdicts: &BTreeMap<TenantName, Verdict>, verdict: Verdict) -> bool {
        verdicts.values().all(|it| *it == verdict)
    }

    #[test]
    fn one_goes_after_a_while_and_one_without_load_balancers_or_that_is_confirmed_at_once() {
        let (mut judge, now) = (Judge::default(), Instant::now());
        let one = leavers(1, &leaver(3));
        let (verdicts, again) = judge.judge(&one, 0, now);
        assert!(all(&verdicts, Verdict::Wait));
        assert_eq!(again, Some(now + SETTLE));
        let (verdicts, again) = judge.judge(&one, 0, now + SETTLE);
        assert!(all(&verdicts, Verdict::Go) && again.is_none());

        let confirmed = Leaver {
            confirmed: true,
            ..leaver(3)
        };
        for at_once in [leaver(0), confirmed] {
            let (verdicts, _) = Judge::default().judge(&leavers(9, &at_once), 0, now);
            assert!(all(&verdicts, Verdict::Go));
        }
    }

    #[test]
    fn many_at_once_are_held_until_each_is_confirmed_and_saving_some_lets_none_go() {
        let (mut judge, now) = (Judge::default(), Instant::now());
        judge.judge(&leavers(3, &leaver(1)), 7, now);
        let (verdicts, _) = judge.judge(&leavers(3, &leaver(1)), 7, now + SETTLE);
        assert!(all(&verdicts, Verdict::Held(3, 10)), "{verdicts:?}");
        // Two were saved, by taking their finalizer away.
        let (verdicts, _) = judge.judge(&leavers(1, &leaver(1)), 9, now + 100 * SETTLE);
        assert!(all(&verdicts, Verdict::Held(3, 10)), "{verdicts:?}");
        let confirmed = Leaver {
            confirmed: true,
            ..leaver(1)
        };
        let (verdicts, _) = judge.judge(&leavers(1, &confirmed), 9, now + 101 * SETTLE);
        assert!(all(&verdicts, Verdict::Go));
    }

    #[test]
    fn a_hub_that_starts_anew_holds_what_was_held() {
        let held = Leaver {
            held: true,
            ..leaver(1)
        };
        let (mut judge, now) = (Judge::default(), Instant::now());
        judge.judge(&leavers(1, &held), 99, now);
        let (verdicts, _) = judge.judge(&leavers(1, &held), 99, now + 2 * SETTLE);
        assert!(matches!(verdicts.values().next(), Some(Verdict::Held(..))));
    }

    #[test]
    fn few_of_many_go_and_a_slow_deletion_of_all_is_stopped_on_its_way() {
        let (mut judge, start) = (Judge::default(), Instant::now());
        judge.judge(&leavers(20, &leaver(1)), 80, start);
        let (verdicts, _) = judge.judge(&leavers(20, &leaver(1)), 80, start + SETTLE);
        assert!(all(&verdicts, Verdict::Go), "a fifth: {verdicts:?}");

        // One each two seconds, of a hundred: each is gone before the next but two is deleted.
        let (mut judge, mut gone) = (Judge::default(), 0);
        for second in 0..300 {
            let now = start + Duration::from_secs(second);
            let deleted = usize::try_from(second / 2).unwrap().min(100);
            let name = |n| TenantName::parse(&format!("t{n}")).unwrap();
            let leaving = (gone..deleted).map(|n| (name(n), leaver(1))).collect();
            let (verdicts, _) = judge.judge(&leaving, 100 - deleted, now);
            gone += verdicts.values().filter(|it| **it == Verdict::Go).count();
        }
        assert!((10..=22).contains(&gone), "{gone}");
    }

    #[test]
    fn another_of_the_same_name_is_looked_at_anew() {
        let (mut judge, now) = (Judge::default(), Instant::now());
        judge.judge(&leavers(1, &leaver(1)), 0, now);
        judge.judge(&leavers(1, &leaver(1)), 0, now + SETTLE);
        let other = Leaver {
            uid: "other".into(),
            ..leaver(1)
        };
        let (verdicts, _) = judge.judge(&leavers(1, &other), 9, now + 2 * SETTLE);
        assert!(all(&verdicts, Verdict::Wait));
    }
}
