//! The certificates of one test: an authority of the hub's own making, and what it issues.

use std::{fs, net::IpAddr, path::PathBuf, sync::Arc, time::SystemTime};

use berth_common::{
    identity::{Identity, TrustDomain},
    tls::{ClientTls, ServerTls, TlsFiles},
};
use berth_hub::ca::{Authority, CertificateRequest, DEFAULT_AUTHORITY_LIFETIME, DEFAULT_LIFETIME};
use tempfile::TempDir;

pub(crate) struct Pki {
    authority: Authority,
    directory: TempDir,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let domain = TrustDomain::default();
        let now = SystemTime::now();
        Self {
            authority: Authority::create(domain, DEFAULT_AUTHORITY_LIFETIME, now).unwrap(),
            directory: TempDir::new().unwrap(),
        }
    }

    pub(crate) fn server(&self) -> Arc<ServerTls> {
        let files = self.issue(Identity::Hub, "hub", vec![[127, 0, 0, 1].into()]);
        ServerTls::server(files, SystemTime::now()).unwrap()
    }

    /// A new certificate of a tenant.
    pub(crate) fn client(&self, tenant: &str) -> Arc<ClientTls> {
        let identity = Identity::Tenant(tenant.parse().unwrap());
        let files = self.issue(identity, tenant, Vec::new());
        ClientTls::client(files, SystemTime::now()).unwrap()
    }

    fn issue(&self, subject: Identity, name: &str, ips: Vec<IpAddr>) -> TlsFiles {
        let request = CertificateRequest {
            subject,
            dns: Vec::new(),
            ips,
            lifetime: DEFAULT_LIFETIME,
            not_earlier: None,
        };
        let issued = self.authority.issue(&request, SystemTime::now()).unwrap();
        let path =
            |suffix: &str| -> PathBuf { self.directory.path().join(format!("{name}.{suffix}")) };
        let files = TlsFiles {
            cert: path("crt"),
            key: path("key"),
            ca: path("ca"),
        };
        fs::write(&files.cert, issued.certificate).unwrap();
        fs::write(&files.key, issued.key).unwrap();
        fs::write(&files.ca, issued.bundle).unwrap();
        files
    }
}
