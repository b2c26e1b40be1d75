//! Which nodes may receive traffic, out of all that there are: candidates by label, deletion and taint, and of these the
//! ready ones, or all of them if none is ready (points 20 to 23).

use std::collections::{BTreeMap, BTreeSet};

use berth_common::model::{IpFamily, Node, NodeName};

use crate::project::SeenNode;

/// All nodes, and those of them that were told to the hub.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    all: BTreeMap<NodeName, SeenNode>,
    told: BTreeMap<NodeName, Node>,
    reach: Reach,
    synced: bool,
}

/// What of the eligible nodes an explanation needs; without numbers, so that it changes seldom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// The families in which at least one can be reached.
    pub(super) families: BTreeSet<IpFamily>,
    /// Whether there is any eligible node at all.
    pub(super) any: bool,
    /// The types of address that they have.
    pub(super) types: BTreeSet<String>,
}

/// The difference to what was told before.
#[derive(Debug, Default)]
pub(super) struct NodeChanges {
    /// New or different.
    pub(super) upserts: Vec<(NodeName, Node)>,
    /// Not eligible any more.
    pub(super) removed: Vec<NodeName>,
    /// Whether the explanation would be another one.
    pub(super) reach_changed: bool,
}

impl Nodes {
    pub(super) fn apply(&mut self, name: NodeName, seen: SeenNode) -> NodeChanges {
        let doomed = seen.doomed;
        match self.all.insert(name.clone(), seen) {
            // The autoscaler's taint alone moves nothing: kube-proxy's own health check drains such a node. One that is
            // spared may have been left out meanwhile.
            Some(old)
                if !self.all[&name].differs_beyond_doom(&old)
                    && (doomed || self.told.contains_key(&name)) =>
            {
                NodeChanges::default()
            }
            _ => self.tell(),
        }
    }

    pub(super) fn delete(&mut self, name: &NodeName) -> NodeChanges {
        match self.all.remove(name) {
            Some(_) => self.tell(),
            None => NodeChanges::default(),
        }
    }

    pub(super) fn reset(&mut self, nodes: BTreeMap<NodeName, SeenNode>) -> NodeChanges {
        let first = !std::mem::replace(&mut self.synced, true);
        self.all = nodes;
        let mut changes = self.tell();
        changes.reach_changed |= first;
        changes
    }

    /// None while the nodes have not been read.
    pub(super) fn reach(&self) -> Option<&Reach> {
        self.synced.then_some(&self.reach)
    }

    pub(super) fn is_known(&self, name: &NodeName) -> bool {
        self.all.contains_key(name)
    }

    /// Before the first full reading nothing is told: with half of the nodes, readiness would be judged wrongly.
    fn tell(&mut self) -> NodeChanges {
        if !self.synced {
            return NodeChanges::default();
        }
        let candidates = || self.all.iter().filter(|(_, node)| node.is_candidate());
        let some_ready = candidates().any(|(_, node)| node.ready);
        let mut next = BTreeMap::new();
        let mut reach = Reach::default();
        for (name, node) in candidates().filter(|(_, node)| node.ready || !some_ready) {
            reach.any = true;
            reach.types.extend(node.types.iter().cloned());
            reach
                .families
                .extend(node.addresses.iter().map(IpFamily::of));
            if !node.addresses.is_empty() {
                let addresses = node.addresses.clone();
                next.insert(name.clone(), Node { addresses });
            }
        }
        let changes = NodeChanges {
            upserts: next
                .iter()
                .filter(|(name, node)| self.told.get(*name) != Some(*node))
                .map(|(name, node)| (name.clone(), node.clone()))
                .collect(),
            removed: self
                .told
                .keys()
                .filter(|name| !next.contains_key(*name))
                .cloned()
                .collect(),
            reach_changed: reach != self.reach,
        };
        self.told = next;
        self.reach = reach;
        changes
    }
}
