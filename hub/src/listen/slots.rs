//! A bound on how many of something one key holds at a time: handshakes of an address, connections of an identity.
//! A key without any takes no memory.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

type Counts<K> = Arc<Mutex<HashMap<K, usize>>>;

/// The counts of all keys.
#[derive(Debug)]
pub(super) struct Slots<K> {
    counts: Counts<K>,
    max: usize,
}

/// One slot, given back when dropped.
#[derive(Debug)]
pub(super) struct Slot<K: Eq + Hash> {
    counts: Counts<K>,
    key: Option<K>,
}

impl<K: Eq + Hash + Clone> Slots<K> {
    pub(super) fn new(max: usize) -> Self {
        Self {
            counts: Counts::default(),
            max,
        }
    }

    /// A slot of this key, unless all are taken.
    pub(super) fn take(&self, key: K) -> Option<Slot<K>> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key.clone()).or_default();
        if *count >= self.max {
            if *count == 0 {
                counts.remove(&key);
            }
            return None;
        }
        *count += 1;
        Some(Slot {
            counts: Arc::clone(&self.counts),
            key: Some(key),
        })
    }
}

impl<K: Eq + Hash> Drop for Slot<K> {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&key);
            }
        }
    }
}

/// What counts as one address: an IPv4 address however it is written, and a whole /64 of IPv6, which one host has.
pub(crate) fn address_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => {
            let prefix = u128::from(v6) & !u128::from(u64::MAX);
            Ipv6Addr::from(prefix).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_slots_and_leaves_nothing_behind() {
        let slots = Slots::new(2);
        let first = slots.take("a").unwrap();
        let second = slots.take("a").unwrap();
        assert!(slots.take("a").is_none());
        let other = slots.take("b").unwrap();
        drop(first);
        let third = slots.take("a").unwrap();
        drop((second, third, other));
        assert!(slots.counts.lock().unwrap().is_empty());
    }

    #[test]
    fn none_at_all_leaves_nothing_behind_either() {
        let slots = Slots::new(0);
        assert!(slots.take("a").is_none());
        assert!(slots.counts.lock().unwrap().is_empty());
    }

    #[test]
    fn one_host_is_one_address() {
        let key = |text: &str| address_key(text.parse().unwrap());
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
        assert_ne!(key("10.0.0.2"), key("10.0.0.1"));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1:2:3"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
    }
}
