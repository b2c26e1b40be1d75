//! On which nodes each Service has endpoints of its own, put together from its EndpointSlices (point 24).

use std::collections::{BTreeMap, BTreeSet};

use berth_common::model::{NodeName, ServiceKey};

use crate::project::{SeenSlice, SliceKey};

/// All slices, by name and by Service.
#[derive(Debug, Default)]
pub(super) struct Local {
    slices: BTreeMap<SliceKey, SeenSlice>,
    by_service: BTreeMap<ServiceKey, BTreeSet<SliceKey>>,
    synced: bool,
}

impl Local {
    /// Gives the Services whose set of nodes may have changed.
    pub(super) fn apply(&mut self, key: SliceKey, seen: SeenSlice) -> BTreeSet<ServiceKey> {
        if self.slices.get(&key) == Some(&seen) {
            return BTreeSet::new();
        }
        let mut affected = self.delete(&key);
        affected.insert(seen.service.clone());
        self.insert(key, seen);
        affected
    }

    pub(super) fn delete(&mut self, key: &SliceKey) -> BTreeSet<ServiceKey> {
        let Some(old) = self.slices.remove(key) else {
            return BTreeSet::new();
        };
        if let Some(keys) = self.by_service.get_mut(&old.service) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_service.remove(&old.service);
            }
        }
        BTreeSet::from([old.service])
    }

    pub(super) fn reset(&mut self, slices: BTreeMap<SliceKey, SeenSlice>) {
        self.clear();
        for (key, seen) in slices {
            self.insert(key, seen);
        }
        self.synced = true;
    }

    /// Nobody watches slices any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_synced(&self) -> bool {
        self.synced
    }

    /// The nodes with ready endpoints; where there are none, those whose endpoints serve while they terminate. None while
    /// the slices have not been read.
    pub(super) fn nodes_of(&self, service: &ServiceKey) -> Option<BTreeSet<NodeName>> {
        if !self.synced {
            return None;
        }
        let slices = || {
            self.by_service
                .get(service)
                .into_iter()
                .flatten()
                .filter_map(|key| self.slices.get(key))
        };
        let ready: BTreeSet<_> = slices().flat_map(|slice| &slice.ready).cloned().collect();
        if ready.is_empty() {
            return Some(
                slices()
                    .flat_map(|slice| &slice.terminating)
                    .cloned()
                    .collect(),
            );
        }
        Some(ready)
    }

    fn insert(&mut self, key: SliceKey, seen: SeenSlice) {
        self.by_service
            .entry(seen.service.clone())
            .or_default()
            .insert(key.clone());
        self.slices.insert(key, seen);
    }
}
