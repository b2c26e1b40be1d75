//! `berth.v1.Renewal`: another certificate for the tenant that the connection belongs to. The connection then lives until the new one
//! ends, and with it the session on it: it is the same peer, and what it was given is what it will show next.

use std::{sync::Arc, time::SystemTime};

use berth_common::{identity::TenantName, tls::Validity};
use berth_wire::v1::{self, renewal_server::Renewal};
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use tracing::warn;

use super::{EnrollMetrics, Requested, budget::Budgets};
use crate::{
    audit,
    ca::{Issuing, fresh_serial},
    certificates::Certificates,
    listen::Peer,
    session::tenant_of,
    tenants::{Credential, Tenants},
};

/// The service. Clones are the same.
#[derive(Clone)]
pub struct Renewals(Arc<Inner>);

struct Inner {
    issuing: Arc<Issuing>,
    tenants: Arc<Tenants>,
    certificates: Arc<Certificates>,
    budgets: Budgets,
    metrics: EnrollMetrics,
}

impl Renewals {
    /// Certificates of this authority for these tenants.
    pub fn new(
        issuing: Arc<Issuing>,
        tenants: Arc<Tenants>,
        certificates: Arc<Certificates>,
        metrics: EnrollMetrics,
    ) -> Self {
        Self(Arc::new(Inner {
            issuing,
            tenants,
            certificates,
            budgets: Budgets::default(),
            metrics,
        }))
    }
}

#[tonic::async_trait]
impl Renewal for Renewals {
    async fn renew(
        &self,
        request: Request<v1::RenewRequest>,
    ) -> Result<Response<v1::CertificateResponse>, Status> {
        let peer = request
            .extensions()
            .get::<Arc<Peer>>()
            .cloned()
            .ok_or_else(|| Status::unauthenticated("no client certificate"))?;
        match self.0.renew(&peer, &request.into_inner().csr) {
            Ok(response) => Ok(Response::new(response)),
            Err((result, tenant, status)) => {
                self.0.metrics.renewed(result);
                let subject = audit::Subject {
                    tenant: tenant.as_ref(),
                    former: peer.serial.as_ref(),
                    ..audit::Subject::peer(peer.remote)
                };
                audit::refusal(&subject, result, status.message());
                Err(status)
            }
        }
    }
}

/// For metric and audit, whom it is about, and what the peer is told.
type Refusal = (&'static str, Option<TenantName>, Status);

impl Inner {
    fn renew(&self, peer: &Peer, csr: &[u8]) -> Result<v1::CertificateResponse, Refusal> {
        let (tenant, shown) = tenant_of(peer).map_err(|(result, status)| (result, None, status))?;
        let now = SystemTime::now();
        let refused =
            |result, status: Status| -> Refusal { (result, Some(tenant.clone()), status) };
        if peer.expiry.at() <= now {
            let status = Status::unauthenticated("the client certificate has expired");
            return Err(refused("expired", status));
        }
        self.tenants
            .check(&tenant, &Credential::from(shown))
            .map_err(|why| refused(why.label(), Status::permission_denied(why.to_string())))?;
        // Over a connection that was made with a certificate of a former authority, only who was given another one since.
        if self.tenants.is_former(shown.signed_by) && peer.expiry.at() <= shown.not_after {
            let text = "the client certificate is by an authority that is trusted no more";
            return Err(refused("former_authority", Status::unauthenticated(text)));
        }
        if !self.budgets.spend(&tenant, Instant::now()) {
            let status = Status::resource_exhausted("this tenant renews its certificate too often");
            return Err(refused("too_often", status));
        }
        let requested = Requested::from_der(csr)
            .map_err(|why| refused(why.label(), Status::invalid_argument(why.to_string())))?;
        // Certificates are dated back a little, but not to before what was revoked.
        let not_earlier = self.tenants.not_earlier(&tenant);
        let issued = fresh_serial().and_then(|serial| {
            let lifetime = self.issuing.tenants_lifetime();
            self.issuing
                .tenant(&tenant, &requested.key, serial, lifetime, now, not_earlier)
        });
        let (certificate, facts) = issued.map_err(|error| {
            warn!(%tenant, "a certificate cannot be renewed: {:#}", anyhow::Error::from(error));
            let status =
                Status::unavailable("the hub cannot issue certificates now; its log says why");
            refused("authority_failed", status)
        })?;
        self.metrics.renewed("issued");
        let subject = audit::Subject {
            tenant: Some(&tenant),
            serial: Some(&facts.serial),
            former: peer.serial.as_ref(),
            ..audit::Subject::peer(peer.remote)
        };
        audit::certificate(&subject, "renewed", "");
        let new = Credential {
            serial: facts.serial.clone(),
            not_before: facts.not_before,
            not_after: facts.not_after,
            signed_by: facts.signed_by,
        };
        let authority = self.issuing.authority();
        let trusts = authority.trusted().to_vec();
        self.tenants
            .renewed(&tenant, &Credential::from(shown), new, trusts);
        peer.expiry.extend(facts.not_after);
        self.certificates.shown(&tenant, Validity::from(&facts));
        Ok(v1::CertificateResponse {
            certificate,
            authorities: authority.bundle().to_owned(),
        })
    }
}
