//! Who may have a session: what the `Tenant` object says, and why not. Pure.

use std::sync::Arc;

use berth_common::{
    annotations::Allowed,
    identity::{Serial, TenantName},
};

use super::{
    Repetitions,
    credential::{Credential, Revocations, Revoked},
};

/// What the `Tenant` object says of a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// The operator has suspended the tenant: no session, everything stays as it is.
    pub suspended: bool,
    /// The operator has deleted it.
    pub deleting: bool,
    /// `metadata.uid`: another Tenant of the same name begins anew.
    pub uid: String,
    /// The cluster that the identity is bound to.
    pub cluster_uid: Option<String>,
    /// The cluster that held the identity until an operator cleared the binding: it is let in while nobody else holds the
    /// identity, and does not take it again.
    pub former_cluster: Option<String>,
    /// Certificates of the tenant that are not good any more.
    pub revoked: Arc<Revocations>,
    /// Which annotations of its Services may pass.
    pub allowed: Allowed,
    /// How often it may change again what it has changed just before.
    pub repetitions: Repetitions,
    /// Which version of the object says so.
    pub version: u64,
}

impl Admission {
    /// Takes over from what was known what this one cannot say: whose a binding was that was cleared by hand. Returns whether it is
    /// of another object than the one of this name before.
    pub(super) fn take(&mut self, before: Option<&Self>) -> bool {
        let Some(before) = before else { return false };
        if before.version > self.version {
            // Somebody else has told a newer version meanwhile.
            self.clone_from(before);
        } else if before.uid != self.uid {
            return true;
        } else if self.cluster_uid.is_none() && self.former_cluster.is_none() {
            let former = before.cluster_uid.as_ref();
            self.former_cluster = former.or(before.former_cluster.as_ref()).cloned();
        }
        false
    }
}

/// Why a session may not be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no `Tenant` object of that name.
    #[error(
        "tenant {0} is not known to this hub: an operator admits it by creating the Tenant object {0}"
    )]
    Unknown(TenantName),
    /// The `Tenant` object says `suspended: true`.
    #[error(
        "tenant {0} is suspended: its load balancers stay as they are until an operator resumes it"
    )]
    Suspended(TenantName),
    /// The `Tenant` object is being deleted.
    #[error(
        "tenant {0} is being deleted: an operator has deleted the Tenant object {0}, and its load balancers go by its reclaim policy"
    )]
    Deleting(TenantName),
    /// The `Tenant` object says that this certificate is good no more.
    #[error(
        "the certificate {serial} of tenant {tenant} is refused: {why}; an operator gives this cluster a new one"
    )]
    Revoked {
        /// Whose it is.
        tenant: TenantName,
        /// Its serial number.
        serial: Serial,
        /// What the operator has said.
        why: Revoked,
    },
    /// The authority that signed this certificate is trusted no more.
    #[error(
        "the certificate {serial} of tenant {tenant} is by an authority that is trusted no more; an operator gives this cluster a new one"
    )]
    FormerAuthority {
        /// Whose it is.
        tenant: TenantName,
        /// Its serial number.
        serial: Serial,
    },
    /// Another cluster came first.
    #[error(
        "identity {tenant} already belongs to the cluster with UID {bound}; this one is {other}: \
         give every cluster a certificate of its own; or, where this one takes the other's place, \
         run `berth-hub tenant rebind {tenant} --to {other}`"
    )]
    OtherCluster {
        /// Whose identity it is.
        tenant: TenantName,
        /// The cluster that holds it.
        bound: String,
        /// The cluster that wants it.
        other: String,
    },
    /// The agent does not know its cluster yet, and a session of one that is known is live: it may be another's.
    #[error(
        "this agent cannot tell yet which cluster it is in, and {tenant} has a session of the cluster with UID {holder}: \
         come back when the cluster's API server answers"
    )]
    ClusterUnknown {
        /// Whose identity it is.
        tenant: TenantName,
        /// The cluster of the live session.
        holder: String,
    },
    /// This hub is on its way out; whoever it has told to leave must not come back to it.
    #[error("this hub is leaving; come back")]
    Leaving,
}

impl Refused {
    /// The value of the label `reason` of the metric that counts refusals.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown_tenant",
            Self::Suspended(_) => "suspended",
            Self::Deleting(_) => "deleting",
            Self::Revoked { .. } => "revoked",
            Self::FormerAuthority { .. } => "former_authority",
            Self::OtherCluster { .. } => "other_cluster",
            Self::ClusterUnknown { .. } => "unknown_cluster",
            Self::Leaving => "leaving",
        }
    }
}

/// Whether a tenant of which its object says this may have a session, and with these certificates.
pub(super) fn may_be<'a, 'c>(
    tenant: &TenantName,
    admission: Option<&'a Admission>,
    credentials: impl IntoIterator<Item = &'c Credential>,
) -> Result<&'a Admission, Refused> {
    let admission = admission.ok_or_else(|| Refused::Unknown(tenant.clone()))?;
    if admission.deleting {
        return Err(Refused::Deleting(tenant.clone()));
    }
    if admission.suspended {
        return Err(Refused::Suspended(tenant.clone()));
    }
    for credential in credentials {
        if let Some(why) = admission.revoked.revoke(credential) {
            return Err(Refused::Revoked {
                tenant: tenant.clone(),
                serial: credential.serial.clone(),
                why,
            });
        }
    }
    Ok(admission)
}
