//! `berth.v1.Enrollment`: a join token for a certificate. The order of what is looked at is the order of what it costs: the address,
//! the form of the request, then the management cluster. Whoever is refused is told the same, whatever the reason; the audit and the
//! metrics have it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use berth_common::identity::{Serial, TenantName};
use berth_wire::v1::{self, enrollment_server::Enrollment};
use kube::{Api, Client};
use tokio::{sync::Semaphore, time::Instant};
use tonic::{Code, Request, Response, Status, metadata::MetadataValue};
use tracing::warn;

use super::{
    Attempts, EnrollMetrics, Refused, Requested, Signed, StoreError, Token, TokenId, Tokens,
    budget::Budgets, entry::seconds,
};
use crate::{
    api::Tenant,
    audit,
    ca::{CaError, Issuing, Lifetime, fresh_serial},
    listen::{Peer, address_key},
    observe::Former,
};

/// The same for every token that is not accepted: which of these it is, is nobody's business who does not have the right one.
const NOT_ACCEPTED: &str = "the join token is not accepted: it is mistyped, used with another key, expired or revoked; the hub's operator \
                            makes a new one with `berth-hub token create`";

/// Uses of tokens and of expired certificates that ask the management cluster at once. Strangers cannot make the hub ask more.
const AT_ONCE: usize = 8;
/// How long one waits for its turn.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// The standard trailer by which a gRPC server says when to come back, in milliseconds.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The service. Clones are the same.
#[derive(Clone)]
pub struct Enrollments(Arc<Inner>);

pub(super) struct Inner {
    pub(super) issuing: Arc<Issuing>,
    tokens: Tokens,
    pub(super) tenants: Api<Tenant>,
    former: Arc<Former>,
    pub(super) attempts: Mutex<Attempts<IpAddr>>,
    pub(super) turns: Semaphore,
    pub(super) budgets: Budgets,
    pub(super) metrics: EnrollMetrics,
}

/// What is not given, and why.
enum Failure {
    /// The address has to wait.
    Locked(Duration),
    /// The request for a certificate is not acceptable.
    Csr(super::CsrError),
    /// The token is not accepted.
    Refused(Refused, Option<TenantName>),
    /// The management cluster could not be asked.
    Store(StoreError),
    /// The Tenant could not be read.
    Tenants(kube::Error),
    /// The authority did not sign.
    Authority(CaError),
    /// Too many ask at once.
    Busy,
}

/// What is given.
struct Given {
    tenant: TenantName,
    serial: Serial,
    certificate: String,
    again: bool,
}

impl Enrollments {
    /// Certificates of this authority for these tokens.
    pub fn new(
        client: Client,
        tokens: Tokens,
        issuing: Arc<Issuing>,
        former: Arc<Former>,
        metrics: EnrollMetrics,
    ) -> Self {
        Self(Arc::new(Inner {
            issuing,
            tokens,
            tenants: Api::all(client),
            former,
            attempts: Mutex::default(),
            turns: Semaphore::new(AT_ONCE),
            budgets: Budgets::default(),
            metrics,
        }))
    }
}

#[tonic::async_trait]
impl Enrollment for Enrollments {
    async fn enroll(
        &self,
        request: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::CertificateResponse>, Status> {
        let remote = remote(&request)?;
        let message = request.into_inner();
        let token = Token::parse(&message.token);
        let id = token.as_ref().map(|token| token.digest().id());
        match self.0.decide(remote, token.as_ref(), &message.csr).await {
            Ok(given) => Ok(Response::new(self.0.give(remote, id.as_ref(), given))),
            Err(failure) => Err(self.0.refuse(remote, id.as_ref(), failure)),
        }
    }

    async fn rejoin(
        &self,
        request: Request<v1::RejoinRequest>,
    ) -> Result<Response<v1::CertificateResponse>, Status> {
        let remote = remote(&request)?;
        let response = self.0.rejoin(remote, &request.into_inner()).await?;
        Ok(Response::new(response))
    }
}

fn remote<T>(request: &Request<T>) -> Result<SocketAddr, Status> {
    let peer = request.extensions().get::<Arc<Peer>>();
    peer.map(|peer| peer.remote)
        .ok_or_else(|| Status::internal("a connection without an address"))
}

impl Inner {
    async fn decide(
        &self,
        remote: SocketAddr,
        token: Option<&Token>,
        csr: &[u8],
    ) -> Result<Given, Failure> {
        self.attempts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .may(&address_key(remote.ip()), Instant::now())
            .map_err(|locked| Failure::Locked(locked.0))?;
        let requested = Requested::from_der(csr).map_err(Failure::Csr)?;
        let token = token.ok_or(Failure::Refused(Refused::Unknown, None))?;
        let _turn = tokio::time::timeout(PATIENCE, self.turns.acquire())
            .await
            .map_err(|_| Failure::Busy)?;
        self.exchange(token, &requested).await
    }

    async fn exchange(&self, token: &Token, requested: &Requested) -> Result<Given, Failure> {
        let (now, digest) = (SystemTime::now(), token.digest());
        let serial = fresh_serial().map_err(Failure::Authority)?;
        let certificate = Signed {
            serial: super::token::hex(&serial),
            at: seconds(now),
            seconds: self.issuing.lifetime().as_secs(),
        };
        let entry = self.tokens.find(&digest).await.map_err(Failure::Store)?;
        let entry = entry.ok_or(Failure::Refused(Refused::Unknown, None))?;
        let tenant = entry.tenant.clone();
        let refused = |why| Failure::Refused(why, Some(tenant.clone()));
        entry
            .decide(&digest, &requested.fingerprint, certificate.clone(), now)
            .map_err(refused)?;
        // Asked for at the API server: the Tenant may be younger than the watch.
        let admitted = self
            .tenants
            .get_opt(tenant.as_str())
            .await
            .map_err(Failure::Tenants)?
            .filter(|it| {
                let is_it = it.metadata.uid.as_ref() == Some(&entry.tenant_uid);
                is_it && !it.spec.suspended && it.metadata.deletion_timestamp.is_none()
            });
        let Some(admitted) = admitted else {
            return Err(refused(Refused::NoTenant));
        };
        // What was revoked before is not what is made now, although certificates are dated back a little.
        let revoked = admitted.spec.credentials.and_then(|it| it.not_before);
        let revoked = revoked.map(|time| SystemTime::from(time.0));
        let not_earlier = revoked.max(self.former.of(&tenant));
        // Nothing is signed before it is written down whom for.
        let bound = self
            .tokens
            .consume(&digest, &requested.fingerprint, &certificate, now)
            .await
            .map_err(Failure::Store)?
            .map_err(refused)?;
        let again = bound != certificate;
        let serial = super::token::unhex(&bound.serial).unwrap_or(serial);
        let lifetime = Lifetime::seconds(bound.seconds);
        let (certificate, facts) = self
            .issuing
            .tenant(
                &tenant,
                &requested.key,
                serial,
                lifetime,
                bound.made(),
                not_earlier,
            )
            .map_err(Failure::Authority)?;
        Ok(Given {
            tenant,
            serial: facts.serial,
            certificate,
            again,
        })
    }

    fn give(
        &self,
        remote: SocketAddr,
        token: Option<&TokenId>,
        given: Given,
    ) -> v1::CertificateResponse {
        let result = if given.again {
            "issued_again"
        } else {
            "issued"
        };
        self.metrics.enrolled(result);
        let subject = audit::Subject {
            tenant: Some(&given.tenant),
            serial: Some(&given.serial),
            token: token.map(TokenId::as_str),
            ..audit::Subject::peer(remote)
        };
        audit::certificate(&subject, result, "");
        v1::CertificateResponse {
            certificate: given.certificate,
            authorities: self.issuing.authority().bundle().to_owned(),
        }
    }

    fn refuse(&self, remote: SocketAddr, token: Option<&TokenId>, failure: Failure) -> Status {
        let result = failure.label();
        self.metrics.enrolled(result);
        if failure.is_the_senders() {
            let address = address_key(remote.ip());
            let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
            if attempts.refused(&address, Instant::now()) {
                warn!(%address, "too many refused join tokens: this address has to wait");
            }
        }
        let tenant = match &failure {
            Failure::Refused(_, tenant) => tenant.clone(),
            _ => None,
        };
        let subject = audit::Subject {
            tenant: tenant.as_ref(),
            token: token.map(TokenId::as_str),
            ..audit::Subject::peer(remote)
        };
        let status = failure.status();
        audit::refusal(&subject, result, status.message());
        status
    }
}

impl Failure {
    /// For metric and audit.
    fn label(&self) -> &'static str {
        match self {
            Self::Locked(_) => "address_locked",
            Self::Csr(error) => error.label(),
            Self::Refused(refused, _) => refused.label(),
            Self::Store(_) | Self::Tenants(_) => "cluster_unavailable",
            Self::Authority(_) => "authority_failed",
            Self::Busy => "busy",
        }
    }

    /// Whether it counts against the address.
    fn is_the_senders(&self) -> bool {
        matches!(self, Self::Csr(_) | Self::Refused(..))
    }

    fn status(self) -> Status {
        match self {
            Self::Locked(left) => locked(left),
            Self::Csr(error) => Status::invalid_argument(error.to_string()),
            Self::Refused(..) => Status::permission_denied(NOT_ACCEPTED),
            Self::Store(error) => {
                let error = anyhow::Error::from(error);
                warn!("a join token cannot be looked up: {error:#}");
                Status::unavailable("the hub cannot reach its tokens; try again")
            }
            Self::Tenants(error) => {
                warn!(%error, "a Tenant cannot be looked up");
                Status::unavailable("the hub cannot reach its cluster; try again")
            }
            Self::Authority(error) => {
                let error = anyhow::Error::from(error);
                warn!("a certificate cannot be issued: {error:#}");
                Status::unavailable("the hub cannot issue certificates now; its log says why")
            }
            Self::Busy => Status::unavailable("too many join at once; try again"),
        }
    }
}

pub(super) fn locked(left: Duration) -> Status {
    let seconds = left.as_secs() + 1;
    let mut status = Status::new(
        Code::ResourceExhausted,
        format!("too many refused join tokens from this address: it may try again in {seconds} s"),
    );
    let milliseconds = (seconds * 1_000).to_string();
    if let Ok(value) = MetadataValue::try_from(milliseconds) {
        status.metadata_mut().insert(PUSHBACK, value);
    }
    status
}
