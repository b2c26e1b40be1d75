//! One process of the hub: the real registry of tenants, cache, work queue and planner. What the executor's tasks do between
//! two awaits is in `executor`; when they do it is the world's.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use berth_common::{
    identity::TenantName,
    model::{Generation, ServiceKey},
    session::hub::Limits,
};
use berth_hub::{
    execute::PER_TENANT,
    objects::Id,
    observe::{Cache, Directory},
    plan::{Parking, Want},
    tenants::{Marks, Tenants},
    work::Queue,
};

use crate::departures::Keeper;

/// What sessions touch becomes work, as in the hub's own wiring.
struct Planning {
    queue: Arc<Mutex<Queue>>,
    cache: Arc<Cache>,
}

impl Marks for Planning {
    fn service(&self, tenant: &TenantName, key: &ServiceKey) {
        lock(&self.queue).add(&Id::new(tenant.clone(), key.clone()));
    }

    fn observed(&self, tenant: &TenantName) {
        for key in self.cache.keys_of(tenant) {
            lock(&self.queue).add(&Id::new(tenant.clone(), key));
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A key that is being worked on.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) rounds: usize,
    /// Writes under way.
    pub(crate) pending: usize,
    pub(crate) failed: bool,
    /// When the writes were sent.
    pub(crate) sent: Instant,
    pub(crate) generation: Option<Generation>,
    /// What the round was planned for.
    pub(crate) want: Option<Want>,
}

/// One process of the hub.
pub(crate) struct Hub {
    /// Counts processes.
    pub(crate) epoch: u32,
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) cache: Arc<Cache>,
    /// The Tenants, as this process has heard of them.
    pub(crate) directory: Directory,
    /// Who sees deleted ones off.
    pub(crate) keeper: Keeper,
    /// What the watch of Tenants brings comes in order: nothing before this time.
    pub(crate) tenants_reported_until: Instant,
    queue: Arc<Mutex<Queue>>,
    pub(crate) parking: Parking,
    /// For a mutation: who was refused for want of room, and how many ports it wants, in the order of coming.
    pub(crate) refused: Vec<(Id, usize)>,
    pub(crate) runs: BTreeMap<Id, Run>,
    /// Reports of each kind come in order: none before this time.
    pub(crate) reported_until: [Instant; 3],
    /// Whether the watch of a kind is up.
    pub(crate) watching: [bool; 3],
}

impl Hub {
    /// A process whose session numbers are above those of every one before.
    pub(crate) fn new(epoch: u32, now: Instant) -> Self {
        let cache = Arc::new(Cache::default());
        let queue = Arc::new(Mutex::new(Queue::new(PER_TENANT)));
        let marks = Arc::new(Planning {
            queue: queue.clone(),
            cache: cache.clone(),
        });
        // One at a time, so that the others have to wait.
        let tenants = Arc::new(
            Tenants::new(u64::from(epoch) << 20, Limits::default(), marks).with_snapshots(1),
        );
        Self {
            epoch,
            tenants,
            cache,
            directory: Directory::default(),
            keeper: Keeper::default(),
            tenants_reported_until: now,
            queue,
            parking: Parking::default(),
            refused: Vec::new(),
            runs: BTreeMap::new(),
            reported_until: [now; 3],
            watching: [false; 3],
        }
    }

    /// Whether agents are let in and plans are made.
    pub(crate) fn is_ready(&self) -> bool {
        self.cache.is_synced() && self.directory.is_synced()
    }

    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }
}
