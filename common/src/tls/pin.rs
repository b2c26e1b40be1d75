//! Trust before there is any: a client that knows an authority by the digest of its public key alone, as kubeadm's join does. The
//! server sends the authority's certificate along, which is proof of nothing until its key has that digest; then the server's own
//! certificate is verified by it like any other.

use std::{fmt, str::FromStr, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{ALPN_H2, TlsError, credentials::provider};

const ALGORITHM: &str = "sha256:";

/// The digest of an authority's public key: `sha256:` and 64 hexadecimal digits, of the SubjectPublicKeyInfo in DER (RFC 7469, 2.4; the
/// same as kubeadm's `--discovery-token-ca-cert-hash`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin([u8; 32]);

/// Why a text is no pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not of the form sha256: and 64 hexadecimal digits")]
pub struct PinError;

impl Pin {
    /// Of a certificate's key. None where the bytes are no certificate.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        Some(Self(Sha256::digest(certificate.public_key().raw).into()))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ALGORITHM)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let digits = text.strip_prefix(ALGORITHM).ok_or(PinError)?;
        if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(PinError);
        }
        let mut pin = [0; 32];
        for (at, byte) in pin.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).map_err(|_| PinError)?;
        }
        Ok(Self(pin))
    }
}

/// A client without a certificate, that trusts the authority of this pin and no other.
pub fn pinned_client_config(pin: Pin) -> Result<ClientConfig, TlsError> {
    let verifier = PinnedVerifier {
        pin,
        provider: provider(),
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[derive(Debug)]
struct PinnedVerifier {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates
            .iter()
            .find(|certificate| Pin::of(certificate) == Some(self.pin))
            .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };

    use super::*;

    type Chain = Vec<CertificateDer<'static>>;

    /// The leaf and its authority.
    fn chain(authority: &KeyPair) -> Chain {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(authority).unwrap();
        let issuer = Issuer::new(params, authority);
        let mut params = CertificateParams::new(vec!["hub.example".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params
            .signed_by(&KeyPair::generate().unwrap(), &issuer)
            .unwrap();
        vec![leaf.der().clone(), root.der().clone()]
    }

    fn verify(pin: Pin, chain: &Chain, name: &str) -> Result<(), Error> {
        let verifier = PinnedVerifier {
            pin,
            provider: provider(),
        };
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier
            .verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now())
            .map(drop)
    }

    #[test]
    fn the_authority_of_the_pin_is_trusted_and_no_other() {
        let (ours, theirs) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let (good, bad) = (chain(&ours), chain(&theirs));
        let pin = Pin::of(&good[1]).unwrap();
        verify(pin, &good, "hub.example").unwrap();
        // Another authority, whether alone or beside the right one, which did not sign the leaf.
        verify(pin, &bad, "hub.example").unwrap_err();
        let mixed = vec![bad[0].clone(), bad[1].clone(), good[1].clone()];
        verify(pin, &mixed, "hub.example").unwrap_err();
        // The right one for another name, and not sent at all.
        verify(pin, &good, "other.example").unwrap_err();
        verify(pin, &good[..1].to_vec(), "hub.example").unwrap_err();
        // A leaf that has the pin is no authority.
        verify(Pin::of(&good[0]).unwrap(), &good, "hub.example").unwrap_err();
    }

    #[test]
    fn pins_read_and_write_alike() {
        let pin = Pin::of(&chain(&KeyPair::generate().unwrap())[1]).unwrap();
        let text = pin.to_string();
        assert_eq!(text.parse(), Ok(pin));
        assert_eq!(text.len(), 71);
        for wrong in [
            "",
            "sha256:",
            &text[7..],
            &text[..70],
            "sha256:zz",
            "md5:00",
        ] {
            assert_eq!(wrong.parse::<Pin>(), Err(PinError), "{wrong}");
        }
        assert_eq!(
            format!("sha256:{}", "é".repeat(32)).parse::<Pin>(),
            Err(PinError)
        );
    }
}
