use std::{net::IpAddr, time::SystemTime};

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    SanType, string::Ia5String,
};

use super::*;

fn domain() -> TrustDomain {
    TrustDomain::default()
}

fn tenant(name: &str) -> Identity {
    Identity::Tenant(TenantName::parse(name).unwrap())
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(Ia5String::try_from(text).unwrap())
}

/// A self-signed certificate with these names; who signed it is none of this module's business.
fn certificate(params: CertificateParams) -> Vec<u8> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

fn named(names: Vec<SanType>) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    certificate(params)
}

/// A certificate whose SAN extension has exactly these bytes as its one URI, valid IA5 or not.
fn raw_uri(bytes: &[u8]) -> Vec<u8> {
    let length = |content: usize| match content {
        0..=127 => vec![content as u8],
        128..=255 => vec![0x81, content as u8],
        _ => vec![0x82, (content >> 8) as u8, content as u8],
    };
    let mut name = vec![0x86];
    name.extend(length(bytes.len()));
    name.extend(bytes);
    let mut names = vec![0x30];
    names.extend(length(name.len()));
    names.extend(name);
    let mut params = CertificateParams::default();
    params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], names)];
    certificate(params)
}

fn uri_error(text: &str) -> UriError {
    Identity::from_uri(text, &domain()).unwrap_err()
}

#[test]
fn identity_is_read_with_serial_and_validity() {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri("spiffe://berth.local/tenant/acme")];
    params.serial_number = Some(vec![0x0a, 0xbc].into());
    let peer = identity_of(&certificate(params), &domain()).unwrap();
    assert_eq!(peer.identity, tenant("acme"));
    assert_eq!(peer.serial.as_str(), "0abc");
    assert!(peer.not_before < SystemTime::now() && SystemTime::now() < peer.not_after);
}

#[test]
fn the_hub_has_dns_and_ip_names_beside_its_uri() {
    let names = vec![
        uri("spiffe://berth.local/hub"),
        dns("hub.example"),
        SanType::IpAddress(IpAddr::from([10, 0, 0, 1])),
    ];
    let peer = identity_of(&named(names), &domain()).unwrap();
    assert_eq!(peer.identity, Identity::Hub);
}

#[test]
fn hostile_20_two_names_are_refused() {
    let acme = || uri("spiffe://berth.local/tenant/acme");
    for names in [
        vec![acme(), uri("spiffe://berth.local/tenant/other")],
        vec![acme(), acme()],
        vec![acme(), dns("acme.example")],
        vec![dns("a.example"), dns("b.example")],
        vec![
            uri("spiffe://berth.local/hub"),
            uri("spiffe://berth.local/tenant/acme"),
        ],
    ] {
        let error = identity_of(&named(names), &domain()).unwrap_err();
        assert_eq!(error, IdentityError::SeveralNames { count: 2 });
    }
}

#[test]
fn hostile_20_a_second_san_extension_is_refused() {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri("spiffe://berth.local/tenant/acme")];
    let hidden = b"\x30\x22\x86\x20spiffe://berth.local/tenant/evil".to_vec();
    params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], hidden)];
    assert!(matches!(
        identity_of(&certificate(params), &domain()),
        Err(IdentityError::Unreadable(_))
    ));
}

#[test]
fn hostile_21_other_spellings_are_refused() {
    use UriError::*;
    let td = "spiffe://berth.local";
    let name = |error| Name(error);
    for (text, expected) in [
        ("/tenant/Acme".to_owned(), UpperCase { at: 28 }),
        (
            "/tenant/acme%2e".to_owned(),
            PercentEncoded { at: td.len() + 12 },
        ),
        ("/tenant/../admin/ops".to_owned(), DotSegment),
        ("/tenant/..".to_owned(), DotSegment),
        ("/tenant//acme".to_owned(), DotSegment),
        ("/tenant/acme/".to_owned(), TrailingSlash),
        (
            "/tenant/ac\0me".to_owned(),
            ForbiddenByte { byte: 0, at: 30 },
        ),
        (
            "/tenant/\u{430}cme".to_owned(),
            ForbiddenByte { byte: 0xd0, at: 28 },
        ),
        (
            "/tenant/acme ".to_owned(),
            ForbiddenByte { byte: 0x20, at: 32 },
        ),
        (
            "/tenant/acme.b".to_owned(),
            name(NameError::ForbiddenByte { byte: b'.', at: 4 }),
        ),
        ("/tenant/-acme".to_owned(), name(NameError::OuterHyphen)),
        (
            format!("/tenant/{}", "a".repeat(41)),
            name(NameError::TooLong {
                length: 41,
                max: 40,
            }),
        ),
        (
            "/tenant/acme/x".to_owned(),
            UnknownPath {
                found: "/tenant/acme/x".to_owned(),
            },
        ),
        (
            "/tenant".to_owned(),
            UnknownPath {
                found: "/tenant".to_owned(),
            },
        ),
        (
            String::new(),
            UnknownPath {
                found: "/".to_owned(),
            },
        ),
        (
            "/hub/x".to_owned(),
            UnknownPath {
                found: "/hub/x".to_owned(),
            },
        ),
    ] {
        assert_eq!(uri_error(&format!("{td}{text}")), expected, "{text:?}");
    }
    assert_eq!(
        uri_error(&format!("{td}/tenant/{}", "a".repeat(2048))),
        TooLong { length: 2076 }
    );
    assert!(matches!(
        uri_error("https://berth.local/tenant/acme"),
        Scheme { .. }
    ));
    assert_eq!(
        uri_error("SPIFFE://berth.local/tenant/acme"),
        UpperCase { at: 0 }
    );
}

#[test]
fn hostile_21_the_same_holds_in_a_certificate() {
    let refused = |bytes: &[u8]| identity_of(&raw_uri(bytes), &domain()).unwrap_err();
    assert_eq!(
        refused(b"spiffe://berth.local/tenant/acme\0"),
        IdentityError::Uri(UriError::ForbiddenByte { byte: 0, at: 32 })
    );
    let mut long = b"spiffe://berth.local/tenant/".to_vec();
    long.resize(2049, b'a');
    assert_eq!(
        refused(&long),
        IdentityError::Uri(UriError::TooLong { length: 2049 })
    );
    assert_eq!(
        refused(b"spiffe://berth.local/tenant/\xff"),
        IdentityError::NotAUri { kind: "malformed" }
    );
}

#[test]
fn another_trust_domain_is_refused_also_as_prefix_or_suffix() {
    for other in [
        "berth.loca",
        "berth.local.evil",
        "x.berth.local",
        "",
        "berth.local:443",
    ] {
        let error = uri_error(&format!("spiffe://{other}/tenant/acme"));
        assert_eq!(
            error,
            UriError::OtherTrustDomain {
                found: other.to_owned(),
                expected: domain()
            }
        );
    }
}

#[test]
fn hostile_22_no_prefix_match() {
    let peer = identity_of(
        &named(vec![uri("spiffe://berth.local/tenant/a")]),
        &domain(),
    )
    .unwrap();
    assert_eq!(peer.identity, tenant("a"));
    assert_ne!(peer.identity, tenant("ab"));
    assert_ne!(
        Identity::from_uri("spiffe://berth.local/tenant/ab", &domain()).unwrap(),
        tenant("a")
    );
}

#[test]
fn names_of_other_types_do_not_count() {
    assert_eq!(
        identity_of(&named(vec![]), &domain()),
        Err(IdentityError::NoName)
    );
    assert_eq!(
        identity_of(&named(vec![dns("acme")]), &domain()),
        Err(IdentityError::NotAUri { kind: "DNS name" })
    );
}

#[test]
fn hostile_10_an_authority_is_nobody() {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.subject_alt_names = vec![uri("spiffe://berth.local/tenant/acme")];
    assert_eq!(
        identity_of(&certificate(params), &domain()),
        Err(IdentityError::IsAuthority)
    );
}

#[test]
fn bytes_after_the_certificate_are_refused() {
    let mut der = named(vec![uri("spiffe://berth.local/tenant/acme")]);
    der.push(0);
    assert!(matches!(
        identity_of(&der, &domain()),
        Err(IdentityError::Unreadable(_))
    ));
}

#[test]
fn names_say_what_is_wrong() {
    assert_eq!(TenantName::parse(""), Err(NameError::Empty));
    assert_eq!(TrustDomain::parse("berth..local"), Err(NameError::Empty));
    let error = TrustDomain::parse("berth.Local").unwrap_err();
    assert_eq!(
        error.to_string(),
        "has 'L' at byte 6; only a-z, 0-9 and - are allowed"
    );
    assert_eq!(TenantName::parse("acme").unwrap().namespace(), "berth-acme");
}

#[test]
fn serials_have_one_spelling() {
    let canonical = Serial::from_bytes(&[0, 0x0a, 0xff]);
    for text in ["0aff", "AFF", "0A:FF", "00:0a:ff"] {
        assert_eq!(text.parse::<Serial>().unwrap(), canonical, "{text}");
    }
    assert_eq!(Serial::from_bytes(&[]).as_str(), "00");
    assert_eq!("0".parse::<Serial>().unwrap().as_str(), "00");
    for text in ["", ":", "0a:f", "xyz", "0a::ff", "é0"] {
        assert_eq!(
            text.parse::<Serial>(),
            Err(SerialError::NotHexadecimal),
            "{text}"
        );
    }
    assert_eq!("f".repeat(41).parse::<Serial>(), Err(SerialError::TooLong));
}

fn any_identity() -> impl Strategy<Value = Identity> {
    let name = || "[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?";
    prop_oneof![
        name().prop_map(|text| tenant(&text)),
        name().prop_map(|text| Identity::Admin(AdminName::parse(&text).unwrap())),
        Just(Identity::Hub),
    ]
}

proptest! {
    #[test]
    fn uris_round_trip(identity in any_identity()) {
        let uri = identity.uri(&domain());
        prop_assert_eq!(Identity::from_uri(&uri, &domain()), Ok(identity));
    }

    /// Whatever is accepted is the canonical spelling: there is no second text for one identity.
    #[test]
    fn accepted_uris_are_canonical(text in "spiffe://berth\\.local/(tenant|admin|hub)?/?[a-zA-Z0-9./%~-]{0,12}") {
        if let Ok(identity) = Identity::from_uri(&text, &domain()) {
            prop_assert_eq!(identity.uri(&domain()), text);
        }
    }

    #[test]
    fn no_prefix_is_a_match(identity in any_identity(), tail in "[a-z0-9./-]{1,8}") {
        let longer = format!("{}{tail}", identity.uri(&domain()));
        prop_assert_ne!(Identity::from_uri(&longer, &domain()), Ok(identity));
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC*") {
        let _ = Identity::from_uri(&text, &domain());
        let _ = TrustDomain::parse(&text);
        let _ = text.parse::<Serial>();
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = identity_of(&bytes, &domain());
    }

    /// A true certificate with a few bytes changed reaches deeper than noise does.
    #[test]
    fn mutated_certificates_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut der = named(vec![uri("spiffe://berth.local/tenant/acme")]);
        for (at, byte) in changes {
            let at = at.index(der.len());
            der[at] = byte;
        }
        let _ = identity_of(&der, &domain());
    }
}
