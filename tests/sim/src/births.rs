//! What was ever in a tenant's cluster under one name, and what of it an agent saw go: for the judge, who asks whether the hub may
//! take a Service for deleted. A later UID is not always a later Service: a restored backup brings an older one back.

use std::collections::BTreeMap;

use berth_common::model::Generation;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Births {
    /// The UIDs, in the order in which they came to be there.
    order: Vec<u64>,
    /// The versions, each with its UID.
    versions: BTreeMap<u64, u64>,
    /// How many of them have come and gone: the latest whose deletion was seen, and all before it.
    gone: usize,
}

impl Births {
    /// This is there now.
    pub(crate) fn came(&mut self, uid: u64, version: Generation) {
        if self.order.last() != Some(&uid) {
            self.order.push(uid);
        }
        self.versions.insert(version.0, uid);
    }

    /// An agent saw the deletion of what has this UID.
    pub(crate) fn went(&mut self, uid: u64) {
        let last = self.order.iter().rposition(|it| *it == uid);
        self.gone = self.gone.max(last.map_or(0, |at| at + 1));
    }

    /// The UID of a version.
    pub(crate) fn uid(&self, version: Generation) -> Option<u64> {
        self.versions.get(&version.0).copied()
    }

    /// Whether what has this UID was seen to go, or something that came after it.
    pub(crate) fn has_gone(&self, uid: u64) -> bool {
        let first = self.order.iter().position(|it| *it == uid);
        first.is_some_and(|at| at < self.gone)
    }

    /// Whether anything was seen to go.
    pub(crate) fn has_any_gone(&self) -> bool {
        self.gone > 0
    }

    /// Whether nothing of that name ever was.
    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(uid: u64) -> Generation {
        Generation(100 + uid)
    }

    #[test]
    fn the_end_of_what_a_backup_brought_back_is_the_end_of_what_came_before_it() {
        let mut births = Births::default();
        for uid in [2, 3] {
            births.came(uid, version(uid));
        }
        births.went(2);
        assert!(births.has_gone(2) && !births.has_gone(3));
        births.came(2, version(2));
        assert!(
            !births.has_gone(3),
            "it was replaced, and nobody deleted it"
        );
        births.went(2);
        assert!(births.has_gone(3));
    }
}
