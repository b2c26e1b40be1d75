//! What a simulated fleet has come to, and how long it took: counted by the tenants as it happens, shown as one line. Time is
//! told, not asked for.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use berth_common::model::Outcome;
use berth_wire::v1;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// A look at the fleet. Its JSON is what `--report json` prints, one object a line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// Since the fleet was started.
    pub seconds: f64,
    /// How many agents there are.
    pub tenants: usize,
    /// How many have a session that was welcomed.
    pub connected: usize,
    /// How many of these know that the hub holds all they want.
    pub synced: usize,
    /// 1 is the start; each time that the whole fleet was synced and began to lose sessions opens the next.
    pub round: u32,
    /// How long this round took, from its begin until all were synced; none before that.
    pub all_synced_seconds: Option<f64>,
    /// Attempts in this round that came to no session.
    pub failed_attempts: u64,
    /// The longest spread that a Welcome has told: how long the fleet takes to come back on purpose.
    pub spread_seconds: f64,
    /// Messages sent, of all kinds.
    pub messages: u64,
    /// Those that were deltas.
    pub deltas: u64,
    /// Changes made by `--churn`.
    pub changes: u64,
    /// Answers about Services.
    pub answers: u64,
    /// Of these: served, with an address.
    pub programmed: u64,
    /// Of these: refused.
    pub refused: u64,
}

/// The counts, shared by all tenants of a fleet.
pub(super) struct Figures {
    state: Mutex<State>,
    whole: watch::Sender<u32>,
}

struct State {
    look: Look,
    started: Instant,
    /// When the round began, until all were synced.
    round: Option<Instant>,
}

impl Figures {
    pub(super) fn new(tenants: usize, now: Instant) -> Self {
        Self {
            state: Mutex::new(State {
                look: Look {
                    tenants,
                    round: 1,
                    ..Look::default()
                },
                started: now,
                round: Some(now),
            }),
            whole: watch::Sender::new(0),
        }
    }

    /// The last round at whose end all were synced.
    pub(super) fn whole(&self) -> watch::Receiver<u32> {
        self.whole.subscribe()
    }

    pub(super) fn look(&self, now: Instant) -> Look {
        let state = self.lock();
        Look {
            seconds: now.duration_since(state.started).as_secs_f64(),
            ..state.look.clone()
        }
    }

    pub(super) fn welcomed(&self, spread: Duration) {
        let look = &mut self.lock().look;
        look.connected += 1;
        look.spread_seconds = look.spread_seconds.max(spread.as_secs_f64());
    }

    pub(super) fn synced(&self, now: Instant) {
        let mut state = self.lock();
        state.look.synced += 1;
        if state.look.synced == state.look.tenants
            && let Some(began) = state.round.take()
        {
            state.look.all_synced_seconds = Some(now.duration_since(began).as_secs_f64());
            self.whole.send_replace(state.look.round);
        }
    }

    /// A session ended, or an attempt at one did.
    pub(super) fn lost(&self, was_up: bool, was_synced: bool, now: Instant) {
        let state = &mut *self.lock();
        let look = &mut state.look;
        if was_synced {
            look.synced -= 1;
        }
        if !was_up {
            look.failed_attempts += 1;
            return;
        }
        look.connected -= 1;
        if state.round.is_none() {
            state.round = Some(now);
            look.round += 1;
            look.all_synced_seconds = None;
            look.failed_attempts = 0;
        }
    }

    pub(super) fn sent(&self, message: &v1::AgentMessage) {
        let look = &mut self.lock().look;
        look.messages += 1;
        if matches!(message.body, Some(v1::agent_message::Body::Delta(_))) {
            look.deltas += 1;
        }
    }

    pub(super) fn changed(&self) {
        self.lock().look.changes += 1;
    }

    pub(super) fn answered(&self, outcome: &Outcome) {
        let look = &mut self.lock().look;
        look.answers += 1;
        match outcome {
            Outcome::Programmed => look.programmed += 1,
            Outcome::Refused { .. } => look.refused += 1,
            Outcome::Pending(_) | Outcome::Deleted => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For people.
impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seconds,
            tenants,
            connected,
            synced,
            round,
            ..
        } = self;
        write!(
            f,
            "{seconds:8.1} s  round {round}: {connected} of {tenants} connected, {synced} synced"
        )?;
        if let Some(took) = self.all_synced_seconds {
            write!(f, " (all after {took:.2} s)")?;
        }
        if self.failed_attempts > 0 {
            write!(f, ", {} attempts failed", self.failed_attempts)?;
        }
        let Self {
            changes,
            deltas,
            answers,
            programmed,
            refused,
            ..
        } = self;
        write!(
            f,
            "; {changes} changes in {deltas} deltas, {answers} answers ({programmed} served, {refused} refused)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_ends_when_all_are_synced_and_the_next_begins_with_the_first_loss() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let figures = Figures::new(2, start);
        figures.lost(false, false, at(1));
        for second in [2, 3] {
            figures.welcomed(Duration::from_secs(second));
            figures.synced(at(second));
        }
        let first = figures.look(at(4));
        assert_eq!((first.round, first.all_synced_seconds), (1, Some(3.0)));
        assert_eq!((first.failed_attempts, first.spread_seconds), (1, 3.0));
        assert_eq!(*figures.whole().borrow(), 1);

        figures.lost(true, true, at(10));
        figures.lost(false, false, at(11));
        let second = figures.look(at(11));
        assert_eq!((second.round, second.all_synced_seconds), (2, None));
        assert_eq!((second.connected, second.synced), (1, 1));
        figures.welcomed(Duration::ZERO);
        figures.synced(at(12));
        assert_eq!(figures.look(at(12)).all_synced_seconds, Some(2.0));
        assert_eq!(*figures.whole().borrow(), 2);
    }

    #[test]
    fn a_line_for_people_says_what_matters() {
        let look = Look {
            seconds: 12.0,
            tenants: 5,
            connected: 4,
            synced: 3,
            round: 2,
            failed_attempts: 7,
            ..Look::default()
        };
        assert_eq!(
            look.to_string(),
            "    12.0 s  round 2: 4 of 5 connected, 3 synced, 7 attempts failed; 0 changes in 0 deltas, \
             0 answers (0 served, 0 refused)"
        );
    }
}
