//! What may be in a request for a certificate: a public key of a kind that is strong, and the proof that the sender has its private
//! half. Everything else in it is ignored, names above all. Pure.

use rcgen::SubjectPublicKeyInfo;
use sha2::{Digest as _, Sha256};
use x509_parser::{
    certification_request::X509CertificationRequest,
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, Oid},
    prelude::FromDer as _,
};

use super::token::hex;

/// The largest request looked at. One with a P-256 key has 250 bytes.
pub const MAX_CSR_BYTES: usize = 16 * 1024;

/// Why a request is refused, in words for whoever wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Larger than [`MAX_CSR_BYTES`].
    #[error("the certificate request has more than {MAX_CSR_BYTES} bytes")]
    TooLarge,
    /// Not PKCS#10 in DER, or bytes follow it.
    #[error("the certificate request is not PKCS#10 in DER")]
    Malformed,
    /// A key that is weak, or of a kind not accepted here.
    #[error(
        "the certificate request has a key that is not accepted: it must be ECDSA P-256 or P-384"
    )]
    Key,
    /// Not signed by the key in it.
    #[error("the certificate request is not signed by its own key")]
    Signature,
}

impl CsrError {
    /// For metric and audit.
    pub fn label(self) -> &'static str {
        match self {
            Self::TooLarge => "csr_too_large",
            Self::Malformed => "csr_malformed",
            Self::Key => "csr_weak_key",
            Self::Signature => "csr_bad_signature",
        }
    }
}

/// All that is taken from a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested {
    /// The public key.
    pub key: SubjectPublicKeyInfo,
    /// Its SHA-256, hexadecimal.
    pub fingerprint: String,
}

impl Requested {
    /// Checks a request.
    ///
    /// # Errors
    /// [`CsrError`].
    pub fn from_der(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX_CSR_BYTES {
            return Err(CsrError::TooLarge);
        }
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed);
        }
        let key = &request.certification_request_info.subject_pki;
        let curve = key
            .algorithm
            .parameters
            .as_ref()
            .and_then(|any| any.as_oid().ok());
        let strong = |curve: Oid<'_>| curve == OID_EC_P256 || curve == OID_NIST_EC_P384;
        if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || !curve.is_some_and(strong) {
            return Err(CsrError::Key);
        }
        request
            .verify_signature()
            .map_err(|_| CsrError::Signature)?;
        Ok(Self {
            fingerprint: hex(&Sha256::digest(key.raw)),
            key: SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| CsrError::Key)?,
        })
    }
}
