//! The ground of every attack: one real hub in front of one real API server, both on this machine's 127.0.0.1, where each attack
//! comes from an address of its own; and what has to hold after each of them, in one place: [`Attack::answered`].

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use anyhow::{Result, ensure};
use berth_hub::api::LoadBalancer;
use berth_lab::{Lab, Seen, eventually, metallb};
use berth_wire::v1;
use kube::{Api, api::ListParams};
use rustls::ClientConfig;
use serde_json::Value;
use tokio::{net::TcpStream, sync::OnceCell};
use tonic::{Code, Status};

use crate::attacker::{
    certificates::{Credential, Forger},
    frames::Http2,
    messages,
    session::{Calls, Session},
    tls::{self, Connection},
};

/// For whatever needs no long time: an answer, a metric, a line.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// How much more than at its start the hub may have in memory when an attack is over, in bytes: what it keeps of all the tenants
/// of all the tests is less.
const GROWTH: f64 = 48.0 * 1024.0 * 1024.0;

static GROUND: OnceCell<Ground> = OnceCell::const_new();
/// The next attack's address is 127.66.0.N.
static ADDRESSES: AtomicU8 = AtomicU8::new(1);

/// What all attacks share.
pub(crate) struct Ground {
    pub(crate) lab: Lab,
    /// With the key of the hub's CA.
    pub(crate) forger: Forger,
    /// The hub's memory before the first attack.
    idle: f64,
}

/// What the hub is to show for an attack: a metric that counts it, and the word of the audit log for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence {
    metric: &'static str,
    label: &'static str,
    event: &'static str,
    reason: &'static str,
}

impl Evidence {
    const fn refusal(metric: &'static str, label: &'static str, reason: &'static str) -> Self {
        Self {
            metric,
            label,
            event: "refusal",
            reason,
        }
    }

    /// Refused before the gRPC layer.
    pub(crate) const fn door(reason: &'static str) -> Self {
        Self::refusal("berth_refused_connections_total", reason, reason)
    }

    /// A connection that was ended by GOAWAY.
    pub(crate) const fn goaway(code: &'static str) -> Self {
        Self::refusal("berth_http2_refusals_total", "frame=\"goaway\"", code)
    }

    /// A stream that was reset.
    pub(crate) const fn reset(code: &'static str) -> Self {
        Self::refusal("berth_http2_refusals_total", "frame=\"rst-stream\"", code)
    }

    /// A session that was refused, or ended for this.
    pub(crate) const fn session(reason: &'static str) -> Self {
        Self::refusal("berth_sessions_refused_total", reason, reason)
    }

    /// A session that ended with this code.
    pub(crate) const fn ended(code: &'static str, reason: &'static str) -> Self {
        Self::refusal("berth_sessions_ended_total", code, reason)
    }

    /// A call that nobody serves, or not so.
    pub(crate) const fn call(code: &'static str) -> Self {
        Self::refusal("berth_calls_refused_total", code, code)
    }

    /// A message that was not taken.
    pub(crate) const fn message() -> Self {
        Self::refusal("berth_messages_discarded_total", "", "message")
    }

    /// A resource that was not taken.
    pub(crate) const fn resource() -> Self {
        Self::refusal("berth_resources_unreadable_total", "", "resource")
    }

    /// Load balancers that are absent and are not let go.
    pub(crate) const fn held() -> Self {
        Self::refusal("berth_load_balancers_held", "mallory-", "held")
    }

    /// A certificate that counts no more, under a session that lived by it.
    pub(crate) const fn revoked() -> Self {
        Self {
            event: "revocation",
            ..Self::ended("Unauthenticated", "revoked")
        }
    }
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
    async fn get() -> Result<&'static Self> {
        let start = async || {
            let lab = Lab::builder().loopback().start_own().await?;
            // Each neighbour has an address, and no packet is ever sent to it.
            let pool = metallb::pool("hostile", "10.66.0.1-10.66.3.254", "hostile");
            lab.management().apply(&pool).await?;
            let idle = lab
                .hub()
                .metric("process_resident_memory_bytes", &[])
                .await?;
            Ok(Self {
                forger: Forger::stolen(&lab.hub().ca_directory()),
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

    async fn counted(&self, evidence: Evidence) -> Result<f64> {
        let labels = [evidence.label];
        Ok(self.lab.hub().metric(evidence.metric, &labels).await?)
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
            counted: ground.counted(evidence).await?,
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

    /// Whether the neighbour's session still works.
    pub(crate) async fn neighbour_works(&mut self) -> Result<()> {
        self.neighbour.works().await
    }

    /// What holds after every attack: the neighbour, on the session it had before, gets an answer to a changed Service; a metric
    /// has counted the attack; the audit log tells of it, and of where it came from; and the hub's memory is back.
    pub(crate) async fn answered(mut self) -> Result<()> {
        self.neighbour.works().await?;
        let (ground, evidence) = (self.ground, self.evidence);
        eventually(SOON, &format!("{evidence:?} is counted"), || async {
            let counted = ground.counted(evidence).await?;
            match counted > self.counted {
                true => Ok(()),
                false => Err(Seen(format!("still {counted}"))),
            }
        })
        .await?;
        let peer = format!("{}:", self.source);
        let what = format!("the audit log tells of {evidence:?} from {peer}");
        eventually(SOON, &what, || async {
            let log = ground.lab.hub().log().await?;
            let lines: Vec<Value> = audit_lines(&log, &peer);
            let tells = |line: &&Value| {
                line["event"] == evidence.event && line["reason"] == evidence.reason
            };
            match lines.iter().find(tells) {
                Some(_) => Ok(()),
                None => Err(Seen(format!("{lines:?}"))),
            }
        })
        .await?;
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

/// The lines of the audit log about a peer. All of them are JSON, though the log is text.
fn audit_lines(log: &str, peer: &str) -> Vec<Value> {
    log.lines()
        .filter(|line| line.contains(peer))
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["target"] == "audit")
        .collect()
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
}

/// The one Service of a neighbour.
const WEB: &str = "web";

impl Neighbour {
    async fn start(ground: &Ground, tenant: &str) -> Result<Self> {
        ground.admit(tenant, "").await?;
        let credential = ground.forger.tenant(tenant);
        let resources = [messages::node("n1"), messages::service(WEB, 1, 80)];
        let mut session =
            open(ground, Ipv4Addr::LOCALHOST, &credential, tenant, &resources).await?;
        programmed(&mut session, 1).await?;
        Ok(Self {
            session,
            sequence: 0,
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
        programmed(&mut self.session, generation).await
    }
}

async fn programmed(session: &mut Session, generation: u64) -> Result<()> {
    let answered = async {
        loop {
            let answer = session.answer(WEB, generation).await?;
            if answer.outcome() == v1::Outcome::Programmed {
                return anyhow::Ok(answer);
            }
        }
    };
    let answer = tokio::time::timeout(SOON, answered).await??;
    ensure!(!answer.ingress.is_empty(), "no address in {answer:?}");
    Ok(())
}
