//! Client certificates, good ones and ones that no authority in order would make: with the hub's own CA key in hand, or with one
//! that only looks like it.

use std::{fs, path::Path, time::SystemTime};

use berth_common::identity::{CertificateFacts, Serial};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use time::{Duration, OffsetDateTime};

/// `subjectAltName`.
const SAN: [u64; 4] = [2, 5, 29, 17];

/// Whoever signs.
pub(crate) struct Forger {
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
#[derive(Debug)]
pub(crate) struct Credential {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Clone for Credential {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl Credential {
    /// As an agent has it in files, or from somebody who has read these.
    pub(crate) fn of_files(certificate: &Path, key: &Path) -> Self {
        let chain = CertificateDer::pem_file_iter(certificate).unwrap();
        Self {
            chain: chain.collect::<Result<_, _>>().unwrap(),
            key: PrivateKeyDer::from_pem_file(key).unwrap(),
        }
    }

    /// A key of one's own, what asks for a certificate for it, and the two together once that is there.
    pub(crate) fn asked() -> (Vec<u8>, impl FnOnce(&str) -> Self) {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&key);
        let with = move |pem: &str| Self {
            chain: vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        };
        (request.unwrap().der().to_vec(), with)
    }

    /// What revokes it.
    pub(crate) fn serial(&self) -> Serial {
        CertificateFacts::from_der(&self.chain[0]).unwrap().serial
    }
}

/// So many hours from now.
pub(crate) fn hours(hours: i64) -> OffsetDateTime {
    OffsetDateTime::from(SystemTime::now()) + Duration::hours(hours)
}

/// The name of a tenant, as it stands in a certificate.
pub(crate) fn tenant_uri(tenant: &str) -> String {
    format!("spiffe://berth.local/tenant/{tenant}")
}

impl Forger {
    /// The hub's own authority, stolen.
    pub(crate) fn stolen(ca: &Path) -> Self {
        let read = |name| fs::read_to_string(ca.join(name)).unwrap();
        let key = KeyPair::from_pem(&read("ca.key")).unwrap();
        Self {
            issuer: Issuer::from_ca_cert_pem(&read("ca.crt"), key).unwrap(),
        }
    }

    /// Another authority under the same name: its certificates name the hub's as their issuer.
    pub(crate) fn lookalike(ca: &Path) -> Self {
        let certificate = fs::read_to_string(ca.join("ca.crt")).unwrap();
        Self {
            issuer: Issuer::from_ca_cert_pem(&certificate, KeyPair::generate().unwrap()).unwrap(),
        }
    }

    /// Another authority altogether.
    pub(crate) fn foreign() -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "Elsewhere CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self {
            issuer: Issuer::new(params, KeyPair::generate().unwrap()),
        }
    }

    /// As the hub would make it.
    pub(crate) fn tenant(&self, tenant: &str) -> Credential {
        self.forge(tenant, |_| {})
    }

    /// As the hub would make it but for one thing.
    pub(crate) fn forge(
        &self,
        tenant: &str,
        spoil: impl FnOnce(&mut CertificateParams),
    ) -> Credential {
        let mut params = CertificateParams::default();
        params.custom_extensions = vec![names(&[tenant_uri(tenant).as_bytes()])];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = hours(-3);
        params.not_after = hours(3);
        spoil(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Credential {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }
}

/// URI names of any bytes, also such as no IA5String may have.
pub(crate) fn names(uris: &[&[u8]]) -> CustomExtension {
    let names: Vec<u8> = uris.iter().flat_map(|uri| der(0x86, uri)).collect();
    CustomExtension::from_oid_content(&SAN, der(0x30, &names))
}

/// Tag, length and value.
fn der(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len();
    let mut out = vec![tag];
    match length {
        0..128 => out.push(length as u8),
        128..256 => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend(value);
    out
}
