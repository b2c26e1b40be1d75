//! Whoever comes to the enrollment port: from any address of loopback, with any token and any bytes for a request.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, Result};
use berth_common::tls::{Pin, pinned_client_config, server_name};
use berth_wire::v1::{self, enrollment_client::EnrollmentClient};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use crate::ground::SERVER_NAME;

/// A connection to an enrollment port, from this address.
pub(crate) async fn connect(to: SocketAddr, from: Ipv4Addr, pin: Pin) -> Result<Channel> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let tcp = socket.connect(to).await.context("TCP")?;
    let config = pinned_client_config(pin)?;
    let tls = TlsConnector::from(Arc::new(config))
        .connect(server_name(SERVER_NAME)?, tcp)
        .await
        .context("TLS")?;
    let once = Arc::new(Mutex::new(Some(tls)));
    let connector = service_fn(move |_| {
        let tls = once.lock().unwrap().take();
        async move {
            tls.map(TokioIo::new)
                .ok_or_else(|| std::io::Error::other("the connection is gone"))
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{to}"))?;
    Ok(endpoint.connect_with_connector(connector).await?)
}

/// Uses a token, on a connection of its own. The outer error: there was no connection.
pub(crate) async fn enroll(
    to: SocketAddr,
    from: Ipv4Addr,
    pin: Pin,
    token: &str,
    csr: Vec<u8>,
) -> Result<Result<v1::CertificateResponse, Status>> {
    let mut client = EnrollmentClient::new(connect(to, from, pin).await?);
    let request = v1::EnrollRequest {
        token: token.to_owned(),
        csr: csr.into(),
        agent_version: "attacker".into(),
    };
    Ok(client
        .enroll(request)
        .await
        .map(|response| response.into_inner()))
}

/// Asks for another certificate for one that has expired.
pub(crate) async fn rejoin(
    to: SocketAddr,
    from: Ipv4Addr,
    pin: Pin,
    certificate: &[u8],
    csr: Vec<u8>,
) -> Result<Result<v1::CertificateResponse, Status>> {
    let mut client = EnrollmentClient::new(connect(to, from, pin).await?);
    let request = v1::RejoinRequest {
        certificate: certificate.to_vec().into(),
        csr: csr.into(),
        agent_version: "attacker".into(),
    };
    Ok(client
        .rejoin(request)
        .await
        .map(|response| response.into_inner()))
}

pub(crate) fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

/// What an agent would send.
pub(crate) fn csr(key: &KeyPair) -> Vec<u8> {
    let request = CertificateParams::default().serialize_request(key);
    request.unwrap().der().to_vec()
}
