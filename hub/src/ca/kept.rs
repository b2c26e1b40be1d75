//! What stands in the place of an authority, in the middle of a rotation and outside of one, and the three changes that a rotation
//! makes. Each is one write of everything, so that whoever reads, or goes on after an interruption, finds one of four states and no
//! other. Pure: PEM texts in, PEM texts out.
//!
//! | state | signs | trusted | besides |
//! |---|---|---|---|
//! | at rest | the authority | the authority | |
//! | published | the authority | it and the next | the next with its key |
//! | switched | the next, which is the authority now | it and the previous | the previous, whose key is gone |
//! | at rest again | the authority | the authority | when it came to that |

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use berth_common::{
    identity::{CertificateFacts, KeyId, TrustDomain},
    tls::certificates_from_pem,
};

use super::{Authority, CaError};

/// The texts of an authority's place; PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept {
    /// The certificate of the authority that signs.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// The authorities to trust: that one first.
    pub bundle: String,
    /// The one that is to sign next: its certificate and its key.
    pub next: Option<(String, String)>,
    /// The certificate of the one that has signed before.
    pub previous: Option<String>,
    /// The certificate of the next, or of the one that signs now, by the one before it.
    pub cross: Option<String>,
    /// Since when it stands so, in whole seconds since 1970. None before the first rotation.
    pub since: Option<u64>,
}

/// Where a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// In none, or at its end, since then.
    Rest(Option<SystemTime>),
    /// The next authority is made known.
    Published {
        /// Its key.
        next: KeyId,
        /// Since when.
        since: SystemTime,
    },
    /// The next authority signs, and the one before is still trusted.
    Switched {
        /// Since when.
        since: SystemTime,
    },
}

impl Kept {
    /// A new authority, as it is kept first.
    pub fn new(authority: &Authority) -> Self {
        Self {
            certificate: authority.bundle().to_owned(),
            key: authority.key_pem(),
            bundle: authority.bundle().to_owned(),
            next: None,
            previous: None,
            cross: None,
            since: None,
        }
    }

    /// The authority that signs, trusting what is to be trusted. `place` is for errors, the trust domain for a certificate that has none.
    ///
    /// # Errors
    /// When the texts are no authority.
    pub fn authority(
        &self,
        trust_domain: Option<&TrustDomain>,
        place: &str,
    ) -> Result<Authority, CaError> {
        let authority = Authority::from_pem(&self.bundle, &self.key, trust_domain, place)?;
        // Before the switch nobody needs it: what signs is what everybody trusts.
        let cross = self.previous.as_ref().and(self.cross.clone());
        Ok(authority.with_cross(cross))
    }

    /// Where the rotation is.
    ///
    /// # Errors
    /// When the next authority's certificate cannot be read.
    pub fn stage(&self, place: &str) -> Result<Stage, CaError> {
        let since = self
            .since
            .map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let begun = since.unwrap_or(SystemTime::UNIX_EPOCH);
        if let Some((next, _)) = &self.next {
            let next = key_id(next, place)?;
            return Ok(Stage::Published { next, since: begun });
        }
        Ok(match self.previous {
            Some(_) => Stage::Switched { since: begun },
            None => Stage::Rest(since),
        })
    }

    /// The key of the one that has signed before.
    ///
    /// # Errors
    /// When its certificate cannot be read.
    pub fn previous_key(&self, place: &str) -> Result<Option<KeyId>, CaError> {
        self.previous
            .as_ref()
            .map(|pem| key_id(pem, place))
            .transpose()
    }

    /// Makes the next authority known. It signs nothing yet.
    #[must_use]
    pub fn publish(&self, next: &Authority, cross: Option<String>, now: SystemTime) -> Self {
        Self {
            bundle: joined(blocks(&self.bundle).chain(blocks(next.bundle()))),
            next: Some((next.bundle().to_owned(), next.key_pem())),
            cross,
            since: Some(seconds(now)),
            ..self.clone()
        }
    }

    /// The next authority signs from now on. The key of the one before is needed no more, and goes. None where there is no next one.
    #[must_use]
    pub fn switch(&self, now: SystemTime) -> Option<Self> {
        let switched = self.switched()?;
        Some(Self {
            since: Some(seconds(now)),
            ..switched
        })
    }

    /// The same without a word of the time.
    pub(super) fn switched(&self) -> Option<Self> {
        let (certificate, key) = self.next.clone()?;
        let others = blocks(&self.bundle).filter(|block| *block != certificate.trim());
        Some(Self {
            bundle: joined(blocks(&certificate).chain(others)),
            certificate,
            key,
            next: None,
            previous: Some(self.certificate.clone()),
            cross: self.cross.clone(),
            since: self.since,
        })
    }

    /// The one that has signed before is trusted no more.
    #[must_use]
    pub fn drop_previous(&self, now: SystemTime) -> Self {
        let previous = self.previous.as_deref().unwrap_or_default().trim();
        Self {
            bundle: joined(blocks(&self.bundle).filter(|block| *block != previous)),
            previous: None,
            cross: None,
            since: Some(seconds(now)),
            ..self.clone()
        }
    }
}

const END: &str = "-----END CERTIFICATE-----";

/// The certificates of a PEM text, each as it stands there.
fn blocks(pem: &str) -> impl Iterator<Item = &str> {
    let blocks = pem.split_inclusive(END).map(str::trim);
    blocks.filter(|block| block.ends_with(END))
}

/// The first certificate of a PEM text.
pub(super) fn first(pem: &str) -> Option<&str> {
    blocks(pem).next()
}

/// Whether the first certificate of a text is in a bundle.
pub(super) fn has(bundle: &str, certificate: &str) -> bool {
    let wanted = first(certificate);
    blocks(bundle).any(|block| Some(block) == wanted)
}

fn joined<'a>(blocks: impl Iterator<Item = &'a str>) -> String {
    blocks.map(|block| format!("{block}\n")).collect()
}

fn key_id(pem: &str, place: &str) -> Result<KeyId, CaError> {
    let certificates = certificates_from_pem(Path::new(place), pem.as_bytes())?;
    let facts = CertificateFacts::from_der(&certificates[0])?;
    facts.key.ok_or_else(|| CaError::Unusable {
        place: place.to_owned(),
        problem: "it names no key of its own (no subject key identifier)",
    })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
