//! What a side holds, as 256 digests that change in O(1) with each resource. Two sides compare them to find out which
//! buckets differ, and only those travel. The encoding is described in `agent.proto` (Digests) and pinned by
//! `testdata/digests.json`; `tests/second_implementation.rs` is another implementation, written from those two.

use std::collections::BTreeMap;

use berth_wire::v1;
use sha2::{Digest as _, Sha256};

use crate::{
    model::{Generation, Key},
    wire::key_to_wire,
};

/// How many buckets there are.
pub const BUCKETS: usize = 256;
const WIDTH: usize = 16;

/// The digests of all buckets. Those that are zero are not kept: most tenants have a few Services, and a hub thousands of
/// tenants.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Digests(BTreeMap<u8, u128>);

impl std::fmt::Debug for Digests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Digests({} buckets)", self.0.len())
    }
}

impl Digests {
    /// Adds a resource, or takes it away again: the operation is its own inverse.
    pub fn toggle(&mut self, key: &Key, generation: Generation) {
        let mut first = [0; WIDTH];
        first.copy_from_slice(&Sha256::digest(entry(&key_to_wire(key), generation))[..WIDTH]);
        let bucket = bucket(key);
        let digest = self.get(bucket) ^ u128::from_be_bytes(first);
        self.set(bucket, digest);
    }

    /// The buckets in which two sides differ.
    pub fn difference(&self, other: &Self) -> Buckets {
        let mut buckets = Buckets::none();
        for bucket in self.0.keys().chain(other.0.keys()) {
            if self.get(*bucket) != other.get(*bucket) {
                buckets.insert(*bucket);
            }
        }
        buckets
    }

    fn get(&self, bucket: u8) -> u128 {
        self.0.get(&bucket).copied().unwrap_or_default()
    }

    fn set(&mut self, bucket: u8, digest: u128) {
        match digest {
            0 => self.0.remove(&bucket),
            _ => self.0.insert(bucket, digest),
        };
    }

    /// As messages carry them: 4,096 bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        (0..=u8::MAX)
            .flat_map(|bucket| self.get(bucket).to_be_bytes())
            .collect()
    }

    /// Reads what a message carried; nothing but 4,096 bytes is right.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != BUCKETS * WIDTH {
            return None;
        }
        let mut digests = Self::default();
        for (bucket, chunk) in (0..=u8::MAX).zip(bytes.as_chunks::<WIDTH>().0) {
            digests.set(bucket, u128::from_be_bytes(*chunk));
        }
        Some(digests)
    }
}

/// A set of buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buckets([u8; BUCKETS / 8]);

impl Buckets {
    /// None.
    pub fn none() -> Self {
        Self([0; BUCKETS / 8])
    }

    /// All.
    pub fn all() -> Self {
        Self([u8::MAX; BUCKETS / 8])
    }

    /// Adds a key's bucket.
    pub fn insert_key(&mut self, key: &Key) {
        self.insert(bucket(key));
    }

    /// Adds all of another set.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine |= theirs;
        }
    }

    fn insert(&mut self, bucket: u8) {
        self.0[usize::from(bucket / 8)] |= 1 << (bucket % 8);
    }

    /// Whether no bucket is in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|b| *b == 0)
    }

    /// Whether a key's bucket is in it.
    pub fn contains(&self, key: &Key) -> bool {
        let bucket = bucket(key);
        self.0[usize::from(bucket / 8)] & (1 << (bucket % 8)) != 0
    }

    /// As SnapshotBegin carries them: 32 bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    /// Reads SnapshotBegin's: 32 bytes, or none for all.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.len() {
            0 => Some(Self::all()),
            32 => bytes.try_into().ok().map(Self),
            _ => None,
        }
    }
}

/// The canonical encoding of (key, generation), also of keys that this release cannot read.
pub fn entry(key: &v1::Key, generation: Generation) -> Vec<u8> {
    let mut entry = name(key);
    entry.extend(generation.0.to_be_bytes());
    entry
}

fn name(key: &v1::Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(17 + key.namespace.len() + key.name.len());
    // Kinds are numbered from 1 and will not reach 256.
    bytes.push(key.kind.to_le_bytes()[0]);
    for part in [&key.namespace, &key.name] {
        // No message is long enough for a name of 4 GiB.
        bytes.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(part.as_bytes());
    }
    bytes
}

fn bucket(key: &Key) -> u8 {
    Sha256::digest(name(&key_to_wire(key)))[0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::ServiceKey;

    fn key() -> impl Strategy<Value = Key> {
        ("[a-c]", "[a-z]{1,2}").prop_map(|(ns, name)| Key::Service(ServiceKey::new(ns, name)))
    }

    proptest! {
        #[test]
        fn the_order_of_changes_does_not_matter_and_undoing_them_leaves_nothing(
            mut changes in proptest::collection::vec((key(), any::<u64>()), 0..40)
        ) {
            let mut forward = Digests::default();
            for (key, g) in &changes { forward.toggle(key, Generation(*g)); }
            changes.reverse();
            let mut backward = Digests::default();
            for (key, g) in &changes { backward.toggle(key, Generation(*g)); }
            prop_assert_eq!(&forward, &backward);
            prop_assert_eq!(&Digests::from_bytes(&forward.to_bytes()).unwrap(), &forward);
            for (key, g) in &changes { forward.toggle(key, Generation(*g)); }
            prop_assert_eq!(forward, Digests::default());
        }

        #[test]
        fn a_difference_names_the_bucket_of_the_changed_key(key in key(), a in any::<u64>(), b in any::<u64>()) {
            prop_assume!(a != b);
            let (mut left, mut right) = (Digests::default(), Digests::default());
            left.toggle(&key, Generation(a));
            right.toggle(&key, Generation(b));
            let buckets = left.difference(&right);
            prop_assert!(buckets.contains(&key));
            prop_assert_eq!(Buckets::from_bytes(&buckets.to_bytes()), Some(buckets));
        }
    }
}
