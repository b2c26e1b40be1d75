//! What is in the agent's Secret, and what has to be done about it. Several agents of one tenant share it, so that nothing in it is
//! replaced without need: the key is made once, and a newer certificate wins. Pure but for the making of a key.

use std::{fmt, sync::Arc, time::SystemTime};

use berth_common::tls::{ClientTls, TlsError};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};

/// Key, certificate and authorities, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Held {
    /// The private key.
    pub key: String,
    /// The certificate, once there is one.
    pub certificate: Option<Given>,
}

/// What the hub gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The certificate and its chain.
    pub certificate: String,
    /// Whom to trust.
    pub authorities: String,
}

/// Without the key.
impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// What can be done with it.
pub enum State {
    /// It is good.
    Good(Arc<ClientTls>),
    /// There is a key, and no certificate as yet.
    Bare,
    /// There is a certificate, and it cannot be used: most often it has expired.
    Unusable(TlsError),
}

impl Held {
    /// A new key.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn new() -> Result<Self, rcgen::Error> {
        Ok(Self {
            key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem(),
            certificate: None,
        })
    }

    /// The same key with this certificate.
    #[must_use]
    pub fn with(&self, given: Given) -> Self {
        Self {
            key: self.key.clone(),
            certificate: Some(given),
        }
    }

    /// A request for a certificate for the key, in DER. It says nothing but that: the hub knows the rest.
    ///
    /// # Errors
    /// When the key cannot be read.
    pub fn request(&self) -> Result<Vec<u8>, rcgen::Error> {
        let key = KeyPair::from_pem(&self.key)?;
        let request = CertificateParams::default().serialize_request(&key)?;
        Ok(request.der().to_vec())
    }

    /// How it stands.
    pub fn state(&self, now: SystemTime) -> State {
        let Some(given) = &self.certificate else {
            return State::Bare;
        };
        let (certificate, authorities) = (&given.certificate, &given.authorities);
        match ClientTls::client_in_memory(certificate, &self.key, authorities, now) {
            Ok(tls) => State::Good(tls),
            Err(error) => State::Unusable(error),
        }
    }
}
