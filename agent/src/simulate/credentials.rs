//! The certificates of a simulated fleet: read from files that somebody issued, or made here from an authority's key. The
//! latter is for tests and benchmarks only: the key of a real hub's authority has no business outside its own Secret.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use berth_common::{
    identity::{Identity, TenantName, TrustDomain},
    tls::{ClientTls, TlsFiles},
};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};

/// How long a made certificate lives: longer than any measurement.
const LIFETIME: Duration = Duration::from_secs(24 * 3_600);
/// Clocks differ.
const BEFORE: Duration = Duration::from_secs(300);

/// Where certificates come from.
pub enum Credentials {
    /// `DIRECTORY/NAME/` has `tls.crt`, `tls.key` and `ca.crt`, as `berth-hub cert issue --out` writes them.
    Directory(PathBuf),
    /// Each is made when it is needed.
    Authority(Box<Authority>),
}

/// An authority that certificates can be made from.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    trust_domain: TrustDomain,
}

impl Credentials {
    /// An authority's certificate and key, in PEM files.
    pub fn authority(
        certificate: &Path,
        key: &Path,
        trust_domain: TrustDomain,
    ) -> anyhow::Result<Self> {
        let (certificate, key) = (read(certificate)?, read(key)?);
        Self::authority_in_memory(certificate, &key, trust_domain)
    }

    /// The same from the PEM texts themselves.
    pub fn authority_in_memory(
        certificate: String,
        key: &str,
        trust_domain: TrustDomain,
    ) -> anyhow::Result<Self> {
        let key = KeyPair::from_pem(key).context("--ca-key is no private key in PEM")?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)
            .context("--ca-cert is no certificate of an authority in PEM")?;
        Ok(Self::Authority(Box::new(Authority {
            issuer,
            certificate,
            trust_domain,
        })))
    }

    /// A tenant's.
    pub(super) fn of(&self, tenant: &TenantName) -> anyhow::Result<Arc<ClientTls>> {
        let now = SystemTime::now();
        match self {
            Self::Directory(directory) => {
                let directory = directory.join(tenant.as_str());
                let files = TlsFiles {
                    cert: directory.join("tls.crt"),
                    key: directory.join("tls.key"),
                    ca: directory.join("ca.crt"),
                };
                Ok(ClientTls::client(files, now)?)
            }
            Self::Authority(authority) => authority.make(tenant, now),
        }
    }
}

impl Authority {
    fn make(&self, tenant: &TenantName, now: SystemTime) -> anyhow::Result<Arc<ClientTls>> {
        let uri = Identity::Tenant(tenant.clone()).uri(&self.trust_domain);
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.not_before = (now - BEFORE).into();
        params.not_after = (now + LIFETIME).into();
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(ClientTls::client_in_memory(
            &certificate.pem(),
            &key.serialize_pem(),
            &self.certificate,
            now,
        )?)
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
