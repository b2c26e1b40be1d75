//! The front door on a real socket, with real TLS on both sides; `pki` makes certificates that the authority would not.

mod pki;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use berth_common::{
    identity::{IdentityError, UriError},
    tls::{Reload, ServerTls, TlsFiles, TlsSource},
};
use futures::StreamExt as _;
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa};
use rustls::ClientConfig;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use pki::{Ca, client_config, hours};

/// Long enough for a loaded machine; no test that passes waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

struct Hub {
    ca: Ca,
    incoming: Incoming,
    metrics: ListenMetrics,
    tls: Arc<ServerTls>,
    files: TlsFiles,
    directory: TempDir,
}

impl Hub {
    async fn start() -> Self {
        Self::with(ListenLimits::default()).await
    }

    async fn with(limits: ListenLimits) -> Self {
        let ca = Ca::new("Berth CA");
        let directory = TempDir::new().unwrap();
        let files = ca.write_server(directory.path());
        let tls = TlsSource::server(files.clone(), SystemTime::now()).unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let metrics = ListenMetrics::default();
        let incoming = listen(
            socket,
            Arc::clone(&tls),
            TrustDomain::default(),
            limits,
            metrics.clone(),
        )
        .unwrap();
        Self {
            ca,
            incoming,
            metrics,
            tls,
            files,
            directory,
        }
    }

    fn address(&self) -> SocketAddr {
        self.incoming.local_addr()
    }

    async fn accepted(&mut self) -> Accepted {
        let next = timeout(PATIENCE, self.incoming.next()).await;
        next.expect("nobody was accepted").unwrap().unwrap()
    }

    /// Waits until one connection was refused for this reason, and asserts that none was accepted.
    async fn refuses(&self, reason: &'static str) {
        self.counts(|metrics| metrics.refused(reason) == 1, reason)
            .await;
        assert_eq!(self.metrics.accepted.get(), 0);
    }

    /// Waits for a level of the metrics.
    async fn counts(&self, reached: impl Fn(&ListenMetrics) -> bool, what: &str) {
        let waiting = async {
            while !reached(&self.metrics) {
                tokio::task::yield_now().await;
            }
        };
        let waited = timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("never: {what}; {:?}", self.metrics));
    }
}

/// Connects, shakes hands, and reads until the server's verdict, which in TLS 1.3 comes after the client's end of it.
async fn connect(address: SocketAddr, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let name = berth_common::tls::server_name("hub.example").unwrap();
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

async fn refused(hub: &Hub, config: ClientConfig, reason: &'static str) {
    if let Ok(mut stream) = connect(hub.address(), config).await {
        let verdict = timeout(PATIENCE, stream.read_u8()).await;
        assert!(verdict.expect("the server keeps the connection").is_err());
    }
    hub.refuses(reason).await;
}

#[tokio::test]
async fn a_good_client_is_known_by_its_certificate() {
    let mut hub = Hub::start().await;
    let mut client = connect(hub.address(), hub.ca.client("tenant/acme").config(&hub.ca))
        .await
        .unwrap();
    let mut accepted = hub.accepted().await;
    let peer = accepted.peer().clone();
    let certificate = peer.identity.unwrap();
    assert_eq!(certificate.identity.to_string(), "tenant/acme");
    assert!(certificate.not_after > SystemTime::now());
    assert_eq!(peer.serial, Some(certificate.serial));
    assert_eq!(peer.remote, client.get_ref().0.local_addr().unwrap());
    assert!(accepted.tcp().nodelay().unwrap());

    client.write_all(b"ping").await.unwrap();
    let mut bytes = [0; 4];
    accepted.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"ping");

    assert_eq!(hub.metrics.open.get(), 1);
    drop(accepted);
    assert_eq!(hub.metrics.open.get(), 0);
}

#[tokio::test]
async fn hostile_20_to_22_a_bad_name_passes_the_door_without_an_identity() {
    let mut hub = Hub::start().await;
    let uri = |path: &str| pki::uri(&format!("spiffe://berth.local/{path}"));
    let mut expected = vec![(
        vec![uri("tenant/acme"), uri("tenant/other")],
        IdentityError::SeveralNames { count: 2 },
    )];
    expected.push((
        vec![uri("tenant/acme/")],
        IdentityError::Uri(UriError::TrailingSlash),
    ));
    expected.push((vec![], IdentityError::NoName));
    for (names, error) in expected {
        let client = hub
            .ca
            .client_with(|params| params.subject_alt_names = names);
        let _client = connect(hub.address(), client.config(&hub.ca))
            .await
            .unwrap();
        let peer = hub.accepted().await.peer().clone();
        assert_eq!(peer.identity, Err(error));
        assert!(peer.serial.is_some());
    }
}

#[tokio::test]
async fn hostile_01_silence_ends_at_the_deadline() {
    let hub = Hub::with(ListenLimits {
        handshake: Duration::from_millis(50),
        ..ListenLimits::default()
    })
    .await;
    let mut silent = TcpStream::connect(hub.address()).await.unwrap();
    // The first byte of a ClientHello's record, and no more.
    silent.write_all(&[0x16]).await.unwrap();
    let end = timeout(PATIENCE, silent.read(&mut [0; 1])).await;
    assert!(matches!(end.expect("still open"), Ok(0) | Err(_)));
    hub.refuses("handshake-timeout").await;
}

#[tokio::test]
async fn hostile_01_half_open_connections_of_one_address_are_capped() {
    let mut hub = Hub::with(ListenLimits {
        handshakes_per_address: 2,
        ..ListenLimits::default()
    })
    .await;
    let first = TcpStream::connect(hub.address()).await.unwrap();
    let _second = TcpStream::connect(hub.address()).await.unwrap();
    let mut third = TcpStream::connect(hub.address()).await.unwrap();
    let end = timeout(PATIENCE, third.read(&mut [0; 1])).await;
    assert!(matches!(end.expect("still open"), Ok(0) | Err(_)));
    hub.refuses("too-many-handshakes").await;

    // One of them gone, another one has its place.
    drop(first);
    hub.counts(|metrics| metrics.refused("closed") == 1, "closed")
        .await;
    let _client = connect(hub.address(), hub.ca.client("tenant/acme").config(&hub.ca))
        .await
        .unwrap();
    hub.accepted().await;
}

#[tokio::test]
async fn beyond_all_handshakes_connections_wait_and_are_not_refused() {
    let mut hub = Hub::with(ListenLimits {
        handshakes: 1,
        handshake: Duration::from_millis(200),
        ..ListenLimits::default()
    })
    .await;
    let _silent = TcpStream::connect(hub.address()).await.unwrap();
    hub.counts(|metrics| metrics.handshaking.get() == 1, "a handshake")
        .await;
    let _client = connect(hub.address(), hub.ca.client("tenant/acme").config(&hub.ca))
        .await
        .unwrap();
    hub.accepted().await;
    assert_eq!(hub.metrics.refused("handshake-timeout"), 1);
    assert_eq!(hub.metrics.refused("too-many-handshakes"), 0);
}

#[tokio::test]
async fn hostile_02_tls_1_2_is_refused() {
    let hub = Hub::start().await;
    let client = hub.ca.client("tenant/acme");
    let config = client_config(&hub.ca, Some(&client), &[&rustls::version::TLS12]);
    refused(&hub, config, "tls-version").await;
}

#[tokio::test]
async fn hostile_03_no_certificate_is_refused() {
    let hub = Hub::start().await;
    let config = client_config(&hub.ca, None, &[&rustls::version::TLS13]);
    refused(&hub, config, "no-certificate").await;
}

#[tokio::test]
async fn hostile_04_an_expired_certificate_is_refused() {
    let hub = Hub::start().await;
    let client = hub.ca.client_with(|params| {
        params.not_before = hours(-2);
        params.not_after = hours(-1);
    });
    refused(&hub, client.config(&hub.ca), "expired").await;
}

#[tokio::test]
async fn hostile_05_a_certificate_of_the_future_is_refused() {
    let hub = Hub::start().await;
    let client = hub.ca.client_with(|params| params.not_before = hours(1));
    refused(&hub, client.config(&hub.ca), "not-yet-valid").await;
}

#[tokio::test]
async fn hostile_06_a_foreign_ca_is_refused() {
    let hub = Hub::start().await;
    let foreign = Ca::new("Another CA").client("tenant/acme");
    refused(&hub, foreign.config(&hub.ca), "unknown-ca").await;
}

#[tokio::test]
async fn hostile_07_a_ca_of_the_same_name_is_refused() {
    let hub = Hub::start().await;
    let foreign = Ca::new("Berth CA").client("tenant/acme");
    refused(&hub, foreign.config(&hub.ca), "unknown-ca").await;
}

#[tokio::test]
async fn hostile_10_a_certificate_for_something_else_is_refused() {
    for spoil in [
        |params: &mut rcgen::CertificateParams| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        },
        |params: &mut rcgen::CertificateParams| params.extended_key_usages = vec![],
        |params: &mut rcgen::CertificateParams| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        },
    ] {
        let hub = Hub::start().await;
        let client = hub.ca.client_with(spoil);
        refused(&hub, client.config(&hub.ca), "wrong-purpose").await;
    }
}

#[tokio::test]
async fn hostile_11_a_hundred_certificates_are_refused() {
    let hub = Hub::start().await;
    let mut client = hub.ca.client("tenant/acme");
    let link = hub.ca.client("tenant/link").chain[0].clone();
    client.chain.extend(std::iter::repeat_n(link, 99));
    refused(&hub, client.config(&hub.ca), "bad-certificate").await;
}

#[tokio::test]
async fn hostile_19_another_protocol_is_refused() {
    for protocols in [vec![], vec![b"http/1.1".to_vec()]] {
        let hub = Hub::start().await;
        let mut config = hub.ca.client("tenant/acme").config(&hub.ca);
        config.alpn_protocols = protocols;
        refused(&hub, config, "no-h2").await;
    }
    let hub = Hub::start().await;
    let mut plain = TcpStream::connect(hub.address()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    hub.refuses("not-tls").await;
}

#[tokio::test]
async fn an_agent_that_does_not_trust_us_is_counted() {
    let hub = Hub::start().await;
    let client = hub.ca.client("tenant/acme");
    let config = client.config(&Ca::new("Another CA"));
    assert!(connect(hub.address(), config).await.is_err());
    hub.refuses("refused-by-peer").await;
}

#[tokio::test]
async fn one_identity_cannot_hold_all_connections() {
    let mut hub = Hub::with(ListenLimits {
        connections_per_identity: 1,
        ..ListenLimits::default()
    })
    .await;
    let acme = hub.ca.client("tenant/acme").config(&hub.ca);
    let other = hub.ca.client("tenant/other").config(&hub.ca);
    let _first = connect(hub.address(), acme.clone()).await.unwrap();
    let accepted = hub.accepted().await;
    let _second = connect(hub.address(), acme.clone()).await;
    hub.counts(
        |metrics| metrics.refused("too-many-connections") == 1,
        "refused",
    )
    .await;

    let _other = connect(hub.address(), other).await.unwrap();
    let kept = hub.accepted().await;
    drop(accepted);
    let _third = connect(hub.address(), acme).await.unwrap();
    hub.accepted().await;
    drop(kept);
}

#[tokio::test]
async fn new_connections_get_the_reloaded_certificate_and_authorities() {
    let mut hub = Hub::start().await;
    let old = connect(hub.address(), hub.ca.client("tenant/acme").config(&hub.ca))
        .await
        .unwrap();
    let mut old_accepted = hub.accepted().await;

    let next = Ca::new("Next CA");
    let files = next.write_server(hub.directory.path());
    assert_eq!(files, hub.files);
    assert_eq!(hub.tls.reload(SystemTime::now()).unwrap(), Reload::Swapped);

    let client = connect(hub.address(), next.client("tenant/next").config(&next))
        .await
        .unwrap();
    assert_ne!(
        client.get_ref().1.peer_certificates(),
        old.get_ref().1.peer_certificates()
    );
    let peer = hub.accepted().await.peer().clone();
    assert_eq!(peer.identity.unwrap().identity.to_string(), "tenant/next");

    // The connection from before lives on, and its authority is trusted no more.
    let mut old = old;
    old.write_all(b"x").await.unwrap();
    assert_eq!(old_accepted.read_u8().await.unwrap(), b'x');
    let stale = hub.ca.client("tenant/acme").config(&next);
    let stale = connect(hub.address(), stale).await;
    if let Ok(mut stream) = stale {
        assert!(stream.read_u8().await.is_err());
    }
    hub.counts(|metrics| metrics.refused("unknown-ca") == 1, "unknown-ca")
        .await;
}

#[tokio::test]
async fn nothing_is_resumed() {
    let mut hub = Hub::start().await;
    let mut config = hub.ca.client("tenant/acme").config(&hub.ca);
    // A client that would gladly resume.
    config.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    for _ in 0..3 {
        let name = berth_common::tls::server_name("hub.example").unwrap();
        let stream = TcpStream::connect(hub.address()).await.unwrap();
        let mut client = TlsConnector::from(Arc::clone(&config))
            .connect(name, stream)
            .await
            .unwrap();
        let mut accepted = hub.accepted().await;
        accepted.write_all(b"x").await.unwrap();
        accepted.flush().await.unwrap();
        client.read_u8().await.unwrap();
        let connection = client.get_ref().1;
        assert_eq!(connection.tls13_tickets_received(), 0);
        assert_eq!(
            connection.handshake_kind(),
            Some(rustls::HandshakeKind::Full)
        );
    }
}

#[tokio::test]
async fn dropping_the_stream_closes_the_socket() {
    let hub = Hub::start().await;
    let address = hub.address();
    let mut half_open = TcpStream::connect(address).await.unwrap();
    hub.counts(|metrics| metrics.handshaking.get() == 1, "a handshake")
        .await;
    drop(hub.incoming);
    let end = timeout(PATIENCE, half_open.read(&mut [0; 1])).await;
    assert!(matches!(end.expect("still open"), Ok(0) | Err(_)));
    assert!(TcpStream::connect(address).await.is_err());
}

/// Through tonic itself, as the hub serves: the peer is in the extensions of the request.
#[tokio::test]
async fn a_grpc_server_knows_the_peer_of_each_request() {
    let hub = Hub::start().await;
    let address = hub.address();
    let (seen, mut peers) = mpsc::channel(1);
    let (_, health) = tonic_health::server::health_reporter();
    let health = tonic::service::interceptor::InterceptedService::new(
        health,
        move |request: tonic::Request<()>| {
            let _ = seen.try_send(request.extensions().get::<Arc<Peer>>().cloned());
            Ok(request)
        },
    );
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(
        tonic::transport::Server::builder().serve_with_incoming_shutdown(
            health,
            hub.incoming,
            async {
                let _ = stopped.await;
            },
        ),
    );

    let config = Arc::new(hub.ca.client("admin/ops").config(&hub.ca));
    let connector = tower::service_fn(move |_: http::Uri| {
        let config = Arc::clone(&config);
        async move {
            let stream = connect(address, ClientConfig::clone(&config)).await?;
            io::Result::Ok(hyper_util::rt::TokioIo::new(stream))
        }
    });
    let channel = tonic::transport::Endpoint::from_static("http://hub.example")
        .connect_with_connector(connector)
        .await
        .unwrap();
    let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
    let request = tonic_health::pb::HealthCheckRequest::default();
    timeout(PATIENCE, client.check(request))
        .await
        .expect("no answer")
        .unwrap();
    let peer = peers.recv().await.unwrap().expect("no peer in the request");
    assert_eq!(
        peer.identity.as_ref().unwrap().identity.to_string(),
        "admin/ops"
    );

    drop(client);
    stop.send(()).unwrap();
    let ended = timeout(PATIENCE, serving).await;
    ended.expect("the server does not end").unwrap().unwrap();
}
