//! What the hub has heard of one tenant, whichever session told it. It outlives sessions, not the hub's process: after a
//! restart every agent tells its state anew, and until it has, nothing is concluded from what is missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use super::digest::{Buckets, Digests};
use crate::{
    model::{Body, Generation, Key, Node, NodeName, Service, ServiceKey},
    wire::Refusal,
};

/// The tenant's nodes, shared by the plans of all its Services.
pub type Nodes = Arc<BTreeMap<NodeName, Node>>;

/// What a message carried under a key: readable, or not.
pub type Received = Result<Body, Refusal>;

/// Small, for a map's node has room for eleven, and most of a hub's thousands of tenants hold a handful.
#[derive(Debug)]
struct Entry {
    /// Of what was heard last, readable or not, so that both sides' digests agree.
    generation: Generation,
    /// The last version that could be read.
    good: Option<Good>,
    /// Why what was heard last cannot be read, if so: it is told to every session until another version comes.
    refusal: Option<Box<Refusal>>,
}

#[derive(Debug)]
enum Good {
    Service(Arc<Service>),
    Node(Box<Node>),
}

/// What a tenant wants of one Service.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// A load balancer as told.
    Present(Generation, Arc<Service>),
    /// A load balancer, in a form that cannot be read.
    Unreadable {
        /// The version.
        generation: Generation,
        /// Why.
        refusal: Refusal,
        /// The last version that this process could read.
        last: Option<Arc<Service>>,
    },
    /// None: the tenant was seen to delete it, and is to be answered under this number.
    Deleted(Generation),
    /// It was not in what the tenant told last; nobody has said why.
    Absent,
    /// The tenant has not told its state to this process yet: nothing may be concluded.
    Unknown,
}

/// What one tenant wants.
#[derive(Debug, Default)]
pub struct Held {
    entries: BTreeMap<Key, Entry>,
    digests: Digests,
    services: usize,
    nodes: Nodes,
    deletions: BTreeMap<ServiceKey, Generation>,
    absent: BTreeMap<ServiceKey, Instant>,
    /// When this process first held a whole, verified state of the tenant.
    complete_since: Option<Instant>,
}

/// What a change touched, for whoever plans.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Services that changed, came or went.
    pub services: BTreeSet<ServiceKey>,
    /// The set of nodes changed: every Service of the tenant is concerned.
    pub nodes: bool,
    /// The state became whole: everything that is observed without being wanted is concerned.
    pub completed: bool,
}

/// How much of a tenant is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    /// Services held.
    pub(super) services: usize,
    /// Nodes held, readable or not.
    pub(super) nodes: usize,
    /// Services that anything is remembered of: held, deleted, or missed.
    pub(super) known: usize,
}

impl Held {
    /// The digests of what is held.
    pub fn digests(&self) -> &Digests {
        &self.digests
    }

    /// How many Services are held.
    pub fn services(&self) -> usize {
        self.services
    }

    /// The keys of all Services held.
    pub fn service_keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.entries.keys().filter_map(|key| match key {
            Key::Service(key) => Some(key),
            Key::Node(_) => None,
        })
    }

    /// The tenant's nodes.
    pub fn nodes(&self) -> Nodes {
        self.nodes.clone()
    }

    /// Whether a whole, verified state was heard in this process.
    pub fn is_complete(&self) -> bool {
        self.complete_since.is_some()
    }

    /// The version of a Service that was heard last.
    pub fn generation(&self, key: &ServiceKey) -> Option<Generation> {
        let entry = self.entries.get(&Key::Service(key.clone()))?;
        Some(entry.generation)
    }

    /// Whether the tenant deleted a Service and waits for its end.
    pub fn is_deleting(&self, key: &ServiceKey) -> bool {
        self.deletions.contains_key(key)
    }

    /// How many Services were missed, and not deleted, since the state was whole.
    pub fn absent(&self) -> usize {
        self.absent.len()
    }

    /// Which those are.
    pub fn absent_keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.absent.keys()
    }

    /// What the tenant wants of a Service.
    pub fn wanted(&self, key: &ServiceKey) -> Wanted {
        if let Some(generation) = self.deletions.get(key) {
            return Wanted::Deleted(*generation);
        }
        let Some(entry) = self.entries.get(&Key::Service(key.clone())) else {
            return if self.is_complete() {
                Wanted::Absent
            } else {
                Wanted::Unknown
            };
        };
        let last = match &entry.good {
            Some(Good::Service(service)) => Some(service.clone()),
            _ => None,
        };
        match (&entry.refusal, last) {
            (None, Some(service)) => Wanted::Present(entry.generation, service),
            (Some(refusal), last) => Wanted::Unreadable {
                generation: entry.generation,
                refusal: Refusal::clone(refusal),
                last,
            },
            // An entry is readable or has its refusal.
            (None, None) => Wanted::Unknown,
        }
    }

    /// A load balancer was found that the tenant does not want and did not delete. Returns since when it is missed: since
    /// this was noticed, for it may have appeared long after the tenant's state was whole. `None`: it is not.
    pub fn miss(&mut self, key: &ServiceKey, now: Instant) -> Option<Instant> {
        if self.wanted(key) != Wanted::Absent {
            return None;
        }
        Some(*self.absent.entry(key.clone()).or_insert(now))
    }

    /// How much is kept now.
    pub(super) fn load(&self) -> Load {
        Load {
            services: self.services,
            nodes: self.entries.len() - self.services,
            known: self.services + self.deletions.len() + self.absent.len(),
        }
    }

    /// How much would be kept if each of these keys became held (or, with false, deleted), the last word on each counting,
    /// and everything else in the buckets missed.
    pub(super) fn load_after<'a>(
        &self,
        told: impl Iterator<Item = (&'a Key, bool)>,
        replaced: &Buckets,
    ) -> Load {
        let mut load = self.load();
        let told: BTreeMap<&Key, bool> = told.collect();
        if !replaced.is_empty() {
            for key in self.entries.keys() {
                if !told.contains_key(key) && replaced.contains(key) {
                    match key {
                        Key::Service(_) => load.services -= 1,
                        Key::Node(_) => load.nodes -= 1,
                    }
                }
            }
        }
        for (key, held) in told {
            let count = match key {
                Key::Service(name) => {
                    if !self.entries.contains_key(key)
                        && !self.deletions.contains_key(name)
                        && !self.absent.contains_key(name)
                    {
                        load.known += 1;
                    }
                    &mut load.services
                }
                Key::Node(_) => &mut load.nodes,
            };
            match (self.entries.contains_key(key), held) {
                (false, true) => *count += 1,
                (true, false) => *count -= 1,
                _ => {}
            }
        }
        load
    }

    /// Both sides were found to hold the same.
    pub(super) fn confirm(&mut self, now: Instant) -> Touched {
        let completed = self.complete_since.is_none();
        self.complete_since.get_or_insert(now);
        Touched {
            completed,
            ..Touched::default()
        }
    }

    /// A verified snapshot of some buckets.
    pub(super) fn replace(
        &mut self,
        buckets: &Buckets,
        resources: Vec<(Key, Generation, Received)>,
        now: Instant,
    ) -> Touched {
        let told: BTreeSet<&Key> = resources.iter().map(|(key, ..)| key).collect();
        let missing: Vec<Key> = self
            .entries
            .keys()
            .filter(|key| buckets.contains(key) && !told.contains(key))
            .cloned()
            .collect();
        let mut touched = self.confirm(now);
        for key in missing {
            self.take_out(&key, &mut touched);
            if let Key::Service(key) = key {
                self.absent.insert(key, now);
            }
        }
        for (key, generation, received) in resources {
            self.put(key, generation, received, &mut touched);
        }
        self.refresh_nodes(&mut touched);
        touched
    }

    /// The changes of a delta, in order; None is a deletion. Taken together, for the nodes' map is rebuilt once for all of them.
    pub(super) fn change(&mut self, changes: Vec<(Key, Generation, Option<Received>)>) -> Touched {
        let mut touched = Touched::default();
        for (key, generation, received) in changes {
            match received {
                Some(received) => self.put(key, generation, received, &mut touched),
                None => self.delete(key, generation, &mut touched),
            }
        }
        self.refresh_nodes(&mut touched);
        touched
    }

    fn delete(&mut self, key: Key, generation: Generation, touched: &mut Touched) {
        self.take_out(&key, touched);
        if let Key::Service(key) = key {
            self.absent.remove(&key);
            self.deletions.insert(key.clone(), generation);
            touched.services.insert(key);
        }
    }

    /// Nothing is left of a load balancer. Returns the number to answer under, where the tenant deleted it and waits for
    /// this.
    pub fn gone(&mut self, key: &ServiceKey) -> Option<Generation> {
        self.absent.remove(key);
        self.deletions.remove(key)
    }

    fn put(&mut self, key: Key, generation: Generation, received: Received, touched: &mut Touched) {
        let is_service = match &key {
            Key::Service(key) => {
                self.deletions.remove(key);
                self.absent.remove(key);
                touched.services.insert(key.clone());
                true
            }
            Key::Node(_) => {
                touched.nodes = true;
                false
            }
        };
        let before = self.entries.remove(&key);
        match &before {
            Some(before) => self.digests.toggle(&key, before.generation),
            None if is_service => self.services += 1,
            None => {}
        }
        self.digests.toggle(&key, generation);
        let (good, refusal) = match received {
            Ok(Body::Service(service)) => (Some(Good::Service(Arc::new(service))), None),
            Ok(Body::Node(node)) => (Some(Good::Node(Box::new(node))), None),
            Err(refusal) => (before.and_then(|b| b.good), Some(Box::new(refusal))),
        };
        let entry = Entry {
            generation,
            good,
            refusal,
        };
        self.entries.insert(key, entry);
    }

    fn take_out(&mut self, key: &Key, touched: &mut Touched) {
        let Some(entry) = self.entries.remove(key) else {
            return;
        };
        self.digests.toggle(key, entry.generation);
        match key {
            Key::Service(key) => {
                self.services -= 1;
                touched.services.insert(key.clone());
            }
            Key::Node(_) => touched.nodes = true,
        }
    }

    /// Rebuilds the nodes' map when any of them changed, and takes the mark back if the map is what it was.
    fn refresh_nodes(&mut self, touched: &mut Touched) {
        if !touched.nodes {
            return;
        }
        let nodes: BTreeMap<_, _> = self
            .entries
            .iter()
            .take_while(|(key, _)| matches!(key, Key::Node(_)))
            .filter_map(|(key, entry)| match (key, &entry.good) {
                (Key::Node(name), Some(Good::Node(node))) => {
                    Some((name.clone(), Node::clone(node)))
                }
                _ => None,
            })
            .collect();
        touched.nodes = *self.nodes != nodes;
        if touched.nodes {
            self.nodes = Arc::new(nodes);
        }
    }
}
