//! What is kept of one token, and what may be done with it now. Every decision about a token is made here, on a copy: whoever asks
//! writes the copy back where nobody has changed the original meanwhile, or asks again. Pure: the time is a parameter.

use std::time::{Duration, SystemTime};

use berth_common::identity::TenantName;
use serde::{Deserialize, Serialize};

use super::token::TokenDigest;

/// The longest that a token may be good for.
pub const MAX_TTL: Duration = Duration::from_secs(3_600);

/// How long an entry is kept after its deadline, so that a list and the audit can still tell what became of it.
const KEPT: Duration = Duration::from_secs(3_600);

/// One token. Times are in whole seconds since 1970, so that the text in the Secret is read by eye.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// SHA-256 of the token, hexadecimal.
    pub digest: String,
    /// Whom it admits.
    pub tenant: TenantName,
    /// `metadata.uid` of that Tenant: one that is made anew under the same name is not meant.
    pub tenant_uid: String,
    /// When it was made.
    pub created: u64,
    /// Until when it is good.
    pub deadline: u64,
    /// Taken back by an operator.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoked: bool,
    /// What it was used for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Bound>,
}

/// What a token's first use has bound it to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bound {
    /// SHA-256 of the public key, hexadecimal.
    pub key: String,
    /// The certificate that it got.
    pub certificate: Signed,
}

/// What makes a certificate the same one when it is signed again: a retry gets nothing new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Signed {
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// When it was made.
    pub at: u64,
    /// For how long.
    pub seconds: u64,
}

/// Why a token is not accepted. The one who tries is never told which; the audit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is none.
    Unknown,
    /// Its deadline has passed.
    Expired,
    /// It was used with another key.
    Used,
    /// An operator took it back.
    Revoked,
    /// Its Tenant is gone or about to be, or another one of the same name, or suspended.
    NoTenant,
}

impl Refused {
    /// For metric and audit.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown_token",
            Self::Expired => "expired_token",
            Self::Used => "used_token",
            Self::Revoked => "revoked_token",
            Self::NoTenant => "no_tenant",
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Sign, and write this entry down before anything is handed out.
    First(Entry),
    /// Hand out the same certificate again.
    Again(Signed),
}

impl Entry {
    /// A new one. `ttl` is at most [`MAX_TTL`].
    pub fn new(
        digest: &TokenDigest,
        tenant: TenantName,
        tenant_uid: String,
        ttl: Duration,
        now: SystemTime,
    ) -> Self {
        let created = seconds(now);
        Self {
            digest: digest.to_hex(),
            tenant,
            tenant_uid,
            created,
            deadline: created + ttl.min(MAX_TTL).as_secs(),
            revoked: false,
            used: None,
        }
    }

    /// What `digest` with this key gets now. `certificate` is what it would be, if this is the first use.
    ///
    /// # Errors
    /// [`Refused`]. Nothing is to be written then.
    pub fn decide(
        &self,
        digest: &TokenDigest,
        key: &str,
        certificate: Signed,
        now: SystemTime,
    ) -> Result<Decision, Refused> {
        // An id is short, and another token's may be the same.
        if !digest.is(&self.digest) {
            return Err(Refused::Unknown);
        }
        if self.revoked {
            return Err(Refused::Revoked);
        }
        if seconds(now) >= self.deadline {
            return Err(Refused::Expired);
        }
        match &self.used {
            Some(bound) if bound.key == key => Ok(Decision::Again(bound.certificate.clone())),
            Some(_) => Err(Refused::Used),
            None => Ok(Decision::First(Self {
                used: Some(Bound {
                    key: key.to_owned(),
                    certificate,
                }),
                ..self.clone()
            })),
        }
    }

    /// Whether nobody needs it any more.
    pub fn is_past(&self, now: SystemTime) -> bool {
        seconds(now) >= self.deadline + KEPT.as_secs()
    }

    /// How it stands, in a word.
    pub fn state(&self, now: SystemTime) -> &'static str {
        match &self.used {
            _ if self.revoked => "revoked",
            Some(_) => "used",
            None if seconds(now) >= self.deadline => "expired",
            None => "unused",
        }
    }
}

impl Signed {
    /// When it was made.
    pub fn made(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.at)
    }
}

/// Whole seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
