//! The hub without a management cluster: listener, gRPC server, sessions and tenants as `berth-hub run` wires them, with nobody
//! behind who plans. It runs on threads of its own, so that it can be killed as a process is.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use berth_agent::simulate;
use berth_common::{
    identity::{TenantName, TrustDomain},
    model::ServiceKey,
    session::hub::Limits,
    tls::{ServerTls, TlsFiles},
};
use berth_hub::{
    listen::{self, Clients, ListenLimits, ListenMetrics},
    metrics::SessionMetrics,
    serve,
    session::Sessions,
    tenants::{Admission, Marks, Tenants},
};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_util::sync::CancellationToken;

/// How many tell their state at the same time.
pub(crate) const SNAPSHOTS: usize = 8;
/// How long a killed hub's threads may take to be gone.
const GONE: Duration = Duration::from_secs(10);

/// Nobody plans.
struct Nobody;

impl Marks for Nobody {
    fn service(&self, _tenant: &TenantName, _key: &ServiceKey) {}
    fn observed(&self, _tenant: &TenantName) {}
}

/// A running hub.
pub(crate) struct Hub {
    runtime: Runtime,
    tenants: Arc<Tenants>,
    metrics: ListenMetrics,
    address: SocketAddr,
}

/// Threads for one side.
pub(crate) fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
}

impl Hub {
    /// A hub that knows a fleet of this size and nothing else, at an address or at any.
    pub(crate) fn start(
        pki: &Pki,
        address: Option<SocketAddr>,
        fleet: usize,
        handshakes: usize,
    ) -> Result<Self> {
        let runtime = runtime()?;
        let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let first_session = u64::try_from(seconds.as_millis())? << 20;
        let tenants = Tenants::new(first_session, Limits::default(), Arc::new(Nobody));
        let tenants = Arc::new(tenants.with_snapshots(SNAPSHOTS));
        let admit = |number| Ok((simulate::name(number)?, Admission::default()));
        tenants.admit((1..=fleet).map(admit).collect::<Result<_>>()?);
        let metrics = ListenMetrics::default();
        let limits = ListenLimits {
            handshakes,
            // The whole fleet has one address here.
            handshakes_per_address: handshakes,
            handshake: Duration::from_secs(30),
            ..ListenLimits::default()
        };
        let address = address.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let tls = ServerTls::server(pki.server_files(), SystemTime::now())?;
        let service = Sessions::new(
            tenants.clone(),
            SessionMetrics::default(),
            CancellationToken::new(),
        );
        let address = runtime.block_on(async {
            let socket = TcpListener::bind(address).await.context("cannot bind")?;
            let clients = Clients::Named(TrustDomain::default());
            let incoming = listen::listen(socket, tls, clients, limits, metrics.clone())?;
            let address = incoming.local_addr();
            let (_, health) = tonic_health::server::health_reporter();
            tokio::spawn(serve::serve(
                incoming,
                service,
                None,
                health,
                CancellationToken::new(),
            ));
            anyhow::Ok(address)
        })?;
        Ok(Self {
            runtime,
            tenants,
            metrics,
            address,
        })
    }

    /// The most that told their state at the same time.
    pub(crate) fn most_snapshots(&self) -> i64 {
        self.tenants.turn_gauges().peak.get()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn metrics(&self) -> &ListenMetrics {
        &self.metrics
    }

    /// How many Services all tenants together are known to want.
    pub(crate) fn synced_services(&self) -> usize {
        let standings = self.tenants.standings();
        standings.values().map(|standing| standing.services).sum()
    }

    /// Ends every thread and closes every socket, without a word.
    pub(crate) fn kill(self) {
        self.runtime.shutdown_timeout(GONE);
    }
}

/// An authority, and the hub's certificate from it.
pub(crate) struct Pki {
    directory: TempDir,
    authority: (String, String),
}

impl Pki {
    pub(crate) fn new() -> Result<Self> {
        let directory = TempDir::new()?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key)?.pem();
        let authority = (certificate, key.serialize_pem());
        let issuer = Issuer::new(params, key);

        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let now = SystemTime::now();
        params.not_before = (now - Duration::from_secs(60)).into();
        params.not_after = (now + Duration::from_secs(3_600)).into();
        let files = files(directory.path());
        fs::write(&files.cert, params.signed_by(&key, &issuer)?.pem())?;
        fs::write(&files.key, key.serialize_pem())?;
        fs::write(&files.ca, &authority.0)?;
        Ok(Self {
            directory,
            authority,
        })
    }

    /// Certificate and key, in PEM.
    pub(crate) fn authority(&self) -> (String, String) {
        self.authority.clone()
    }

    fn server_files(&self) -> TlsFiles {
        files(self.directory.path())
    }
}

fn files(directory: &Path) -> TlsFiles {
    TlsFiles {
        cert: directory.join("tls.crt"),
        key: directory.join("tls.key"),
        ca: directory.join("ca.crt"),
    }
}
