//! Which of a tenant's certificates are still good: what the operator has revoked, and what a session showed. Pure.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use berth_common::{
    identity::{KeyId, PeerCertificate, Serial},
    tls::format_time,
};

use crate::api::Credentials;

/// What a session's certificate says, as far as revocation and the change of authorities ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Its serial number.
    pub serial: Serial,
    /// From when on it is valid.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
    /// The key that signed it.
    pub signed_by: Option<KeyId>,
}

/// The certificate of a live session: that of its connection, or the one that its agent was given since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// It.
    pub credential: Credential,
    /// Whom its agent was told to trust with it, where this process knows.
    pub trusts: Option<Vec<KeyId>>,
}

/// A certificate of which nothing is known: every `notBefore` revokes it.
impl Default for Credential {
    fn default() -> Self {
        Self {
            serial: Serial::from_bytes(&[]),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
            signed_by: None,
        }
    }
}

impl From<&PeerCertificate> for Credential {
    fn from(certificate: &PeerCertificate) -> Self {
        Self {
            serial: certificate.serial.clone(),
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            signed_by: certificate.signed_by,
        }
    }
}

/// What the `Tenant` object says of certificates (`spec.credentials`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Certificates that are valid from an earlier time are refused.
    pub not_before: Option<SystemTime>,
    /// So are these.
    pub serials: BTreeSet<Serial>,
    /// A Tenant of the same name was deleted then. What is valid from before is that one's.
    pub former_until: Option<SystemTime>,
}

/// Why a certificate is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Revoked {
    /// By its serial number.
    #[error("it was revoked by its serial number")]
    Serial,
    /// By its time.
    #[error("all that are valid from before {} were revoked", format_time(*.0))]
    Earlier(SystemTime),
    /// It is another Tenant's.
    #[error("it is from before {}, of a Tenant of the same name that was deleted then", format_time(*.0))]
    Former(SystemTime),
}

/// The schema lets only serial numbers in; what got in otherwise names no certificate.
impl From<Credentials> for Revocations {
    fn from(credentials: Credentials) -> Self {
        let serials = credentials.revoked_serials.iter();
        Self {
            not_before: credentials.not_before.map(|time| time.0.into()),
            serials: serials.filter_map(|serial| serial.parse().ok()).collect(),
            former_until: None,
        }
    }
}

impl Revocations {
    /// Whether that certificate is refused, and why. Certificates tell whole seconds, so a time is taken as its second.
    pub fn revoke(&self, certificate: &Credential) -> Option<Revoked> {
        if self.serials.contains(&certificate.serial) {
            return Some(Revoked::Serial);
        }
        let before = |limit: &SystemTime| certificate.not_before < *limit;
        let revoked = self.not_before.map(whole_second).filter(before);
        let former = self.former_until.map(whole_second).filter(before);
        let of_former = former.map(Revoked::Former);
        of_former.or(revoked.map(Revoked::Earlier))
    }

    /// From when on a certificate has to be valid. What is issued now is dated back no further.
    pub fn not_earlier(&self) -> Option<SystemTime> {
        self.not_before.max(self.former_until)
    }
}

fn whole_second(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.unwrap_or_default().as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
    }

    fn certificate(serial: u8, from: u64) -> Credential {
        Credential {
            serial: Serial::from_bytes(&[serial]),
            not_before: at(from),
            ..Credential::default()
        }
    }

    #[test]
    fn hostile_09_a_certificate_is_revoked_by_its_serial_or_by_its_time() {
        let none = Revocations::default();
        assert_eq!(none.revoke(&certificate(7, 0)), None);

        let one = Revocations {
            serials: [Serial::from_bytes(&[0, 7])].into(),
            ..Revocations::default()
        };
        assert_eq!(one.revoke(&certificate(7, 9_000)), Some(Revoked::Serial));
        assert_eq!(one.revoke(&certificate(8, 0)), None);

        let earlier = Revocations {
            not_before: Some(at(5_999)),
            ..Revocations::default()
        };
        let former = Revocations {
            former_until: Some(at(7_000)),
            ..earlier.clone()
        };
        assert_eq!(
            former.revoke(&certificate(7, 6_000)),
            Some(Revoked::Former(at(7_000)))
        );
        assert_eq!(former.revoke(&certificate(7, 7_000)), None);
        assert_eq!(former.not_earlier(), Some(at(7_000)));
        assert_eq!(
            earlier.revoke(&certificate(7, 4_000)),
            Some(Revoked::Earlier(at(5_000)))
        );
        assert_eq!(
            earlier.revoke(&certificate(7, 5_000)),
            None,
            "of the very second"
        );
        assert_eq!(
            earlier.revoke(&Credential::default()),
            Some(Revoked::Earlier(at(5_000)))
        );
    }
}
