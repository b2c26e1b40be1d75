//! The nodes that a tenant's Services are planned with. They are those that were heard of, but where they keep changing a change
//! is held back for a moment, and one that is taken back meanwhile never was: a hundred flapping nodes cost one write for each
//! slice and second, and not one for each change (point 27).

use std::time::Instant;

use berth_common::session::held::{Nodes, Touched};

use crate::pace::Pace;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct PlannedNodes {
    nodes: Nodes,
    pace: Pace,
    /// When what is held back is planned with.
    due: Option<Instant>,
}

impl PlannedNodes {
    pub(super) fn get(&self) -> Nodes {
        self.nodes.clone()
    }

    /// When [`PlannedNodes::pass`] is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes in what a message touched. Returns whether all Services are to be planned again.
    pub(super) fn heard(&mut self, held: &Nodes, touched: &Touched, now: Instant) -> bool {
        if !touched.nodes && !touched.completed {
            return false;
        }
        if *self.nodes == **held {
            self.due = None;
            return false;
        }
        let at = self.pace.next(now);
        // A state that has just become whole is planned with as a whole.
        if touched.completed || at <= now {
            self.tell(held, now);
            return true;
        }
        self.due = Some(at);
        false
    }

    /// What is held back is planned with if its time has come. Returns whether all Services are to be planned again.
    pub(super) fn pass(&mut self, held: &Nodes, now: Instant) -> bool {
        let passes = self.due.is_some_and(|due| due <= now);
        if passes {
            self.tell(held, now);
        }
        passes
    }

    fn tell(&mut self, held: &Nodes, now: Instant) {
        self.nodes = held.clone();
        self.due = None;
        self.pace.tell(now);
    }
}
