//! Where authorities and certificates are kept: a directory, or a Secret of the management cluster. It moves PEM texts
//! and refuses to overwrite; what the texts mean is not its concern. Keys are readable by their owner alone.

mod directory;
mod secret;
#[cfg(test)]
mod tests;

use std::{fmt, path::PathBuf, str::FromStr};

use berth_common::identity::{NameError, TrustDomain};
use k8s_openapi::api::core::v1::Secret;

use super::{Authority, CaError, Issued, Kept, SecretRefError};

pub use secret::manifest;

/// A certificate, its key, and the authorities that go with it; PEM.
pub struct PemSet {
    /// The certificate (of a peer, or of the authority itself).
    pub certificate: String,
    /// Its private key.
    pub key: String,
    /// The authorities to trust.
    pub bundle: String,
}

impl From<&Issued> for PemSet {
    fn from(issued: &Issued) -> Self {
        Self {
            certificate: issued.certificate.clone(),
            key: issued.key.clone(),
            bundle: issued.bundle.clone(),
        }
    }
}

/// A Secret, written `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl FromStr for SecretRef {
    type Err = SecretRefError;

    fn from_str(text: &str) -> Result<Self, SecretRefError> {
        let (namespace, name) = text.split_once('/').ok_or(SecretRefError::Form)?;
        if name.contains('/') {
            return Err(SecretRefError::Form);
        }
        check("the namespace", namespace, false)?;
        check("the name", name, true)?;
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

/// A trust domain and an object's name have the same form, a DNS subdomain (RFC 1123); a namespace has no dots.
fn check(part: &'static str, text: &str, dots: bool) -> Result<(), SecretRefError> {
    let dot = text.find('.').filter(|_| !dots);
    match (TrustDomain::parse(text), dot) {
        (Ok(_), None) => Ok(()),
        (Ok(_), Some(at)) => Err(NameError::ForbiddenByte { byte: b'.', at }),
        (Err(problem), _) => Err(problem),
    }
    .map_err(|problem| SecretRefError::Part { part, problem })
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What was read, to be replaced and nothing else.
pub enum Version {
    /// Of a directory: its content.
    Directory(Box<Kept>),
    /// The object.
    Secret(Box<Secret>),
}

/// A place to keep things in.
#[derive(Clone)]
pub enum Place {
    /// A directory: `ca.crt` and `ca.key` of an authority (and during a rotation what [`Kept`] has besides), `tls.crt`, `tls.key` and `ca.crt` of a peer.
    Directory(PathBuf),
    /// A Secret of the type `kubernetes.io/tls`: `tls.crt`, `tls.key` and `ca.crt`, as cert-manager names them.
    Secret(kube::Client, SecretRef),
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Secret(_, secret) => write!(f, "the Secret {secret}"),
        }
    }
}

impl Place {
    /// Keeps a new authority.
    ///
    /// # Errors
    /// [`CaError::AlreadyExists`] where there is one: it is never overwritten. Others when writing fails.
    pub async fn keep_authority(&self, authority: &Authority) -> Result<(), CaError> {
        let kept = Kept::new(authority);
        match self {
            Self::Directory(path) => directory::create_authority(path, &kept),
            Self::Secret(client, secret) => secret::create_authority(client, secret, &kept).await,
        }
    }

    /// Reads an authority. `trust_domain` is needed for one that names none.
    ///
    /// # Errors
    /// [`CaError::NotFound`] where there is none; others when what is there is no authority.
    pub async fn authority(
        &self,
        trust_domain: Option<&TrustDomain>,
    ) -> Result<Authority, CaError> {
        let (kept, _) = self.kept().await?;
        kept.authority(trust_domain, &self.to_string())
    }

    /// Everything that stands there, and which version of it this is.
    ///
    /// # Errors
    /// [`CaError::NotFound`] where there is none; others when it cannot be read.
    pub async fn kept(&self) -> Result<(Kept, Version), CaError> {
        match self {
            Self::Directory(path) => directory::read_authority(path)
                .map(|kept| (kept.clone(), Version::Directory(Box::new(kept)))),
            Self::Secret(client, secret) => secret::read_authority(client, secret)
                .await
                .map(|(kept, object)| (kept, Version::Secret(Box::new(object)))),
        }
    }

    /// Puts this in the place of that version.
    ///
    /// # Errors
    /// [`CaError::Changed`] where another one stands there by now, [`CaError::ForeignAuthority`] where it is somebody else's; others when
    /// writing fails.
    pub async fn replace(&self, kept: &Kept, version: &Version) -> Result<(), CaError> {
        match (self, version) {
            (Self::Directory(path), Version::Directory(before)) => {
                directory::replace_authority(path, kept, before)
            }
            (Self::Secret(client, secret), Version::Secret(before)) => {
                secret::replace_authority(client, secret, kept, before).await
            }
            _ => Err(CaError::Changed {
                place: self.to_string(),
            }),
        }
    }

    /// Whether a hub follows what changes there: not in a Secret of somebody else's, who knows nothing of an overlap.
    pub fn is_ours(version: &Version) -> bool {
        match version {
            Version::Directory(_) => true,
            Version::Secret(object) => secret::is_ours(object),
        }
    }

    /// Keeps a peer's certificate with its key.
    ///
    /// # Errors
    /// [`CaError::Occupied`] where there is one and `replace` was not asked for; others when writing fails.
    pub async fn keep_certificate(&self, pem: &PemSet, replace: bool) -> Result<(), CaError> {
        match self {
            Self::Directory(path) => directory::write_certificate(path, pem, replace),
            Self::Secret(client, secret) => secret::put(client, secret, pem, replace).await,
        }
    }
}

/// The certificate in a Secret (`tls.crt`), to look at.
///
/// # Errors
/// [`CaError::NotFound`] where there is none.
pub async fn certificate_in_secret(
    client: &kube::Client,
    secret: &SecretRef,
) -> Result<String, CaError> {
    secret::read(client, secret)
        .await
        .map(|pem| pem.certificate)
}
