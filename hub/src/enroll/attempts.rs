//! Who has tried wrong tokens too often. It is the address that is locked and never the tenant: otherwise anybody could keep a tenant
//! out. Pure: the time is a parameter. Bounded: an address takes a few bytes, and there are so many at most.

use std::{collections::HashMap, hash::Hash, time::Duration};

use tokio::time::Instant;

/// So many refusals are a person's mistakes; the next one locks.
pub(super) const ALLOWED: u32 = 10;
/// For how long at first; each further refusal doubles it.
const LOCK: Duration = Duration::from_secs(60);
/// And at most.
const MOST: Duration = Duration::from_secs(15 * 60);
/// After so long without a refusal nothing is remembered.
const FORGET: Duration = Duration::from_secs(30 * 60);
/// Addresses remembered at once.
const ADDRESSES: usize = 16_384;

/// The refusals of all addresses.
#[derive(Debug)]
pub struct Attempts<K> {
    refusals: HashMap<K, Refusals>,
}

#[derive(Clone, Copy, Debug)]
struct Refusals {
    count: u32,
    last: Instant,
}

/// The address is locked for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locked(pub Duration);

impl<K> Default for Attempts<K> {
    fn default() -> Self {
        Self {
            refusals: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash + Clone> Attempts<K> {
    /// Whether this address may try now.
    ///
    /// # Errors
    /// [`Locked`].
    pub fn may(&self, address: &K, now: Instant) -> Result<(), Locked> {
        let Some(refusals) = self.refusals.get(address) else {
            return Ok(());
        };
        match refusals.lock_end().saturating_duration_since(now) {
            Duration::ZERO => Ok(()),
            left => Err(Locked(left)),
        }
    }

    /// This address was refused. True where that has locked it.
    pub fn refused(&mut self, address: &K, now: Instant) -> bool {
        if !self.refusals.contains_key(address) && self.refusals.len() >= ADDRESSES {
            self.make_room(now);
        }
        let refusals = self.refusals.entry(address.clone()).or_insert(Refusals {
            count: 0,
            last: now,
        });
        if now.saturating_duration_since(refusals.last) >= FORGET {
            refusals.count = 0;
        }
        refusals.count = refusals.count.saturating_add(1);
        refusals.last = now;
        refusals.count > ALLOWED
    }

    /// Lets go of what is forgotten; where all are recent, of the one whose lock ends first.
    fn make_room(&mut self, now: Instant) {
        self.refusals
            .retain(|_, refusals| now.saturating_duration_since(refusals.last) < FORGET);
        if self.refusals.len() < ADDRESSES {
            return;
        }
        let first = self
            .refusals
            .iter()
            .min_by_key(|(_, refusals)| refusals.lock_end())
            .map(|(address, _)| address.clone());
        if let Some(address) = first {
            self.refusals.remove(&address);
        }
    }
}

impl Refusals {
    fn lock_end(&self) -> Instant {
        match self.count.checked_sub(ALLOWED + 1) {
            None => self.last,
            Some(further) => self.last + LOCK.saturating_mul(1 << further.min(8)).min(MOST),
        }
    }
}
