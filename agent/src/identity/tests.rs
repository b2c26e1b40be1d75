use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair,
};

use super::held::{Given, Held, State};

/// What a hub would give for this key, ending so much after now.
fn certificate(held: &Held, left: Duration) -> Given {
    let authority = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&authority).unwrap();
    let issuer = Issuer::new(params, authority);
    let request = held.request().unwrap();
    let request = CertificateSigningRequestParams::from_der(&request.into()).unwrap();
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_after = (SystemTime::now() + left).into();
    let leaf = params.signed_by(&request.public_key, &issuer).unwrap();
    Given {
        certificate: leaf.pem(),
        authorities: root.pem(),
    }
}

#[test]
fn a_new_identity_is_bare_and_good_with_a_certificate_for_its_key() {
    let held = Held::new().unwrap();
    let now = SystemTime::now();
    assert!(matches!(held.state(now), State::Bare));
    let hour = Duration::from_secs(3_600);
    let good = held.with(certificate(&held, hour));
    assert!(matches!(good.state(now), State::Good(_)));
    assert!(matches!(good.state(now + 2 * hour), State::Unusable(_)));
    let other = Held::new().unwrap();
    let foreign = other.with(certificate(&held, hour));
    assert!(matches!(foreign.state(now), State::Unusable(_)));
}

#[test]
fn a_key_is_never_shown() {
    let held = Held::new().unwrap();
    assert!(!format!("{held:?}").contains("PRIVATE"));
    assert_eq!(held.request().unwrap().len() / 100, 2, "some 250 bytes");
}
