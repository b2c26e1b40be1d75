//! The ground of every attack: one real hub in front of one real API server, both on this machine's 127.0.0.1, where each attack
//! comes from an address of its own; and what has to hold after each of them, in one place: [`Attack::answered`].

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use berth_hub::api::LoadBalancer;
use berth_lab::{Lab, Seen, eventually, metallb};
use berth_wire::v1;
use kube::{Api, api::ListParams};
use rustls::ClientConfig;
use tokio::{net::TcpStream, sync::OnceCell};
use tonic::{Code, Status};

use crate::{
    attacker::{
        certificates::{Credential, Forger},
        frames::Http2,
        messages,
        session::{Calls, Session},
        tls::{self, Connection},
    },
    evidence::Evidence,
};

/// For whatever needs no long time: an answer, a metric, a line.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// How much more than at its start the hub may have in memory when an attack is over, in bytes: what it keeps of all the tenants
/// of all the tests is less.
const GROWTH: f64 = 48.0 * 1024.0 * 1024.0;

/// What the operator has told the hub to be the management cluster's own: its nodes, its pods and its Services.
const MANAGEMENT: &str = "10.10.1.0/24,10.99.0.0/16,10.96.0.0/16";

static GROUND: OnceCell<Ground> = OnceCell::const_new();
/// The next attack's address is 127.66.0.N.
static ADDRESSES: AtomicU8 = AtomicU8::new(1);

/// What all attacks share.
pub(crate) struct Ground {
    pub(crate) lab: Lab,
    /// With the key of the hub's CA.
    pub(crate) forger: Forger,
    /// Where whoever has a token gets a certificate.
    pub(crate) enrollment: SocketAddr,
    /// The hub's memory before the first attack.
    idle: f64,
}

/// One attack, from an address of its own, by a tenant of its own, beside a neighbour of its own.
pub(crate) struct Attack {
    pub(crate) ground: &'static Ground,
    pub(crate) source: Ipv4Addr,
    /// The attacker's own tenant, which the operator has admitted.
    pub(crate) tenant: String,
    evidence: Evidence,
    counted: f64,
    neighbour: Neighbour,
}

impl Ground {
    pub(crate) async fn get() -> Result<&'static Self> {
        let start = async || {
            let own = format!("--management-cidrs={MANAGEMENT}");
            let enrollment = free()?;
            let enroll = format!("--enroll-listen={enrollment}");
            let issuing = ["--ca-dir={ca}", &own, &enroll];
            let lab = Lab::builder().loopback().hub_arguments(&issuing);
            let lab = lab.start_own().await?;
            // Each neighbour has an address, and no packet is ever sent to it.
            let pool = metallb::pool("hostile", "10.66.0.1-10.66.3.254", "hostile");
            lab.management().apply(&pool).await?;
            let idle = lab
                .hub()
                .metric("process_resident_memory_bytes", &[])
                .await?;
            Ok(Self {
                forger: Forger::stolen(&lab.hub().ca_directory()),
                enrollment,
                idle,
                lab,
            })
        };
        GROUND.get_or_try_init(start).await
    }

    pub(crate) fn hub(&self) -> SocketAddr {
        self.lab.hub().address()
    }

    pub(crate) fn ca_directory(&self) -> PathBuf {
        self.lab.hub().ca_directory()
    }

    /// Has the operator admit a tenant, or change it. `spec` is the rest of the spec as JSON without its braces.
    pub(crate) async fn admit(&self, tenant: &str, spec: &str) -> Result<()> {
        let yaml = format!(
            "apiVersion: berth.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {tenant}}}\n\
             spec: {{healthCheck: {{mode: None}}{spec}}}\n"
        );
        Ok(self.lab.management().apply(&yaml).await?)
    }

    /// The load balancers that a tenant has in the management cluster.
    pub(crate) async fn load_balancers(&self, tenant: &str) -> Result<Vec<LoadBalancer>> {
        let client = self.lab.management().client().await?;
        let api: Api<LoadBalancer> = Api::namespaced(client, &format!("berth-{tenant}"));
        Ok(api.list(&ListParams::default()).await?.items)
    }

    async fn dial(&self, source: Ipv4Addr, config: ClientConfig) -> std::io::Result<Connection> {
        tls::shake(tls::tcp(source, self.hub()).await?, config).await
    }

    fn config(&self, credential: &Credential) -> ClientConfig {
        tls::config(&self.lab.hub().ca(), credential)
    }
}

impl Attack {
    /// Before an attack of this name: who attacks, and who must not notice.
    pub(crate) async fn begin(name: &str, evidence: Evidence) -> Result<Self> {
        let ground = Ground::get().await?;
        let tenant = format!("mallory-{name}");
        ground.admit(&tenant, "").await?;
        let neighbour = Neighbour::start(ground, &format!("neighbour-{name}")).await?;
        let number = ADDRESSES.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            ground,
            source: Ipv4Addr::new(127, 66, 0, number),
            tenant,
            evidence,
            counted: evidence.counted(&ground.lab).await?,
            neighbour,
        })
    }

    /// The certificate that the attacker's tenant has by right.
    pub(crate) fn credential(&self) -> Credential {
        self.ground.forger.tenant(&self.tenant)
    }

    pub(crate) async fn tcp(&self) -> TcpStream {
        tls::tcp(self.source, self.ground.hub()).await.unwrap()
    }

    pub(crate) fn config(&self, credential: &Credential) -> ClientConfig {
        self.ground.config(credential)
    }

    pub(crate) async fn dial(&self, config: ClientConfig) -> std::io::Result<Connection> {
        self.ground.dial(self.source, config).await
    }

    /// A connection with a certificate that passes the handshake.
    pub(crate) async fn connection(&self, credential: &Credential) -> Connection {
        self.dial(self.config(credential)).await.unwrap()
    }

    /// Such a connection, to be spoken to frame by frame.
    pub(crate) async fn http2(&self, settings: &[(u16, u32)]) -> Http2 {
        Http2::open(self.connection(&self.credential()).await, settings).await
    }

    /// Such a connection, for calls.
    pub(crate) async fn calls(&self, credential: &Credential) -> Calls {
        Calls::over(self.connection(credential).await)
            .await
            .unwrap()
    }

    /// A session of the attacker's tenant that has told these resources. Its admission may still be on its way to the hub.
    pub(crate) async fn session(&self, resources: &[v1::Resource]) -> Result<Session> {
        open(
            self.ground,
            self.source,
            &self.credential(),
            "its-own",
            resources,
        )
        .await
    }

    /// How a stream under this certificate ends, which is not to get as far as Welcome.
    pub(crate) async fn refused(&self, credential: &Credential) -> Status {
        let mut calls = self.calls(credential).await;
        let mut session = calls
            .call(crate::attacker::frames::SYNC, &[])
            .await
            .unwrap();
        session.welcomed("its-own").await.expect_err("a session")
    }

    /// The neighbour's tenant, the address of its load balancer, and the one of its node.
    pub(crate) fn neighbour(&self) -> (String, String, String) {
        let tenant = self.tenant.replace("mallory", "neighbour");
        (
            tenant,
            self.neighbour.address.clone(),
            self.neighbour.node.clone(),
        )
    }

    /// Whether the neighbour's session still works.
    pub(crate) async fn neighbour_works(&mut self) -> Result<()> {
        self.neighbour.works().await
    }

    /// What holds after every attack: the neighbour, on the session it had before, gets an answer to a changed Service; a metric
    /// has counted the attack; the audit log tells of it, and of where it came from; and the hub's memory is back.
    pub(crate) async fn answered(mut self) -> Result<()> {
        self.neighbour.works().await?;
        self.evidence.is_there(&self, self.counted).await?;
        let ground = self.ground;
        eventually(SOON, "the hub's memory is back within bounds", || async {
            let metric = "process_resident_memory_bytes";
            let now = ground.lab.hub().metric(metric, &[]).await?;
            match now < ground.idle + GROWTH {
                true => Ok(()),
                false => Err(Seen(format!("{now} bytes, {} at the start", ground.idle))),
            }
        })
        .await?;
        Ok(())
    }
}

/// A port of this machine that nobody listens at.
fn free() -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

/// Opens a session, as soon as the hub has seen that the tenant is admitted.
async fn open(
    ground: &Ground,
    source: Ipv4Addr,
    credential: &Credential,
    cluster: &str,
    resources: &[v1::Resource],
) -> Result<Session> {
    let session = eventually(SOON, "a session of an admitted tenant", || async {
        let connection = ground.dial(source, ground.config(credential)).await;
        let connection = connection.map_err(|error| Seen(error.to_string()))?;
        let session = async {
            let mut calls = Calls::over(connection).await?;
            Session::open(&mut calls, cluster, resources).await
        };
        match session.await {
            Ok(session) => Ok(Ok(session)),
            Err(status) if status.code() == Code::PermissionDenied => Err(Seen(status.to_string())),
            // No admission mends anything else.
            Err(status) => Ok(Err(status)),
        }
    })
    .await?;
    Ok(session?)
}

/// Another tenant, with a session that was there before the attack.
struct Neighbour {
    session: Session,
    sequence: u64,
    /// Of its load balancer.
    address: String,
    /// Of its node.
    node: String,
}

/// The one Service of a neighbour.
const WEB: &str = "web";

impl Neighbour {
    async fn start(ground: &Ground, tenant: &str) -> Result<Self> {
        ground.admit(tenant, "").await?;
        let credential = ground.forger.tenant(tenant);
        let own = messages::node("n1");
        let node = messages::address_of(&own);
        let resources = [own, messages::service(WEB, 1, 80)];
        let mut session =
            open(ground, Ipv4Addr::LOCALHOST, &credential, tenant, &resources).await?;
        let answer = programmed(&mut session, WEB, 1).await?;
        Ok(Self {
            session,
            sequence: 0,
            address: answer.ingress[0].ip.clone(),
            node,
        })
    }

    /// Changes its Service and gets the answer, from the allocator and back.
    async fn works(&mut self) -> Result<()> {
        self.sequence += 1;
        let generation = self.sequence + 1;
        let port = 80 + u32::try_from(self.sequence)?;
        let change = messages::service(WEB, generation, port);
        self.session
            .say(messages::upsert(self.sequence, change))
            .await;
        let answer = programmed(&mut self.session, WEB, generation).await?;
        ensure!(answer.ingress[0].ip == self.address, "it moved: {answer:?}");
        Ok(())
    }
}

/// Waits until this version of a Service is served, and returns the answer that says so.
pub(crate) async fn programmed(
    session: &mut Session,
    name: &str,
    generation: u64,
) -> Result<v1::Answer> {
    let answered = async {
        loop {
            let answer = session.answer(name, generation).await?;
            if answer.outcome() == v1::Outcome::Programmed {
                return anyhow::Ok(answer);
            }
        }
    };
    let answer = tokio::time::timeout(SOON, answered).await;
    let answer = answer.with_context(|| format!("{name} is not served"))??;
    ensure!(!answer.ingress.is_empty(), "no address in {answer:?}");
    Ok(answer)
}
