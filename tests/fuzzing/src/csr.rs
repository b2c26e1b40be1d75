//! Requests for certificates, as a stranger with a stolen token could send them: nothing comes of one but a public key that its sender
//! has the private half of, and of the certificate made for it no byte was chosen by the request but that key.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use arbitrary::{Arbitrary, Unstructured};
use berth_common::identity::{Identity, TenantName, TrustDomain, identity_of};
use berth_hub::{
    ca::{Authority, DEFAULT_AUTHORITY_LIFETIME, Issuing},
    enroll::{CsrError, MAX_CSR_BYTES, Requested},
};
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData as _, SanType, SignatureAlgorithm,
};

/// Which keys they are makes no difference, so they need not be the same in each run.
static KEYS: LazyLock<[KeyPair; 3]> = LazyLock::new(|| {
    let key = |kind: &'static SignatureAlgorithm| KeyPair::generate_for(kind).expect("randomness");
    [
        key(&PKCS_ECDSA_P256_SHA256),
        key(&PKCS_ECDSA_P384_SHA384),
        key(&PKCS_ED25519),
    ]
});

static ISSUING: LazyLock<Issuing> = LazyLock::new(|| {
    let authority = Authority::create(TrustDomain::default(), DEFAULT_AUTHORITY_LIFETIME, now());
    Issuing::new(
        authority.expect("an authority"),
        "1d".parse().expect("a lifetime"),
    )
});

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Request {
        key: u8,
        subject: &'a str,
        uri: Option<&'a str>,
        dns: Option<&'a str>,
        extension: Option<(u8, &'a [u8])>,
        /// Bytes that are changed afterwards, and by what.
        changed: Vec<(u16, u8)>,
        /// Bytes that are added afterwards.
        more: &'a [u8],
    },
    Bytes(&'a [u8]),
}

/// See the module.
pub fn run(data: &[u8]) {
    let mut unstructured = Unstructured::new(data);
    if let Ok(input) = unstructured.arbitrary::<Input<'_>>() {
        match input {
            Input::Bytes(der) => {
                let _ = read(der);
            }
            Input::Request {
                key,
                subject,
                uri,
                dns,
                extension,
                changed,
                more,
            } => {
                let key = &KEYS[usize::from(key) % KEYS.len()];
                let Some(whole) = request(key, subject, uri, dns, extension) else {
                    return;
                };
                let mut der = whole.clone();
                for (at, by) in changed {
                    let at = usize::from(at) % der.len();
                    der[at] ^= by;
                }
                der.extend(more);
                let expected = key.algorithm() != &PKCS_ED25519;
                match read(&der) {
                    // Whatever was changed, only who has the key can have signed that it wants a certificate for it.
                    Ok(requested) => {
                        assert!(expected);
                        assert_eq!(requested.key.der_bytes(), key.der_bytes());
                    }
                    Err(error) => {
                        let large = whole.len() > MAX_CSR_BYTES;
                        assert!(der != whole || !expected || large, "{error:?}");
                    }
                }
            }
        }
    }
    let _ = read(data);
}

fn read(der: &[u8]) -> Result<Requested, CsrError> {
    let requested = Requested::from_der(der)?;
    assert!(der.len() <= MAX_CSR_BYTES);
    let tenant = TenantName::parse("acme").expect("a name");
    let lifetime = ISSUING.tenants_lifetime();
    let (pem, facts) = ISSUING
        .tenant(&tenant, &requested.key, [7; 16], lifetime, now(), None)
        .expect("a certificate");
    let certificate = rustls_pki_types::pem::PemObject::from_pem_slice(pem.as_bytes());
    let certificate: rustls_pki_types::CertificateDer<'_> = certificate.expect("PEM");
    let peer = identity_of(&certificate, &TrustDomain::default()).expect("an identity");
    assert_eq!(peer.identity, Identity::Tenant(tenant));
    assert_eq!(facts.subject, "O=Berth, CN=tenant/acme");
    assert!(!facts.is_authority && facts.for_clients && !facts.for_servers);
    assert_eq!(facts.name_count(), 1);
    assert!(peer.not_after <= now() + Duration::from_secs(86_400));
    Ok(requested)
}

/// A request in order; `None` where what it is to say cannot be said in one.
fn request(
    key: &KeyPair,
    subject: &str,
    uri: Option<&str>,
    dns: Option<&str>,
    extension: Option<(u8, &[u8])>,
) -> Option<Vec<u8>> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    let text = |text: &str| text.try_into().ok();
    let uri = uri.and_then(text).map(SanType::URI);
    let dns = dns.and_then(text).map(SanType::DnsName);
    params.subject_alt_names = uri.into_iter().chain(dns).collect();
    if let Some((last, content)) = extension {
        let extension =
            CustomExtension::from_oid_content(&[2, 5, 29, last.into()], content.to_vec());
        params.custom_extensions.push(extension);
    }
    let request = params.serialize_request(key).ok()?;
    Some(request.der().to_vec())
}

/// The same in each run.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_413_000)
}
