//! Who gets a place in a tenant's quotas, who waits, and who has to go.

mod world;

use std::time::Duration;

use super::*;
use crate::policy::{Shortage, Verdict};

const DOUBT: Duration = Duration::from_secs(75);

fn acme() -> TenantName {
    TenantName::parse("acme").unwrap()
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

fn limits(load_balancers: usize, ports: usize, enforce: bool) -> Limits {
    Limits {
        load_balancers: Some(load_balancers),
        ports: Some(ports),
        enforce,
    }
}

/// A ledger with quotas.
struct Desk {
    ledger: Ledger,
    limits: (u64, Limits),
    now: Instant,
}

impl Desk {
    fn new(limits: Limits) -> Self {
        Self {
            ledger: Ledger::default(),
            limits: (1, limits),
            now: Instant::now(),
        }
    }

    fn ask(&mut self, name: &str, ports: usize) -> Verdict {
        let ask = (&acme(), &key(name), Some(ports), self.limits, self.now);
        let said = self.ledger.ask(ask.0, ask.1, ask.2, ask.3, ask.4);
        self.ledger.check();
        said.verdict
    }

    fn granted(&mut self, name: &str, ports: usize) -> bool {
        self.ask(name, ports) == Verdict::Granted
    }

    fn need_not(&mut self, name: &str) -> Option<Instant> {
        let said = self
            .ledger
            .ask(&acme(), &key(name), None, self.limits, self.now);
        self.ledger.check();
        said.again
    }

    fn seen(&mut self, name: &str, ports: usize, since: i64) {
        let seen = Holding {
            ports,
            since,
            has_service: true,
            recorded: true,
            ..Holding::default()
        };
        self.ledger.observe(&acme(), &key(name), Some(seen));
        self.ledger.check();
    }

    /// Its record alone.
    fn recorded(&mut self, name: &str, ports: usize) {
        let seen = Holding {
            ports,
            recorded: true,
            ..Holding::default()
        };
        self.ledger.observe(&acme(), &key(name), Some(seen));
        self.ledger.check();
    }

    fn gone(&mut self, name: &str) {
        self.ledger.observe(&acme(), &key(name), None);
        self.ledger.check();
    }

    fn limit(&mut self, limits: Limits) {
        self.limits = (self.limits.0 + 1, limits);
        self.ledger.limit(&acme(), self.limits.0, limits);
        self.ledger.check();
    }

    /// Who is to be planned, and who to be let go.
    fn news(&mut self) -> (Vec<String>, Vec<String>) {
        let names = |keys: BTreeSet<ServiceKey>| keys.into_iter().map(|key| key.name).collect();
        let mut news = self.ledger.take_news();
        let news = news.pop().map(|(_, news)| news).unwrap_or_default();
        (names(news.plan), names(news.release))
    }
}

fn nobody() -> (Vec<String>, Vec<String>) {
    (Vec::new(), Vec::new())
}

fn planned(name: &str) -> (Vec<String>, Vec<String>) {
    (vec![name.into()], Vec::new())
}

fn released(name: &str) -> (Vec<String>, Vec<String>) {
    (Vec::new(), vec![name.into()])
}

#[test]
fn quota_who_has_a_place_keeps_it_and_who_waits_gets_the_next_in_the_order_of_coming() {
    let mut desk = Desk::new(limits(2, 100, false));
    assert!(desk.granted("a", 1) && desk.granted("b", 1));
    desk.seen("a", 1, 1);
    assert!(!desk.granted("z", 1) && !desk.granted("c", 1));
    assert!(
        desk.granted("a", 1) && desk.granted("b", 1),
        "granted is granted"
    );
    assert_eq!(desk.news(), nobody());
    // What is not wanted any more before it was written is free at once.
    assert_eq!(desk.need_not("b"), None);
    assert_eq!(desk.news(), planned("z"));
    desk.gone("a");
    assert_eq!(desk.news(), planned("c"));
    assert!(desk.granted("c", 1) && desk.granted("z", 1) && !desk.granted("a", 1));
}

#[test]
fn quota_who_leaves_the_line_is_not_called_and_a_change_keeps_its_turn() {
    let mut desk = Desk::new(limits(1, 100, false));
    desk.ask("a", 1);
    for name in ["b", "c", "d"] {
        assert!(!desk.granted(name, 1));
    }
    assert!(!desk.granted("c", 2), "a change of it");
    desk.need_not("b");
    desk.need_not("a");
    assert_eq!(desk.news(), planned("c"));
}

#[test]
fn quota_who_lacks_ports_alone_is_called_whatever_the_quota_of_load_balancers() {
    let mut desk = Desk::new(limits(2, 5, false));
    desk.seen("a", 1, 1);
    desk.seen("b", 4, 2);
    desk.limit(limits(0, 5, false));
    assert!(!desk.granted("a", 3) && !desk.granted("new", 1));
    desk.gone("b");
    assert_eq!(desk.news(), planned("a"));
}

#[test]
fn quota_more_ports_that_were_granted_are_no_place_when_what_was_there_has_gone() {
    let mut desk = Desk::new(limits(2, 9, false));
    desk.seen("a", 1, 1);
    desk.seen("b", 1, 2);
    desk.limit(limits(1, 9, false));
    assert!(desk.granted("b", 2), "it is there, and there are ports");
    desk.gone("b");
    assert!(
        !desk.granted("b", 2),
        "and now it would be the second again"
    );
    desk.gone("a");
    assert_eq!(desk.news(), planned("b"));
}

#[test]
fn quota_a_service_that_is_made_anew_keeps_its_place_though_its_record_goes_meanwhile() {
    let mut desk = Desk::new(limits(1, 100, false));
    desk.seen("a", 1, 1);
    assert!(!desk.granted("b", 1));
    // Somebody deletes both, and the end of the record is seen when its Service is on its way already.
    desk.recorded("a", 1);
    assert!(desk.granted("a", 1));
    desk.gone("a");
    assert_eq!(desk.news(), nobody(), "it is being written");
    assert!(!desk.granted("b", 1));
    desk.seen("a", 1, 2);
    desk.gone("a");
    assert_eq!(desk.news(), planned("b"));
}

#[test]
fn quota_a_write_whose_end_is_unknown_keeps_its_place_until_it_would_have_been_seen() {
    let mut desk = Desk::new(limits(1, 100, false));
    desk.ask("a", 1);
    let until = desk.now + DOUBT;
    desk.ledger.doubt(&acme(), &key("a"), until);
    assert_eq!(desk.need_not("a"), Some(until));
    assert!(!desk.granted("b", 1));
    assert!(desk.granted("a", 1), "it is its own");
    assert_eq!(desk.need_not("a"), Some(until));
    desk.now = until;
    assert_eq!(desk.need_not("a"), None);
    assert_eq!(desk.news(), planned("b"));
    // And one that did come to be is one.
    desk.ledger.doubt(&acme(), &key("b"), until + DOUBT);
    desk.need_not("b");
    desk.seen("b", 1, 1);
    assert_eq!(desk.need_not("b"), None);
    assert!(!desk.granted("a", 1));
}

#[test]
fn quota_who_is_refused_more_while_an_earlier_write_is_in_doubt_is_told_once() {
    let mut desk = Desk::new(limits(5, 100, false));
    desk.ask("a", 1);
    let until = desk.now + DOUBT;
    desk.ledger.doubt(&acme(), &key("a"), until);
    desk.limit(limits(0, 2, false));
    let said = desk.ask("a", 3);
    assert_ne!(said, Verdict::Granted);
    desk.now = until;
    assert_eq!(
        desk.ask("a", 3),
        said,
        "nothing came of it, and nothing is new"
    );
    // Without a doubt what was granted for less is given back with the refusal, and then too the two are told alike.
    let mut desk = Desk::new(limits(5, 100, false));
    desk.ask("a", 1);
    desk.limit(limits(0, 2, false));
    let said = desk.ask("a", 3);
    assert_eq!(desk.ask("a", 3), said);
}

#[test]
fn quota_what_an_older_list_does_not_show_keeps_its_place_until_the_watch_would_have_brought_it() {
    let mut desk = Desk::new(limits(1, 100, false));
    desk.ask("a", 1);
    desk.seen("a", 1, 1);
    desk.ask("b", 1);
    let until = desk.now + DOUBT;
    desk.ledger.hold(&acme(), &key("a"), until);
    desk.gone("a");
    assert_eq!(desk.news(), nobody());
    assert_eq!(desk.need_not("a"), Some(until));
    desk.seen("a", 1, 1);
    assert_eq!(desk.need_not("a"), None, "it is there");
    desk.ledger.hold(&acme(), &key("a"), until);
    desk.gone("a");
    desk.now = until;
    assert_eq!(desk.need_not("a"), None);
    assert_eq!(desk.news(), planned("b"));
}

#[test]
fn quota_a_service_that_somebody_deletes_while_its_record_is_written_keeps_its_place() {
    let mut desk = Desk::new(limits(1, 100, false));
    assert!(desk.granted("a", 1));
    let seen = Holding {
        ports: 1,
        has_service: true,
        ..Holding::default()
    };
    desk.ledger.observe(&acme(), &key("a"), Some(seen));
    assert!(desk.granted("a", 1), "its record is written now");
    assert!(!desk.granted("b", 1));
    desk.gone("a");
    assert_eq!(desk.news(), nobody(), "the record may come to be");
    desk.recorded("a", 1);
    assert!(desk.granted("a", 1) && !desk.granted("b", 1));
    desk.seen("a", 1, 2);
    // Of what is there as a whole nothing is being made.
    desk.gone("a");
    assert_eq!(desk.news(), planned("b"));
}

#[test]
fn quota_what_a_withdrawn_one_was_granted_more_is_given_back_to_who_waits() {
    let mut desk = Desk::new(limits(10, 5, false));
    assert!(desk.granted("a", 1));
    desk.seen("a", 1, 1);
    assert!(desk.granted("a", 4), "it is being written");
    desk.limit(limits(10, 3, true));
    assert!(!desk.granted("b", 1), "four are taken");
    assert!(
        !desk.granted("a", 4),
        "and of these three are not written now"
    );
    // What it has had fits, and there is room for the other.
    assert_eq!(desk.news().0, ["a", "b"]);
    assert!(desk.granted("b", 1));
}

#[test]
fn quota_ports_are_counted_over_all_and_a_smaller_one_passes_who_wants_too_many() {
    let mut desk = Desk::new(limits(10, 10, false));
    desk.ask("a", 6);
    desk.seen("a", 6, 1);
    let short = Shortage::Ports {
        most: 10,
        wanted: 5,
        withdrawn: false,
    };
    assert_eq!(desk.ask("b", 5), Verdict::Refused(short));
    assert!(desk.granted("c", 3));
    desk.seen("c", 3, 2);
    assert!(!desk.granted("a", 8), "a change of one that is there");
    assert!(desk.granted("a", 6), "the last good state");
    assert!(!desk.granted("a", 8));
    // One that wants more than there is for anybody keeps nobody waiting.
    assert!(!desk.granted("huge", 11));
    desk.seen("c", 1, 2);
    assert_eq!(desk.news(), planned("a"), "it came later than b, but fits");
    desk.seen("a", 8, 1);
    desk.gone("a");
    assert_eq!(desk.news(), planned("b"));
}

#[test]
fn quota_a_parked_one_gives_way_to_who_waits_and_comes_back_as_long_as_nobody_does() {
    let mut desk = Desk::new(limits(2, 100, false));
    for (name, since) in [("a", 1), ("b", 2)] {
        desk.ask(name, 1);
        desk.seen(name, 1, since);
    }
    desk.ledger.park(&acme(), &key("b"));
    desk.ledger.park(&acme(), &key("a"));
    assert_eq!(desk.news(), nobody());
    assert!(desk.granted("a", 1), "it comes back");
    desk.ledger.park(&acme(), &key("a"));
    assert!(!desk.granted("new", 1));
    assert_eq!(desk.news(), released("b"), "the oldest");
    assert!(!desk.granted("newer", 1));
    assert_eq!(desk.news(), released("a"));
    desk.gone("a");
    assert_eq!(desk.news(), planned("new"));
    assert!(!desk.granted("a", 1));
    desk.gone("b");
    assert_eq!(desk.news(), planned("newer"));
}

#[test]
fn quota_fewer_ports_that_may_not_be_what_they_seem_are_not_given_to_others() {
    let mut desk = Desk::new(limits(4, 5, false));
    assert!(desk.granted("a", 3));
    desk.seen("a", 3, 1);
    // Written, and nothing was heard of it; then another version is written, and the first one is seen.
    assert!(desk.granted("a", 1));
    let until = desk.now + DOUBT;
    desk.ledger.doubt(&acme(), &key("a"), until);
    assert!(desk.granted("a", 2));
    desk.seen("a", 1, 1);
    assert!(!desk.granted("b", 4), "one of these is under way to a");
    assert!(desk.granted("b", 3));
    // The same of one that was parked.
    desk.seen("a", 2, 1);
    desk.ledger.park(&acme(), &key("a"));
    assert!(desk.granted("a", 1));
    desk.seen("b", 3, 2);
    assert!(
        !desk.granted("c", 2),
        "what is there counts until it is seen to be less"
    );
    assert!(!desk.granted("d", 5));
    desk.seen("a", 1, 1);
    assert!(desk.granted("e", 1));
}

#[test]
fn quota_what_is_beyond_either_is_counted_as_what_enforcing_it_would_withdraw() {
    let mut desk = Desk::new(limits(4, 10, false));
    for (name, ports, since) in [("a", 4, 1), ("b", 1, 2), ("c", 3, 3), ("d", 2, 4)] {
        assert!(desk.granted(name, ports));
        desk.seen(name, ports, since);
    }
    let mut beyond = |most, ports| {
        desk.limit(limits(most, ports, false));
        desk.ledger.usage(&acme()).beyond
    };
    assert_eq!(beyond(4, 10), 0);
    assert_eq!(beyond(4, 9), 1, "ports alone");
    assert_eq!(beyond(4, 7), 2, "the newest first, however few it has");
    assert_eq!(beyond(3, 10), 1, "load balancers alone");
    assert_eq!(beyond(2, 7), 2, "not the sum of both");
    assert_eq!(beyond(0, 0), 4);
    desk.limit(limits(4, 7, true));
    assert_eq!(desk.news().0, ["c", "d"]);
    assert_eq!(desk.ledger.usage(&acme()).beyond, 0);
}

#[test]
fn quota_who_is_beyond_is_not_counted_anew_with_each_change() {
    const THERE: usize = 5_000;
    let bounded = |most, ports| Limits {
        load_balancers: Some(most),
        ports: Some(ports),
        enforce: false,
    };
    let mut ledger = Ledger::default();
    let see = |ledger: &mut Ledger, n: usize, ports| {
        let seen = (ports > 0).then_some(Holding {
            ports,
            since: i64::try_from(n).unwrap(),
            has_service: true,
            recorded: true,
            ..Holding::default()
        });
        ledger.observe(&acme(), &key(&format!("s{n}")), seen);
    };
    for n in 0..THERE {
        see(&mut ledger, n, 2);
    }
    ledger.limit(&acme(), 1, bounded(10, 15));
    let moves = |ledger: &Ledger| ledger.accounts[&acme()].account.moves();
    let beyond = |ledger: &Ledger| ledger.usage(&acme()).beyond;
    assert_eq!(beyond(&ledger), THERE - 7, "for their ports");
    assert_eq!(moves(&ledger), THERE - 7, "each of them, once");
    ledger.check();
    // Old ones and new ones change, go and come back.
    let (mut last, mut changes) = (moves(&ledger), 0);
    for n in (0..THERE).step_by(13).chain(0..20) {
        for ports in [3, 1, 0, 1, 9, 2] {
            see(&mut ledger, n, ports);
            changes += 1;
            let moved = moves(&ledger);
            assert!(
                moved - last <= 9,
                "{} moves for s{n} with {ports} ports",
                moved - last
            );
            last = moved;
        }
        if n % 5 == 0 {
            ledger.check();
        }
        assert_eq!(beyond(&ledger), THERE - 7);
    }
    let cost = moves(&ledger) - (THERE - 7);
    assert!(cost <= 2 * changes, "{cost} moves for {changes} changes");
}

#[test]
fn quota_parked_ones_beyond_a_lowered_quota_are_let_go_and_do_not_come_back() {
    let mut desk = Desk::new(limits(3, 100, false));
    for (name, since) in [("a", 1), ("b", 2), ("c", 3)] {
        desk.ask(name, 1);
        desk.seen(name, 1, since);
    }
    desk.ledger.park(&acme(), &key("a"));
    desk.limit(limits(2, 100, false));
    assert_eq!(desk.news(), released("a"));
    assert!(matches!(desk.ask("a", 1), Verdict::Withdrawn(_)));
    desk.gone("a");
    assert!(matches!(desk.ask("a", 1), Verdict::Refused(_)));
    desk.limit(limits(3, 100, false));
    assert_eq!(desk.news(), planned("a"));
}

#[test]
fn quota_lowered_withdraws_nothing_and_where_it_is_enforced_the_newest() {
    let mut desk = Desk::new(limits(4, 100, false));
    for (name, since) in [("d", 1), ("c", 2), ("a", 3), ("b", 3)] {
        desk.ask(name, 1);
        desk.seen(name, 1, since);
    }
    desk.limit(limits(2, 100, false));
    assert_eq!(desk.news(), nobody());
    assert_eq!(desk.ledger.usage(&acme()).beyond, 2);
    assert!(desk.granted("b", 1), "who has a place keeps it");
    desk.limit(limits(2, 100, true));
    let both = (vec!["a".to_owned(), "b".into()], Vec::new());
    assert_eq!(desk.news(), both);
    assert!(matches!(desk.ask("b", 1), Verdict::Withdrawn(_)));
    // Parked, as whatever goes; and beyond the quota nothing is kept parked.
    desk.ledger.park(&acme(), &key("b"));
    assert_eq!(desk.news(), released("b"));
    desk.gone("b");
    assert!(matches!(desk.ask("b", 1), Verdict::Refused(_)));
    // Raised: who is still there is there again, and who is gone is served.
    desk.limit(limits(4, 100, true));
    assert_eq!(desk.news(), both);
    assert!(desk.granted("a", 1) && desk.granted("b", 1));
    // By ports, the same.
    desk.seen("b", 5, 3);
    desk.limit(limits(4, 3, true));
    assert_eq!(desk.news(), planned("b"));
}

#[test]
fn quota_what_is_kept_for_good_counts_and_the_refusal_says_so() {
    let mut desk = Desk::new(limits(1, 100, true));
    let seen = Holding {
        ports: 1,
        since: 1,
        has_service: true,
        recorded: true,
        reserved: true,
        ..Holding::default()
    };
    desk.ledger.observe(&acme(), &key("kept"), Some(seen));
    let Verdict::Refused(shortage) = desk.ask("new", 1) else {
        panic!("granted")
    };
    let message = shortage.refusal().message;
    assert!(
        message.contains("Retain") && message.contains("quotas.loadBalancers"),
        "{message}"
    );
    assert!(message.starts_with("1 load balancers"), "{message}");
    desk.limit(limits(0, 100, true));
    assert_eq!(desk.news(), nobody(), "nothing is to be withdrawn of it");
}

#[test]
fn quota_an_older_version_of_the_tenant_unsays_nothing_and_nothing_is_kept_of_who_has_nothing() {
    let mut desk = Desk::new(limits(1, 100, false));
    desk.ask("a", 1);
    desk.ask("b", 1);
    desk.limit(limits(2, 100, false));
    assert_eq!(desk.news(), planned("b"));
    desk.limits = (1, limits(1, 100, false));
    assert!(desk.granted("b", 1));
    desk.need_not("a");
    desk.need_not("b");
    assert!(desk.ledger.accounts.is_empty());
}
