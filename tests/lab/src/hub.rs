//! The hub in the lab: its certificates, its rights, its configuration, its process on the node `m1`. Knows how an operator sets
//! a hub up; must not know what it does.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::address::Node;
use crate::charts;
use crate::cluster::Cluster;
use crate::error::Result;
use crate::program::Program;
use crate::site::{Site, text};

/// The directory of the hub's CA.
const CA: &str = "ca";

/// The running hub. It is a [`Program`], with an address for agents and a CA.
#[derive(Debug, Clone)]
pub struct Hub {
    program: Program,
    site: Arc<Site>,
    address: SocketAddr,
    issued: Arc<AtomicU32>,
}

impl Deref for Hub {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

/// Files of a certificate: `tls.crt`, `tls.key` and `ca.crt` in one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate(PathBuf);

impl Certificate {
    /// Files that somebody else's `cert issue --out` has written.
    #[must_use]
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    /// The certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.0.join("tls.crt")
    }

    /// Its private key, PEM.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.0.join("tls.key")
    }

    /// The CA that both sides trust, PEM.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.0.join("ca.crt")
    }

    /// The directory of the three.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.0
    }
}

impl Hub {
    /// Makes its CA and certificate, gives it the rights of its chart, starts it with more arguments and waits until it is ready.
    pub(crate) async fn start(management: &Cluster, arguments: &[String]) -> Result<Self> {
        let site = management.site.clone();
        let node = Node::of(management.name())
            .next()
            .filter(|_| site.has_packets());
        let host = node.map_or(Ipv4Addr::LOCALHOST, |node| node.address);
        let address = SocketAddr::from((host, site.sandbox.port(8443)?));
        let admin = SocketAddr::from((host, site.sandbox.port(9090)?));

        let ca = text(&site.path(CA));
        berth_hub(&site, &["ca", "init", "--dir", &ca]).await?;
        let ip = host.to_string();
        let names = ["--server", "--ip", &ip, "--dns", "berth-hub"];
        let certificate = issue(&site, "hub", &names).await?;
        let kubeconfig = charts::install(management, "berth-hub").await?;

        // A setting in each place where an operator may put one.
        let config = format!(
            "listen: {address}\ntls:\n  cert: {}\n  key: {}\n  clientCa: {}\n",
            text(&certificate.certificate()),
            text(&certificate.key()),
            text(&certificate.ca()),
        );
        let config = site.sandbox.run_dir.write("hub/config.yaml", config)?;
        let argv = [
            site.program("berth-hub"),
            "run".into(),
            format!("--config={}", text(&config)),
            format!("--admin-listen={admin}"),
        ];
        let arguments = arguments.iter().map(|it| it.replace("{ca}", &ca));
        let argv = argv.into_iter().chain(arguments);
        let process = site
            .process("berth-hub", argv)
            .env("BERTH_KUBECONFIG", text(&kubeconfig))
            .env("BERTH_LOG_FILTER", "info");
        let program = Program::new(site.clone(), process, node.map(|node| node.name), admin);
        program.start().await?;
        Ok(Self {
            program,
            site,
            address,
            issued: Arc::default(),
        })
    }

    /// Where agents dial.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The directory of the hub's CA, for `berth-hub cert issue --ca-dir`.
    #[must_use]
    pub fn ca_directory(&self) -> PathBuf {
        self.site.path(CA)
    }

    /// The certificate of the hub's CA, PEM.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.ca_directory().join("ca.crt")
    }

    /// Has the hub's CA issue a certificate for a tenant.
    pub async fn tenant_certificate(&self, tenant: &str) -> Result<Certificate> {
        self.issue("tenant", tenant).await
    }

    /// Has the hub's CA issue a certificate for an administrator.
    pub async fn admin_certificate(&self, name: &str) -> Result<Certificate> {
        self.issue("admin", name).await
    }

    /// Each in a directory of its own: the program overwrites none.
    async fn issue(&self, kind: &str, name: &str) -> Result<Certificate> {
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        let directory = format!("{kind}-{name}-{number}");
        issue(&self.site, &directory, &[&format!("--{kind}"), name]).await
    }

    /// Runs `berth-hub` with these arguments inside the lab and returns what it prints.
    pub async fn command(&self, arguments: &[&str]) -> Result<String> {
        berth_hub(&self.site, arguments).await
    }
}

async fn issue(site: &Site, name: &str, arguments: &[&str]) -> Result<Certificate> {
    let ca = text(&site.path(CA));
    site.sandbox.run_dir.directory("certificates")?;
    let directory = site.path(&format!("certificates/{name}"));
    let out = text(&directory);
    let mut all = vec!["cert", "issue", "--ca-dir", &ca, "--out", &out];
    all.extend(arguments);
    berth_hub(site, &all).await?;
    Ok(Certificate(directory))
}

/// Runs inside, so that its files belong to the lab's user.
async fn berth_hub(site: &Site, arguments: &[&str]) -> Result<String> {
    let program = site.program("berth-hub");
    let argv = std::iter::once(program.as_str()).chain(arguments.iter().copied());
    site.sandbox.control.command(argv).run().await
}
