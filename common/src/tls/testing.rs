//! A small certificate authority for this module's tests.

use std::{fs, path::Path, time::SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P256_SHA256, SanType, string::Ia5String,
};
use time::{Duration, OffsetDateTime};

use super::TlsFiles;

pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

pub(crate) struct Issued {
    pub(crate) pem: String,
    pub(crate) key: String,
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

/// The parameters of a good leaf, for a test to spoil.
pub(crate) fn leaf(usage: ExtendedKeyUsagePurpose, san: SanType) -> CertificateParams {
    let now = OffsetDateTime::from(SystemTime::now());
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![san];
    params.extended_key_usages = vec![usage];
    params.not_before = now - Duration::hours(1);
    params.not_after = now + Duration::hours(2);
    params
}

impl Authority {
    pub(crate) fn new() -> Self {
        let now = OffsetDateTime::from(SystemTime::now());
        Self::valid(now - Duration::hours(1), now + Duration::days(1))
    }

    pub(crate) fn valid(not_before: OffsetDateTime, not_after: OffsetDateTime) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = not_before;
        params.not_after = not_after;
        let key = key();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn issue(&self, params: &CertificateParams) -> Issued {
        let key = key();
        Issued {
            pem: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    pub(crate) fn server(&self) -> Issued {
        let name = SanType::DnsName(Ia5String::try_from("hub.example").unwrap());
        self.issue(&leaf(ExtendedKeyUsagePurpose::ServerAuth, name))
    }

    pub(crate) fn client(&self) -> Issued {
        let name = uri("spiffe://berth.local/tenant/acme");
        self.issue(&leaf(ExtendedKeyUsagePurpose::ClientAuth, name))
    }
}

impl Issued {
    /// Writes the three files into a directory.
    pub(crate) fn write(&self, directory: &Path, ca: &str) -> TlsFiles {
        let files = TlsFiles {
            cert: directory.join("tls.crt"),
            key: directory.join("tls.key"),
            ca: directory.join("ca.crt"),
        };
        fs::write(&files.cert, &self.pem).unwrap();
        fs::write(&files.key, &self.key).unwrap();
        fs::write(&files.ca, ca).unwrap();
        files
    }
}
