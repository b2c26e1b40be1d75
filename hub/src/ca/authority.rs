//! An authority that is ready to sign: its certificate, its key, its trust domain.

use std::{fmt, path::Path, time::SystemTime};

use berth_common::{
    identity::{CertificateFacts, Identity, KeyId, TrustDomain},
    tls::certificates_from_pem,
};
use rcgen::{CertificateParams, Issuer, KeyPair, PublicKeyData};
use rustls_pki_types::CertificateDer;

use super::{CaError, CertificateRequest, Lifetime, fresh_key, fresh_serial, policy};

/// A certificate authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    facts: CertificateFacts,
    trust_domain: TrustDomain,
    bundle: String,
    trusted: Vec<KeyId>,
    /// Its own certificate by the authority before it, which the hub shows with its own: who trusts only that one verifies it so.
    cross: Option<String>,
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
        Self::made(trust_domain, lifetime, now).map(|(authority, _)| authority)
    }

    fn made(
        trust_domain: TrustDomain,
        lifetime: Lifetime,
        now: SystemTime,
    ) -> Result<(Self, CertificateParams), CaError> {
        let params = policy::authority(&trust_domain, lifetime, fresh_serial()?, now)?;
        let key = fresh_key()?;
        let certificate = params.self_signed(&key)?;
        let authority = Self {
            facts: CertificateFacts::from_der(certificate.der())?,
            trusted: key_ids([certificate.der()])?,
            bundle: certificate.pem(),
            issuer: Issuer::new(params.clone(), key),
            trust_domain,
            cross: None,
        };
        Ok((authority, params))
    }

    /// A new authority that is to take the place of this one, and its certificate by this one; PEM. The latter ends when the first of the
    /// two does, and there is none where this one vouches for nothing any more.
    ///
    /// # Errors
    /// As [`Authority::create`].
    pub fn succeed(
        &self,
        lifetime: Lifetime,
        now: SystemTime,
    ) -> Result<(Self, Option<String>), CaError> {
        let (next, mut params) = Self::made(self.trust_domain.clone(), lifetime, now)?;
        if !policy::vouch(&mut params, &self.facts, fresh_serial()?, now) {
            return Ok((next, None));
        }
        let cross = params.signed_by(next.issuer.key(), &self.issuer)?;
        Ok((next, Some(cross.pem())))
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
            trusted: key_ids(&chain)?,
            bundle: certificates.to_owned(),
            facts,
            cross: None,
        })
    }

    /// The same, which shows this certificate of its own besides, by the authority before it; PEM.
    #[must_use]
    pub fn with_cross(mut self, cross: Option<String>) -> Self {
        self.cross = cross;
        self
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

    /// The ids of the keys of all in the bundle, this one's first. An authority that says no id has none.
    pub fn trusted(&self) -> &[KeyId] {
        &self.trusted
    }

    /// Its certificate by the authority before it; PEM.
    pub fn cross(&self) -> Option<&str> {
        self.cross.as_deref()
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
        let mut chain = certificate.pem();
        if request.subject == Identity::Hub {
            chain.extend(self.cross.iter().map(String::as_str));
        }
        Ok(Issued {
            certificate: chain,
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

fn key_ids<'a>(
    certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>,
) -> Result<Vec<KeyId>, CaError> {
    let mut ids = Vec::new();
    for certificate in certificates {
        ids.extend(CertificateFacts::from_der(certificate)?.key);
    }
    Ok(ids)
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
