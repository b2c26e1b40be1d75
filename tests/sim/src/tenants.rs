//! The Tenant objects: what the operator does with them, and when the hub hears of it. What they say is read by the hub's own
//! `Directory`; here is the truth, and the delay.

use std::{collections::BTreeMap, time::Duration};

use berth_common::identity::TenantName;
use berth_hub::{
    api::{HealthCheck, HealthMode, Quotas, ReclaimPolicy, Tenant, TenantSpec, TenantStatus},
    deletion::{DELETING, HELD},
    objects::{CONFIRM_DELETION, FINALIZER, Id},
    observe::TenantFacts,
    policy::Limits,
    tenants::Admission,
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use crate::{
    executor::RELEASE_AFTER,
    ledger::Violation,
    mutation::Mutation,
    op::Op,
    world::{Event, World},
};

/// A Tenant object as it truly is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TenantObject {
    pub(crate) uid: u64,
    pub(crate) version: u64,
    pub(crate) limits: Limits,
    pub(crate) retain: bool,
    /// It was deleted, and waits for the hub's finalizer to go.
    pub(crate) deleting: bool,
    /// It has the hub's finalizer.
    pub(crate) guarded: bool,
    /// The operator has said that the deletion is meant.
    pub(crate) confirmed: bool,
    /// Its status says that the deletion is held.
    pub(crate) held: bool,
}

impl TenantObject {
    /// One that was admitted long ago.
    pub(crate) fn new(uid: u64, version: u64) -> Self {
        Self {
            uid,
            version,
            limits: Limits::default(),
            retain: false,
            deleting: false,
            guarded: true,
            confirmed: false,
            held: false,
        }
    }

    /// The object as the API server shows it.
    fn manifest(&self, name: &TenantName, bound: &str) -> Tenant {
        let count = |most: Option<usize>| most.and_then(|most| u32::try_from(most).ok());
        let spec = TenantSpec {
            quotas: Some(Quotas {
                load_balancers: count(self.limits.load_balancers),
                ports: count(self.limits.ports),
                ..Quotas::default()
            }),
            enforce: self.limits.enforce,
            reclaim_policy: match self.retain {
                true => ReclaimPolicy::Retain,
                false => ReclaimPolicy::Delete,
            },
            release_after_seconds: u32::try_from(RELEASE_AFTER.as_secs()).ok(),
            health_check: Some(HealthCheck {
                mode: HealthMode::None,
                ..HealthCheck::default()
            }),
            ..TenantSpec::default()
        };
        let mut tenant = Tenant::new(name.as_str(), spec);
        let meta = &mut tenant.metadata;
        meta.uid = Some(format!("tenant-{}", self.uid));
        meta.resource_version = Some(self.version.to_string());
        meta.deletion_timestamp = self.deleting.then_some(Time(Timestamp::UNIX_EPOCH));
        meta.finalizers = self.guarded.then(|| vec![FINALIZER.into()]);
        let confirmed = self
            .confirmed
            .then(|| (CONFIRM_DELETION.to_owned(), "true".to_owned()));
        meta.annotations = Some(confirmed.into_iter().collect());
        tenant.status = Some(TenantStatus {
            cluster_uid: Some(bound.into()),
            conditions: self.held.then(held).into_iter().collect(),
            ..TenantStatus::default()
        });
        tenant
    }
}

fn held() -> Condition {
    Condition {
        type_: DELETING.into(),
        status: "True".into(),
        reason: HELD.into(),
        message: String::new(),
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
        observed_generation: None,
    }
}

impl World {
    /// What the operator does with a Tenant object. Returns whether there was anything to do.
    pub(crate) fn operate(&mut self, op: Op) -> bool {
        match op {
            Op::Quota {
                t,
                load_balancers,
                ports,
                enforce,
            } => {
                let limits = Limits {
                    load_balancers: load_balancers.map(usize::from),
                    ports: ports.map(usize::from),
                    enforce,
                };
                self.change_tenant(t, |object| {
                    std::mem::replace(&mut object.limits, limits) != limits
                })
            }
            Op::DeleteTenant { t, retain } => self.delete_tenant(t, retain),
            Op::LoseTenant { t } => self.lose_tenant(t),
            Op::CreateTenant { t } => self.create_tenant(t),
            Op::ConfirmDeletion { t } => self.confirm_deletion(t),
            _ => false,
        }
    }

    /// Changes a Tenant object, if it is there; the hub will hear of it.
    pub(crate) fn change_tenant(
        &mut self,
        t: u8,
        change: impl FnOnce(&mut TenantObject) -> bool,
    ) -> bool {
        let version = self.tenant_version + 1;
        let Some(object) = &mut self.tenant(t).object else {
            return false;
        };
        if !change(object) {
            return false;
        }
        object.version = version;
        self.tenant_version = version;
        let lag = self.tenant_lag();
        self.tell_tenant(t, lag);
        true
    }

    fn delete_tenant(&mut self, t: u8, retain: bool) -> bool {
        let Some(object) = self.tenant(t).object.filter(|it| !it.deleting) else {
            return false;
        };
        if object.retain != retain {
            self.change_tenant(t, |object| {
                object.retain = retain;
                true
            });
        }
        if !object.guarded {
            return self.lose_tenant(t);
        }
        let deleted = self.change_tenant(t, |object| {
            object.deleting = true;
            true
        });
        self.ledger.tenant_deleted(t, retain, &self.management);
        deleted
    }

    /// The object is gone, and no finalizer held it.
    fn lose_tenant(&mut self, t: u8) -> bool {
        if self.tenant(t).object.take().is_none() {
            return false;
        }
        self.ledger.tenant_lost(t, &self.management);
        let lag = self.tenant_lag();
        self.tell_tenant(t, lag);
        true
    }

    fn create_tenant(&mut self, t: u8) -> bool {
        if self.tenant(t).object.is_some() {
            return false;
        }
        self.tenant_version += 1;
        let version = self.tenant_version;
        self.tenant(t).object = Some(TenantObject {
            guarded: false,
            ..TenantObject::new(version, version)
        });
        self.ledger.tenant_created(t);
        let lag = self.tenant_lag();
        self.tell_tenant(t, lag);
        true
    }

    pub(crate) fn confirm_deletion(&mut self, t: u8) -> bool {
        self.change_tenant(t, |object| {
            object.deleting && !std::mem::replace(&mut object.confirmed, true)
        })
    }

    fn tenant_lag(&mut self) -> Duration {
        if self.now < self.watch_lag.0 {
            return self.watch_lag.1;
        }
        Self::some(&mut self.operators, 1, 25)
    }

    /// The hub's watch brings what a Tenant object is now.
    pub(crate) fn tell_tenant(&mut self, t: u8, lag: Duration) {
        let object = self.tenants[usize::from(t)].object;
        let Some(hub) = &mut self.hub else { return };
        let at = hub.tenants_reported_until.max(self.now + lag);
        hub.tenants_reported_until = at;
        let epoch = hub.epoch;
        self.at(at, Event::TenantIs(epoch, t, object));
    }

    /// As the hub's watch of Tenants does.
    pub(crate) fn tenant_is(
        &mut self,
        epoch: u32,
        t: u8,
        object: Option<TenantObject>,
    ) -> Result<(), Violation> {
        let tenant = &self.tenants[usize::from(t)];
        let name = tenant.name.clone();
        let Some(hub) = self.hub.as_mut().filter(|hub| hub.epoch == epoch) else {
            return Ok(());
        };
        self.ledger.tenant_heard(t, object, self.now);
        let replan = match object {
            Some(object) => hub
                .directory
                .reported(object.manifest(&name, &tenant.bound)),
            None => {
                hub.directory
                    .reported_gone(&Tenant::new(name.as_str(), TenantSpec::default()));
                None
            }
        };
        hub.keeper.wake(self.now);
        let is_new = replan.is_some();
        if is_new {
            if let Some(quotas) = self.quotas(&name)
                && let Some(hub) = &self.hub
            {
                hub.cache.limit(&name, quotas);
            }
            self.follow()?;
            if let Some(hub) = &self.hub {
                for key in hub.cache.keys_of(&name) {
                    hub.queue().add(&Id::new(name.clone(), key));
                }
            }
        }
        // Another task follows the directory.
        let delay = Self::some(&mut self.operators, 0, 2);
        self.after(delay, Event::Admit(epoch, t, is_new));
        Ok(())
    }

    /// As the task does that follows the directory.
    pub(crate) fn admit(&mut self, epoch: u32, t: u8, replan: bool) {
        let name = self.tenants[usize::from(t)].name.clone();
        let Some(hub) = self.hub.as_ref().filter(|hub| hub.epoch == epoch) else {
            return;
        };
        let facts = hub.directory.get(&name);
        let is_same = |facts: &TenantFacts| hub.tenants.is_admitted(&name, &facts.uid);
        if !facts.as_deref().is_some_and(is_same) {
            // What the former one wanted is forgotten here, and not when its end was heard of.
            self.ledger.forgotten(t);
        }
        hub.tenants
            .admit_one(&name, facts.as_deref().map(TenantFacts::admission));
        if replan {
            hub.tenants.replan(&name);
        }
    }

    /// The quotas of a tenant, as a plan asks for them.
    pub(crate) fn quotas(&self, tenant: &TenantName) -> Option<(u64, Limits)> {
        let hub = self.hub.as_ref()?;
        let facts = hub.directory.get(tenant)?;
        let mut limits = facts.places;
        match self.mutation {
            // One that was there before the process began is not counted.
            Some(Mutation::PlaceForgotten) if hub.epoch > 1 => {
                limits.load_balancers = limits.load_balancers.map(|most| most + 1);
            }
            Some(Mutation::EnforcedUnasked) => limits.enforce = true,
            _ => {}
        }
        Some((facts.version, limits))
    }

    /// What a new process reads of the Tenants.
    pub(crate) fn list_tenants(&mut self) {
        let manifests: Vec<Tenant> = self
            .tenants
            .iter()
            .filter_map(|it| Some(it.object?.manifest(&it.name, &it.bound)))
            .collect();
        let Some(hub) = &self.hub else { return };
        hub.directory.listed(manifests);
        let admissions: BTreeMap<TenantName, Admission> = hub
            .directory
            .all()
            .iter()
            .map(|(name, facts)| (name.clone(), facts.admission()))
            .collect();
        hub.tenants.admit(admissions);
        for (t, tenant) in self.tenants.iter().enumerate() {
            let t = u8::try_from(t).unwrap_or(u8::MAX);
            self.ledger.tenant_heard(t, tenant.object, self.now);
        }
    }
}
