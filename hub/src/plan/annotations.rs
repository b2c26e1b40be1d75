//! The annotations of management Services: those of the tenant's Service that the operator lets pass, and the operator's own,
//! which win. Whoever gives addresses reads them, so that no tenant may steer by them, and none may share with another.

use std::{borrow::Cow, collections::BTreeMap};

use berth_common::{
    annotations::{Allowed, SHARING},
    identity::TenantName,
    model::Service,
};

/// What the operator says of a tenant's annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// What passes from the tenant's Services.
    pub allowed: Allowed,
    /// What every management Service gets.
    pub injected: BTreeMap<String, String>,
}

impl Annotations {
    /// The Service with those annotations that may pass.
    pub(super) fn filter<'a>(&self, service: Cow<'a, Service>) -> Cow<'a, Service> {
        let passes = |key: &String| self.allowed.passes(key);
        if service.annotations.keys().all(passes) {
            return service;
        }
        let mut service = service.into_owned();
        service.annotations.retain(|key, _| passes(key));
        Cow::Owned(service)
    }

    /// The annotations of the management Service. MetalLB compares sharing keys over all namespaces: each is made the tenant's
    /// own, the operator's for this tenant too.
    pub(super) fn of(&self, tenant: &TenantName, service: &Service) -> BTreeMap<String, String> {
        let mut all = service.annotations.clone();
        all.extend(self.injected.clone());
        for key in SHARING {
            if let Some(value) = all.get_mut(key) {
                *value = format!("{tenant}/{value}");
            }
        }
        all
    }
}
