//! The second method of `berth.v1.Enrollment`: an expired certificate for another one, where the Tenant allows it. As with tokens, the
//! order of what is looked at is the order of what it costs, and whoever is refused is told the same, whatever the reason.

use std::{
    net::SocketAddr,
    sync::PoisonError,
    time::{Duration, SystemTime},
};

use berth_common::identity::{Serial, TenantName};
use berth_wire::v1;
use tokio::time::Instant;
use tonic::Status;
use tracing::warn;

use super::{
    CsrError, Requested,
    grace::{Former, NoGrace},
    service::{Inner, PATIENCE, locked},
};
use crate::{
    audit,
    ca::{CaError, fresh_serial},
    listen::address_key,
};

/// The same for every certificate that is not renewed.
const NOT_RENEWED: &str = "the expired certificate is not renewed: the hub's operator makes a join token with `berth-hub token create`, or lets \
                           this tenant renew by itself for longer (spec.renewGraceSeconds of its Tenant)";

/// What is not given, and why.
enum Failure {
    Locked(Duration),
    Csr(CsrError),
    Refused(NoGrace, Option<Former>),
    TooOften(Former),
    Tenants(kube::Error),
    Authority(CaError),
    Busy,
}

impl Inner {
    pub(super) async fn rejoin(
        &self,
        remote: SocketAddr,
        request: &v1::RejoinRequest,
    ) -> Result<v1::CertificateResponse, Status> {
        let failure = match self.renew_expired(remote, request).await {
            Ok(response) => return Ok(response),
            Err(failure) => failure,
        };
        let result = failure.label();
        self.metrics.renewed(result);
        if matches!(failure, Failure::Csr(_) | Failure::Refused(..)) {
            let address = address_key(remote.ip());
            let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
            if attempts.refused(&address, Instant::now()) {
                warn!(%address, "too many refused certificates: this address has to wait");
            }
        }
        let about = failure.about();
        let subject = audit::Subject {
            tenant: about.as_ref().map(|(tenant, _)| tenant),
            former: about.as_ref().map(|(_, serial)| serial),
            ..audit::Subject::peer(remote)
        };
        let status = failure.status();
        audit::refusal(&subject, result, status.message());
        Err(status)
    }

    async fn renew_expired(
        &self,
        remote: SocketAddr,
        request: &v1::RejoinRequest,
    ) -> Result<v1::CertificateResponse, Failure> {
        self.attempts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .may(&address_key(remote.ip()), Instant::now())
            .map_err(|locked| Failure::Locked(locked.0))?;
        let requested = Requested::from_der(&request.csr).map_err(Failure::Csr)?;
        let (authority, now) = (self.issuing.authority(), SystemTime::now());
        let (bundle, domain) = (authority.bundle(), authority.trust_domain());
        let former = Former::read(&request.certificate, &requested, bundle, domain, now)
            .map_err(|why| Failure::Refused(why, None))?;
        let _turn = tokio::time::timeout(PATIENCE, self.turns.acquire())
            .await
            .map_err(|_| Failure::Busy)?;
        // Asked for at the API server, as for a token: what has been revoked just now counts.
        let tenant = self.tenants.get_opt(former.tenant.as_str()).await;
        let tenant = tenant.map_err(Failure::Tenants)?;
        former
            .may_have(tenant.as_ref(), now)
            .map_err(|why| Failure::Refused(why, Some(former.clone())))?;
        if !self.budgets.spend(&former.tenant, Instant::now()) {
            return Err(Failure::TooOften(former));
        }
        let lifetime = self.issuing.tenants_lifetime();
        let (certificate, facts) = fresh_serial()
            .and_then(|serial| {
                let key = &requested.key;
                self.issuing
                    .tenant(&former.tenant, key, serial, lifetime, now, None)
            })
            .map_err(Failure::Authority)?;
        self.metrics.renewed("issued_in_grace");
        let subject = audit::Subject {
            tenant: Some(&former.tenant),
            serial: Some(&facts.serial),
            former: Some(&former.credential.serial),
            ..audit::Subject::peer(remote)
        };
        audit::certificate(&subject, "renewed_in_grace", "");
        Ok(v1::CertificateResponse {
            certificate,
            authorities: self.issuing.authority().bundle().to_owned(),
        })
    }
}

impl Failure {
    /// For metric and audit.
    fn label(&self) -> &'static str {
        match self {
            Self::Locked(_) => "address_locked",
            Self::Csr(error) => error.label(),
            Self::Refused(why, _) => why.label(),
            Self::TooOften(_) => "too_often",
            Self::Tenants(_) => "cluster_unavailable",
            Self::Authority(_) => "authority_failed",
            Self::Busy => "busy",
        }
    }

    /// Whose certificate it is, once it is known to be one of ours.
    fn about(&self) -> Option<(TenantName, Serial)> {
        match self {
            Self::Refused(_, Some(former)) | Self::TooOften(former) => {
                Some((former.tenant.clone(), former.credential.serial.clone()))
            }
            _ => None,
        }
    }

    fn status(self) -> Status {
        match self {
            Self::Locked(left) => locked(left),
            Self::Csr(error) => Status::invalid_argument(error.to_string()),
            Self::Refused(..) => Status::permission_denied(NOT_RENEWED),
            Self::TooOften(_) => {
                Status::resource_exhausted("this tenant renews its certificate too often")
            }
            Self::Tenants(error) => {
                warn!(%error, "a Tenant cannot be looked up");
                Status::unavailable("the hub cannot reach its cluster; try again")
            }
            Self::Authority(error) => {
                let error = anyhow::Error::from(error);
                warn!("an expired certificate cannot be renewed: {error:#}");
                Status::unavailable("the hub cannot issue certificates now; its log says why")
            }
            Self::Busy => Status::unavailable("too many join at once; try again"),
        }
    }
}
