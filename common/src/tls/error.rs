//! What can be wrong with TLS files, each said with the file's name and what to do. No message ever contains a byte
//! of a key file.

use std::{io, path::PathBuf, time::SystemTime};

use super::validity::format_time;

/// Why TLS credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file is not there.
    #[error(
        "there is no file {}; make certificates with `berth-hub ca init` and `berth-hub cert issue`, or correct the path",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is there and cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Far larger than any certificate or key.
    #[error("{} is larger than {max} bytes, so it is neither a certificate nor a key", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The largest size read.
        max: u64,
    },
    /// No PEM block of the expected kind, or a broken one.
    #[error("{} has no {expected} in PEM form ({problem})", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        expected: &'static str,
        /// What was found instead.
        problem: &'static str,
    },
    /// A PEM block whose content is not a certificate.
    #[error("the certificate number {number} in {} cannot be used: {problem}", path.display())]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// Which one, counted from 1.
        number: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A private key of a kind that is not supported.
    #[error("the private key in {} is not supported; use ECDSA P-256 or P-384, Ed25519, or RSA from 2,048 bits", path.display())]
    UnsupportedKey {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key are of different pairs.
    #[error(
        "the private key in {} does not belong to the certificate in {}; both must come from the same `cert issue`",
        key.display(), cert.display()
    )]
    KeyMismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The certificate is over.
    #[error(
        "the certificate in {} expired on {}; issue a new one with `berth-hub cert issue` and replace the file",
        path.display(), format_time(*not_after)
    )]
    Expired {
        /// The file.
        path: PathBuf,
        /// When it ended.
        not_after: SystemTime,
    },
    /// The certificate begins later.
    #[error(
        "the certificate in {} is valid only from {}; check this machine's clock, or issue a new one",
        path.display(), format_time(*not_before)
    )]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// When it begins.
        not_before: SystemTime,
    },
    /// A CA's certificate, or one for the other end of the connection.
    #[error("the certificate in {} {problem}; issue one with `berth-hub cert issue {issue}`", path.display())]
    WrongPurpose {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
        /// The option of `cert issue` that makes a fitting one.
        issue: &'static str,
    },
    /// A certificate among the trusted ones is no CA.
    #[error(
        "the certificate number {number} in {} is not a certificate authority's; put the CA's certificate (ca.crt) there",
        path.display()
    )]
    NotAnAuthority {
        /// The file.
        path: PathBuf,
        /// Which one, counted from 1.
        number: usize,
    },
    /// Not one of the trusted authorities is in its validity.
    #[error("every certificate authority in {} is expired or not yet valid (the last one ends on {})", path.display(), format_time(*not_after))]
    NoValidAuthority {
        /// The file.
        path: PathBuf,
        /// When the last one ends.
        not_after: SystemTime,
    },
    /// The name to verify the hub by is neither a DNS name nor an IP address.
    #[error(
        "{name:?} is neither a DNS name nor an IP address; the hub's certificate cannot be verified by it"
    )]
    BadServerName {
        /// The name.
        name: String,
    },
    /// The TLS library refused what was loaded.
    #[error("the TLS library refused these credentials")]
    Library(#[from] rustls::Error),
    /// The TLS library refused the authorities.
    #[error("the TLS library refused these certificate authorities")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}
