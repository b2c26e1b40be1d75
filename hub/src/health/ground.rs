//! What the prober stands on in the hub: which tenants there are, what they want, and who plans for them.

use std::{collections::BTreeMap, sync::Arc};

use berth_common::identity::TenantName;

use super::{
    Health, Mode, Policy, Verdicts,
    demand::{Demand, demand},
    watch::Ground,
};
use crate::{
    execute::WriteMetrics,
    observe::{Cache, Directory, TenantFacts},
    plan::Fitness,
    tenants::{Marks, Tenants},
};

/// See the module.
pub struct Hub {
    /// Who is admitted, and under which policy.
    pub directory: Arc<Directory>,
    /// Whose which address is.
    pub cache: Arc<Cache>,
    /// What is counted of their nodes.
    pub metrics: WriteMetrics,
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
            .filter(|facts| !facts.is_shut())?;
        let (services, nodes) = self.tenants.services(tenant);
        let barred = if services.is_empty() {
            Arc::default()
        } else {
            let judged = self.cache.judge(tenant, &nodes, &facts.nodes);
            self.metrics.judged(&judged);
            judged.barred
        };
        let fitness = Fitness {
            rules: &facts.nodes,
            barred: Some(&barred),
        };
        Some(demand(facts.health, &services, &nodes, fitness))
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
    /// Takes in what the `Tenant` object of this name says now; `None`: there is none any more.
    pub fn take_one(&mut self, name: &TenantName, facts: Option<&TenantFacts>, health: &Health) {
        let now = facts.map(|facts| (facts.health, facts.suspended));
        let before = match now {
            Some(now) => self.0.insert(name.clone(), now),
            None => self.0.remove(name),
        };
        if before != now {
            health.touch(name);
        }
    }

    /// Takes all `Tenant` objects in.
    pub fn take(&mut self, directory: &Directory, health: &Health) {
        let now: BTreeMap<TenantName, (Policy, bool)> = directory
            .all()
            .iter()
            .map(|(name, facts)| (name.clone(), (facts.health, facts.is_shut())))
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

#[cfg(test)]
mod tests {
    use super::{super::metrics::HealthMetrics, *};
    use crate::api::{HealthCheck, HealthMode, Tenant, TenantSpec};

    fn tenant(name: &str, mode: HealthMode, suspended: bool) -> Tenant {
        let health_check = HealthCheck {
            mode,
            ..HealthCheck::default()
        };
        let mut tenant = Tenant::new(
            name,
            TenantSpec {
                suspended,
                health_check: Some(health_check),
                ..TenantSpec::default()
            },
        );
        tenant.metadata.uid = Some(name.into());
        tenant
    }

    fn name(name: &str) -> TenantName {
        TenantName::parse(name).unwrap()
    }

    #[test]
    fn who_is_not_to_be_probed_has_no_verdicts_from_that_moment_on() {
        let (directory, health) = (Directory::default(), Health::new(HealthMetrics::default()));
        let of = |who| verdicts(&health, &directory, &name(who));
        directory.listed(vec![
            tenant("a", HealthMode::KubeProxy, false),
            tenant("b", HealthMode::None, false),
        ]);
        assert_eq!(of("a").as_deref(), Some(&Verdicts::default()));
        assert_eq!(of("b"), None);
    }

    #[test]
    fn a_tenant_is_looked_at_when_its_object_says_something_else_about_it() {
        let (directory, health) = (Directory::default(), Health::new(HealthMetrics::default()));
        let mut policies = Policies::default();
        let mut looked_at = |list: Vec<Tenant>| {
            directory.listed(list);
            policies.take(&directory, &health);
            health.take_touched()
        };
        let both = || {
            vec![
                tenant("a", HealthMode::KubeProxy, false),
                tenant("b", HealthMode::None, false),
            ]
        };
        assert_eq!(looked_at(both()), [name("a"), name("b")].into());
        assert_eq!(looked_at(both()), [].into());
        let changed = vec![
            tenant("a", HealthMode::NodePort, false),
            tenant("b", HealthMode::None, true),
        ];
        assert_eq!(looked_at(changed.clone()), [name("a"), name("b")].into());
        assert_eq!(looked_at(changed[..1].to_vec()), [name("b")].into());
        // One by one, the same.
        directory.listed(both());
        let facts = directory.get(&name("a"));
        policies.take_one(&name("a"), facts.as_deref(), &health);
        assert_eq!(health.take_touched(), [name("a")].into());
        policies.take_one(&name("a"), facts.as_deref(), &health);
        assert_eq!(health.take_touched(), [].into());
    }
}
