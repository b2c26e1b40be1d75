//! The only writer. It takes keys from the work queue, asks what is wanted and what is observed, has the planner plan, and
//! carries the plan out, again and again until nothing is left to do. What the API server returns goes into the cache at
//! once, so that each plan builds on the one before without waiting for the watch. It knows how to write, and how to go on
//! after a failure; what to write and what to tell a tenant is the planner's.

mod announce;
mod failure;
mod metrics;
mod parked;
#[cfg(test)]
mod tests;
mod write;

use std::{
    collections::BTreeSet,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use berth_common::{
    identity::TenantName,
    model::{Answer, Generation, Reason, ServiceKey},
};
use futures::future::join_all;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, info, info_span, warn};

use crate::{
    audit::{self, Subject},
    health::Verdicts,
    objects::Id,
    observe::{Cache, Directory, follow},
    plan::{
        Action, Allocator, Now, Observed, Plan, Policy, REJECTION_STANDS, Rejection, Want, Write,
        plan,
    },
    policy::{Barred, Limits, Shortage},
    work::{Done, Work},
};

use announce::Announcer;
use failure::Failure;
pub use metrics::WriteMetrics;
use parked::Parked;
use write::Writer;

/// How many keys are worked on at the same time.
const CONCURRENCY: usize = 32;
/// How many of them may be of one tenant while it is alone: enough to keep an API server busy that answers in milliseconds, and few
/// enough that others' writes, and those of the allocator, do not stand in line behind a burst.
pub const PER_TENANT: usize = 8;
/// For so long something may come of a write whose reply was lost. An API server gives a request up after a minute.
const IN_DOUBT: Duration = Duration::from_secs(75);
/// A key that still is not settled after so many plans is put back in line: somebody may be writing against the hub.
const MAX_ROUNDS: usize = 8;

/// What the tenants want, and the way back to them.
pub trait Desires: Send + Sync + 'static {
    /// What a tenant wants of one key now.
    fn want(&self, tenant: &TenantName, key: &ServiceKey) -> Want;

    /// How a tenant's nodes stand. None: they are not probed.
    fn health(&self, _tenant: &TenantName) -> Option<Arc<Verdicts>> {
        None
    }

    /// What became of it. Comes each time the key is planned, usually with the same words as before.
    fn answer(&self, tenant: &TenantName, key: &ServiceKey, answer: Answer);

    /// The key is not wanted, and nothing is left of it but, for a while or for good, its address.
    fn gone(&self, tenant: &TenantName, key: &ServiceKey);

    /// What may receive a tenant's traffic has changed, and not by the tenant's doing: all that it wants is to be planned again.
    fn replan(&self, _tenant: &TenantName) {}

    /// Whether a plan for this is still to be carried out: asked right before each write, so that nothing is written for a
    /// session that was overtaken after the plan was made (DESIGN.md invariant 4).
    fn still_wants(&self, tenant: &TenantName, key: &ServiceKey, planned: &Want) -> bool {
        self.want(tenant, key).is(planned)
    }
}

/// See the module.
pub struct Executor<D> {
    writer: Writer,
    cache: Arc<Cache>,
    directory: Arc<Directory>,
    work: Arc<Work>,
    desires: Arc<D>,
    allocator: Allocator,
    parked: Parked,
    announcer: Announcer,
    metrics: WriteMetrics,
    /// The last write failed for want of an API server: said once, and once when it is over.
    api_away: AtomicBool,
}

impl<D: Desires> Executor<D> {
    /// An executor that does nothing yet.
    pub fn new(
        client: Client,
        cache: Arc<Cache>,
        directory: Arc<Directory>,
        work: Arc<Work>,
        desires: Arc<D>,
        allocator: Allocator,
        metrics: WriteMetrics,
    ) -> Self {
        Self {
            announcer: Announcer::new(client.clone()),
            writer: Writer::new(client, cache.clone()),
            cache,
            directory,
            work,
            desires,
            allocator,
            parked: Parked::default(),
            metrics,
            api_away: AtomicBool::new(false),
        }
    }

    /// Works until stopped, and then ends what it has begun. Begins when everything has been observed once.
    pub async fn run(self, stop: CancellationToken) {
        let executor = Arc::new(self);
        let observed = async { tokio::join!(executor.cache.synced(), executor.directory.synced()) };
        tokio::select! {
            () = stop.cancelled() => return,
            ((), ()) = observed => {}
        }
        let slots = Arc::new(Semaphore::new(CONCURRENCY));
        let mut running = JoinSet::new();
        let (releasing, until) = (executor.clone(), stop.clone());
        running.spawn(async move {
            let it = &*releasing;
            let released = |count| it.metrics.released(count);
            it.parked
                .release(&it.cache, &it.work, released, until)
                .await;
        });
        loop {
            let next = async {
                let slot = slots.clone().acquire_owned().await;
                (slot, executor.work.next().await)
            };
            let (slot, id) = tokio::select! {
                () = stop.cancelled() => break,
                next = next => next,
            };
            let executor = executor.clone();
            let span = info_span!("service", tenant = %id.tenant, service = %id.key);
            span.in_scope(|| executor.line_up(&id));
            let task = async move {
                let done = executor.settle(&id).await;
                for tenant in executor.cache.take_disputed() {
                    executor.desires.replan(&tenant);
                }
                executor.call();
                executor.work.done(&id, done, Instant::now());
                executor.metrics.queued(executor.work.len());
                executor.metrics.resting(executor.work.resting());
                drop(slot);
            };
            running.spawn(task.instrument(span));
            // Those that have ended.
            while running.try_join_next().is_some() {}
        }
        while running.join_next().await.is_some() {}
    }

    /// Plans and writes until there is nothing left to do.
    async fn settle(&self, id: &Id) -> Done {
        for _ in 0..MAX_ROUNDS {
            let facts = self.directory.get(&id.tenant);
            if facts
                .as_ref()
                .is_some_and(|it| it.suspended && !it.deleting)
            {
                // What it has stays as it is.
                self.parked.forget(id);
                self.cache.forget(id, Instant::now());
                return Done::Settled(None);
            }
            let want = self.desires.want(&id.tenant, &id.key);
            let policy = match &facts {
                Some(facts) => facts.policy(self.allocator),
                None => Policy::nobodys(self.allocator),
            };
            let quotas = facts.as_ref().map(|facts| (facts.version, facts.places));
            let plan = self.plan(id, &want, &policy, quotas);
            let parked = self
                .parked
                .planned(id, &plan, policy.release_after, Instant::now());
            self.metrics.parked(parked);
            self.withdrawn(&plan);
            if plan.parked {
                self.cache.parked(id);
            }
            self.call();
            if let Some(answer) = plan.answer {
                self.desires.answer(&id.tenant, &id.key, answer);
            }
            if plan.gone {
                self.desires.gone(&id.tenant, &id.key);
            }
            let generation = match &want {
                Want::Present { generation, .. } | Want::Unreadable { generation, .. } => {
                    Some(*generation)
                }
                Want::Deleted
                | Want::Absent { .. }
                | Want::Unknown
                | Want::TenantDeleted
                | Want::NoTenant => None,
            };
            if plan.ports.is_some() {
                // Should the tenant delete it again, its address is kept anew.
                self.cache.keep(id);
            }
            if plan.actions.is_empty() {
                if generation.is_none() {
                    self.cache.forget_rejection(id);
                }
                return Done::Settled(plan.revisit);
            }
            if let Some(most) = facts.as_ref().map(|facts| facts.changes_per_second)
                && self.work.spend(&id.tenant, most, Instant::now())
            {
                self.throttled(&id.tenant, most);
            }
            let actions = plan
                .actions
                .iter()
                .map(|action| self.perform(id, action, &want, generation));
            if join_all(actions).await.contains(&false) {
                return Done::Failed;
            }
            if plan.rebound {
                self.announcer.rebound(id, &self.cache.observed(id)).await;
            }
            // Others first, where there are any: in a burst every Service is created, and the allocator busy, before the
            // first record is written.
            if self.work.is_waited_for(id) {
                self.work.add(id);
                return Done::Settled(None);
            }
        }
        warn!("does not come to rest: is somebody else changing these objects?");
        Done::Failed
    }

    /// Puts a key into its tenant's line for a place, if it needs one. That is done by the one who hands out, and not by those
    /// who work, so that those come first that were told first: of what a whole snapshot brings, by namespace and name.
    fn line_up(&self, id: &Id) {
        let facts = self.directory.get(&id.tenant);
        if let Some(facts) =
            facts.filter(|it| !it.suspended && !it.deleting && it.places.is_bounded())
        {
            let want = self.desires.want(&id.tenant, &id.key);
            let (policy, quotas) = (facts.policy(self.allocator), (facts.version, facts.places));
            self.plan(id, &want, &policy, Some(quotas));
        }
    }

    fn plan(&self, id: &Id, want: &Want, policy: &Policy, quotas: Option<(u64, Limits)>) -> Plan {
        let now = Now {
            instant: Instant::now(),
            wall: Timestamp::now(),
        };
        let mut observed = Observed {
            health: self.desires.health(&id.tenant),
            barred: self.barred(id, want, policy),
            taken: match want {
                Want::Present { service, .. } => self
                    .cache
                    .taken_by_others(&id.tenant, &service.requested_ips),
                _ => BTreeSet::new(),
            },
            ..self.cache.observed(id)
        };
        // As if there were room: what it would take is known then, and asked for.
        let mut planned = plan(id, want, &observed, policy, now);
        // Of a Tenant that is gone nothing is known, and nothing is made for it.
        let quotas = quotas.unwrap_or_default();
        let said = self.cache.ask(id, planned.ports, quotas, now.instant);
        if let Some(shortage) = said.shortage() {
            self.say(said.news, shortage);
            observed.room = said.into();
            planned = plan(id, want, &observed, policy, now);
        }
        planned.look_again(said.again);
        self.metrics.planned(now.instant.elapsed());
        planned
    }

    /// Somebody finds no room in the quotas. The audit log has it when the tenant is told, as every refusal.
    fn say(&self, news: bool, shortage: Shortage) {
        if news {
            self.metrics.short(shortage);
            info!(quota = shortage.label(), "no room in the tenant's quotas");
        }
    }

    /// What a tenant wants is taken away from it. The audit log has it when the tenant is told.
    fn withdrawn(&self, plan: &Plan) {
        if let Some((reason, message)) = &plan.withdrawn {
            self.metrics.withdrawn(reason);
            warn!(reason, %message, "withdrawn: policy does not allow it any more, and is enforced");
        }
    }

    /// A tenant has used up its changes, and waits for more.
    fn throttled(&self, tenant: &TenantName, per_second: NonZeroU32) {
        self.metrics.throttled();
        let message = format!(
            "it changes more than {per_second} times a second: what is more waits (quotas.changesPerSecond)"
        );
        warn!(%tenant, "{message}");
        audit::refusal(&Subject::tenant(tenant), "throttled", &message);
    }

    /// Whom the ledger has called is planned.
    fn call(&self) {
        self.metrics.released(follow(&self.cache, &self.work));
        self.metrics.waiting(self.cache.waiting());
    }

    /// Which addresses of the tenant's nodes are not to receive traffic.
    fn barred(&self, id: &Id, want: &Want, policy: &Policy) -> Option<Arc<Barred>> {
        let (Want::Present { nodes, .. } | Want::Unreadable { nodes, .. }) = want else {
            return None;
        };
        let judged = self.cache.judge(&id.tenant, nodes, &policy.nodes);
        self.metrics.judged(&judged);
        Some(judged.barred)
    }

    /// Carries out one action. Returns whether it may be planned on from here: also after a failure, where the failure
    /// itself is something that the next plan knows.
    async fn perform(
        &self,
        id: &Id,
        action: &Action,
        planned: &Want,
        generation: Option<Generation>,
    ) -> bool {
        if !self.desires.still_wants(&id.tenant, &id.key, planned) {
            debug!("not written: overtaken by what the tenant wants now");
            return true;
        }
        let result = self.writer.write(id, &action.write).await;
        self.metrics.wrote(&action.write, result.as_ref().err());
        if !matches!(result, Err(Failure::Retry(_))) && self.api_away.swap(false, Ordering::Relaxed)
        {
            info!("the management API answers again");
        }
        let (field, why) = match result {
            Ok(()) => {
                debug!(what = %write::What(&action.write), reason = action.reason, "written");
                return true;
            }
            Err(Failure::Outdated) => return true,
            Err(Failure::Retry(error)) => {
                if matches!(action.write, Write::Service { .. }) {
                    self.cache.doubt(id, Instant::now() + IN_DOUBT);
                }
                if !self.api_away.swap(true, Ordering::Relaxed) {
                    warn!(%error, "a write failed; trying again");
                }
                return false;
            }
            Err(Failure::InTheWay(message)) => (
                "metadata.name".into(),
                Reason::new("AlreadyExists", message),
            ),
            Err(Failure::Rejected { field, message }) => (field, Reason::new("Rejected", message)),
            Err(Failure::Forbidden(message)) => {
                warn!(what = %write::What(&action.write), %message, "forbidden");
                let message = "the management cluster does not allow it: its operator finds the reason in the hub's log";
                (String::new(), Reason::new("Forbidden", message))
            }
        };
        let Some(generation) = generation else {
            // There is nobody to tell, and nothing to do but to try again.
            warn!(what = %write::What(&action.write), message = %why.message, "not deleted");
            return false;
        };
        warn!(what = %write::What(&action.write), reason = %why.reason, message = %why.message, "rejected");
        let until = Instant::now() + REJECTION_STANDS;
        self.cache.rejected(
            id,
            Rejection {
                generation,
                field,
                why,
                until,
            },
        );
        true
    }
}
