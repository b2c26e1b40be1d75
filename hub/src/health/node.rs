//! One address of a tenant's node: what to ask it next and when, and what its answers mean. Time is a parameter; whether a
//! silence is the node's or the hub's own is for [`super::fleet`] to say.

use std::time::{Duration, Instant};

use super::{Mode, Policy};

/// Where it looks bad, or good again, the next probe begins so soon after the last began.
const QUICK: Duration = Duration::from_millis(250);
/// Where healthz is silent and node ports answer, as behind a firewall, healthz is left alone for so long.
const QUIET: Duration = Duration::from_secs(20);
/// Who was good for so long starts with a clean sheet.
const CLEAN: Duration = Duration::from_secs(60);
/// The most doublings of what it takes to count as good again.
const DOUBLINGS: u32 = 5;

/// One question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `GET /healthz` at this port.
    Healthz(u16),
    /// A TCP connection to this node port.
    Connect(u16),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Healthz said 200, or the port took the connection.
    Good,
    /// The connection was refused: the host is alive, and nobody listens there.
    Refused,
    /// Healthz said 503: no new traffic, please.
    Draining,
    /// Something answered that is no healthz.
    Odd,
    /// Nothing came in time, or the network says that the host is not there.
    Silent,
    /// There is no way to the host from here.
    NoRoute,
}

impl Outcome {
    /// Each of them.
    pub const ALL: [Self; 6] = [
        Self::Good,
        Self::Refused,
        Self::Draining,
        Self::Odd,
        Self::Silent,
        Self::NoRoute,
    ];

    /// Whether anything came back from the host.
    pub fn is_answer(self) -> bool {
        !matches!(self, Self::Silent | Self::NoRoute)
    }

    /// The value of the label `result` of the metric that counts probes.
    pub fn label(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Refused => "refused",
            Self::Draining => "draining",
            Self::Odd => "odd",
            Self::Silent => "silent",
            Self::NoRoute => "no_route",
        }
    }
}

/// A question with what came of it.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    /// What was asked.
    pub probe: Probe,
    /// What came of it.
    pub outcome: Outcome,
    /// When it was asked.
    pub began: Instant,
    /// When that was known.
    pub now: Instant,
}

/// How an address stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is known yet.
    Unjudged,
    /// It answers, or at least cannot be said not to.
    Good,
    /// It says itself that it is to receive nothing.
    Draining,
    /// It has been silent since.
    Silent {
        /// When the first question was asked that was not answered.
        since: Instant,
        /// The last one did not get out: maybe it is the hub that has no way.
        no_route: bool,
    },
}

/// One address.
#[derive(Debug, Default)]
pub struct Node {
    judged: bool,
    failing: bool,
    /// In a row.
    failures: u32,
    successes: u32,
    silent_since: Option<Instant>,
    no_route: bool,
    /// Something has answered at healthz' port, so that silence there means something.
    heard: bool,
    /// Until then only node ports are asked.
    quiet_until: Option<Instant>,
    /// The next question goes to a node port, for healthz gave no verdict.
    then_connect: bool,
    /// Which of the ports is asked next.
    port: usize,
    /// How often it began to fail since it last had a clean sheet.
    relapses: u32,
    good_since: Option<Instant>,
}

impl Node {
    /// How it stands.
    pub fn standing(&self) -> Standing {
        match (self.judged, self.failing, self.silent_since) {
            (false, ..) => Standing::Unjudged,
            (true, false, _) => Standing::Good,
            (true, true, None) => Standing::Draining,
            (true, true, Some(since)) => Standing::Silent {
                since,
                no_route: self.no_route,
            },
        }
    }

    /// What to ask next. None: there is nothing that could be asked, and so nothing against it.
    pub fn next(&self, policy: &Policy, ports: &[u16], now: Instant) -> Option<Probe> {
        let connect = || {
            let index = self.port.checked_rem(ports.len())?;
            ports.get(index).copied().map(Probe::Connect)
        };
        let quiet = self.quiet_until.is_some_and(|until| now < until);
        match policy.mode {
            Mode::None => None,
            Mode::NodePort => connect(),
            Mode::KubeProxy => (self.then_connect || quiet)
                .then(connect)
                .flatten()
                .or(Some(Probe::Healthz(policy.port))),
        }
    }

    /// Nothing could be asked.
    pub fn unasked(&mut self, now: Instant) {
        self.judged = true;
        self.failing = false;
        self.good_since.get_or_insert(now);
    }

    /// Takes an outcome in, and says when to ask again. `ports` tells whether there is a node port to ask, `interval` is
    /// the present one, jitter included.
    pub fn heard(
        &mut self,
        heard: Heard,
        policy: &Policy,
        ports: bool,
        interval: Duration,
    ) -> Instant {
        self.then_connect = false;
        let fallback = ports && policy.mode == Mode::KubeProxy;
        match (heard.probe, heard.outcome) {
            (Probe::Healthz(_), Outcome::Good) => {
                self.heard = true;
                self.quiet_until = None;
                self.good(heard, policy, interval)
            }
            (Probe::Healthz(_), Outcome::Draining) => {
                self.heard = true;
                self.quiet_until = None;
                self.silent_since = None;
                self.bad(heard, policy, interval)
            }
            (Probe::Healthz(_), Outcome::Refused | Outcome::Odd) => {
                self.heard = true;
                if fallback {
                    self.then_connect = true;
                    return heard.now;
                }
                self.good(heard, policy, interval)
            }
            (Probe::Healthz(_), Outcome::Silent | Outcome::NoRoute) => {
                if fallback && !self.heard {
                    // A firewall may be in the way, and node ports are what it has to let through.
                    self.quiet_until = Some(heard.now + QUIET);
                    return heard.now;
                }
                self.then_connect = fallback && self.failing;
                self.bad(heard, policy, interval)
            }
            (Probe::Connect(_), Outcome::Silent | Outcome::NoRoute) => {
                self.port = self.port.wrapping_add(1);
                self.bad(heard, policy, interval)
            }
            (Probe::Connect(_), _) => {
                if fallback && self.silent_since.is_some() {
                    // Healthz is not to be heard any more, but the node is.
                    self.heard = false;
                    self.quiet_until = Some(heard.now + QUIET);
                }
                self.good(heard, policy, interval)
            }
        }
    }

    fn good(&mut self, heard: Heard, policy: &Policy, interval: Duration) -> Instant {
        self.judged = true;
        self.silent_since = None;
        self.failures = 0;
        if !self.failing {
            let since = *self.good_since.get_or_insert(heard.now);
            if heard.now.saturating_duration_since(since) >= CLEAN {
                self.relapses = 0;
            }
            return (heard.began + interval).max(heard.now);
        }
        self.successes += 1;
        // Who keeps coming and going has to be good for longer each time, so that it costs few writes.
        let doublings = self.relapses.saturating_sub(1).min(DOUBLINGS);
        if self.successes >= policy.successes << doublings {
            self.failing = false;
            self.good_since = Some(heard.now);
        }
        let pace = if self.successes < policy.successes {
            QUICK.min(interval)
        } else {
            interval
        };
        (heard.began + pace).max(heard.now)
    }

    fn bad(&mut self, heard: Heard, policy: &Policy, interval: Duration) -> Instant {
        if !heard.outcome.is_answer() {
            self.silent_since.get_or_insert(heard.began);
            self.no_route = heard.outcome == Outcome::NoRoute;
        }
        self.successes = 0;
        self.failures = self.failures.saturating_add(1);
        if !self.failing && self.failures >= policy.failures {
            self.judged = true;
            self.failing = true;
            self.relapses = self.relapses.saturating_add(1);
            self.good_since = None;
        }
        let pace = if self.failing {
            interval
        } else {
            QUICK.min(interval)
        };
        (heard.began + pace).max(heard.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that is asked whenever it is due, and answers as the closure says.
    struct Asked {
        node: Node,
        policy: Policy,
        ports: Vec<u16>,
        start: Instant,
        now: Instant,
        asked: Vec<Probe>,
    }

    impl Asked {
        fn new(ports: &[u16]) -> Self {
            let start = Instant::now();
            Self {
                node: Node::default(),
                policy: Policy::default(),
                ports: ports.to_vec(),
                start,
                now: start,
                asked: Vec::new(),
            }
        }

        /// Silence takes the whole timeout, anything else a millisecond.
        fn ask(&mut self, answer: impl Fn(Probe) -> Outcome) {
            let probe = self.node.next(&self.policy, &self.ports, self.now).unwrap();
            self.asked.push(probe);
            let outcome = answer(probe);
            let took = match outcome {
                Outcome::Silent => self.policy.timeout,
                _ => Duration::from_millis(1),
            };
            let heard = Heard {
                probe,
                outcome,
                began: self.now,
                now: self.now + took,
            };
            let ports = !self.ports.is_empty();
            let due = self
                .node
                .heard(heard, &self.policy, ports, self.policy.interval);
            assert!(due >= heard.now);
            self.now = due;
        }

        fn ask_for(&mut self, time: Duration, answer: impl Fn(Probe) -> Outcome + Copy) {
            let end = self.now + time;
            while self.now < end {
                self.ask(answer);
            }
        }

        fn is_failing(&self) -> bool {
            matches!(
                self.node.standing(),
                Standing::Silent { .. } | Standing::Draining
            )
        }
    }

    fn blocked_healthz(probe: Probe) -> Outcome {
        match probe {
            Probe::Healthz(_) => Outcome::Silent,
            Probe::Connect(_) => Outcome::Good,
        }
    }

    #[test]
    fn point_26_one_good_answer_makes_it_good_and_two_silences_make_it_fail() {
        let mut node = Asked::new(&[30_000]);
        assert_eq!(node.node.standing(), Standing::Unjudged);
        node.ask(|_| Outcome::Good);
        assert_eq!(node.node.standing(), Standing::Good);
        let died = node.now;
        node.ask(|_| Outcome::Silent);
        assert!(!node.is_failing(), "one is none");
        assert_eq!(
            node.now,
            died + node.policy.timeout,
            "the next comes at once"
        );
        node.ask(|_| Outcome::Silent);
        let standing = Standing::Silent {
            since: died,
            no_route: false,
        };
        assert_eq!(node.node.standing(), standing);
        node.ask(|_| Outcome::Silent);
        node.ask(|_| Outcome::Good);
        assert!(node.is_failing());
        node.ask(|_| Outcome::Good);
        assert_eq!(node.node.standing(), Standing::Good);
    }

    #[test]
    fn a_node_that_asks_for_no_traffic_gets_none() {
        let mut node = Asked::new(&[]);
        node.ask(|_| Outcome::Good);
        node.ask(|_| Outcome::Draining);
        node.ask(|_| Outcome::Draining);
        assert_eq!(node.node.standing(), Standing::Draining);
        assert!(node.now - node.start < Duration::from_millis(2_300));
    }

    #[test]
    fn where_healthz_is_refused_node_ports_decide_and_refusal_there_is_life() {
        let refused = |probe| match probe {
            Probe::Healthz(_) => Outcome::Refused,
            Probe::Connect(_) => Outcome::Good,
        };
        let mut node = Asked::new(&[30_000]);
        node.ask(refused);
        assert_eq!(node.node.standing(), Standing::Unjudged, "no verdict yet");
        assert_eq!(
            node.now,
            node.start + Duration::from_millis(1),
            "the port is asked at once"
        );
        node.ask(refused);
        assert_eq!(node.node.standing(), Standing::Good);
        node.ask_for(Duration::from_secs(5), |_| Outcome::Refused);
        assert_eq!(node.node.standing(), Standing::Good);
        // Then the host dies.
        let died = node.now;
        node.ask(|_| Outcome::Silent);
        node.ask(|_| Outcome::Silent);
        assert!(node.is_failing());
        assert!(node.now - died <= Duration::from_secs(2));
    }

    #[test]
    fn behind_a_firewall_node_ports_decide_and_healthz_is_tried_now_and_then() {
        let mut node = Asked::new(&[30_000]);
        node.ask_for(Duration::from_secs(60), blocked_healthz);
        assert_eq!(node.node.standing(), Standing::Good);
        let tried = node
            .asked
            .iter()
            .filter(|probe| matches!(probe, Probe::Healthz(_)));
        assert!((2..=4).contains(&tried.count()), "{:?}", node.asked);
        node.ask_for(Duration::from_secs(3), |_| Outcome::Silent);
        assert!(node.is_failing());
    }

    #[test]
    fn a_firewall_that_comes_later_is_found_out() {
        let mut node = Asked::new(&[30_000]);
        node.ask_for(Duration::from_secs(5), |_| Outcome::Good);
        node.ask_for(Duration::from_secs(6), blocked_healthz);
        assert_eq!(node.node.standing(), Standing::Good);
        let before = node.asked.len();
        node.ask_for(Duration::from_secs(10), blocked_healthz);
        let calm = |probe: &Probe| matches!(probe, Probe::Connect(_));
        assert!(node.asked[before..].iter().all(calm));
    }

    #[test]
    fn a_node_port_with_nobody_behind_it_is_not_asked_twice() {
        let dropped = |probe| match probe {
            Probe::Connect(30_001) => Outcome::Good,
            _ => Outcome::Silent,
        };
        let mut node = Asked::new(&[30_000, 30_001]);
        node.ask_for(Duration::from_secs(30), dropped);
        assert_eq!(node.node.standing(), Standing::Good);
    }

    #[test]
    fn without_anything_to_ask_nothing_speaks_against_it() {
        let mut node = Asked::new(&[]);
        node.policy.mode = Mode::NodePort;
        assert_eq!(node.node.next(&node.policy, &[], node.now), None);
        node.node.unasked(node.now);
        assert_eq!(node.node.standing(), Standing::Good);
    }

    #[test]
    fn who_keeps_coming_and_going_changes_its_standing_less_and_less() {
        let mut node = Asked::new(&[]);
        let mut changes = 0;
        let mut before = false;
        // Down as soon as it is trusted, back as soon as it is not: the worst there is.
        while node.now - node.start < Duration::from_secs(600) {
            let answer = if node.is_failing() {
                Outcome::Good
            } else {
                Outcome::Draining
            };
            node.ask(|_| answer);
            changes += usize::from(node.is_failing() != before);
            before = node.is_failing();
        }
        assert!((8..=34).contains(&changes), "{changes} in ten minutes");
        node.ask_for(Duration::from_secs(130), |_| Outcome::Good);
        node.ask(|_| Outcome::Draining);
        node.ask(|_| Outcome::Draining);
        node.ask(|_| Outcome::Good);
        node.ask(|_| Outcome::Good);
        assert!(!node.is_failing(), "a clean sheet");
    }
}
