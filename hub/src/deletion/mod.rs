//! What a deleted Tenant leaves. A finalizer on every Tenant has the API server wait with its end; what it has here goes by its
//! reclaim policy meanwhile, by plans like any other ([`Departures::goes`] is what they ask); then it is written down when it ended,
//! and the finalizer goes. All of it is seen in the objects, so that a hub that was down or is killed goes on where that was.
//!
//! A Tenant that is gone without that (its finalizer was taken away by hand, or the whole kind was restored from an old backup) is no
//! reason to delete anything: what it had stays, and is told.

mod judge;
mod last;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use berth_common::identity::TenantName;
use futures::{StreamExt as _, stream};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    api::Tenant,
    audit,
    enroll::Tokens,
    objects::{FIELD_MANAGER, FINALIZER, Id},
    observe::{Cache, Directory, Former, TenantFacts},
    plan::has_departed,
    work::Work,
};

pub use judge::{Judge, Leaver, Verdict};
use told::Teller;
pub use told::{DELETING, Departures, HELD, OrphanedLoadBalancers};

/// Between two looks at what is left, while something is.
const LOOK: Duration = Duration::from_millis(200);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(5);
/// Tenants that are written to at the same time.
const AT_ONCE: usize = 8;

/// What is needed to see a Tenant off.
pub struct Parts {
    /// The management cluster.
    pub client: Client,
    /// The Tenants.
    pub directory: Arc<Directory>,
    /// What they have.
    pub cache: Arc<Cache>,
    /// Who plans.
    pub work: Arc<Work>,
    /// When Tenants were deleted.
    pub former: Arc<Former>,
    /// Whom plans and the Tenants' status ask.
    pub departures: Arc<Departures>,
    /// The join tokens, where the hub has any.
    pub tokens: Option<Tokens>,
}

/// Runs until stopped.
pub async fn keep(parts: Parts, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => return,
        () = async { tokio::join!(parts.directory.synced(), parts.cache.synced(), parts.former.synced()); } => {}
    }
    let mut keeper = Keeper {
        tenants: Api::all(parts.client.clone()),
        teller: Teller::new(parts.client.clone()),
        parts,
        judge: Judge::default(),
        verdicts: BTreeMap::new(),
        orphaned: BTreeSet::new(),
    };
    loop {
        let changed = keeper.parts.directory.changed();
        let now = Instant::now();
        let again = keeper.look(now).await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed => {}
            () = sleep_until(again) => {}
        }
        // A burst of changes is one look.
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until((now + LOOK).into()) => {}
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

struct Keeper {
    parts: Parts,
    tenants: Api<Tenant>,
    teller: Teller,
    judge: Judge,
    verdicts: BTreeMap<TenantName, Verdict>,
    orphaned: BTreeSet<TenantName>,
}

type Named = (TenantName, Arc<TenantFacts>);

impl Keeper {
    /// Does what is to be done now, and says when to look again.
    async fn look(&mut self, now: Instant) -> Option<Instant> {
        let all = self.parts.directory.all();
        self.look_for_orphans(&all);
        let unguarded = all
            .iter()
            .filter(|(_, facts)| !facts.deleting && !facts.is_guarded());
        let failed = self.guard(unguarded.map(owned).collect()).await;
        let leaving: Vec<Named> = all
            .iter()
            .filter(|(_, facts)| facts.deleting && facts.is_guarded())
            .map(owned)
            .collect();
        if leaving.is_empty() {
            self.verdicts.clear();
            self.parts.departures.only(&BTreeSet::new());
            return failed.then_some(now + AGAIN);
        }
        self.decide(&all, &leaving, now).await;
        let going = leaving.iter().filter(|(name, _)| self.goes(name));
        let parts = &self.parts;
        let ready: Vec<Named> = going
            .filter(|(name, _)| {
                // In this order: what was under way when the deletion was seen is in the cache when it is done.
                let left = parts
                    .cache
                    .left(name, |it| it.is_empty() || has_departed(it));
                parts.departures.left(name, left);
                left == 0 && !parts.work.is_busy(name)
            })
            .cloned()
            .collect();
        let outcomes = stream::iter(ready).map(|(name, facts)| self.see_off(name, facts));
        let outcomes: Vec<bool> = outcomes.buffer_unordered(AT_ONCE).collect().await;
        let failed = failed || outcomes.contains(&false);
        let held = self
            .verdicts
            .values()
            .all(|it| matches!(it, Verdict::Held(..)));
        Some(now + if failed || held { AGAIN } else { LOOK })
    }

    fn goes(&self, name: &TenantName) -> bool {
        self.verdicts.get(name) == Some(&Verdict::Go)
    }

    /// Puts the finalizer where it is missing. Returns whether it could not be put somewhere.
    async fn guard(&self, tenants: Vec<Named>) -> bool {
        let puts = stream::iter(tenants).map(async |(name, facts)| {
            let mut finalizers = facts.finalizers.clone();
            finalizers.push(FINALIZER.into());
            match self.finalizers(&name, &facts, &finalizers).await {
                Ok(()) => true,
                Err(error) if is_outdated(&error) => true,
                Err(error) => {
                    warn!(tenant = %name, %error, "cannot put the finalizer on the Tenant, so that its deletion would leave what it has; trying again");
                    false
                }
            }
        });
        let done: Vec<bool> = puts.buffer_unordered(AT_ONCE).collect().await;
        done.contains(&false)
    }

    async fn finalizers(
        &self,
        name: &TenantName,
        facts: &TenantFacts,
        finalizers: &[String],
    ) -> kube::Result<()> {
        let patch = Patch::Merge(json!({ "metadata": {
            // Somebody else's finalizer may come at the same moment.
            "resourceVersion": facts.version.to_string(),
            "uid": facts.uid,
            "finalizers": finalizers,
        }}));
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..PatchParams::default()
        };
        self.tenants
            .patch_metadata(name.as_str(), &params, &patch)
            .await
            .map(drop)
    }

    /// Decides about those who leave, and tells what is new.
    async fn decide(
        &mut self,
        all: &BTreeMap<TenantName, Arc<TenantFacts>>,
        leaving: &[Named],
        now: Instant,
    ) {
        let counts = self.parts.cache.counts(|name| all.contains_key(name));
        let leaver = |(name, facts): &Named| {
            let leaver = Leaver {
                uid: facts.uid.clone(),
                confirmed: facts.confirmed,
                held: told::is_held(&facts.status),
                load_balancers: counts.get(name).copied().unwrap_or_default(),
            };
            (name.clone(), leaver)
        };
        let leavers: BTreeMap<TenantName, Leaver> = leaving.iter().map(leaver).collect();
        let others = counts.keys().filter(|name| !leavers.contains_key(*name));
        let (verdicts, _) = self.judge.judge(&leavers, others.count(), now);
        let before = std::mem::replace(&mut self.verdicts, verdicts);
        self.parts
            .departures
            .only(&leavers.keys().cloned().collect());
        for (name, facts) in leaving {
            let Some(verdict) = self.verdicts.get(name).copied() else {
                continue;
            };
            let count = leavers.get(name).map_or(0, |it| it.load_balancers);
            if self.parts.departures.decided(name, verdict, count) && verdict == Verdict::Go {
                for key in self.parts.cache.keys_of(name) {
                    self.parts.work.add(&Id::new(name.clone(), key));
                }
            }
            let was = before.get(name).map(std::mem::discriminant);
            if was != Some(std::mem::discriminant(&verdict)) {
                self.teller
                    .decided(name, facts, verdict, count, was.is_none())
                    .await;
            }
        }
    }

    /// Nothing is left of it but what is kept: the last steps. Returns whether all went well.
    async fn see_off(&self, name: TenantName, facts: Arc<TenantFacts>) -> bool {
        let (name, facts) = (&name, &*facts);
        if let Some(tokens) = &self.parts.tokens {
            last::revoke_tokens(tokens, name, &facts.uid).await;
        }
        let client = &self.parts.client;
        let kept = match last::kept(client, name, &self.parts.cache).await {
            Ok(Some(kept)) => kept,
            // The watch brings what the cache does not know yet.
            Ok(None) => return true,
            Err(error) => {
                warn!(tenant = %name, %error, "cannot look whether anything is left of a deleted Tenant; trying again");
                return false;
            }
        };
        match last::write_down(client, name).await {
            Ok(until) => self.parts.former.noted(name, until),
            Err(error) => {
                warn!(tenant = %name, %error, "cannot write down on its namespace that the Tenant was deleted; trying again");
                return false;
            }
        }
        let rest: Vec<String> = facts
            .finalizers
            .iter()
            .filter(|it| *it != FINALIZER)
            .cloned()
            .collect();
        match self.finalizers(name, facts, &rest).await {
            Ok(()) => {
                self.teller.gone(name, facts, kept).await;
                true
            }
            Err(error) if is_outdated(&error) => true,
            Err(error) => {
                warn!(tenant = %name, %error, "cannot take the finalizer off the deleted Tenant; trying again");
                false
            }
        }
    }

    /// Tells of load balancers of which there is no Tenant, once.
    fn look_for_orphans(&mut self, all: &BTreeMap<TenantName, Arc<TenantFacts>>) {
        let counts = told::orphaned(&self.parts.cache, all);
        for (name, load_balancers) in &counts {
            if !self.orphaned.contains(name) {
                warn!(
                    tenant = %name,
                    load_balancers,
                    "there are load balancers of a Tenant that is not there: they stay as they are, and serve. Create the Tenant again, \
                     or remove them as `berth-hub doctor` says"
                );
                let detail = format!("{load_balancers} load balancers of no Tenant");
                audit::tenant(name, "orphaned", &detail);
            }
        }
        for name in &self.orphaned {
            if !counts.contains_key(name) {
                info!(tenant = %name, "its load balancers are a Tenant's again, or gone");
            }
        }
        self.orphaned = counts.into_keys().collect();
    }
}

fn owned((name, facts): (&TenantName, &Arc<TenantFacts>)) -> Named {
    (name.clone(), facts.clone())
}

/// Somebody was faster, or the Tenant is gone or another one: the watch tells.
fn is_outdated(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409))
}
