//! The shell of a session: moves messages between a tonic stream and the tenant's [`Seat`], which decides everything. One
//! task reads, another writes; neither ever waits for the other, and whatever ends one ends both and frees the seat.

mod outlet;

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use berth_common::{
    identity::{Identity, PeerCertificate, TenantName},
    session::{ProtocolError, REASON_TRAILER, TENANT_UNKNOWN},
    tls::Validity,
};
use berth_wire::v1::{self, agent_service_server::AgentService};
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument as _, debug, info, info_span, warn};

use crate::{
    audit,
    certificates::Certificates,
    lines::{self, Who},
    listen::Peer,
    metrics::SessionMetrics,
    tenants::{Credential, Ending, Heard, Next, Refused, Rejected, Seat, Tenants},
};

use outlet::{Asked, Outlet};

/// A message that has not left after this long means that the peer reads no more (PITFALLS 17).
const STALL: Duration = Duration::from_secs(15);

/// The header by which a client may say which tenant it takes itself for. Nothing is granted by it: it is refused where the
/// certificate says otherwise, so that whoever has mixed up certificates hears of it.
pub const TENANT_HEADER: &str = "berth-tenant";

/// Messages on their way between the writer and the transport. State waits in the seat's slots, not here.
const IN_FLIGHT: usize = 4;

/// What goes to the transport. Boxed: the channel allocates room for 32 at once, in each of thousands of sessions.
type Said = Result<Box<v1::HubMessage>, Status>;

/// `berth.v1.AgentService`.
#[derive(Clone)]
pub struct Sessions {
    tenants: Arc<Tenants>,
    certificates: Arc<Certificates>,
    metrics: SessionMetrics,
    stop: CancellationToken,
}

impl Sessions {
    /// Sessions of these tenants. When `stop` is cancelled every stream ends with UNAVAILABLE.
    pub fn new(tenants: Arc<Tenants>, metrics: SessionMetrics, stop: CancellationToken) -> Self {
        Self {
            tenants,
            certificates: Arc::default(),
            metrics,
            stop,
        }
    }

    /// The figures that are kept.
    pub fn metrics(&self) -> &SessionMetrics {
        &self.metrics
    }

    /// The same, which tells here what certificates they have seen.
    #[must_use]
    pub fn telling(mut self, certificates: Arc<Certificates>) -> Self {
        self.certificates = certificates;
        self
    }

    fn refused(&self, peer: &Peer, label: &'static str, status: Status) -> Status {
        self.metrics.refused(label);
        audit::refusal(&peer.subject(), label, status.message());
        let identity = peer.identity.as_ref().ok().map(|p| p.identity.to_string());
        if let Some(suppressed) = lines::LOG.spend(audit::payer(peer.remote, peer.subject().tenant))
        {
            warn!(remote = %peer.remote, identity, reason = label, suppressed, "session refused: {}", status.message());
        }
        status
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<v1::HubMessage, Status>> + Send>>;

#[tonic::async_trait]
impl AgentService for Sessions {
    type SyncStream = Messages;

    async fn sync(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Messages>, Status> {
        let peer = request
            .extensions()
            .get::<Arc<Peer>>()
            .cloned()
            .ok_or_else(|| Status::unauthenticated("no client certificate"))?;
        let (tenant, certificate) = match tenant_of(&peer) {
            Ok(known) => known,
            Err((label, status)) => return Err(self.refused(&peer, label, status)),
        };
        if let Some(claimed) = request.metadata().get(TENANT_HEADER)
            && claimed.as_encoded_bytes() != tenant.as_str().as_bytes()
        {
            let status = Status::permission_denied(format!(
                "the certificate is {tenant}'s, and {TENANT_HEADER} names another: the certificate alone counts"
            ));
            return Err(self.refused(&peer, "claims_other_tenant", status));
        }
        let credential = Credential::from(certificate);
        let validity = Validity::from(certificate);
        let seat = self
            .tenants
            .open(&tenant, credential, Instant::now())
            .map_err(|refused| self.refused(&peer, refused.label(), status_of_refused(&refused)))?;
        self.certificates.shown(&tenant, validity);
        let span = info_span!("session", %tenant, session = seat.number());
        let (sender, receiver) = mpsc::channel(IN_FLIGHT);
        let (messages, asked) = Outlet::new(receiver);
        let shell = Shell {
            seat: Arc::new(seat),
            metrics: self.metrics.clone(),
            tenant,
            peer,
        };
        let stop = self.stop.clone();
        tokio::spawn(
            shell
                .run(request.into_inner(), sender, asked, stop)
                .instrument(span),
        );
        Ok(Response::new(Box::pin(
            messages.map(|said| said.map(|message| *message)),
        )))
    }
}

/// The tenant that a certificate names; or a word for metrics, and what its holder is told.
pub(crate) fn tenant_of(
    peer: &Peer,
) -> Result<(TenantName, &PeerCertificate), (&'static str, Status)> {
    match &peer.identity {
        Err(error) => Err((
            "bad_identity",
            Status::unauthenticated(format!("the client certificate names nobody: {error}")),
        )),
        Ok(certificate) => match &certificate.identity {
            Identity::Tenant(name) => Ok((name.clone(), certificate)),
            other => Err((
                "not_a_tenant",
                Status::permission_denied(format!(
                    "{other} is no tenant: only agents open sessions and renew certificates"
                )),
            )),
        },
    }
}

fn status_of_refused(refused: &Refused) -> Status {
    let message = refused.to_string();
    match refused {
        // In a moment it is unknown.
        Refused::Unknown(_) | Refused::Deleting(_) => {
            let mut status = Status::permission_denied(message);
            let word = tonic::metadata::MetadataValue::from_static(TENANT_UNKNOWN);
            status.metadata_mut().insert(REASON_TRAILER, word);
            status
        }
        Refused::Suspended(_) => Status::permission_denied(message),
        Refused::Revoked { .. } | Refused::FormerAuthority { .. } => {
            Status::unauthenticated(message)
        }
        Refused::OtherCluster { .. } => Status::failed_precondition(message),
        Refused::ClusterUnknown { .. } => Status::unavailable(message),
        Refused::Leaving => Status::unavailable(message),
    }
}

fn status_of_protocol(error: &ProtocolError) -> Status {
    let message = error.to_string();
    match error {
        ProtocolError::OutOfTurn(_) | ProtocolError::Version { .. } => {
            Status::failed_precondition(message)
        }
        ProtocolError::Unreadable | ProtocolError::Invalid(_) => Status::invalid_argument(message),
        ProtocolError::TooMuch(_) => Status::resource_exhausted(message),
        ProtocolError::Silent => Status::deadline_exceeded(message),
    }
}

/// What an agent is told at the end, and the word for it in metrics and the audit log.
fn told(ending: &Ending) -> (&'static str, Status) {
    match ending {
        Ending::Fenced => (
            "fenced",
            Status::aborted("a newer session of this tenant took over"),
        ),
        Ending::Refused(refused) => (refused.label(), status_of_refused(refused)),
        Ending::Protocol(ProtocolError::Silent) => {
            ("silent", status_of_protocol(&ProtocolError::Silent))
        }
        Ending::Protocol(error) => ("protocol", status_of_protocol(error)),
    }
}

/// A session, for the audit log.
fn subject<'a>(peer: &'a Peer, tenant: &'a TenantName, session: u64) -> audit::Subject<'a> {
    audit::Subject {
        tenant: Some(tenant),
        session: Some(session),
        ..peer.subject()
    }
}

/// Whether a line about a session of this tenant may be written, for sessions may come and go hundreds of times a second; if so, how many
/// went unsaid before it.
fn may_say(tenant: &TenantName) -> Option<Option<u64>> {
    lines::LOG.spend(Who::Tenant(tenant.clone()))
}

/// One session's two tasks.
struct Shell {
    seat: Arc<Seat>,
    metrics: SessionMetrics,
    tenant: TenantName,
    peer: Arc<Peer>,
}

/// How a session ended.
enum Ended {
    /// The agent has ended its side.
    ByAgent,
    /// The connection is gone.
    Lost,
    /// The agent has not read for [`STALL`].
    Stalled,
    /// By the hub, which says so with this, and why, in a word.
    ByHub(&'static str, Status),
}

impl Ended {
    fn tell(&self, remote: SocketAddr, suppressed: Option<u64>) {
        match self {
            Self::ByAgent => info!(%remote, suppressed, "the agent ended the session"),
            Self::Lost => info!(%remote, suppressed, "the connection was lost"),
            Self::Stalled => {
                info!(%remote, suppressed, "session ended: the agent has not read for 15 s")
            }
            Self::ByHub(_, status) => {
                info!(%remote, code = ?status.code(), suppressed, "session ended: {}", status.message());
            }
        }
    }
}

impl Shell {
    async fn run(
        self,
        mut messages: Streaming<v1::AgentMessage>,
        sender: mpsc::Sender<Said>,
        asked: Asked,
        stop: CancellationToken,
    ) {
        let _live = self.metrics.live();
        let ended = tokio::select! {
            ended = self.read(&mut messages) => ended,
            ended = self.write(&sender) => ended,
            () = asked.stalled() => Ended::Stalled,
            () = sender.closed() => Ended::Lost,
            () = stop.cancelled() => Ended::ByHub("leaving", Status::unavailable("this hub is leaving; come back")),
            () = self.peer.expiry.passed() => {
                Ended::ByHub("expired", Status::unauthenticated("the client certificate has expired"))
            }
        };
        let number = self.seat.number();
        // From here on the tenant has no session, however long the parting takes.
        drop(self.seat);
        let (remote, hangup) = (self.peer.remote, self.peer.hangup.clone());
        let subject = subject(&self.peer, &self.tenant, number);
        if let Some(suppressed) = may_say(&self.tenant) {
            ended.tell(remote, suppressed);
        }
        match ended {
            Ended::ByAgent | Ended::Lost => {}
            Ended::Stalled => {
                self.metrics.ended(tonic::Code::DeadlineExceeded);
                audit::refusal(&subject, "stalled", "the agent has not read for 15 s");
                hangup.hang_up();
            }
            Ended::ByHub(label, status) => {
                self.metrics.ended(status.code());
                match status.code() {
                    // A hub that leaves refuses nobody.
                    tonic::Code::Unavailable => {}
                    tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => {
                        audit::revocation(&subject, label, status.message());
                    }
                    _ => audit::refusal(&subject, label, status.message()),
                }
                let parting = async {
                    let _ = sender.send(Err(status)).await;
                    sender.closed().await;
                };
                // A peer that does not read the status does not get to keep the connection either.
                if tokio::time::timeout(STALL, parting).await.is_err() {
                    hangup.hang_up();
                }
            }
        }
    }

    async fn read(&self, messages: &mut Streaming<v1::AgentMessage>) -> Ended {
        loop {
            let message = match messages.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ended::ByAgent,
                Err(status) => {
                    return unreadable(status)
                        .map_or(Ended::Lost, |status| Ended::ByHub("unreadable", status));
                }
            };
            match self.seat.receive(message, Instant::now()) {
                Ok(heard) => self.log(heard),
                Err(rejected) => {
                    let (label, status) = told(&match rejected {
                        Rejected::Fenced(_) => Ending::Fenced,
                        Rejected::Refused(refused) => Ending::Refused(refused),
                        Rejected::Protocol(error) => Ending::Protocol(error),
                    });
                    self.metrics.refused(label);
                    return Ended::ByHub(label, status);
                }
            }
        }
    }

    async fn write(&self, sender: &mpsc::Sender<Said>) -> Ended {
        loop {
            match self.seat.next(Instant::now()) {
                Next::End(ending) => {
                    let (label, status) = told(&ending);
                    return Ended::ByHub(label, status);
                }
                Next::Wait(until) => tokio::select! {
                    () = self.seat.woken() => {}
                    () = tokio::time::sleep_until(until.into()) => {}
                },
                Next::Message(message) => {
                    match tokio::time::timeout(STALL, sender.send(Ok(message))).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return Ended::Lost,
                        Err(_) => return Ended::Stalled,
                    }
                }
            }
        }
    }

    fn log(&self, heard: Heard) {
        let subject = subject(&self.peer, &self.tenant, self.seat.number());
        if let Some(greeting) = heard.greeting {
            audit::admission(
                &subject,
                &format!(
                    "agent {} in the cluster {}",
                    greeting.agent_version, greeting.cluster_uid
                ),
            );
            if let Some(suppressed) = may_say(&self.tenant) {
                info!(
                    remote = %self.peer.remote,
                    agent = greeting.agent_version,
                    cluster = greeting.cluster_uid,
                    serial = self.peer.serial.as_ref().map(tracing::field::display),
                    suppressed,
                    "session open"
                );
            }
        }
        if let Some(source) = heard.source
            && let Some(suppressed) = may_say(&self.tenant)
        {
            match source {
                Ok(()) => info!(suppressed, "the agent reads its cluster again"),
                Err(reason) => {
                    warn!(%reason, suppressed, "the agent has lost its cluster's API server: what it told last stays");
                }
            }
        }
        if let Some(reason) = heard.discarded {
            self.metrics.discarded.inc();
            audit::refusal(&subject, "message", &reason);
            if let Some(suppressed) = may_say(&self.tenant) {
                info!(%reason, suppressed, "message discarded");
            }
        }
        if let Some((absent, total)) = heard.held {
            let what = format!("{absent} of {total} load balancers are absent, and held");
            audit::refusal(&subject, "held", &what);
        }
        if heard.restless {
            self.metrics.restless.inc();
            let what = "it changes Services again and again: these are held back (quotas.changesPerSecond)";
            audit::refusal(&subject, "throttled", what);
        }
        if heard.contested {
            self.metrics.contested.inc();
            let what = "agents throw each other out again and again under this identity";
            audit::refusal(&subject, "contested", what);
        }
        for line in heard.refused {
            self.metrics.unreadable.inc();
            audit::refusal(&subject, "resource", &line);
            // The audit log has it for everybody to see, and bounds what one tenant can have written.
            debug!("resource refused: {line}");
        }
    }
}

/// What tonic says of a message that it could not read, in the words of HOSTILE.md 31 and 32; None where the transport
/// has gone and nobody is left to tell.
fn unreadable(status: Status) -> Option<Status> {
    use tonic::Code;
    match status.code() {
        Code::OutOfRange => Some(Status::resource_exhausted(status.message().to_owned())),
        Code::Internal => Some(Status::invalid_argument(status.message().to_owned())),
        Code::ResourceExhausted | Code::InvalidArgument | Code::Unimplemented => Some(status),
        _ => None,
    }
}
