use std::{
    fs, io,
    os::unix::fs::symlink,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Error, ServerConfig, ServerConnection,
};
use tempfile::TempDir;

use super::{
    testing::{Authority, Issued, leaf, uri},
    *,
};
use crate::identity::{TrustDomain, identity_of};

fn load(issued: &Issued, ca: &str, role: Role) -> Result<Credentials, TlsError> {
    let directory = TempDir::new().unwrap();
    Credentials::load(&issued.write(directory.path(), ca), role, SystemTime::now())
}

fn server(ca: &Authority) -> ServerConfig {
    server_config(&load(&ca.server(), &ca.pem, Role::Server).unwrap()).unwrap()
}

fn client(ca: &Authority) -> ClientConfig {
    client_config(&load(&ca.client(), &ca.pem, Role::Client).unwrap()).unwrap()
}

/// A whole handshake in memory: the server's connection at its end, or the server's error.
fn handshake(
    server: ServerConfig,
    client: ClientConfig,
) -> Result<(ServerConnection, ClientConnection), Error> {
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let name = server_name("hub.example").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    for _ in 0..8 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = io::Cursor::new(bytes);
        while server.read_tls(&mut bytes).unwrap() > 0 {
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = io::Cursor::new(bytes);
        while client.read_tls(&mut bytes).unwrap() > 0 {
            client.process_new_packets()?;
        }
    }
    assert!(!server.is_handshaking() && !client.is_handshaking());
    Ok((server, client))
}

#[test]
fn both_ends_agree_on_tls_1_3_and_h2_and_nothing_can_be_resumed() {
    let ca = Authority::new();
    let (server, client) = handshake(server(&ca), client(&ca)).unwrap();
    assert_eq!(server.alpn_protocol(), Some(ALPN_H2));
    assert_eq!(
        server.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
    assert_eq!(client.tls13_tickets_received(), 0);
    let peer = &server.peer_certificates().unwrap()[0];
    let peer = identity_of(peer, &TrustDomain::default()).unwrap();
    assert_eq!(peer.identity.to_string(), "tenant/acme");
}

#[test]
fn the_client_refuses_a_hub_of_another_name() {
    let ca = Authority::new();
    let mut client = client(&ca);
    let name = server_name("other.example").unwrap();
    client.alpn_protocols = vec![ALPN_H2.to_vec()];
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server(&ca))).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    server.read_tls(&mut bytes.as_slice()).unwrap();
    server.process_new_packets().unwrap();
    let mut bytes = Vec::new();
    server.write_tls(&mut bytes).unwrap();
    client.read_tls(&mut bytes.as_slice()).unwrap();
    let error = client.process_new_packets().unwrap_err();
    assert!(matches!(
        error,
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })
    ));
}

#[test]
fn hostile_10_a_leaf_that_does_not_say_client_auth_is_refused() {
    let ca = Authority::new();
    for usages in [
        vec![],
        vec![ExtendedKeyUsagePurpose::ServerAuth],
        vec![ExtendedKeyUsagePurpose::Any],
    ] {
        let mut params = leaf(
            ExtendedKeyUsagePurpose::ClientAuth,
            uri("spiffe://berth.local/tenant/acme"),
        );
        params.extended_key_usages = usages.clone();
        let mut client = client(&ca);
        client.client_auth_cert_resolver = presenting(&ca.issue(&params), &[]);
        let error = handshake(server(&ca), client).unwrap_err();
        assert!(
            matches!(
                error,
                Error::InvalidCertificate(CertificateError::InvalidPurposeContext { .. })
            ),
            "{usages:?}: {error:?}"
        );
    }
}

#[test]
fn hostile_11_a_long_chain_is_refused_before_it_is_verified() {
    let ca = Authority::new();
    let mut client = client(&ca);
    let links: Vec<String> = (0..MAX_CHAIN_LENGTH).map(|_| ca.client().pem).collect();
    client.client_auth_cert_resolver = presenting(&ca.client(), &links);
    let error = handshake(server(&ca), client).unwrap_err();
    assert_eq!(
        error,
        Error::InvalidMessage(rustls::InvalidMessage::CertificatePayloadTooLarge)
    );
}

/// What a client presents that does not care what we think of it.
fn presenting(leaf: &Issued, links: &[String]) -> Arc<dyn rustls::client::ResolvesClientCert> {
    let text = format!("{}{}", leaf.pem, links.concat());
    let chain = certificates_from_pem("test".as_ref(), text.as_bytes()).unwrap();
    let key = rustls_pki_types::pem::PemObject::from_pem_slice(leaf.key.as_bytes()).unwrap();
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    Arc::new(rustls::sign::SingleCertAndKey::from(
        rustls::sign::CertifiedKey::new(chain, key),
    ))
}

#[test]
fn missing_and_broken_files_are_named() {
    let ca = Authority::new();
    let directory = TempDir::new().unwrap();
    let files = ca.server().write(directory.path(), &ca.pem);
    let error =
        |files: &TlsFiles| Credentials::load(files, Role::Server, SystemTime::now()).unwrap_err();
    let absent = TlsFiles {
        key: PathBuf::from("/nowhere/tls.key"),
        ..files.clone()
    };
    assert!(matches!(error(&absent), TlsError::Missing { path } if path == absent.key));

    fs::write(&files.key, "hello").unwrap();
    let found = error(&files);
    assert!(
        matches!(&found, TlsError::NotPem { path, expected: "private key", .. } if *path == files.key)
    );
    let text = found.to_string();
    assert!(
        text.contains("tls.key") && text.contains("no such block"),
        "{text}"
    );

    fs::write(&files.cert, "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n").unwrap();
    let text = error(&files).to_string();
    assert!(
        text.contains("cut short") && !text.contains("c2VjcmV0"),
        "{text}"
    );

    fs::write(
        &files.cert,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    assert!(matches!(
        error(&files),
        TlsError::BadCertificate { number: 1, .. }
    ));

    fs::write(&files.cert, vec![b'x'; (1 << 20) + 1]).unwrap();
    assert!(matches!(error(&files), TlsError::TooLarge { .. }));
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let ca = Authority::new();
    let mixed = Issued {
        pem: ca.server().pem,
        key: ca.server().key,
    };
    let error = load(&mixed, &ca.pem, Role::Server).unwrap_err();
    assert!(matches!(error, TlsError::KeyMismatch { .. }), "{error}");
}

#[test]
fn a_certificate_for_the_other_end_is_refused() {
    let ca = Authority::new();
    for (issued, role) in [(ca.client(), Role::Server), (ca.server(), Role::Client)] {
        let error = load(&issued, &ca.pem, role).unwrap_err();
        assert!(matches!(error, TlsError::WrongPurpose { .. }), "{error}");
    }
    let mut params = leaf(
        ExtendedKeyUsagePurpose::ServerAuth,
        uri("spiffe://berth.local/hub"),
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let error = load(&ca.issue(&params), &ca.pem, Role::Server).unwrap_err();
    assert!(error.to_string().contains("authority's own"), "{error}");
}

#[test]
fn dates_are_checked_and_said() {
    let ca = Authority::new();
    let directory = TempDir::new().unwrap();
    let files = ca.server().write(directory.path(), &ca.pem);
    let hour = Duration::from_secs(3_600);
    let at = |now| Credentials::load(&files, Role::Server, now).unwrap_err();
    let late = at(SystemTime::now() + 3 * hour);
    assert!(matches!(late, TlsError::Expired { .. }));
    assert!(late.to_string().contains(" UTC; issue a new one"), "{late}");
    assert!(matches!(
        at(SystemTime::now() - 2 * hour),
        TlsError::NotYetValid { .. }
    ));
}

#[test]
fn a_bundle_may_hold_an_expired_authority_beside_a_valid_one_but_no_leaf() {
    let ca = Authority::new();
    let past = |hours| time::OffsetDateTime::from(SystemTime::now()) - time::Duration::hours(hours);
    let old = Authority::valid(past(3), past(1));
    let both = format!("{}{}", old.pem, ca.pem);
    let loaded = load(&ca.server(), &both, Role::Server).unwrap();
    assert_eq!(loaded.authority_facts.len(), 1);

    let error = load(&ca.server(), &old.pem, Role::Server).unwrap_err();
    assert!(matches!(error, TlsError::NoValidAuthority { .. }));

    let with_leaf = format!("{}{}", ca.pem, ca.client().pem);
    let error = load(&ca.server(), &with_leaf, Role::Server).unwrap_err();
    assert!(matches!(error, TlsError::NotAnAuthority { number: 2, .. }));
}

#[test]
fn credentials_never_show_their_key() {
    let ca = Authority::new();
    let issued = ca.server();
    let shown = format!("{:?}", load(&issued, &ca.pem, Role::Server).unwrap());
    assert!(shown.contains("leaf") && !shown.contains("key:"), "{shown}");
}

#[test]
fn files_are_reloaded_and_a_bad_set_never_replaces_a_good_one() {
    let ca = Authority::new();
    let directory = TempDir::new().unwrap();
    let files = ca.server().write(directory.path(), &ca.pem);
    let now = SystemTime::now();
    let source = TlsSource::server(files.clone(), now).unwrap();
    let revisions = source.revisions();
    let first = source.current().leaf.serial.clone();
    assert_eq!(source.reload(now).unwrap(), Reload::Unchanged);

    fs::write(&files.key, "half written").unwrap();
    assert!(matches!(source.reload(now), Err(TlsError::NotPem { .. })));
    assert_eq!(source.current().leaf.serial, first);
    assert_eq!(*revisions.borrow(), 0);

    let next = Authority::new();
    next.server()
        .write(directory.path(), &format!("{}{}", ca.pem, next.pem));
    assert_eq!(source.reload(now).unwrap(), Reload::Swapped);
    assert_eq!(*revisions.borrow(), 1);
    let current = source.current();
    assert_ne!(current.leaf.serial, first);
    assert_eq!(current.authorities.len(), 2);
    assert_eq!(source.reload(now).unwrap(), Reload::Unchanged);
}

/// As kubelet does it: `tls.crt → ..data/tls.crt`, `..data → ..<time>`, and `..data` is replaced.
#[tokio::test(start_paused = true)]
async fn a_swapped_symlink_above_the_files_is_seen() {
    let ca = Authority::new();
    let directory = TempDir::new().unwrap();
    let root = directory.path();
    for version in ["..1", "..2"] {
        fs::create_dir(root.join(version)).unwrap();
        ca.server().write(&root.join(version), &ca.pem);
    }
    symlink("..1", root.join("..data")).unwrap();
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(format!("..data/{name}"), root.join(name)).unwrap();
    }
    let files = TlsFiles {
        cert: root.join("tls.crt"),
        key: root.join("tls.key"),
        ca: root.join("ca.crt"),
    };
    let source = TlsSource::server(files, SystemTime::now()).unwrap();
    let mut revisions = source.revisions();
    let watching = tokio::spawn(Arc::clone(&source).watch(Duration::from_secs(10)));

    symlink("..2", root.join("..next")).unwrap();
    fs::rename(root.join("..next"), root.join("..data")).unwrap();
    tokio::time::timeout(Duration::from_secs(60), revisions.changed())
        .await
        .expect("the swap was not seen")
        .unwrap();
    watching.abort();
}

#[test]
fn server_names_are_dns_names_or_addresses() {
    for name in ["hub.example", "10.0.0.1", "fd00::1"] {
        assert!(server_name(name).is_ok(), "{name}");
    }
    for name in ["", "hub.example:8443", "https://hub.example", "a b"] {
        assert!(server_name(name).is_err(), "{name}");
    }
}
