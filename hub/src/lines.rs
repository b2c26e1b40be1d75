//! How many lines each peer may cause, in the log and in the audit log: each tenant, where its certificate names one, and else each
//! address, for many tenants may come from one address. What is left out is counted, and the count told with the peer's next line, or
//! by `audit::keep`. Pure but for the two statics: the time is a parameter. What is kept is bounded too, for addresses cost a
//! stranger little.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use berth_common::identity::TenantName;
use tokio::time::Instant;

/// The audit log's.
pub(crate) static AUDIT: Bound = Bound::new();
/// The log's, of what peers come and go with. What they cause otherwise is bounded by what they may change.
pub(crate) static LOG: Bound = Bound::new();

/// The bound of one log. It belongs to the process, as the log does.
pub(crate) struct Bound(LazyLock<Mutex<Lines>>);

impl Bound {
    const fn new() -> Self {
        Self(LazyLock::new(Mutex::default))
    }

    /// Whether to write a line about this peer now: if so, how many went unsaid since the last one about it, where any did.
    pub(crate) fn spend(&self, who: Who) -> Option<Option<u64>> {
        let unsaid = self.lines().spend(Instant::now(), who)?;
        Some((unsaid > 0).then_some(unsaid))
    }

    /// What of windows that are over has not been told: it is now.
    pub(crate) fn overdue(&self) -> Vec<Unsaid> {
        self.lines().overdue(Instant::now())
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        // No panic can leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The window.
const WINDOW: Duration = Duration::from_secs(10);
/// Lines of one peer in a window.
const PER_PEER: u32 = 50;
/// Lines of all addresses in a window. Tenants do not count: their certificates are the operator's to give.
const OF_ADDRESSES: u32 = 2_000;
/// Addresses that are told apart in a window; all further ones are one.
const ADDRESSES: usize = 4_096;

/// Whose lines are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Who {
    Tenant(TenantName),
    /// As `listen::address_key` has it.
    Address(IpAddr),
    OtherAddresses,
}

/// What was spent in the current window.
#[derive(Debug, Default)]
struct Lines {
    window: Option<Instant>,
    of_addresses: u32,
    addresses: usize,
    spent: HashMap<Who, Spent>,
}

#[derive(Debug, Default)]
struct Spent {
    said: u32,
    unsaid: u64,
}

/// Lines that were not written, and of which nothing tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unsaid {
    pub(crate) who: Who,
    pub(crate) lines: u64,
}

impl Lines {
    /// Whether to write a line about this peer now: if so, how many went unsaid since the last one about it.
    fn spend(&mut self, now: Instant, who: Who) -> Option<u64> {
        self.turn(now);
        let is_tenant = matches!(who, Who::Tenant(_));
        let who = self.known(who, is_tenant);
        let spent = self.spent.entry(who).or_default();
        let is_full = !is_tenant && self.of_addresses == OF_ADDRESSES;
        if spent.said == PER_PEER || is_full {
            spent.unsaid += 1;
            return None;
        }
        spent.said += 1;
        self.of_addresses += u32::from(!is_tenant);
        Some(std::mem::take(&mut spent.unsaid))
    }

    /// Itself, or one of many that are not told apart.
    fn known(&mut self, who: Who, is_tenant: bool) -> Who {
        if is_tenant || self.spent.contains_key(&who) {
            return who;
        }
        if self.addresses == ADDRESSES {
            return Who::OtherAddresses;
        }
        self.addresses += 1;
        who
    }

    /// What of windows that are over has not been told: it is now.
    fn overdue(&mut self, now: Instant) -> Vec<Unsaid> {
        self.turn(now);
        let over = self.spent.iter_mut().filter(|(_, spent)| spent.said == 0);
        let mut unsaid: Vec<_> = over
            .map(|(who, spent)| Unsaid {
                who: who.clone(),
                lines: std::mem::take(&mut spent.unsaid),
            })
            .filter(|unsaid| unsaid.lines > 0)
            .collect();
        unsaid.sort_by(|a, b| a.who.cmp(&b.who));
        unsaid
    }

    /// Begins a window when the last one is over. Only what is still to be told stays.
    fn turn(&mut self, now: Instant) {
        let started = *self.window.get_or_insert(now);
        if now.saturating_duration_since(started) < WINDOW {
            return;
        }
        self.window = Some(now);
        self.of_addresses = 0;
        self.spent.retain(|_, spent| {
            spent.said = 0;
            spent.unsaid > 0
        });
        self.addresses = self
            .spent
            .keys()
            .filter(|who| matches!(who, Who::Address(_)))
            .count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> Who {
        Who::Address(std::net::Ipv4Addr::from(0x0a00_0000 + n).into())
    }

    fn tenant(n: u32) -> Who {
        Who::Tenant(format!("t{n}").parse().unwrap())
    }

    fn unsaid(who: Who, lines: u64) -> Unsaid {
        Unsaid { who, lines }
    }

    #[test]
    fn each_peer_has_its_lines_and_the_rest_is_told_with_the_next() {
        for (one, another) in [(address(1), address(2)), (tenant(1), tenant(2))] {
            let (mut lines, start) = (Lines::default(), Instant::now());
            let said = (0..PER_PEER + 7)
                .filter(|_| lines.spend(start, one.clone()) == Some(0))
                .count();
            assert_eq!(said, 50);
            assert_eq!(lines.spend(start, another), Some(0), "it has its own");
            assert_eq!(lines.spend(start + WINDOW, one.clone()), Some(7));
            assert_eq!(lines.spend(start + WINDOW, one), Some(0));
        }
    }

    #[test]
    fn what_went_unsaid_is_told_once_also_of_those_who_do_not_come_back() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        for _ in 0..PER_PEER + 3 {
            lines.spend(start, address(1));
            lines.spend(start, tenant(1));
        }
        assert_eq!(lines.overdue(start), [], "its window is not over");
        let told = [unsaid(tenant(1), 3), unsaid(address(1), 3)];
        assert_eq!(lines.overdue(start + WINDOW), told);
        assert_eq!(lines.overdue(start + WINDOW), []);
        assert_eq!(lines.overdue(start + 2 * WINDOW), []);
        assert!(lines.spent.is_empty());
    }

    #[test]
    fn all_addresses_together_are_bounded_and_so_is_what_is_kept_of_them() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        let said = (0..20_000)
            .filter(|n| lines.spend(start, address(*n)).is_some())
            .count();
        assert_eq!(said, 2_000);
        assert_eq!(lines.spent.len(), ADDRESSES + 1);
        // A fleet that comes back after an outage is written down all the same.
        let fleet = (0..5_000).filter(|n| lines.spend(start, tenant(*n)).is_some());
        assert_eq!(fleet.count(), 5_000);
        let told = lines.overdue(start + WINDOW);
        let total: u64 = told.iter().map(|unsaid| unsaid.lines).sum();
        assert_eq!(total, 18_000);
        lines.overdue(start + 2 * WINDOW);
        assert!(lines.spent.is_empty());
    }
}
