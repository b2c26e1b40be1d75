//! Certificates for the tests: good ones, and ones that no authority of ours would make.

use std::{fs, path::Path, sync::Arc, time::SystemTime};

use berth_common::tls::TlsFiles;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P256_SHA256, SanType, string::Ia5String,
};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion, client::ResolvesClientCert,
    crypto::ring, sign,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use time::{Duration, OffsetDateTime};

pub(super) struct Ca {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

pub(super) struct Client {
    pub(super) chain: Vec<CertificateDer<'static>>,
    key: String,
}

/// So many hours from now.
pub(super) fn hours(hours: i64) -> OffsetDateTime {
    OffsetDateTime::from(SystemTime::now()) + Duration::hours(hours)
}

pub(super) fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn leaf(usage: ExtendedKeyUsagePurpose, san: SanType) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![san];
    params.extended_key_usages = vec![usage];
    params.not_before = hours(-3);
    params.not_after = hours(3);
    params
}

impl Ca {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = key();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// The hub's three files, trusting this authority.
    pub(super) fn write_server(&self, directory: &Path) -> TlsFiles {
        let name = SanType::DnsName(Ia5String::try_from("hub.example").unwrap());
        let key = key();
        let certificate = leaf(ExtendedKeyUsagePurpose::ServerAuth, name)
            .signed_by(&key, &self.issuer)
            .unwrap();
        let files = TlsFiles {
            cert: directory.join("tls.crt"),
            key: directory.join("tls.key"),
            ca: directory.join("ca.crt"),
        };
        fs::write(&files.cert, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        fs::write(&files.ca, &self.pem).unwrap();
        files
    }

    pub(super) fn client(&self, path: &str) -> Client {
        let name = uri(&format!("spiffe://berth.local/{path}"));
        self.client_with(|params| params.subject_alt_names = vec![name])
    }

    /// A client's certificate, changed.
    pub(super) fn client_with(&self, change: impl FnOnce(&mut CertificateParams)) -> Client {
        let name = uri("spiffe://berth.local/tenant/acme");
        let mut params = leaf(ExtendedKeyUsagePurpose::ClientAuth, name);
        change(&mut params);
        let key = key();
        Client {
            chain: vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()],
            key: key.serialize_pem(),
        }
    }
}

impl Client {
    /// TLS 1.3, h2, this certificate, and trust in `ca`.
    pub(super) fn config(&self, ca: &Ca) -> ClientConfig {
        client_config(ca, Some(self), &[&rustls::version::TLS13])
    }

    /// Presents the certificate whatever is wrong with it.
    fn resolver(&self) -> Arc<dyn ResolvesClientCert> {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let key = ring::sign::any_supported_type(&key).unwrap();
        Arc::new(sign::SingleCertAndKey::from(sign::CertifiedKey::new(
            self.chain.clone(),
            key,
        )))
    }
}

pub(super) fn client_config(
    ca: &Ca,
    client: Option<&Client>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match client {
        Some(client) => config.with_client_cert_resolver(client.resolver()),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}
