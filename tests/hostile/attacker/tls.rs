//! TCP and TLS from an address of one's own: all of 127.0.0.0/8 is this machine, and the hub's bounds are for each address.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion, client::ResolvesClientCert,
    crypto::ring, sign,
};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::certificates::Credential;

/// A connection on which HTTP/2 may begin.
pub(crate) type Connection = TlsStream<TcpStream>;

/// Far beyond every deadline of the hub's: a test that needs it all has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// TCP from this address.
pub(crate) async fn tcp(source: Ipv4Addr, hub: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((source, 0)))?;
    let stream = socket.connect(hub).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// TLS over it.
pub(crate) async fn shake(
    stream: TcpStream,
    config: impl Into<Arc<ClientConfig>>,
) -> io::Result<Connection> {
    let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST).into());
    TlsConnector::from(config.into())
        .connect(name, stream)
        .await
}

/// Reads until the other side has closed, and returns what it said before.
pub(crate) async fn closed(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut said = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut said)).await;
    let _ = end.expect("the hub keeps the connection");
    said
}

/// TLS 1.3, h2, this certificate, and trust in the hub's CA.
pub(crate) fn config(ca: &Path, credential: &Credential) -> ClientConfig {
    config_of(ca, Some(credential), &[&rustls::version::TLS13])
}

pub(crate) fn config_of(
    ca: &Path,
    credential: Option<&Credential>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let pem = fs::read(ca).unwrap();
    roots
        .add(CertificateDer::from_pem_slice(&pem).unwrap())
        .unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match credential {
        Some(credential) => config.with_client_cert_resolver(resolver(credential)),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// Presents the certificate whatever is wrong with it.
fn resolver(credential: &Credential) -> Arc<dyn ResolvesClientCert> {
    let key = ring::sign::any_supported_type(&credential.key).unwrap();
    Arc::new(sign::SingleCertAndKey::from(sign::CertifiedKey::new(
        credential.chain.clone(),
        key,
    )))
}
