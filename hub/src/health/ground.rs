//! What the prober stands on in the hub: which tenants there are, what they want, and who plans for them.

use std::{collections::BTreeMap, sync::Arc};

use berth_common::identity::TenantName;

use super::{
    Health, Mode, Policy, Verdicts,
    demand::{Demand, demand},
    watch::Ground,
};
use crate::{
    observe::Directory,
    tenants::{Marks, Tenants},
};

/// See the module.
pub struct Hub {
    /// Who is admitted, and under which policy.
    pub directory: Arc<Directory>,
    /// What each wants.
    pub tenants: Arc<Tenants>,
    /// Who plans.
    pub marks: Arc<dyn Marks>,
}

impl Ground for Hub {
    fn demand(&self, tenant: &TenantName) -> Option<Demand> {
        // Of a suspended one everything stays as it is.
        let facts = self
            .directory
            .get(tenant)
            .filter(|facts| !facts.suspended)?;
        let (services, nodes) = self.tenants.services(tenant);
        Some(demand(facts.health, &services, &nodes))
    }

    fn changed(&self, tenant: &TenantName) {
        self.marks.observed(tenant);
    }
}

/// The verdicts under which a tenant's Services are planned. None: its operator does not want its nodes probed.
pub fn verdicts(
    health: &Health,
    directory: &Directory,
    tenant: &TenantName,
) -> Option<Arc<Verdicts>> {
    match directory.get(tenant) {
        // Said here and not when probing has ended, so that no plan falls in between.
        Some(facts) if facts.health.mode == Mode::None => None,
        _ => Some(health.of(tenant)),
    }
}

/// Touches the tenants about which the `Tenant` objects say something else than before.
#[derive(Debug, Default)]
pub struct Policies(BTreeMap<TenantName, (Policy, bool)>);

impl Policies {
    /// Takes all `Tenant` objects in.
    pub fn take(&mut self, directory: &Directory, health: &Health) {
        let now: BTreeMap<TenantName, (Policy, bool)> = directory
            .all()
            .iter()
            .map(|(name, facts)| (name.clone(), (facts.health, facts.suspended)))
            .collect();
        let before = std::mem::replace(&mut self.0, now);
        let now = &self.0;
        let changed = now
            .iter()
            .filter(|(name, says)| before.get(*name) != Some(says));
        let gone = before.keys().filter(|name| !now.contains_key(*name));
        for name in changed.map(|(name, _)| name).chain(gone) {
            health.touch(name);
        }
    }
}
