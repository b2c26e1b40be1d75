//! What is to be planned: a set of keys, not a list of events, so that it is never longer than there are Services, however
//! often one of them changes. Tenants take turns; a key never runs twice at the same time; what failed waits, longer each
//! time; and who changes things without end is slowed down. [`Queue`] decides all this without clock or lock; [`Work`] is the thin shell that waits.

mod company;
mod pace;
mod queue;

use std::{
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use berth_common::identity::TenantName;
use tokio::sync::Notify;

pub use queue::{Done, Queue};

use crate::objects::Id;

/// The queue, shared by those who find work and the one who does it.
#[derive(Debug)]
pub struct Work {
    queue: Mutex<Queue>,
    changed: Notify,
    throttling: Notify,
}

impl Work {
    /// An empty queue. At most `per_tenant` keys of one tenant run at the same time.
    pub fn new(per_tenant: usize) -> Self {
        Self {
            queue: Mutex::new(Queue::new(per_tenant)),
            changed: Notify::new(),
            throttling: Notify::new(),
        }
    }

    /// Something about this key has changed: plan it as soon as its turn comes.
    pub fn add(&self, id: &Id) {
        if self.lock().add(id) {
            self.changed.notify_one();
        }
    }

    /// The next key to plan; waits until there is one. Call [`Work::done`] with it afterwards, whatever happened.
    ///
    /// For one caller at a time: it hands out, others work.
    pub async fn next(&self) -> Id {
        loop {
            let now = tokio::time::Instant::now().into_std();
            let due = {
                let mut queue = self.lock();
                if let Some(id) = queue.next(now) {
                    return id;
                }
                queue.due()
            };
            match due {
                None => self.changed.notified().await,
                Some(due) => {
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep_until(due.into()) => {}
                    }
                }
            }
        }
    }

    /// The key's plan was carried out, or not.
    pub fn done(&self, id: &Id, done: Done, now: Instant) {
        self.lock().done(id, done, now);
        // A tenant's slot is free again, and the earliest waiting key may be another.
        self.changed.notify_one();
    }

    /// A tenant's change was carried out, of which it may have so many in a second. Returns whether it has to wait from now on.
    pub fn spend(&self, tenant: &TenantName, per_second: NonZeroU32, now: Instant) -> bool {
        let begins = self.lock().spend(tenant, per_second, now);
        if begins {
            self.throttling.notify_waiters();
        }
        begins
    }

    /// Since when a tenant has been using up its changes.
    pub fn throttled(&self, tenant: &TenantName, now: Instant) -> Option<Instant> {
        self.lock().throttled(tenant, now)
    }

    /// Resolves when some tenant begins to wait after the call.
    pub fn throttling(&self) -> impl Future<Output = ()> + Send {
        self.throttling.notified()
    }

    /// How many tenants wait for changes to come back.
    pub fn resting(&self) -> usize {
        self.lock().resting()
    }

    /// Whether a key is ready that could run if this one's place were free.
    pub fn is_waited_for(&self, id: &Id) -> bool {
        self.lock().is_waited_for(id)
    }

    /// Whether anything of a tenant is ready, running or to be tried again.
    pub fn is_busy(&self, tenant: &TenantName) -> bool {
        self.lock().is_busy(tenant)
    }

    /// How many keys are ready, waiting or running.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is nothing to do at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No panic can leave the queue half changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use berth_common::{identity::TenantName, model::ServiceKey};

    use super::*;

    fn id(name: &str) -> Id {
        Id::new(
            TenantName::parse("acme").unwrap(),
            ServiceKey::new("default", name),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn next_wakes_for_what_is_added_and_for_what_is_due() {
        let work = Arc::new(Work::new(1));
        let other = work.clone();
        let waiting = tokio::spawn(async move { other.next().await });
        tokio::task::yield_now().await;
        work.add(&id("a"));
        assert_eq!(waiting.await.unwrap(), id("a"));
        let start = tokio::time::Instant::now();
        let later = start + Duration::from_secs(3);
        work.done(
            &id("a"),
            Done::Settled(Some(later.into_std())),
            start.into_std(),
        );
        assert_eq!(work.next().await, id("a"));
        assert!(start.elapsed() >= Duration::from_secs(3));
    }
}
