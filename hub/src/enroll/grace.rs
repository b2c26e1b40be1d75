//! Whether a certificate that has expired is good for one more thing: another one for the same key, without a token, where the Tenant
//! allows that (`spec.renewGraceSeconds`). The request for it is signed by the key, which proves that the sender has it; whoever repeats
//! somebody's request gets a certificate for a key that is not theirs. Pure: the time is a parameter.

use std::time::{Duration, SystemTime};

use berth_common::{
    identity::{Identity, TenantName, TrustDomain, identity_of},
    tls::{once_valid, renewal::CLOCK_SKEW},
};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Requested, token::hex};
use crate::{
    api::Tenant,
    tenants::{Credential, Revocations},
};

/// The largest certificate looked at. One of ours has 600 bytes.
pub(super) const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;

/// Why there is no other certificate. The one who asks is never told which; the audit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoGrace {
    /// It is no tenant's certificate of an authority that is trusted now.
    Foreign,
    /// The request is for another key than the certificate's.
    OtherKey,
    /// The Tenant is gone or going, or another one of the same name, or suspended.
    NoTenant,
    /// It was revoked.
    Revoked,
    /// The Tenant allows no grace.
    None,
    /// It has expired too long ago.
    Over,
}

impl NoGrace {
    /// For metric and audit.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Foreign => "foreign_certificate",
            Self::OtherKey => "other_key",
            Self::NoTenant => "no_tenant",
            Self::Revoked => "revoked",
            Self::None => "no_grace",
            Self::Over => "grace_over",
        }
    }
}

/// A certificate that was a tenant's, and that its sender has the key of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Former {
    /// Whose it was.
    pub(super) tenant: TenantName,
    /// It.
    pub(super) credential: Credential,
}

impl Former {
    /// Checks a certificate (DER) by these authorities (PEM), and that the request is for its key.
    ///
    /// # Errors
    /// [`NoGrace::Foreign`], [`NoGrace::OtherKey`].
    pub(super) fn read(
        der: &[u8],
        requested: &Requested,
        authorities: &str,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, NoGrace> {
        if der.len() > MAX_CERTIFICATE_BYTES {
            return Err(NoGrace::Foreign);
        }
        let peer = identity_of(der, trust_domain).map_err(|_| NoGrace::Foreign)?;
        let Identity::Tenant(tenant) = &peer.identity else {
            return Err(NoGrace::Foreign);
        };
        once_valid(der, authorities, now).map_err(|_| NoGrace::Foreign)?;
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| NoGrace::Foreign)?;
        let key = hex(&Sha256::digest(certificate.public_key().raw));
        if key != requested.fingerprint {
            return Err(NoGrace::OtherKey);
        }
        Ok(Self {
            tenant: tenant.clone(),
            credential: Credential::from(&peer),
        })
    }

    /// Whether this Tenant gives it another one.
    ///
    /// # Errors
    /// [`NoGrace`].
    pub(super) fn may_have(&self, tenant: Option<&Tenant>, now: SystemTime) -> Result<(), NoGrace> {
        let tenant = tenant.ok_or(NoGrace::NoTenant)?;
        // A Tenant that is younger than the certificate is another one of the same name.
        let made = self.credential.not_before + CLOCK_SKEW;
        let created = tenant.metadata.creation_timestamp.as_ref();
        let same = created.is_some_and(|created| SystemTime::from(created.0) <= made);
        let leaves = tenant.metadata.deletion_timestamp.is_some();
        if tenant.spec.suspended || leaves || !same {
            return Err(NoGrace::NoTenant);
        }
        let revocations = Revocations::from(tenant.spec.credentials.clone().unwrap_or_default());
        if revocations.revoke(&self.credential).is_some() {
            return Err(NoGrace::Revoked);
        }
        let grace = tenant.spec.renew_grace_seconds.unwrap_or_default();
        if grace == 0 {
            return Err(NoGrace::None);
        }
        let since = now.duration_since(self.credential.not_after);
        match since.unwrap_or_default() <= Duration::from_secs(grace.into()) {
            true => Ok(()),
            false => Err(NoGrace::Over),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};

    use super::*;
    use crate::{
        api::{Credentials, TenantSpec},
        ca::{Authority, DEFAULT_AUTHORITY_LIFETIME, Issuing, Lifetime},
    };

    const HOUR: Duration = Duration::from_secs(3_600);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_413_000)
    }

    fn authority() -> Authority {
        let made = now() - 1_000 * HOUR;
        Authority::create(TrustDomain::default(), DEFAULT_AUTHORITY_LIFETIME, made).unwrap()
    }

    fn key() -> KeyPair {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
    }

    fn requested(key: &KeyPair) -> Requested {
        let request = CertificateParams::default().serialize_request(key).unwrap();
        Requested::from_der(request.der()).unwrap()
    }

    /// A certificate for an hour, made then.
    fn issued(authority: Authority, key: &KeyPair, made: SystemTime) -> Vec<u8> {
        let hour = Lifetime::seconds(3_600);
        let issuing = Issuing::new(authority, hour);
        let tenant = "acme".parse().unwrap();
        let (pem, _) = issuing
            .tenant(&tenant, &requested(key).key, [7; 16], hour, made, None)
            .unwrap();
        let all = berth_common::tls::certificates_from_pem("x".as_ref(), pem.as_bytes()).unwrap();
        all[0].to_vec()
    }

    fn tenant(created: SystemTime, grace: Option<u32>) -> Tenant {
        let mut tenant = Tenant::new(
            "acme",
            TenantSpec {
                renew_grace_seconds: grace,
                ..TenantSpec::default()
            },
        );
        tenant.metadata.creation_timestamp = Some(time(created));
        tenant
    }

    fn time(at: SystemTime) -> Time {
        Time(Timestamp::try_from(at).unwrap())
    }

    #[test]
    fn only_a_tenants_certificate_of_ours_whose_key_signs_the_request_is_read() {
        let (ours, mine) = (authority(), key());
        let bundle = ours.bundle().to_owned();
        let made = now() - 3 * HOUR;
        let read = |der: &[u8], key: &KeyPair, bundle: &str| {
            let domain = TrustDomain::default();
            Former::read(der, &requested(key), bundle, &domain, now())
        };
        let der = issued(ours, &mine, made);
        let former = read(&der, &mine, &bundle).unwrap();
        assert_eq!(former.tenant.as_str(), "acme");
        assert_eq!(read(&der, &key(), &bundle), Err(NoGrace::OtherKey));
        let theirs = authority();
        assert_eq!(read(&der, &mine, theirs.bundle()), Err(NoGrace::Foreign));
        let forged = issued(theirs, &mine, made);
        assert_eq!(read(&forged, &mine, &bundle), Err(NoGrace::Foreign));
        let mut bent = der.clone();
        let last = bent.len() - 1;
        bent[last] ^= 1;
        assert_eq!(read(&bent, &mine, &bundle), Err(NoGrace::Foreign));
        assert_eq!(read(&der[..100], &mine, &bundle), Err(NoGrace::Foreign));
        let long = vec![0x30; MAX_CERTIFICATE_BYTES + 1];
        assert_eq!(read(&long, &mine, &bundle), Err(NoGrace::Foreign));
    }

    #[test]
    fn the_tenant_decides_for_how_long() {
        let mine = key();
        let ours = authority();
        let bundle = ours.bundle().to_owned();
        // Made three hours ago for one: expired for two.
        let made = now() - 3 * HOUR;
        let der = issued(ours, &mine, made);
        let domain = TrustDomain::default();
        let former = Former::read(&der, &requested(&mine), &bundle, &domain, now()).unwrap();
        let old = made - HOUR;
        let ask = |tenant: &Tenant| former.may_have(Some(tenant), now());
        assert_eq!(ask(&tenant(old, Some(7_200))), Ok(()));
        assert_eq!(ask(&tenant(old, Some(7_199))), Err(NoGrace::Over));
        assert_eq!(ask(&tenant(old, Some(0))), Err(NoGrace::None));
        assert_eq!(ask(&tenant(old, None)), Err(NoGrace::None));
        assert_eq!(former.may_have(None, now()), Err(NoGrace::NoTenant));
        // Deleted, and made anew under the same name.
        let younger = tenant(made + HOUR, Some(7_200));
        assert_eq!(ask(&younger), Err(NoGrace::NoTenant));
        let mut suspended = tenant(old, Some(7_200));
        suspended.spec.suspended = true;
        assert_eq!(ask(&suspended), Err(NoGrace::NoTenant));
        let mut leaving = tenant(old, Some(7_200));
        leaving.metadata.deletion_timestamp = Some(time(now()));
        assert_eq!(ask(&leaving), Err(NoGrace::NoTenant));
        for credentials in [
            Credentials {
                not_before: Some(time(now())),
                ..Credentials::default()
            },
            Credentials {
                revoked_serials: vec![former.credential.serial.to_string()],
                ..Credentials::default()
            },
        ] {
            let mut revoked = tenant(old, Some(7_200));
            revoked.spec.credentials = Some(credentials);
            assert_eq!(ask(&revoked), Err(NoGrace::Revoked));
        }
    }
}
