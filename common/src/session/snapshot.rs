//! A snapshot on its way: both ends count and hash the same entries in the same order, and only when they agree at the
//! end does anything of it count.

use std::collections::BTreeMap;

use berth_wire::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::digest::{Buckets, entry};
use crate::{
    model::{Body, Generation, Key, Versioned},
    wire::{key_to_wire, resource_to_wire},
};

/// Count and hash over the entries of a snapshot, as both ends keep them.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    count: u64,
    hash: Sha256,
}

impl Tally {
    /// Takes in one resource.
    pub fn add(&mut self, key: &v1::Key, generation: Generation) {
        self.count += 1;
        self.hash.update(entry(key, generation));
    }

    /// How many there were so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The end that says what was counted.
    pub fn end(self, id: u64) -> v1::SnapshotEnd {
        v1::SnapshotEnd {
            id,
            count: self.count,
            sha256: self.hash.finalize().to_vec().into(),
        }
    }
}

/// The sending end of a snapshot.
pub(super) struct Outgoing {
    id: u64,
    /// What the snapshot replaces.
    pub(super) buckets: Buckets,
    tally: Tally,
    /// What is still to be sent, last first.
    keys: Vec<Key>,
}

impl Outgoing {
    /// A snapshot of these keys, the last first.
    pub(super) fn new(id: u64, buckets: Buckets, keys: Vec<Key>) -> Self {
        Self {
            id,
            buckets,
            tally: Tally::default(),
            keys,
        }
    }

    /// The next page, of what is left and still wanted; None when all was sent.
    pub(super) fn next_page(
        &mut self,
        table: &BTreeMap<Key, Versioned<Body>>,
        page_bytes: usize,
        mut sent: impl FnMut(&Key),
    ) -> Option<v1::SnapshotPage> {
        let mut resources = Vec::new();
        let mut bytes = 0;
        while bytes < page_bytes
            && let Some(key) = self.keys.pop()
        {
            // Removed since the snapshot began: the hub will hear of it by a delta, or did not know it at all.
            let Some(resource) = table.get(&key) else {
                continue;
            };
            let wire = resource_to_wire(&key, resource);
            bytes += wire.encoded_len();
            self.tally.add(&key_to_wire(&key), resource.generation);
            resources.push(wire);
            sent(&key);
        }
        (!resources.is_empty()).then_some(v1::SnapshotPage {
            id: self.id,
            resources,
        })
    }

    /// The end, when all was sent.
    pub(super) fn end(self) -> v1::SnapshotEnd {
        self.tally.end(self.id)
    }
}

/// The receiving end of a snapshot.
#[derive(Debug)]
pub struct Incoming<T> {
    id: u64,
    /// What the snapshot replaces.
    pub buckets: Buckets,
    tally: Tally,
    resources: Vec<(Key, T)>,
}

impl<T> Incoming<T> {
    /// An empty one, just begun.
    pub fn new(id: u64, buckets: Buckets) -> Self {
        Self {
            id,
            buckets,
            tally: Tally::default(),
            resources: Vec::new(),
        }
    }

    /// Whether a page or an end belongs to this snapshot.
    pub fn is(&self, id: u64) -> bool {
        self.id == id
    }

    /// How many resources have come.
    pub fn len(&self) -> u64 {
        self.tally.count()
    }

    /// Whether none has come.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counts one resource of a page, whether or not it can be read.
    pub fn count(&mut self, key: Option<&v1::Key>, generation: Generation) {
        self.tally
            .add(key.unwrap_or(&v1::Key::default()), generation);
    }

    /// Takes in one resource that could be read.
    pub fn push(&mut self, key: Key, resource: T) {
        self.resources.push((key, resource));
    }

    /// All resources, if the end says what was counted here, and every one lies in the buckets it was announced for;
    /// else why nothing of it counts.
    pub fn verify(self, end: &v1::SnapshotEnd) -> Result<(Buckets, Vec<(Key, T)>), String> {
        let counted = self.tally.end(self.id);
        if counted.count != end.count {
            return Err(format!(
                "the snapshot's end tells {} resources, {} came",
                end.count, counted.count
            ));
        }
        if counted.sha256 != end.sha256 {
            return Err("the snapshot's hash is wrong".into());
        }
        if let Some((key, _)) = self
            .resources
            .iter()
            .find(|(key, _)| !self.buckets.contains(key))
        {
            return Err(format!("{key} is outside the snapshot's buckets"));
        }
        Ok((self.buckets, self.resources))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServiceKey;

    fn key(name: &str) -> Key {
        Key::Service(ServiceKey::new("default", name))
    }

    fn push(incoming: &mut Incoming<()>, name: &str) {
        incoming.count(Some(&key_to_wire(&key(name))), Generation(1));
        incoming.push(key(name), ());
    }

    fn both(names: &[&str]) -> (Incoming<()>, v1::SnapshotEnd) {
        let mut tally = Tally::default();
        let mut incoming = Incoming::new(1, Buckets::all());
        for name in names {
            push(&mut incoming, name);
            tally.add(&key_to_wire(&key(name)), Generation(1));
        }
        (incoming, tally.end(1))
    }

    #[test]
    fn hostile_38_a_wrong_count_or_hash_makes_the_whole_snapshot_nothing() {
        let (incoming, end) = both(&["a", "b"]);
        assert_eq!(incoming.verify(&end).unwrap().1.len(), 2);

        let (mut incoming, end) = both(&["a", "b"]);
        push(&mut incoming, "c");
        assert!(incoming.verify(&end).unwrap_err().contains("3 came"));

        let (incoming, _) = both(&["a", "b"]);
        let (_, end) = both(&["a", "c"]);
        assert!(incoming.verify(&end).unwrap_err().contains("hash"));
    }

    #[test]
    fn a_resource_outside_the_announced_buckets_makes_it_nothing() {
        let mut incoming = Incoming::new(1, Buckets::none());
        push(&mut incoming, "a");
        let mut tally = Tally::default();
        tally.add(&key_to_wire(&key("a")), Generation(1));
        assert!(incoming.verify(&tally.end(1)).is_err());
    }
}
