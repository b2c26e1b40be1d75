//! What can go wrong with the authority, said with what to do. No message contains key material.

use std::{io, path::PathBuf};

use berth_common::{
    identity::{IdentityError, NameError},
    tls::TlsError,
};

use super::PolicyError;

/// Why the authority could not be made, read, kept, or used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// There is one already; it is never overwritten.
    #[error(
        "{place} already holds a certificate authority, and every certificate issued so far depends on it: \
         use it, or choose another place"
    )]
    AlreadyExists {
        /// The directory or Secret.
        place: String,
    },
    /// There is none.
    #[error(
        "{place} holds no certificate authority ({missing}); make one with `berth-hub ca init {option}`"
    )]
    NotFound {
        /// The directory or Secret.
        place: String,
        /// What is missing, as in `ca.crt and ca.key are missing`.
        missing: String,
        /// The option that names the place: `--dir DIR`.
        option: String,
    },
    /// Part of one is there, which is not overwritten.
    #[error(
        "{place} holds no whole certificate authority ({missing}): bring that back from a copy, or make another authority in another place"
    )]
    Incomplete {
        /// The directory or Secret.
        place: String,
        /// What is missing, as in `ca.key is missing`.
        missing: String,
    },
    /// A certificate would replace another one.
    #[error("{place} already holds a certificate; add --replace to put the new one in its place")]
    Occupied {
        /// The file or Secret.
        place: String,
    },
    /// A Secret that somebody else made.
    #[error(
        "the Secret {place} is not managed by berth-hub, so it is left alone; choose another name"
    )]
    ForeignSecret {
        /// The Secret.
        place: String,
    },
    /// Somebody else's authority, to be rotated where it is made.
    #[error(
        "the Secret {place} is not managed by berth-hub: rotate the authority where it is made, and have agents trust both meanwhile"
    )]
    ForeignAuthority {
        /// The Secret.
        place: String,
    },
    /// Somebody else has changed it since it was read.
    #[error(
        "{place} was changed by somebody else at this moment: run the same command again, and it goes on from there"
    )]
    Changed {
        /// The directory or Secret.
        place: String,
    },
    /// What is kept is not an authority.
    #[error("the certificate in {place} cannot sign others: {problem}")]
    Unusable {
        /// The directory or Secret.
        place: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The authority's certificate cannot be read.
    #[error("the authority's certificate cannot be read")]
    Unreadable(#[from] IdentityError),
    /// The authority does not say its trust domain, as a foreign CA does not.
    #[error("the authority in {place} does not name a trust domain; name it with --trust-domain")]
    NoTrustDomain {
        /// The directory or Secret.
        place: String,
    },
    /// The authority is of another trust domain than asked for.
    #[error("the authority in {place} is of the trust domain {found}, not of {asked}")]
    OtherTrustDomain {
        /// The directory or Secret.
        place: String,
        /// What the authority says.
        found: String,
        /// What was asked for.
        asked: String,
    },
    /// The request was refused.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A PEM file is broken.
    #[error(transparent)]
    Pem(#[from] TlsError),
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `read`, `write` or `create`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The management cluster's API refused, or could not be reached.
    #[error("cannot {action} the Secret {place}")]
    Api {
        /// `read`, `create` or `replace`.
        action: &'static str,
        /// The Secret.
        place: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The system gave no randomness.
    #[error("the system gave no randomness for a key, a serial number or a token")]
    NoRandomness,
    /// The certificate library failed.
    #[error("the certificate could not be made")]
    Library(#[from] rcgen::Error),
}

/// Why a text does not name a Secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretRefError {
    /// Not two parts joined by one slash.
    #[error("is not of the form NAMESPACE/NAME")]
    Form,
    /// The namespace is no DNS label, or the name no DNS subdomain.
    #[error("names no Secret: {part} {problem}")]
    Part {
        /// `the namespace` or `the name`.
        part: &'static str,
        /// What is wrong.
        problem: NameError,
    },
}
