//! How many refusals are worth a line: a stranger who connects ten thousand times must not fill the log. What goes
//! unsaid is counted, here and in the metrics. Pure: the time is a parameter.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Lines in one window.
const LINES: u32 = 20;

/// The window.
const WINDOW: Duration = Duration::from_secs(1);

/// A budget of lines that is filled up once per window.
#[derive(Debug, Default)]
pub(crate) struct LineBudget(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    window: Option<Instant>,
    said: u32,
    unsaid: u64,
}

impl LineBudget {
    /// Whether to write a line now: if so, how many went unsaid since the last one.
    pub(crate) fn spend(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let started = *state.window.get_or_insert(now);
        if now.saturating_duration_since(started) >= WINDOW {
            state.window = Some(now);
            state.said = 0;
        }
        if state.said == LINES {
            state.unsaid += 1;
            return None;
        }
        state.said += 1;
        Some(std::mem::take(&mut state.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_per_window_and_the_rest_is_counted() {
        let budget = LineBudget::default();
        let start = Instant::now();
        let said = (0..LINES + 5)
            .filter(|_| budget.spend(start) == Some(0))
            .count();
        assert_eq!(said, 20);
        assert_eq!(budget.spend(start + WINDOW), Some(5));
        assert_eq!(budget.spend(start + WINDOW), Some(0));
    }
}
