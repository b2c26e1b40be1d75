//! Whether the cluster can be read: from the state of each cache and the cluster's own identity to the one word that the
//! hub hears. After any loss the identity is asked again before anything counts, for what answers under the same address
//! may be another cluster (invariant: silence and a swapped cluster delete nothing).

use std::fmt;

use berth_common::session::agent::Source;

/// A kind of object that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Cache {
    Services,
    Nodes,
    EndpointSlices,
}

impl fmt::Display for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Services => "Services",
            Self::Nodes => "Nodes",
            Self::EndpointSlices => "EndpointSlices",
        })
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Reading {
    #[default]
    NotYet,
    Synced,
    Lost(String),
}

#[derive(Debug, Default)]
pub(super) struct Sources {
    caches: [Reading; 3],
    cluster_uid: Option<String>,
    synced: bool,
}

impl Sources {
    /// True: it was not before.
    pub(super) fn synced(&mut self, cache: Cache) -> bool {
        let before = std::mem::replace(&mut self.caches[cache as usize], Reading::Synced);
        // What was asked before this reading may have been answered by the cluster before.
        if matches!(before, Reading::Lost(_)) && cache != Cache::EndpointSlices {
            self.cluster_uid = None;
        }
        before != Reading::Synced
    }

    /// True: it was not lost before, or for another reason.
    pub(super) fn lost(&mut self, cache: Cache, reason: &str) -> bool {
        if cache != Cache::EndpointSlices {
            self.cluster_uid = None;
        }
        let lost = Reading::Lost(reason.to_owned());
        let is_new = self.caches[cache as usize] != lost;
        self.caches[cache as usize] = lost;
        is_new
    }

    pub(super) fn dropped(&mut self, cache: Cache) {
        self.caches[cache as usize] = Reading::NotYet;
    }

    pub(super) fn cluster_uid(&mut self, uid: String) {
        self.cluster_uid = Some(uid);
    }

    pub(super) fn wants_uid(&self) -> bool {
        self.cluster_uid.is_none()
    }

    pub(super) fn is_synced(&self) -> bool {
        self.synced
    }

    /// What the hub should hear. Slices are needed once, before the first word: later they hold back only the Services
    /// that depend on them.
    pub(super) fn source(&mut self, slices_synced: bool) -> Source {
        let complete = [Cache::Services, Cache::Nodes]
            .iter()
            .all(|cache| self.caches[*cache as usize] == Reading::Synced)
            && (slices_synced || self.synced);
        self.synced = complete && self.cluster_uid.is_some();
        match (&self.cluster_uid, complete) {
            (Some(uid), true) => Source::Synced {
                cluster_uid: uid.clone(),
            },
            _ => Source::Unsynced {
                reason: self.reason(),
            },
        }
    }

    fn reason(&self) -> String {
        let all = [Cache::Services, Cache::Nodes, Cache::EndpointSlices];
        let lost = all
            .iter()
            .find_map(|cache| match &self.caches[*cache as usize] {
                Reading::Lost(reason) => Some(format!("cannot read {cache}: {reason}")),
                Reading::NotYet | Reading::Synced => None,
            });
        lost.unwrap_or_else(|| "the cluster is being read".to_owned())
    }
}
