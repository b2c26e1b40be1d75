//! One place of an account: what is there of a load balancer or was granted for it, how that stands, and what it may lack.

use std::time::Instant;

use berth_common::model::ServiceKey;

use super::newest::Age;
use crate::policy::terms::Holding;

/// So many load balancers, with so many ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) count: usize,
    pub(super) ports: usize,
}

impl Sum {
    pub(super) fn add(&mut self, count: usize, ports: usize) {
        self.count += count;
        self.ports += ports;
    }

    pub(super) fn take(&mut self, count: usize, ports: usize) {
        self.count -= count;
        self.ports -= ports;
    }
}

/// How a place stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its Service is wanted, or on its way out.
    #[default]
    Active,
    /// Only its address is kept, since this turn; or it is let go.
    Parked { turn: u64, leaving: bool },
    /// It is beyond a quota that is enforced.
    Withdrawn,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) seen: Option<Holding>,
    /// With so many ports it is being written.
    pub(super) granted: Option<usize>,
    /// That was granted for a load balancer as a whole, and not for more ports of one that is there.
    pub(super) making: bool,
    /// Whether that came to be is not known, and will be by then.
    pub(super) doubtful: Option<Instant>,
    pub(super) standing: Standing,
    /// That it goes has been said.
    pub(super) told: bool,
}

impl Place {
    pub(super) fn ports(&self) -> usize {
        let seen = self.seen.map_or(0, |seen| seen.ports);
        seen.max(self.granted.unwrap_or(0))
    }

    /// Whether all of it is there, and nothing of it has other than so many ports.
    pub(super) fn is_seen_with(&self, ports: usize) -> bool {
        self.seen
            .is_some_and(|seen| seen.has_service && seen.recorded && seen.ports == ports)
    }

    /// What is granted where so many ports are asked for. That something is seen which has more is no reason to grant nothing: it may be
    /// seen to have less than these in the next moment, for an earlier write of which nothing was heard. Nor is a record whose Service
    /// is gone: while that is made anew, the record may go as well; nor a Service that has no record yet. And what may have come to be of
    /// an earlier write is not given back.
    pub(super) fn grant_for(&self, ports: usize) -> Option<usize> {
        let doubted = self.doubtful.and(self.granted);
        match self.is_seen_with(ports) {
            true => doubted,
            false => Some(ports.max(doubted.unwrap_or(0))),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seen.is_none() && self.granted.is_none()
    }
}

/// What somebody in line lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lack {
    /// Ports, and else it is served.
    Ports,
    /// Its own place, which it left parked: it is there, but one too many.
    Own,
    /// A place.
    Place,
}

/// By what it is known which of two is the newer.
pub(super) fn age(key: &ServiceKey, place: &Place) -> Option<Age> {
    let seen = place.seen.filter(|seen| !seen.reserved)?;
    (place.standing == Standing::Active).then(|| (seen.since, key.clone()))
}

/// What a key lacks that wants so many ports.
pub(super) fn lack(place: &Place, ports: usize) -> (Lack, usize) {
    let more = ports.saturating_sub(place.ports());
    match place.standing {
        _ if place.is_empty() => (Lack::Place, ports),
        Standing::Active => (Lack::Ports, more),
        Standing::Parked { .. } | Standing::Withdrawn => (Lack::Own, more),
    }
}
