//! The words of the ledger: what a tenant may have, what is there, what was asked and answered.

use std::{collections::BTreeSet, time::Instant};

use berth_common::model::ServiceKey;

use super::shortage::Shortage;

/// How many load balancers a tenant may have, and how many ports in all of them. `None`: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Load balancers.
    pub load_balancers: Option<usize>,
    /// Ports of all load balancers together.
    pub ports: Option<usize>,
    /// What is beyond is withdrawn, the newest first.
    pub enforce: bool,
}

/// What the management cluster has of one load balancer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Its ports.
    pub ports: usize,
    /// Its Service is there, and not its record alone.
    pub has_service: bool,
    /// When its Service was created, in seconds since 1970: by that the newest is known after a restart as well.
    pub since: i64,
    /// Its record is there: it serves, or its address is kept for good.
    pub recorded: bool,
    /// Only its address is kept, for good (reclaimPolicy Retain).
    pub reserved: bool,
    /// It serves, and policy would not let it in as it is.
    pub violates: bool,
}

/// What becomes of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be written.
    Granted,
    /// There is no room for it. What there is of it stays.
    Refused(Shortage),
    /// There is no room for it, and what there is of it has to go.
    Withdrawn(Shortage),
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// The answer.
    pub verdict: Verdict,
    /// It is a refusal that was not said before.
    pub news: bool,
    /// Something may have come of an earlier write: ask again then.
    pub again: Option<Instant>,
}

impl Limits {
    /// Whether there is any.
    pub fn is_bounded(&self) -> bool {
        self.load_balancers.is_some() || self.ports.is_some()
    }

    /// Whether so many load balancers with so many ports are within them.
    pub(super) fn have_room_for(&self, load_balancers: usize, ports: usize) -> bool {
        let within = |most: Option<usize>, taken: usize| most.is_none_or(|most| taken <= most);
        within(self.load_balancers, load_balancers) && within(self.ports, ports)
    }
}

impl Said {
    pub(super) const GRANTED: Self = Self {
        verdict: Verdict::Granted,
        news: false,
        again: None,
    };

    pub(super) fn no(verdict: Verdict, news: bool) -> Self {
        Self {
            verdict,
            news,
            again: None,
        }
    }

    /// Why not, if so.
    pub fn shortage(&self) -> Option<Shortage> {
        match self.verdict {
            Verdict::Granted => None,
            Verdict::Refused(shortage) | Verdict::Withdrawn(shortage) => Some(shortage),
        }
    }
}

/// Whom something has become of by somebody else's doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// To be planned: they have a place now, or none any more.
    pub plan: BTreeSet<ServiceKey>,
    /// Parked ones that are to be let go.
    pub release: BTreeSet<ServiceKey>,
}

/// What a tenant uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Load balancers on record.
    pub load_balancers: usize,
    /// Their ports.
    pub ports: usize,
    /// Services that wait for a place, or for ports.
    pub waiting: usize,
    /// Load balancers that serve, and that policy would not let in any more: for what they are, or because there are too many.
    pub beyond: usize,
}
