//! An authority that is ready to sign: its certificate, its key, its trust domain.

use std::{fmt, path::Path, time::SystemTime};

use berth_common::{
    identity::{CertificateFacts, TrustDomain},
    tls::certificates_from_pem,
};
use rcgen::{Issuer, KeyPair, PublicKeyData};
use rustls_pki_types::CertificateDer;

use super::{CaError, CertificateRequest, Lifetime, fresh_key, fresh_serial, policy};

/// A certificate authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    facts: CertificateFacts,
    trust_domain: TrustDomain,
    bundle: String,
}

/// Without the key.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("facts", &self.facts)
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

/// A certificate just made, with its key.
pub struct Issued {
    /// The certificate, PEM.
    pub certificate: String,
    /// Its private key, PKCS#8 in PEM.
    pub key: String,
    /// The authorities to trust, PEM.
    pub bundle: String,
    /// What the certificate says.
    pub facts: CertificateFacts,
    /// Whether it lives shorter than asked for, because the authority does.
    pub shortened: bool,
}

/// Without the key.
impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("facts", &self.facts)
            .field("shortened", &self.shortened)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority, with a new key.
    ///
    /// # Errors
    /// Without randomness, or with a lifetime beyond the year 9999.
    pub fn create(
        trust_domain: TrustDomain,
        lifetime: Lifetime,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let params = policy::authority(&trust_domain, lifetime, fresh_serial()?, now)?;
        let key = fresh_key()?;
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            facts: CertificateFacts::from_der(certificate.der())?,
            bundle: certificate.pem(),
            issuer: Issuer::new(params, key),
            trust_domain,
        })
    }

    /// An authority that was made before, by [`Authority::create`] or by somebody else. The first certificate of the
    /// PEM text is the one that signs; more of them are only handed on to be trusted.
    ///
    /// `trust_domain` is needed where the certificate names none, and must agree where it does.
    ///
    /// # Errors
    /// When the texts are not a CA's certificate and its key. `place` is for their messages.
    pub fn from_pem(
        certificates: &str,
        key: &str,
        trust_domain: Option<&TrustDomain>,
        place: &str,
    ) -> Result<Self, CaError> {
        let unusable = |problem| CaError::Unusable {
            place: place.to_owned(),
            problem,
        };
        let chain = certificates_from_pem(Path::new(place), certificates.as_bytes())?;
        let facts = CertificateFacts::from_der(&chain[0])?;
        if let Some(problem) = policy::unusable(&facts) {
            return Err(unusable(problem));
        }
        let key = KeyPair::from_pem(key)
            .map_err(|_| unusable("its private key is missing or of a kind not supported"))?;
        if !has_key(&chain[0], &key) {
            return Err(unusable("its private key belongs to another certificate"));
        }
        Ok(Self {
            trust_domain: trust_domain_of(&facts, trust_domain, place)?,
            issuer: Issuer::from_ca_cert_der(&chain[0], key)?,
            bundle: certificates.to_owned(),
            facts,
        })
    }

    /// What its certificate says.
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// The trust domain of every certificate it makes.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Its certificate, and others to trust beside it; PEM.
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// Its private key, PKCS#8 in PEM. Only for keeping it.
    pub(super) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Makes a key and a certificate for it.
    ///
    /// # Errors
    /// When the request is refused (see [`super::PolicyError`]).
    pub fn issue(&self, request: &CertificateRequest, now: SystemTime) -> Result<Issued, CaError> {
        let key = fresh_key()?;
        let serial = fresh_serial()?;
        let (certificate, shortened) = self.sign(request, &key, serial, now)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            bundle: self.bundle.clone(),
            facts: CertificateFacts::from_der(certificate.der())?,
            shortened,
        })
    }

    /// Makes a certificate for a public key; also says whether it lives shorter than asked for.
    ///
    /// # Errors
    /// When the request is refused (see [`super::PolicyError`]).
    pub fn sign(
        &self,
        request: &CertificateRequest,
        key: &impl PublicKeyData,
        serial: [u8; 16],
        now: SystemTime,
    ) -> Result<(rcgen::Certificate, bool), CaError> {
        let params = policy::leaf(request, &self.trust_domain, &self.facts, serial, now)?;
        let shortened = policy::is_shortened(&params, request.lifetime, now);
        Ok((params.signed_by(key, &self.issuer)?, shortened))
    }
}

fn has_key(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    x509_parser::parse_x509_certificate(certificate)
        .is_ok_and(|(_, certificate)| certificate.public_key().raw == key.subject_public_key_info())
}

fn trust_domain_of(
    facts: &CertificateFacts,
    asked: Option<&TrustDomain>,
    place: &str,
) -> Result<TrustDomain, CaError> {
    let found = facts.uris.iter().find_map(|uri| TrustDomain::of_uri(uri));
    match (found, asked) {
        (Some(found), Some(asked)) if found != *asked => Err(CaError::OtherTrustDomain {
            place: place.to_owned(),
            found: found.to_string(),
            asked: asked.to_string(),
        }),
        (Some(found), _) => Ok(found),
        (None, Some(asked)) => Ok(asked.clone()),
        (None, None) => Err(CaError::NoTrustDomain {
            place: place.to_owned(),
        }),
    }
}
