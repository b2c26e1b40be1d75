//! The hub's judgement of a client's chain: everything webpki checks (our CA, signatures, dates, no CA as leaf), and
//! two things it leaves open: the leaf must *say* clientAuth, and a chain must be short. It knows nothing of names.

use std::{path::Path, sync::Arc, time::SystemTime};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ExtendedKeyPurpose,
    InvalidMessage, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    server::{
        VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{
    TlsError,
    credentials::{authorities, provider},
};
use crate::identity::CertificateFacts;

/// The longest chain a client may send, leaf included: more is work for us and of no use to it.
pub const MAX_CHAIN_LENGTH: usize = 4;

/// A [`ClientCertVerifier`] that requires a certificate and lets nothing pass that the hub could regret.
#[derive(Debug)]
pub struct StrictClientVerifier {
    webpki: Arc<dyn ClientCertVerifier>,
}

impl StrictClientVerifier {
    /// A verifier that trusts these authorities and nobody else.
    pub fn new(
        authorities: RootCertStore,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let webpki =
            WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider).build()?;
        Ok(Self { webpki })
    }
}

impl ClientCertVerifier for StrictClientVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    /// None: a client of ours has one certificate, and a stranger need not learn our CA's name.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if intermediates.len() >= MAX_CHAIN_LENGTH {
            return Err(InvalidMessage::CertificatePayloadTooLarge.into());
        }
        let facts = CertificateFacts::from_der(end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let verified = match self
            .webpki
            .verify_client_cert(end_entity, intermediates, now)
        {
            // webpki has no error of its own for a CA used as a leaf, and it is a question of purpose.
            Err(Error::InvalidCertificate(CertificateError::Other(_))) if facts.is_authority => {
                return Err(wrong_purpose());
            }
            verdict => verdict?,
        };
        // webpki takes a leaf without extended key usages as good for everything.
        if facts.is_authority || !facts.for_clients {
            return Err(wrong_purpose());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Whether a client's certificate (DER) was good in the last second of its life, by authorities (PEM) that are good now. It may have
/// expired since; everything else is judged as in a handshake.
///
/// # Errors
/// What a handshake would end with.
pub fn once_valid(certificate: &[u8], trusted: &str, now: SystemTime) -> Result<(), TlsError> {
    let mut roots = RootCertStore::empty();
    let path = Path::new("(memory)/ca.crt");
    for authority in authorities(path, trusted.as_bytes(), now)?.0 {
        roots.add(authority)?;
    }
    let facts = CertificateFacts::from_der(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let last = facts
        .not_after
        .min(now)
        .duration_since(SystemTime::UNIX_EPOCH);
    let last = UnixTime::since_unix_epoch(last.unwrap_or_default());
    StrictClientVerifier::new(roots, provider())?
        .verify_client_cert(&CertificateDer::from(certificate), &[], last)
        .map(drop)?;
    Ok(())
}

fn wrong_purpose() -> Error {
    Error::InvalidCertificate(CertificateError::InvalidPurposeContext {
        required: ExtendedKeyPurpose::ClientAuth,
        presented: Vec::new(),
    })
}
