//! The shell around [`Parking`]: it is told what every plan found, waits, and lets those go whose time is up, by a mark in the
//! cache that the planner sees. It knows when, and must not know how: the deletion is a plan like any other.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    objects::Id,
    observe::Cache,
    plan::{Parking, Plan},
    work::Work,
};

/// It is not looked more often than this, so that a thousand deletions are not looked through a thousand times.
const APART: Duration = Duration::from_millis(100);

/// The parked Services, of one executor.
#[derive(Debug, Default)]
pub(super) struct Parked {
    parking: Mutex<Parking>,
    changed: Notify,
}

impl Parked {
    /// A key was planned. Returns how many are parked now.
    pub(super) fn planned(&self, id: &Id, plan: &Plan, keep: Duration, now: Instant) -> usize {
        let mut parking = self.lock();
        let moved = if plan.parked {
            parking.park(id, keep, now)
        } else {
            parking.leave(id)
        };
        let hungry = parking.starves(id, plan.starving);
        if moved || hungry {
            self.changed.notify_one();
        }
        parking.len()
    }

    /// Nothing is decided about this key any more.
    pub(super) fn forget(&self, id: &Id) {
        let mut parking = self.lock();
        parking.leave(id);
        parking.starves(id, false);
    }

    /// Lets go until stopped.
    pub(super) async fn release(
        &self,
        cache: &Cache,
        work: &Work,
        released: impl Fn(usize),
        stop: CancellationToken,
    ) {
        loop {
            let now = tokio::time::Instant::now().into_std();
            let (due, next) = self.due(cache, now);
            if !due.is_empty() {
                info!(
                    load_balancers = due.len(),
                    "addresses that were kept are given back"
                );
                released(due.len());
            }
            for id in due {
                cache.release(&id);
                work.add(&id);
            }
            let wait = async {
                tokio::time::sleep(APART).await;
                match next {
                    None => self.changed.notified().await,
                    Some(next) => tokio::select! {
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep_until(next.into()) => {}
                    },
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = wait => {}
            }
        }
    }

    fn due(&self, cache: &Cache, now: Instant) -> (Vec<Id>, Option<Instant>) {
        if self.lock().is_empty() {
            return (Vec::new(), None);
        }
        // Counted while nobody waits for the lock.
        let (services, gave) = (cache.services(), cache.allocator_gave());
        self.lock().due(services, gave, now)
    }

    fn lock(&self) -> MutexGuard<'_, Parking> {
        // No panic can leave it half changed.
        self.parking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use berth_common::{identity::TenantName, model::ServiceKey};

    use super::*;

    fn id(name: &str) -> Id {
        Id::new(
            TenantName::parse("acme").unwrap(),
            ServiceKey::new("default", name),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn parking_wakes_for_whose_time_is_up_and_for_who_waits() {
        const KEEP: Duration = Duration::from_secs(30);
        let (parked, work) = (Arc::new(Parked::default()), Arc::new(Work::new(9)));
        let stop = CancellationToken::new();
        let (it, queue, until) = (parked.clone(), work.clone(), stop.clone());
        let task = tokio::spawn(async move {
            it.release(&Cache::default(), &queue, |_| (), until).await;
        });
        let start = tokio::time::Instant::now();
        let plan = Plan {
            parked: true,
            ..Plan::default()
        };
        assert_eq!(parked.planned(&id("a"), &plan, KEEP, start.into_std()), 1);
        assert_eq!(work.next().await, id("a"));
        assert!((KEEP..KEEP + 2 * APART).contains(&start.elapsed()));

        let now = tokio::time::Instant::now();
        parked.planned(&id("b"), &plan, 100 * KEEP, now.into_std());
        parked.planned(&id("c"), &plan, 100 * KEEP, now.into_std());
        parked.planned(&id("b"), &Plan::default(), KEEP, now.into_std());
        let hungry = Plan {
            starving: true,
            ..Plan::default()
        };
        parked.planned(&id("new"), &hungry, KEEP, now.into_std());
        assert_eq!(work.next().await, id("c"), "b is wanted again");
        assert!(now.elapsed() <= Duration::from_secs(1) + 2 * APART);
        stop.cancel();
        task.await.unwrap();
    }
}
