//! How many lines of the audit log each address may cause, and all of them together. Pure: the time is a parameter. What is
//! kept is bounded too, for addresses cost a stranger little.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use tokio::time::Instant;

use crate::listen::address_key;

/// The window.
const WINDOW: Duration = Duration::from_secs(10);
/// Lines of one address in a window.
const PER_ADDRESS: u32 = 50;
/// Lines of all addresses in a window.
const ALTOGETHER: u32 = 2_000;
/// Addresses that are told apart in a window; all further ones are one.
const ADDRESSES: usize = 4_096;

/// What was spent in the current window.
#[derive(Debug, Default)]
pub(super) struct Lines {
    window: Option<Instant>,
    said: u32,
    addresses: HashMap<Option<IpAddr>, Spent>,
}

#[derive(Debug, Default)]
struct Spent {
    said: u32,
    unsaid: u64,
}

/// Lines that were not written, and of which nothing tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unsaid {
    /// None: of several addresses.
    pub(super) address: Option<IpAddr>,
    pub(super) lines: u64,
}

impl Lines {
    /// Whether to write a line about this address now: if so, how many went unsaid since the last one about it.
    pub(super) fn spend(&mut self, now: Instant, address: IpAddr) -> Option<u64> {
        self.turn(now);
        let key = Some(address_key(address));
        let known = self.addresses.contains_key(&key) || self.addresses.len() < ADDRESSES;
        let spent = self.addresses.entry(key.filter(|_| known)).or_default();
        if spent.said == PER_ADDRESS || self.said == ALTOGETHER {
            spent.unsaid += 1;
            return None;
        }
        spent.said += 1;
        self.said += 1;
        Some(std::mem::take(&mut spent.unsaid))
    }

    /// What of windows that are over has not been told: it is now.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<Unsaid> {
        self.turn(now);
        let over = self
            .addresses
            .iter_mut()
            .filter(|(_, spent)| spent.said == 0);
        let mut unsaid: Vec<_> = over
            .map(|(address, spent)| Unsaid {
                address: *address,
                lines: std::mem::take(&mut spent.unsaid),
            })
            .filter(|unsaid| unsaid.lines > 0)
            .collect();
        unsaid.sort_by_key(|unsaid| unsaid.address);
        unsaid
    }

    /// Begins a window when the last one is over. Only what is still to be told stays.
    fn turn(&mut self, now: Instant) {
        let started = *self.window.get_or_insert(now);
        if now.saturating_duration_since(started) < WINDOW {
            return;
        }
        self.window = Some(now);
        self.said = 0;
        self.addresses.retain(|_, spent| {
            spent.said = 0;
            spent.unsaid > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0x0a00_0000 + n).into()
    }

    fn unsaid(n: u32, lines: u64) -> Unsaid {
        Unsaid {
            address: Some(address(n)),
            lines,
        }
    }

    #[test]
    fn each_address_has_its_lines_and_the_rest_is_told_with_the_next() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        let said = (0..PER_ADDRESS + 7)
            .filter(|_| lines.spend(start, address(1)) == Some(0))
            .count();
        assert_eq!(said, 50);
        assert_eq!(
            lines.spend(start, address(2)),
            Some(0),
            "another's are its own"
        );
        assert_eq!(lines.spend(start + WINDOW, address(1)), Some(7));
        assert_eq!(lines.spend(start + WINDOW, address(1)), Some(0));
    }

    #[test]
    fn what_went_unsaid_is_told_once_also_of_those_who_do_not_come_back() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        for _ in 0..PER_ADDRESS + 3 {
            lines.spend(start, address(1));
        }
        assert_eq!(lines.overdue(start), [], "its window is not over");
        assert_eq!(lines.overdue(start + WINDOW), [unsaid(1, 3)]);
        assert_eq!(lines.overdue(start + WINDOW), []);
        assert_eq!(lines.overdue(start + 2 * WINDOW), []);
        assert!(lines.addresses.is_empty());
    }

    #[test]
    fn all_addresses_together_are_bounded_and_so_is_what_is_kept_of_them() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        let said = (0..20_000)
            .filter(|n| lines.spend(start, address(*n)).is_some())
            .count();
        assert_eq!(said, 2_000);
        assert_eq!(lines.addresses.len(), ADDRESSES + 1);
        let told = lines.overdue(start + WINDOW);
        let total: u64 = told.iter().map(|unsaid| unsaid.lines).sum();
        assert_eq!(total, 18_000);
        lines.overdue(start + 2 * WINDOW);
        assert!(lines.addresses.is_empty());
    }
}
