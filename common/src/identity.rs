//! Who a peer is: the names of tenants, admins and trust domains, the SPIFFE URI that carries one of them, and the
//! reading of that URI from a certificate. It knows names, bytes and X.509, and nothing of sockets, files or clocks.
//! It never trims, lower-cases, decodes or normalises: a URI is the canonical form byte for byte, or it is an error.

mod certificate;
mod key_id;
mod name;
mod serial;
#[cfg(test)]
mod tests;
mod uri;

use std::fmt;

pub use certificate::{CertificateFacts, IdentityError, PeerCertificate, identity_of};
pub use key_id::{KeyId, KeyIdError};
pub use name::{AdminName, MAX_NAME_LENGTH, NameError, TenantName, TrustDomain};
pub use serial::{Serial, SerialError};
pub use uri::{MAX_URI_LENGTH, UriError};

/// What a certificate of Berth's CA says its holder is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// The agent of one tenant cluster: `spiffe://<trust-domain>/tenant/<name>`.
    Tenant(TenantName),
    /// A person or a tool of the operator's: `spiffe://<trust-domain>/admin/<name>`.
    Admin(AdminName),
    /// The hub itself, on its serving certificate: `spiffe://<trust-domain>/hub`.
    Hub,
}

impl Identity {
    /// The tenant's name, where this is a tenant.
    pub fn tenant(&self) -> Option<&TenantName> {
        match self {
            Self::Tenant(name) => Some(name),
            Self::Admin(_) | Self::Hub => None,
        }
    }

    /// The admin's name, where this is an admin.
    pub fn admin(&self) -> Option<&AdminName> {
        match self {
            Self::Admin(name) => Some(name),
            Self::Tenant(_) | Self::Hub => None,
        }
    }
}

/// `tenant/acme`, `admin/ops` or `hub`: the path of the URI, for logs and for a certificate's common name.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(name) => write!(f, "tenant/{name}"),
            Self::Admin(name) => write!(f, "admin/{name}"),
            Self::Hub => f.write_str("hub"),
        }
    }
}
