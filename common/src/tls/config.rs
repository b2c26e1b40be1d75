//! The two rustls configurations, made from checked credentials. Every choice that PITFALLS 3 to 5 ask for is here:
//! TLS 1.3 alone, `h2`, no tickets, no session cache, no early data, *ring* by name.

use std::{path::Path, sync::Arc, time::SystemTime};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig, client::Resumption, server::NoServerSessionStorage,
    version::TLS13,
};
use rustls_pki_types::ServerName;

use super::{
    Credentials, StrictClientVerifier, TlsError,
    credentials::{authorities, provider},
};

/// The only protocol spoken (RFC 9113, 3.2).
pub const ALPN_H2: &[u8] = b"h2";

/// The hub's side: presents its certificate, requires a client's of the trusted authorities, resumes nothing.
///
/// Nothing is resumed because rustls does not ask the client verifier on a resumed session, and a revoked or expired
/// client would come back.
pub fn server_config(credentials: &Credentials) -> Result<ServerConfig, TlsError> {
    let verifier = StrictClientVerifier::new(roots(credentials)?, provider())?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(credentials.chain.clone(), credentials.key.clone_key())?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The hub's side where clients have no certificate yet. The trusted authorities are sent along, for a client that knows one of them
/// by its [`Pin`](super::Pin) alone.
pub fn open_server_config(credentials: &Credentials) -> Result<ServerConfig, TlsError> {
    let mut chain = credentials.chain.clone();
    for authority in &credentials.authorities {
        if !chain.contains(authority) {
            chain.push(authority.clone());
        }
    }
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, credentials.key.clone_key())?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The agent's side: verifies the hub by the trusted authorities and the server name given at the connection, and
/// presents its own certificate.
pub fn client_config(credentials: &Credentials) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots(credentials)?)
        .with_client_auth_cert(credentials.chain.clone(), credentials.key.clone_key())?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

/// The agent's side where its certificate is no good any more: verifies the hub by these authorities (PEM), and presents nothing.
pub fn open_client_config(trusted: &str, now: SystemTime) -> Result<ClientConfig, TlsError> {
    let path = Path::new("(memory)/ca.crt");
    let mut roots = RootCertStore::empty();
    for authority in authorities(path, trusted.as_bytes(), now)?.0 {
        roots.add(authority)?;
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The name to verify the hub by: a DNS name or an IP address, without a port.
pub fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::BadServerName {
        name: name.to_owned(),
    })
}

fn roots(credentials: &Credentials) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in &credentials.authorities {
        roots.add(authority.clone())?;
    }
    Ok(roots)
}
