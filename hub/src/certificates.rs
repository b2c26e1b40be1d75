//! Until when the certificates of connected tenants are good: the one that each has shown or was given last. Sessions and renewals
//! write it, the status of the Tenant is written from it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use berth_common::{identity::TenantName, tls::Validity};
use tokio::sync::Notify;

/// The newest certificate of each tenant that was seen since this process began.
#[derive(Debug, Default)]
pub struct Certificates {
    seen: Mutex<BTreeMap<TenantName, Validity>>,
    changed: Notify,
}

impl Certificates {
    /// A tenant has shown this one, or was given it. An older one than is known is no news: it is on its way out.
    pub fn shown(&self, tenant: &TenantName, validity: Validity) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.get(tenant);
        if known.is_none_or(|known| known.not_after < validity.not_after) {
            seen.insert(tenant.clone(), validity);
            self.changed.notify_waiters();
        }
    }

    /// The newest one of a tenant.
    pub fn of(&self, tenant: &TenantName) -> Option<Validity> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(tenant).copied()
    }

    /// Resolves when one has changed since the call.
    pub fn changed(&self) -> impl Future<Output = ()> + Send {
        self.changed.notified()
    }
}
