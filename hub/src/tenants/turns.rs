//! Whose turn it is to send a snapshot. After a restart of the hub every tenant has to tell its whole state; a bounded number
//! do so at a time, in the order in which they asked, so that neither memory nor the others' latency grows with the fleet.
//! Who does not use a turn while others wait loses it. Pure: sessions are numbers, and time is a parameter.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use prometheus_client::{metrics::gauge::Gauge, registry::Registry};

/// How long the holder of a turn may send nothing of its snapshot while others wait.
pub(super) const UNUSED: Duration = Duration::from_secs(5);

/// The turns, as gauges.
#[derive(Clone, Debug, Default)]
pub struct TurnGauges {
    /// Turns that are taken now.
    pub taken: Gauge,
    /// Sessions that wait for one.
    pub waiting: Gauge,
    /// The most that were taken at once since the start.
    pub peak: Gauge,
}

impl TurnGauges {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        for (name, help, gauge) in [
            (
                "berth_snapshots",
                "Tenants that are sending their state now",
                &self.taken,
            ),
            (
                "berth_snapshots_waiting",
                "Tenants that wait for their turn to send their state",
                &self.waiting,
            ),
            (
                "berth_snapshots_peak",
                "The most tenants that sent their state at the same time",
                &self.peak,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
    }
}

/// What a session is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call<T> {
    /// The session.
    pub(super) number: u64,
    /// Whose it is.
    pub(super) whose: T,
    /// How many come before it; 0: it is its turn.
    pub(super) ahead: u32,
}

/// Turns, and the line for them.
#[derive(Debug)]
pub(super) struct Turns<T> {
    most: usize,
    /// Holders, and until when they have to use their turn; none: not before somebody waits.
    taken: BTreeMap<u64, (T, Option<Instant>)>,
    /// By ticket.
    line: BTreeMap<u64, (u64, T)>,
    tickets: HashMap<u64, u64>,
    next_ticket: u64,
    gauges: TurnGauges,
}

impl<T: Clone> Turns<T> {
    /// At most so many at once, and at least one.
    pub(super) fn new(most: usize, gauges: TurnGauges) -> Self {
        Self {
            most: most.max(1),
            taken: BTreeMap::new(),
            line: BTreeMap::new(),
            tickets: HashMap::new(),
            next_ticket: 0,
            gauges,
        }
    }

    /// A session asks. Who has a turn is told so again; who is in line keeps its place.
    pub(super) fn ask(&mut self, number: u64, whose: T) -> Vec<Call<T>> {
        if self.taken.contains_key(&number) {
            return vec![Call {
                number,
                whose,
                ahead: 0,
            }];
        }
        if self.tickets.contains_key(&number) {
            return Vec::new();
        }
        let told = self.line_up(number, whose);
        let mut calls = self.call_up();
        if self.tickets.contains_key(&number) {
            calls.push(told);
        }
        calls
    }

    /// A session that knows no turns has begun. It is counted, and keeps others waiting.
    pub(super) fn seize(&mut self, number: u64, whose: T) {
        self.taken.insert(number, (whose, None));
        self.tell_gauges();
    }

    /// A session has used its turn.
    pub(super) fn used(&mut self, number: u64, now: Instant) {
        if let Some((_, until)) = self.taken.get_mut(&number)
            && until.is_some()
        {
            *until = Some(now + UNUSED);
        }
    }

    /// A session is done, or gone.
    pub(super) fn leave(&mut self, number: u64) -> Vec<Call<T>> {
        if let Some(ticket) = self.tickets.remove(&number) {
            self.line.remove(&ticket);
        }
        self.taken.remove(&number);
        self.call_up()
    }

    /// Takes the turn from those who do not use it, if somebody waits. To be called again at the time that is returned.
    pub(super) fn pass(&mut self, now: Instant) -> (Vec<Call<T>>, Option<Instant>) {
        let mut calls = Vec::new();
        if self.line.is_empty() {
            return (calls, None);
        }
        let mut unused = Vec::new();
        for (number, (_, until)) in &mut self.taken {
            if *until.get_or_insert(now + UNUSED) <= now {
                unused.push(*number);
            }
        }
        for number in unused {
            if let Some((whose, _)) = self.taken.remove(&number) {
                let told = self.line_up(number, whose);
                calls.push(told);
            }
        }
        calls.extend(self.call_up());
        let due = self.taken.values().filter_map(|(_, until)| *until).min();
        (calls, due.filter(|_| !self.line.is_empty()))
    }

    fn line_up(&mut self, number: u64, whose: T) -> Call<T> {
        let ahead = u32::try_from(self.line.len()).unwrap_or(u32::MAX);
        self.line.insert(self.next_ticket, (number, whose.clone()));
        self.tickets.insert(number, self.next_ticket);
        self.next_ticket += 1;
        Call {
            number,
            whose,
            ahead: ahead.saturating_add(1),
        }
    }

    fn call_up(&mut self) -> Vec<Call<T>> {
        let mut calls = Vec::new();
        while self.taken.len() < self.most
            && let Some((_, (number, whose))) = self.line.pop_first()
        {
            self.tickets.remove(&number);
            self.taken.insert(number, (whose.clone(), None));
            calls.push(Call {
                number,
                whose,
                ahead: 0,
            });
        }
        self.tell_gauges();
        calls
    }

    fn tell_gauges(&self) {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let taken = number(self.taken.len());
        self.gauges.taken.set(taken);
        self.gauges.waiting.set(number(self.line.len()));
        self.gauges.peak.set(self.gauges.peak.get().max(taken));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn turns(most: usize) -> Turns<char> {
        Turns::new(most, TurnGauges::default())
    }

    fn told(calls: &[Call<char>]) -> Vec<(u64, u32)> {
        calls.iter().map(|call| (call.number, call.ahead)).collect()
    }

    #[test]
    fn who_asks_first_goes_first_and_the_others_are_told_how_many_come_before() {
        let mut turns = turns(2);
        assert_eq!(told(&turns.ask(1, 'a')), [(1, 0)]);
        assert_eq!(told(&turns.ask(2, 'b')), [(2, 0)]);
        assert_eq!(told(&turns.ask(3, 'c')), [(3, 1)]);
        assert_eq!(told(&turns.ask(4, 'd')), [(4, 2)]);
        assert_eq!(told(&turns.ask(4, 'd')), [], "asking again changes nothing");
        assert_eq!(
            told(&turns.ask(1, 'a')),
            [(1, 0)],
            "a lost call is repeated"
        );
        assert_eq!(told(&turns.leave(2)), [(3, 0)]);
        assert_eq!(told(&turns.leave(4)), [], "who is gone from the line");
        assert_eq!(told(&turns.leave(1)), []);
        assert_eq!(turns.gauges.peak.get(), 2);
    }

    #[test]
    fn an_unused_turn_goes_to_who_waits_and_only_then() {
        let mut turns = turns(1);
        let now = Instant::now();
        turns.ask(1, 'a');
        assert_eq!(
            turns.pass(now + 100 * UNUSED),
            (Vec::new(), None),
            "nobody waits"
        );
        turns.ask(2, 'b');
        let (calls, due) = turns.pass(now);
        assert_eq!((told(&calls), due), (Vec::new(), Some(now + UNUSED)));
        let later = now + UNUSED / 2;
        turns.used(1, later);
        assert_eq!(turns.pass(now + UNUSED).1, Some(later + UNUSED));
        let (calls, _) = turns.pass(later + UNUSED);
        assert_eq!(told(&calls), [(1, 2), (2, 0)]);
        assert_eq!(told(&turns.leave(2)), [(1, 0)], "it has not lost its claim");
    }

    #[test]
    fn who_knows_no_turns_keeps_others_waiting() {
        let mut turns = turns(1);
        turns.seize(1, 'a');
        assert_eq!(told(&turns.ask(2, 'b')), [(2, 1)]);
        assert_eq!(told(&turns.leave(1)), [(2, 0)]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ask(u64),
        Leave(u64),
        Used(u64),
        Pass(u64),
    }

    fn steps() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_u64..12).prop_map(Step::Ask),
            (0_u64..12).prop_map(Step::Leave),
            (0_u64..12).prop_map(Step::Used),
            (0_u64..6_000).prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn never_more_than_allowed_and_nobody_waits_beside_a_free_one(
            most in 1_usize..4,
            steps in prop::collection::vec(steps(), 0..200),
        ) {
            let mut turns = turns(most);
            let mut now = Instant::now();
            // By what they were told last.
            let (mut going, mut waiting) = (BTreeSet::new(), BTreeSet::new());
            for step in steps {
                let calls = match step {
                    Step::Ask(number) => turns.ask(number, 'x'),
                    Step::Leave(number) => {
                        going.remove(&number);
                        waiting.remove(&number);
                        turns.leave(number)
                    }
                    Step::Used(number) => { turns.used(number, now); Vec::new() }
                    Step::Pass(ms) => { now += Duration::from_millis(ms); turns.pass(now).0 }
                };
                for call in calls {
                    let (to, from) = if call.ahead == 0 { (&mut going, &mut waiting) } else { (&mut waiting, &mut going) };
                    from.remove(&call.number);
                    to.insert(call.number);
                }
                prop_assert!(going.len() <= most);
                prop_assert!(waiting.is_empty() || going.len() == most);
                prop_assert_eq!(going.len(), turns.taken.len());
                prop_assert_eq!(waiting.len(), turns.line.len());
                prop_assert_eq!(turns.tickets.len(), turns.line.len());
            }
        }
    }
}
