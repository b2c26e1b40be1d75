//! The authority in use by a running hub, and how long what it issues lives. What is issued is decided by the policy; who may have it,
//! by whoever asks. The authority can be exchanged under it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use berth_common::identity::{CertificateFacts, Identity, KeyId, TenantName};
use rcgen::PublicKeyData;
use tokio::sync::Notify;

use super::{Authority, CaError, CertificateRequest, Issued, Lifetime};

/// A running hub's authority.
pub struct Issuing {
    authority: ArcSwap<Authority>,
    lifetime: Lifetime,
    version: AtomicU64,
    changed: Notify,
}

/// What an agent that renews now is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Higher with every change.
    pub version: u64,
    /// The keys of the authorities that it is to trust; the first signs its certificate.
    pub trusted: Vec<KeyId>,
}

impl Issuing {
    /// With this authority, certificates of this lifetime.
    pub fn new(authority: Authority, lifetime: Lifetime) -> Self {
        Self {
            authority: ArcSwap::from_pointee(authority),
            lifetime,
            version: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    /// The one that signs now.
    pub fn authority(&self) -> Arc<Authority> {
        self.authority.load_full()
    }

    /// Signs with this one from now on.
    pub fn exchange(&self, authority: Authority) {
        self.authority.store(Arc::new(authority));
        self.version.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// What an agent that renews now is given.
    pub fn wanted(&self) -> Wanted {
        let version = self.version.load(Ordering::Acquire);
        Wanted {
            version,
            trusted: self.authority().trusted().to_vec(),
        }
    }

    /// Resolves when another authority has been taken since the call.
    pub fn changed(&self) -> impl Future<Output = ()> + Send {
        self.changed.notified()
    }

    /// How long certificates live.
    pub fn lifetime(&self) -> Duration {
        self.lifetime.duration()
    }

    /// A certificate of a tenant for this public key: PEM, and what it says. It is valid from a little before it is `made`, but
    /// from no earlier time than `not_earlier`.
    ///
    /// # Errors
    /// [`CaError`], where the authority cannot vouch for anything now.
    pub fn tenant(
        &self,
        tenant: &TenantName,
        key: &impl PublicKeyData,
        serial: [u8; 16],
        lifetime: Lifetime,
        made: SystemTime,
        not_earlier: Option<SystemTime>,
    ) -> Result<(String, CertificateFacts), CaError> {
        let request = CertificateRequest {
            subject: Identity::Tenant(tenant.clone()),
            dns: vec![],
            ips: vec![],
            lifetime,
            not_earlier,
        };
        let (certificate, _) = self.authority().sign(&request, key, serial, made)?;
        let facts = CertificateFacts::from_der(certificate.der())?;
        Ok((certificate.pem(), facts))
    }

    /// The lifetime as it was given.
    pub fn tenants_lifetime(&self) -> Lifetime {
        self.lifetime
    }

    /// A certificate with its key for the hub itself, under these names.
    ///
    /// # Errors
    /// [`CaError`], where a name is none, or the authority cannot vouch for anything now.
    pub fn server(&self, names: &[String], now: SystemTime) -> Result<Issued, CaError> {
        let (ips, dns): (Vec<_>, Vec<_>) = names.iter().partition(|name| is_ip(name));
        let request = CertificateRequest {
            subject: Identity::Hub,
            dns: dns.into_iter().cloned().collect(),
            ips: ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
            lifetime: self.lifetime,
            not_earlier: None,
        };
        self.authority().issue(&request, now)
    }
}

fn is_ip(name: &str) -> bool {
    name.parse::<std::net::IpAddr>().is_ok()
}
