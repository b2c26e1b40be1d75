use std::time::{Duration, SystemTime};

use berth_common::{
    identity::{AdminName, CertificateFacts, Identity, TenantName, TrustDomain, identity_of},
    tls::{
        Pin, ServerTls, TlsError, certificates_from_pem, open_client_config, pinned_client_config,
        server_name,
    },
};
use rcgen::{CertificateParams, KeyPair};
use x509_parser::prelude::*;

use super::*;

/// 2026-11-23 05:50:00 UTC.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_413_000)
}

fn days(text: &str) -> Lifetime {
    text.parse().unwrap()
}

fn authority() -> Authority {
    Authority::create(TrustDomain::default(), DEFAULT_AUTHORITY_LIFETIME, now()).unwrap()
}

fn tenant() -> CertificateRequest {
    CertificateRequest {
        subject: Identity::Tenant(TenantName::parse("acme").unwrap()),
        dns: vec![],
        ips: vec![],
        lifetime: days("90d"),
        not_earlier: None,
    }
}

fn server() -> CertificateRequest {
    CertificateRequest {
        subject: Identity::Hub,
        dns: vec!["hub.example".into()],
        ips: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        lifetime: days("90d"),
        not_earlier: None,
    }
}

fn refused(request: &CertificateRequest) -> PolicyError {
    match authority().issue(request, now()) {
        Err(CaError::Policy(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// Every extension in the words of an independent reader.
fn extensions(der: &[u8]) -> Vec<String> {
    let (_, certificate) = X509Certificate::from_der(der).unwrap();
    let mut lines = vec![
        format!("version {}", certificate.version()),
        format!("subject {}", certificate.subject()),
        format!("issuer {}", certificate.issuer()),
        format!("serial {}", certificate.raw_serial_as_string()),
        format!(
            "from {} until {}",
            certificate.validity().not_before,
            certificate.validity().not_after
        ),
    ];
    for extension in certificate.extensions() {
        let critical = if extension.critical { "critical " } else { "" };
        let said = match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                let given = id.key_identifier.as_ref().unwrap().0.len();
                format!("authority key id of {given} bytes")
            }
            ParsedExtension::SubjectKeyIdentifier(id) => {
                format!("subject key id of {} bytes", id.0.len())
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                let names: Vec<_> = names.general_names.iter().map(|n| n.to_string()).collect();
                names.join(" ")
            }
            ParsedExtension::KeyUsage(usage) => format!("key usage: {usage}"),
            ParsedExtension::ExtendedKeyUsage(usage) => format!(
                "extended: client {} server {} any {} other {}",
                usage.client_auth,
                usage.server_auth,
                usage.any,
                usage.other.len()
            ),
            ParsedExtension::BasicConstraints(it) => {
                format!("ca {} path {:?}", it.ca, it.path_len_constraint)
            }
            other => panic!("{other:?}"),
        };
        lines.push(format!("{critical}{said}"));
    }
    lines
}

#[test]
fn every_field_is_decided_by_the_policy() {
    let trust_domain = TrustDomain::default();
    let key = fresh_key().unwrap();
    let own = policy::authority(&trust_domain, DEFAULT_AUTHORITY_LIFETIME, [0xca; 16], now());
    let own = own.unwrap().self_signed(&key).unwrap();
    let facts = CertificateFacts::from_der(own.der()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(own.der(), key).unwrap();
    let make = |request: &CertificateRequest| {
        let params = policy::leaf(request, &trust_domain, &facts, [0x1e; 16], now()).unwrap();
        params.signed_by(&fresh_key().unwrap(), &issuer).unwrap()
    };
    insta::assert_yaml_snapshot!("authority", extensions(own.der()));
    insta::assert_yaml_snapshot!("tenant", extensions(make(&tenant()).der()));
    insta::assert_yaml_snapshot!("server", extensions(make(&server()).der()));
}

#[test]
fn identities_are_read_back() {
    let authority = authority();
    let admin = CertificateRequest {
        subject: Identity::Admin(AdminName::parse("ops").unwrap()),
        ..tenant()
    };
    for request in [tenant(), server(), admin] {
        let issued = authority.issue(&request, now()).unwrap();
        let (_, pem) = parse_x509_pem(issued.certificate.as_bytes()).unwrap();
        let peer = identity_of(&pem.contents, authority.trust_domain()).unwrap();
        assert_eq!(peer.identity, request.subject);
        assert_eq!(peer.serial, issued.facts.serial);
        assert_eq!(peer.not_before, now() - CLOCK_SKEW);
        assert_eq!(peer.not_after, now() + request.lifetime.duration());
        assert!(!issued.shortened);
    }
}

#[test]
fn two_certificates_share_neither_key_nor_serial() {
    let authority = authority();
    let [first, second] = [(); 2].map(|()| authority.issue(&tenant(), now()).unwrap());
    assert_ne!(first.key, second.key);
    assert_ne!(first.facts.serial, second.facts.serial);
}

#[test]
fn names_are_for_the_hub_alone_and_it_needs_one() {
    let mut named = tenant();
    named.dns = vec!["acme.example".into()];
    assert_eq!(refused(&named), PolicyError::NamesNotAllowed);
    let mut nameless = server();
    (nameless.dns, nameless.ips) = (vec![], vec![]);
    assert_eq!(refused(&nameless), PolicyError::NameRequired);
    for bad in [
        "",
        "Hub.example",
        "hub example",
        "*.example",
        "10.0.0.1",
        "hub.example/x",
        "hüb",
    ] {
        let mut request = server();
        request.dns = vec![bad.into()];
        let name = bad.into();
        assert_eq!(refused(&request), PolicyError::BadDnsName { name });
    }
}

#[test]
fn nothing_outlives_its_authority() {
    let authority = Authority::create(TrustDomain::default(), days("30d"), now()).unwrap();
    let issued = authority.issue(&tenant(), now()).unwrap();
    assert!(issued.shortened);
    assert_eq!(issued.facts.not_after, authority.facts().not_after);

    let later = now() + days("31d").duration();
    let error = authority.issue(&tenant(), later).unwrap_err();
    assert!(matches!(
        error,
        CaError::Policy(PolicyError::AuthorityNotValid { .. })
    ));
    assert!(error.to_string().contains("expired 1 day ago"), "{error}");
}

#[test]
fn a_lifetime_that_no_certificate_can_say_is_refused() {
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_000);
    let error = Authority::create(TrustDomain::default(), days("1y"), far).unwrap_err();
    assert!(matches!(
        error,
        CaError::Policy(PolicyError::DateOutOfRange)
    ));
}

#[test]
fn an_authority_is_kept_and_read_back() {
    let made = authority();
    let read = |certificate: &str, key: &str, domain: Option<&str>| {
        let domain = domain.map(|text| TrustDomain::parse(text).unwrap());
        Authority::from_pem(certificate, key, domain.as_ref(), "here")
    };
    let again = read(made.bundle(), &made.key_pem(), None).unwrap();
    assert_eq!(again.facts(), made.facts());
    assert_eq!(again.trust_domain(), made.trust_domain());
    let issued = again.issue(&tenant(), now()).unwrap();
    assert_eq!(issued.facts.issuer, made.facts().subject);

    // During a rotation the old authority stands behind the new one, to be trusted still.
    let both = format!("{}{}", made.bundle(), authority().bundle());
    let rotating = read(&both, &made.key_pem(), None).unwrap();
    assert_eq!(rotating.issue(&tenant(), now()).unwrap().bundle, both);

    let error = read(made.bundle(), &made.key_pem(), Some("other.example")).unwrap_err();
    assert!(matches!(error, CaError::OtherTrustDomain { .. }));
    let error = read(made.bundle(), &authority().key_pem(), None).unwrap_err();
    assert!(error.to_string().contains("belongs to another"), "{error}");
    let error = read(made.bundle(), "", None).unwrap_err();
    assert!(
        error.to_string().contains("private key is missing"),
        "{error}"
    );
    let error = read(&issued.certificate, &issued.key, None).unwrap_err();
    assert!(error.to_string().contains("CA:TRUE"), "{error}");
    let error = read("", &made.key_pem(), None).unwrap_err();
    assert!(matches!(error, CaError::Pem(TlsError::NotPem { .. })));
}

#[test]
fn a_foreign_authority_needs_a_trust_domain_to_be_named() {
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let read = |domain| Authority::from_pem(&certificate, &key.serialize_pem(), domain, "here");
    assert!(matches!(
        read(None).unwrap_err(),
        CaError::NoTrustDomain { .. }
    ));
    let domain = TrustDomain::parse("corp.example").unwrap();
    let issued = read(Some(&domain))
        .unwrap()
        .issue(&tenant(), now())
        .unwrap();
    assert_eq!(issued.facts.uris, ["spiffe://corp.example/tenant/acme"]);
}

#[test]
fn keys_are_never_shown() {
    let authority = authority();
    let issued = authority.issue(&tenant(), now()).unwrap();
    let shown = format!("{authority:?} {issued:?}");
    assert!(
        !shown.contains("PRIVATE") && !shown.contains("key:"),
        "{shown}"
    );
}

/// A handshake with the hub of this authority, by whom the client trusts alone.
async fn meets(hub: &Authority, client: rustls::ClientConfig) -> bool {
    let request = CertificateRequest {
        subject: Identity::Hub,
        dns: vec!["hub.example".into()],
        ..tenant()
    };
    let now = SystemTime::now();
    let issued = hub.issue(&request, now).unwrap();
    let (cert, key, ca) = (&issued.certificate, &issued.key, &issued.bundle);
    let server = ServerTls::open_server_in_memory(cert, key, ca, now).unwrap();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let acceptor = tokio_rustls::TlsAcceptor::from(server.current().config.clone());
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(client));
    let name = server_name("hub.example").unwrap();
    let (connected, _) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
    connected.is_ok()
}

#[tokio::test]
async fn during_a_rotation_the_hub_is_known_by_either_authority_and_by_either_pin() {
    let now = SystemTime::now();
    let made = Authority::create(TrustDomain::default(), DEFAULT_AUTHORITY_LIFETIME, now);
    let old = Kept::new(&made.unwrap());
    let first = old.authority(None, "x").unwrap();
    let (next, cross) = first.succeed(DEFAULT_AUTHORITY_LIFETIME, now).unwrap();
    let published = old.publish(&next, cross, now);
    let switched = published.switch(now).unwrap();
    let dropped = switched.drop_previous(now);
    let pin = |authority: &Authority| {
        let all = certificates_from_pem("x".as_ref(), authority.bundle().as_bytes()).unwrap();
        Pin::of(&all[0]).unwrap()
    };
    let mut known = Vec::new();
    for kept in [&old, &published, &switched, &dropped] {
        let hub = kept.authority(None, "x").unwrap();
        let mut by = Vec::new();
        for client in [&first, &next] {
            let trusting = open_client_config(client.bundle(), now).unwrap();
            let pinned = pinned_client_config(pin(client)).unwrap();
            by.push((meets(&hub, trusting).await, meets(&hub, pinned).await));
        }
        known.push((by[0], by[1]));
    }
    let (yes, no) = ((true, true), (false, false));
    assert_eq!(known, [(yes, no), (yes, no), (yes, yes), (no, yes)]);
}
