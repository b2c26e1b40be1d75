//! A model of the agent around the real [`AgentSession`]: what it has seen of its cluster, what it was answered, and when it
//! dials again. It does in a few lines what the agent's index, broker and link do, and is lost with the process.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use berth_common::{
    backoff::{Backoff, Cause},
    model::{Answer, Ingress, Key, Outcome},
    session::agent::{AgentInfo, AgentSession, Source},
};

use crate::{
    cluster::{Cluster, TenantService, node_body, node_key, service_body, service_key},
    mutation::Mutation,
};

/// One agent process; never given twice.
pub(crate) type AgentId = u32;
/// One connection; never given twice.
pub(crate) type ConnId = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Wanted,
    Leaving,
}

/// One agent process.
pub(crate) struct Agent {
    pub(crate) tenant: u8,
    /// It belongs to another cluster than the tenant's.
    pub(crate) impostor: bool,
    pub(crate) session: AgentSession,
    pub(crate) conn: Option<ConnId>,
    pub(crate) spread: Option<Duration>,
    pub(crate) synced_since: Option<Instant>,
    pub(crate) reading: bool,
    backoff: Backoff,
    /// Of its cluster, what it has seen: UID and standing.
    known: BTreeMap<u8, (u64, Standing)>,
    nodes: BTreeSet<u8>,
    pub(crate) answers: BTreeMap<u8, Answer>,
    released: BTreeSet<u8>,
}

/// A Service of this UID was seen to be deleted.
pub(crate) struct Removed {
    pub(crate) k: u8,
    pub(crate) uid: u64,
}

impl Agent {
    pub(crate) fn new(id: AgentId, tenant: u8, impostor: bool) -> Self {
        Self {
            tenant,
            impostor,
            session: AgentSession::new(AgentInfo {
                version: "0".into(),
                instance_id: format!("i{id}"),
            }),
            conn: None,
            spread: None,
            synced_since: None,
            reading: false,
            backoff: Backoff::new(Duration::from_millis(500)),
            known: BTreeMap::new(),
            nodes: BTreeSet::new(),
            answers: BTreeMap::new(),
            released: BTreeSet::new(),
        }
    }

    /// How long it stays away after a session ended.
    pub(crate) fn delay(
        &mut self,
        cause: Cause,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Duration {
        let synced = self
            .synced_since
            .take()
            .map(|since| now - since)
            .unwrap_or_default();
        let delay = self.backoff.next(cause, synced, random);
        match (cause, self.spread.take()) {
            (Cause::Lost, Some(spread)) if !spread.is_zero() => spread.mul_f64(random.f64()),
            _ => delay,
        }
    }

    /// A Service was added or changed.
    pub(crate) fn apply(&mut self, k: u8, service: &TenantService) -> Option<Removed> {
        let key = Key::Service(service_key(k));
        let before = self.known.get(&k).copied();
        if service.deleting {
            self.known.insert(k, (service.uid, Standing::Leaving));
            let began = !matches!(before, Some((_, Standing::Leaving)));
            if began {
                self.session.remove(key);
                self.answers.remove(&k);
                self.released.remove(&k);
            }
            return began.then_some(Removed {
                k,
                uid: service.uid,
            });
        }
        self.known.insert(k, (service.uid, Standing::Wanted));
        self.released.remove(&k);
        self.session
            .upsert(key, service_body(service.uid, service.version));
        None
    }

    /// A Service was seen to go.
    pub(crate) fn gone(&mut self, k: u8) -> Option<Removed> {
        let (uid, standing) = self.known.remove(&k)?;
        self.answers.remove(&k);
        if standing == Standing::Leaving {
            return None;
        }
        self.session.remove(Key::Service(service_key(k)));
        Some(Removed { k, uid })
    }

    pub(crate) fn node(&mut self, n: u8, is_there: bool) {
        if is_there {
            self.nodes.insert(n);
            self.session.upsert(node_key(n), node_body(self.tenant, n));
        } else if self.nodes.remove(&n) {
            self.session.remove(node_key(n));
        }
    }

    /// The cluster cannot be read.
    pub(crate) fn lost_source(&mut self, mutation: Option<Mutation>) {
        self.reading = false;
        if mutation == Some(Mutation::EmptyListsWhenUnsynced) {
            for (k, _) in std::mem::take(&mut self.known) {
                self.session.forget(&Key::Service(service_key(k)));
            }
            return;
        }
        let _ = self.session.set_source(Source::Unsynced {
            reason: "connection refused".into(),
        });
    }

    /// Everything was read anew. The bool: the session must be closed and dialled again.
    pub(crate) fn relist(
        &mut self,
        cluster: &Cluster,
        mutation: Option<Mutation>,
    ) -> (Vec<Removed>, bool) {
        let mut removed = Vec::new();
        let absent: Vec<u8> = self
            .known
            .keys()
            .filter(|k| !cluster.services.contains_key(k))
            .copied()
            .collect();
        for k in absent {
            self.answers.remove(&k);
            if let Some((_, Standing::Wanted)) = self.known.remove(&k) {
                let key = Key::Service(service_key(k));
                if mutation == Some(Mutation::AbsenceIsDeletionInAgent) {
                    self.session.remove(key);
                } else {
                    self.session.forget(&key);
                }
            }
        }
        for (k, service) in &cluster.services {
            removed.extend(self.apply(*k, service));
        }
        for n in self.nodes.clone() {
            if !cluster.nodes.contains(&n) {
                self.node(n, false);
            }
        }
        for n in &cluster.nodes {
            self.node(*n, true);
        }
        self.reading = true;
        let redial = self.session.set_source(Source::Synced {
            cluster_uid: cluster.uid.clone(),
        });
        (removed, redial)
    }

    /// The hub answered about a Service.
    pub(crate) fn answered(&mut self, k: u8, answer: Answer) {
        match (self.known.get(&k), &answer.outcome) {
            (Some((_, Standing::Leaving)), Outcome::Deleted) => {
                self.released.insert(k);
            }
            (Some((_, Standing::Wanted)), outcome) if *outcome != Outcome::Deleted => {
                self.answers.insert(k, answer);
            }
            _ => {}
        }
    }

    /// Writes into the cluster what there is to write of a Service. True: its finalizer went, and it with it.
    pub(crate) fn write(&self, cluster: &mut Cluster, k: u8) -> bool {
        let (Some(service), Some((uid, _))) = (cluster.services.get_mut(&k), self.known.get(&k))
        else {
            return false;
        };
        if service.uid != *uid {
            return false;
        }
        if service.deleting {
            let goes = self.released.contains(&k);
            if goes {
                cluster.services.remove(&k);
            }
            return goes;
        }
        service.finalizer = true;
        if let Some(answer) = self.current(k) {
            service.programmed = answer.outcome == Outcome::Programmed;
            service.view = answer
                .ingress
                .iter()
                .filter_map(|ingress| match ingress {
                    Ingress::Ip(ip) => Some(*ip),
                    Ingress::Hostname(_) => None,
                })
                .collect();
        }
        false
    }

    /// The answer to what a Service is now.
    pub(crate) fn current(&self, k: u8) -> Option<&Answer> {
        let generation = self.session.generation(&Key::Service(service_key(k)))?;
        self.answers
            .get(&k)
            .filter(|answer| answer.generation == generation)
    }

    /// The Services that may need a write.
    pub(crate) fn known(&self) -> Vec<u8> {
        self.known.keys().copied().collect()
    }
}
