//! What a hub may believe of a tenant, said as simply as it can be: a map that only a delta, an explicit deletion and a
//! verified snapshot change. The real [`Held`] is compared with it after every step.

use std::collections::{BTreeMap, BTreeSet};

use berth_common::{
    model::{Generation, Key, ServiceKey},
    session::{
        digest::{Buckets, Digests},
        held::{Held, Wanted},
        hub::Limits,
    },
    wire::{key_from_wire, resource_from_wire},
};
use berth_wire::v1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// Of what was heard last.
    generation: u64,
    /// Of what could be read last.
    good: Option<u64>,
    /// Whether what was heard last could be read.
    readable: bool,
}

/// What was heard of one tenant.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    entries: BTreeMap<Key, Entry>,
    deletions: BTreeMap<ServiceKey, u64>,
    absent: BTreeSet<ServiceKey>,
    pub(crate) complete: bool,
}

impl Model {
    pub(crate) fn change(&mut self, change: &v1::Change) {
        match &change.change {
            Some(v1::change::Change::Upsert(resource)) => self.put(resource),
            Some(v1::change::Change::Delete(deletion)) => {
                let key = deletion.key.clone().unwrap_or_default();
                if let Ok(key) = key_from_wire(&key) {
                    self.entries.remove(&key);
                    if let Key::Service(key) = key {
                        self.absent.remove(&key);
                        self.deletions.insert(key, deletion.generation);
                    }
                }
            }
            None => {}
        }
    }

    pub(crate) fn replace(&mut self, buckets: &Buckets, resources: &[v1::Resource]) {
        self.complete = true;
        let told: BTreeSet<Key> = resources.iter().filter_map(readable).collect();
        let missing: Vec<Key> = self
            .entries
            .keys()
            .filter(|key| buckets.contains(key) && !told.contains(key))
            .cloned()
            .collect();
        for key in missing {
            self.entries.remove(&key);
            if let Key::Service(key) = key {
                self.absent.insert(key);
            }
        }
        // What stands there in two ways is neither, under the number that came last.
        let mut tellings: BTreeMap<Key, Vec<&v1::Resource>> = BTreeMap::new();
        for resource in resources {
            if let Some(key) = readable(resource) {
                tellings.entry(key).or_default().push(resource);
            }
        }
        for told in tellings.values() {
            let Some((last, others)) = told.split_last() else {
                continue;
            };
            let body = |resource| resource_from_wire(resource).map(|(_, read)| read.body);
            let meant = body(last);
            let agreed = others.iter().all(|other| body(other) == meant);
            self.put_as(last, agreed && meant.is_ok());
        }
    }

    fn put(&mut self, resource: &v1::Resource) {
        self.put_as(resource, resource_from_wire(resource).is_ok());
    }

    fn put_as(&mut self, resource: &v1::Resource, readable: bool) {
        let Some(key) = self::readable(resource) else {
            return;
        };
        if let Key::Service(key) = &key {
            self.deletions.remove(key);
            self.absent.remove(key);
        }
        let good = if readable {
            Some(resource.generation)
        } else {
            self.entries.get(&key).and_then(|e| e.good)
        };
        let entry = Entry {
            generation: resource.generation,
            good,
            readable,
        };
        self.entries.insert(key, entry);
    }

    pub(crate) fn gone(&mut self, key: &ServiceKey) -> Option<Generation> {
        self.absent.remove(key);
        self.deletions.remove(key).map(Generation)
    }

    pub(crate) fn miss(&mut self, key: &ServiceKey) {
        let held = self.entries.contains_key(&Key::Service(key.clone()));
        if self.complete && !held && !self.deletions.contains_key(key) {
            self.absent.insert(key.clone());
        }
    }

    /// Whether a step from `before` to here is more than a tenant may tell. What shrinks is never too much.
    pub(crate) fn is_too_much(&self, before: &Self, limits: &Limits) -> bool {
        let over = |count: fn(&Self) -> usize, limit| count(self) > count(before).max(limit);
        over(Self::services, limits.services)
            || over(Self::nodes, limits.nodes)
            || over(Self::known, 3 * limits.services)
    }

    fn services(&self) -> usize {
        self.entries.len() - self.nodes()
    }

    fn nodes(&self) -> usize {
        let is_node = |key: &&Key| matches!(key, Key::Node(_));
        self.entries.keys().filter(is_node).count()
    }

    /// Services that anything is remembered of.
    fn known(&self) -> usize {
        self.services() + self.deletions.len() + self.absent.len()
    }

    /// The Services of which this and another differ.
    pub(crate) fn differing(&self, other: &Self) -> BTreeSet<ServiceKey> {
        let state = |model: &Self, key: &ServiceKey| {
            let entry = model.entries.get(&Key::Service(key.clone())).copied();
            (entry, model.deletions.get(key).copied())
        };
        let keys = self.service_keys().chain(other.service_keys());
        keys.chain(self.deletions.keys().cloned())
            .chain(other.deletions.keys().cloned())
            .filter(|key| state(self, key) != state(other, key))
            .collect()
    }

    fn service_keys(&self) -> impl Iterator<Item = ServiceKey> {
        self.entries.keys().filter_map(|key| match key {
            Key::Service(key) => Some(key.clone()),
            Key::Node(_) => None,
        })
    }

    /// That the real one is the same.
    pub(crate) fn compare(&self, held: &Held) {
        let mut digests = Digests::default();
        for (key, entry) in &self.entries {
            digests.toggle(key, Generation(entry.generation));
        }
        assert!(
            *held.digests() == digests,
            "digests are not of what is held"
        );
        assert_eq!(held.services(), self.services());
        assert!(held.service_keys().cloned().eq(self.service_keys()));
        assert_eq!(held.is_complete(), self.complete);
        assert_eq!(held.absent(), self.absent.len());
        let readable = self.entries.iter().filter(|(_, e)| e.good.is_some());
        let nodes = readable.filter(|(key, _)| matches!(key, Key::Node(_)));
        assert_eq!(held.nodes().len(), nodes.count());
        for key in self.service_keys() {
            let entry = self.entries[&Key::Service(key.clone())];
            let (generation, stays) = match held.wanted(&key) {
                Wanted::Present(generation, _) if entry.readable => (generation, true),
                Wanted::Unreadable {
                    generation, last, ..
                } if !entry.readable => (generation, last.is_some()),
                other => panic!("{key}: {other:?}, and {entry:?} was told"),
            };
            assert_eq!(generation.0, entry.generation, "{key}");
            assert_eq!(
                stays,
                entry.good.is_some(),
                "{key}: the last good state stays"
            );
        }
        for (key, generation) in &self.deletions {
            let wanted = held.wanted(key);
            assert_eq!(wanted, Wanted::Deleted(Generation(*generation)), "{key}");
        }
        for key in &self.absent {
            assert!(matches!(held.wanted(key), Wanted::Absent), "{key}");
        }
        let stranger = ServiceKey::new("nobody", "told");
        match held.wanted(&stranger) {
            Wanted::Absent => assert!(self.complete, "nothing is concluded from silence"),
            Wanted::Unknown => assert!(!self.complete),
            other => panic!("{other:?} of a Service that nobody told"),
        }
    }
}

fn readable(resource: &v1::Resource) -> Option<Key> {
    key_from_wire(resource.key.as_ref()?).ok()
}
