//! What the tenant's cluster has, as far as it concerns load balancers, and what therefore has to be told to the hub.
//! Synchronous and pure: projections go in one by one or whole after a re-read, changes come out. It knows nothing of
//! answers, and writes nothing.

mod local;
mod nodes;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use berth_common::{
    annotations::Allowed,
    model::{Body, Key, NodeName, Reason, ServiceKey, TrafficPolicy},
};

use self::{
    local::Local,
    nodes::{NodeChanges, Nodes},
};
use crate::{
    claims::{Claims, Standing},
    project::{AddressType, SeenNode, SeenService, SeenSlice, SliceKey},
};

/// Something that the session has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The tenant wants this. It may be what it wanted before: the session compares.
    Upsert(Key, Body),
    /// The tenant was seen to want this no more.
    Remove(Key),
    /// A re-read came without this, and nobody saw it go.
    Forget(Key),
}

/// What follows from one step.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// For the session, in this order.
    pub changes: Vec<Change>,
    /// Services of which something changed that may ask for a write.
    pub touched: BTreeSet<ServiceKey>,
    /// Services that were seen to begin leaving.
    pub departing: Vec<ServiceKey>,
    /// Services that are none of ours any more; whatever is remembered of them can go.
    pub gone: Vec<ServiceKey>,
}

/// One Service of ours.
#[derive(Debug)]
pub struct Entry {
    /// The newest that was seen of it.
    pub seen: SeenService,
    /// Wanted or leaving; foreign Services have no entry.
    pub standing: Standing,
    /// It took the place of another Service of its name, without that one's end having been seen.
    pub rebound: bool,
}

/// The index.
#[derive(Debug)]
pub struct Index {
    claims: Claims,
    wanted_types: Vec<AddressType>,
    /// Which annotations may leave the cluster: what the hub said last.
    allowed: Allowed,
    services: BTreeMap<ServiceKey, Entry>,
    /// Wanted Services with traffic policy Local.
    local_services: BTreeSet<ServiceKey>,
    nodes: Nodes,
    local: Local,
}

impl Index {
    /// An empty index of an agent that serves `claims` and sends traffic to addresses of these types.
    pub fn new(claims: Claims, wanted_types: Vec<AddressType>) -> Self {
        Self {
            claims,
            wanted_types,
            allowed: Allowed::default(),
            services: BTreeMap::new(),
            local_services: BTreeSet::new(),
            nodes: Nodes::default(),
            local: Local::default(),
        }
    }

    /// Which Services are served.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The types of node address that are wanted, best first.
    pub fn wanted_types(&self) -> &[AddressType] {
        &self.wanted_types
    }

    /// A Service of ours.
    pub fn service(&self, key: &ServiceKey) -> Option<&Entry> {
        self.services.get(key)
    }

    /// All Services of ours.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceKey, &Entry)> {
        self.services.iter()
    }

    /// Whether EndpointSlices matter at all.
    pub fn wants_slices(&self) -> bool {
        !self.local_services.is_empty()
    }

    /// Whether slices are read, or not needed.
    pub fn slices_synced(&self) -> bool {
        !self.wants_slices() || self.local.is_synced()
    }

    /// A Service was added or changed; `live`: seen as it happened, and not in a re-read. Something older than what is
    /// known is ignored: the reply to a write may overtake the watch.
    pub fn apply_service(&mut self, key: ServiceKey, seen: SeenService, live: bool) -> Effects {
        let mut effects = Effects::default();
        let old = self.services.get(&key);
        if old.is_some_and(|old| seen.version.is_older_than(&old.seen.version)) {
            return effects;
        }
        let standing = self.claims.standing(&seen);
        let old_standing = old.map_or(Standing::Foreign, |old| old.standing);
        let old_body = old.and_then(|old| self.body(&key, old));
        let rebound = old.is_some_and(|old| {
            old.rebound && old.seen.uid == seen.uid
                || old.seen.uid != seen.uid && old.standing == Standing::Wanted
        });
        match standing {
            Standing::Foreign => {
                if old_standing == Standing::Wanted {
                    // Nobody's finalizer held it, and the very update that we saw made it foreign.
                    effects
                        .changes
                        .push(Change::Remove(Key::Service(key.clone())));
                }
                if old_standing != Standing::Foreign {
                    self.drop_entry(&key, &mut effects);
                }
                return effects;
            }
            Standing::Leaving if old_standing != Standing::Leaving => {
                effects
                    .changes
                    .push(Change::Remove(Key::Service(key.clone())));
                if live && old_standing == Standing::Wanted {
                    effects.departing.push(key.clone());
                }
            }
            Standing::Leaving | Standing::Wanted => {}
        }
        let local = standing == Standing::Wanted
            && seen
                .wish
                .as_ref()
                .and_then(|w| w.service.as_ref())
                .is_some_and(|service| service.traffic_policy == TrafficPolicy::Local);
        if local {
            self.local_services.insert(key.clone());
        } else {
            self.local_services.remove(&key);
        }
        let entry = Entry {
            seen,
            standing,
            rebound,
        };
        if let Some(body) = self.body(&key, &entry)
            && (old_standing != Standing::Wanted || old_body.as_ref() != Some(&body))
        {
            effects
                .changes
                .push(Change::Upsert(Key::Service(key.clone()), body));
        }
        self.services.insert(key.clone(), entry);
        effects.touched.insert(key);
        effects
    }

    /// A Service is gone.
    pub fn delete_service(&mut self, key: &ServiceKey) -> Effects {
        let mut effects = Effects::default();
        if let Some(entry) = self.services.get(key) {
            if entry.standing == Standing::Wanted {
                effects
                    .changes
                    .push(Change::Remove(Key::Service(key.clone())));
            }
            self.drop_entry(key, &mut effects);
        }
        effects
    }

    /// All Services were read anew.
    pub fn reset_services(&mut self, services: BTreeMap<ServiceKey, SeenService>) -> Effects {
        let mut effects = Effects::default();
        let absent: Vec<_> = self
            .services
            .keys()
            .filter(|key| !services.contains_key(*key))
            .cloned()
            .collect();
        for key in absent {
            if self.services[&key].standing == Standing::Wanted {
                effects
                    .changes
                    .push(Change::Forget(Key::Service(key.clone())));
            }
            self.drop_entry(&key, &mut effects);
        }
        for (key, seen) in services {
            effects.join(self.apply_service(key, seen, false));
        }
        // Whatever could not be written before is tried again.
        effects.touched.extend(self.services.keys().cloned());
        effects
    }

    /// The hub lets these annotations pass from now on.
    pub fn allow(&mut self, allowed: Allowed) -> Effects {
        let mut effects = Effects::default();
        if self.allowed == allowed {
            return effects;
        }
        let before: Vec<_> = self
            .services
            .iter()
            .map(|(key, entry)| (key.clone(), self.body(key, entry), self.note(key)))
            .collect();
        self.allowed = allowed;
        for (key, body, note) in before {
            let after = self.services.get(&key).and_then(|it| self.body(&key, it));
            if note != self.note(&key) {
                effects.touched.insert(key.clone());
            }
            if let Some(after) = after
                && body.as_ref() != Some(&after)
            {
                effects
                    .changes
                    .push(Change::Upsert(Key::Service(key), after));
            }
        }
        effects
    }

    /// Which of a Service's annotations do not pass although somebody may count on it.
    pub fn note(&self, key: &ServiceKey) -> Option<String> {
        let wish = self.services.get(key)?.seen.wish.as_ref()?;
        let stripped = named(wish.steering.iter().filter(|key| !self.allowed.passes(key)));
        let too_long = named(wish.too_long.iter().filter(|key| self.allowed.passes(key)));
        let stripped = stripped.map(|keys| {
            format!("Not passed on: {keys}; only the operator of the load balancers can set that.")
        });
        let too_long = too_long.map(|keys| format!("Too long to be passed on: {keys}."));
        match (stripped, too_long) {
            (Some(one), Some(other)) => Some(format!("{one} {other}")),
            (one, other) => one.or(other),
        }
    }

    /// A node was added or changed.
    pub fn apply_node(&mut self, name: NodeName, seen: SeenNode) -> Effects {
        let changes = self.nodes.apply(name, seen);
        self.node_effects(changes)
    }

    /// A node is gone.
    pub fn delete_node(&mut self, name: &NodeName) -> Effects {
        let changes = self.nodes.delete(name);
        self.node_effects(changes)
    }

    /// All nodes were read anew.
    pub fn reset_nodes(&mut self, nodes: BTreeMap<NodeName, SeenNode>) -> Effects {
        let changes = self.nodes.reset(nodes);
        let mut effects = self.node_effects(changes);
        for change in &mut effects.changes {
            if let Change::Remove(Key::Node(name)) = change
                && !self.nodes.is_known(name)
            {
                *change = Change::Forget(Key::Node(name.clone()));
            }
        }
        effects
    }

    /// An EndpointSlice was added or changed.
    pub fn apply_slice(&mut self, key: SliceKey, seen: SeenSlice) -> Effects {
        let affected = self.local.apply(key, seen);
        self.local_effects(affected)
    }

    /// An EndpointSlice is gone.
    pub fn delete_slice(&mut self, key: &SliceKey) -> Effects {
        let affected = self.local.delete(key);
        self.local_effects(affected)
    }

    /// All EndpointSlices were read anew.
    pub fn reset_slices(&mut self, slices: BTreeMap<SliceKey, SeenSlice>) -> Effects {
        self.local.reset(slices);
        self.local_effects(self.local_services.clone())
    }

    /// EndpointSlices are not watched any more.
    pub fn clear_slices(&mut self) {
        self.local.clear();
    }

    /// Why a wanted Service cannot be served, as far as this cluster is concerned.
    pub fn problem(&self, key: &ServiceKey) -> Option<Reason> {
        let wish = self.services.get(key)?.seen.wish.as_ref()?;
        if let Some(fault) = &wish.fault {
            let text = format!("{}: {}. Correct the Service.", fault.field, fault.message);
            return Some(Reason::new("Invalid", text));
        }
        let families = &wish.service.as_ref()?.families;
        let reach = self.nodes.reach()?;
        if families
            .iter()
            .any(|family| reach.families.contains(family))
        {
            return None;
        }
        if !reach.any {
            return Some(Reason::new(
                "NoNodes",
                "No node of this cluster may receive traffic: there is none, or each is being deleted or carries the \
                 label node.kubernetes.io/exclude-from-external-load-balancers.",
            ));
        }
        let families: Vec<_> = families.iter().map(|family| family.as_str()).collect();
        let wanted: Vec<_> = self
            .wanted_types
            .iter()
            .map(|type_| type_.as_str())
            .collect();
        let found: Vec<_> = reach.types.iter().map(String::as_str).collect();
        let found = if found.is_empty() {
            "none".to_owned()
        } else {
            found.join(", ")
        };
        Some(Reason::new(
            "NoNodeAddress",
            format!(
                "No node of this cluster has an {} address of type {}; types present: {found}. Set the agent's \
                 nodeAddressType to a type that the nodes have.",
                families.join(" or "),
                wanted.join(" or "),
            ),
        ))
    }

    /// What the hub should hold of a Service; none if it cannot be said now, and then the hub keeps what it has.
    fn body(&self, key: &ServiceKey, entry: &Entry) -> Option<Body> {
        if entry.standing != Standing::Wanted {
            return None;
        }
        let wish = entry.seen.wish.as_ref()?;
        // What was served with a good version stays served while the new one has a fault; nothing starts with one.
        let status = &entry.seen.status;
        if wish.fault.is_some() && (!status.ours || status.ingress.is_empty()) {
            return None;
        }
        let mut service = wish.service.clone()?;
        if service.traffic_policy == TrafficPolicy::Local {
            service.local_nodes = self.local.nodes_of(key)?;
        }
        service
            .annotations
            .retain(|key, _| self.allowed.passes(key));
        Some(Body::Service(service))
    }

    fn drop_entry(&mut self, key: &ServiceKey, effects: &mut Effects) {
        self.services.remove(key);
        self.local_services.remove(key);
        effects.gone.push(key.clone());
    }

    fn node_effects(&self, changes: NodeChanges) -> Effects {
        let mut effects = Effects::default();
        for (name, node) in changes.upserts {
            effects
                .changes
                .push(Change::Upsert(Key::Node(name), Body::Node(node)));
        }
        for name in changes.removed {
            effects.changes.push(Change::Remove(Key::Node(name)));
        }
        if changes.reach_changed {
            effects.touched = self.services.keys().cloned().collect();
        }
        effects
    }

    fn local_effects(&self, affected: BTreeSet<ServiceKey>) -> Effects {
        let mut effects = Effects::default();
        for key in affected.intersection(&self.local_services) {
            if let Some(body) = self
                .services
                .get(key)
                .and_then(|entry| self.body(key, entry))
            {
                effects
                    .changes
                    .push(Change::Upsert(Key::Service(key.clone()), body));
            }
        }
        effects
    }
}

/// A few annotations by name, for people.
fn named<'a>(keys: impl Iterator<Item = &'a String>) -> Option<String> {
    const NAMED: usize = 4;
    let keys: Vec<&str> = keys.map(String::as_str).collect();
    let word = match keys.len() {
        0 => return None,
        1 => "annotation",
        _ => "annotations",
    };
    let mut text = format!("{word} {}", keys[..keys.len().min(NAMED)].join(", "));
    if keys.len() > NAMED {
        text.push_str(&format!(" and {} more", keys.len() - NAMED));
    }
    Some(text)
}

impl Effects {
    fn join(&mut self, other: Self) {
        self.changes.extend(other.changes);
        self.touched.extend(other.touched);
        self.departing.extend(other.departing);
        self.gone.extend(other.gone);
    }
}
