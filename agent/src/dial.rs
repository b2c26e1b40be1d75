//! One new connection to the hub per session: TCP, TLS with our certificate, HTTP/2. Nothing is reused, for a channel
//! that saw a GOAWAY fails the next call (PITFALLS 9), and a new handshake takes whatever certificate is current.

mod stream;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use berth_common::tls::{ClientTls, TlsError, server_name};
use http::Uri;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use tower::{Service as _, service_fn};

pub use self::stream::Fate;
use self::stream::Stream;
use crate::settings::{Host, Hub, HubAddress};

/// For each of the steps.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// An unanswered segment ends the connection after this.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// HTTP/2 pings, when nothing else was heard.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long a ping may go unanswered.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name does not resolve, or nobody accepts there.
    #[error("cannot reach {address}: {problem}")]
    Tcp {
        /// The hub's.
        address: HubAddress,
        /// The operating system's words.
        problem: String,
    },
    /// One of the ends does not trust the other.
    #[error("TLS with {address} failed: {problem}")]
    Tls {
        /// The hub's.
        address: HubAddress,
        /// The library's words.
        problem: String,
    },
    /// A step was not done in time.
    #[error("{step} with {address} took more than {} s", STEP_TIMEOUT.as_secs())]
    Timeout {
        /// TCP, TLS or HTTP/2.
        step: &'static str,
        /// The hub's.
        address: HubAddress,
    },
    /// What answers does not speak HTTP/2.
    #[error("{address} does not speak gRPC: {problem}")]
    Http {
        /// The hub's.
        address: HubAddress,
        /// The library's words.
        problem: String,
    },
}

/// A connection to the hub.
#[derive(Clone, Debug)]
pub struct Connection {
    /// For one session.
    pub channel: Channel,
    /// Why it broke, once it did.
    pub fate: Fate,
}

/// Where the hub is, and who we are.
#[derive(Clone)]
pub struct Dialer {
    wire: Wire,
    tls: Arc<ClientTls>,
}

impl Dialer {
    /// To the hub of these settings, with these credentials.
    pub fn new(hub: &Hub, tls: Arc<ClientTls>) -> Result<Self, TlsError> {
        let wire = Wire::new(hub.address.clone(), hub.server_name())?;
        Ok(Self { wire, tls })
    }

    /// Where the hub is.
    pub fn address(&self) -> &HubAddress {
        &self.wire.address
    }

    /// Our credentials.
    pub fn tls(&self) -> &Arc<ClientTls> {
        &self.tls
    }

    /// All steps.
    pub async fn dial(&self) -> Result<Connection, DialError> {
        self.wire.dial(Arc::clone(&self.tls.current().config)).await
    }

    /// A TCP connection.
    pub async fn tcp(&self) -> Result<TcpStream, DialError> {
        self.wire.tcp().await
    }

    /// TLS over it, both ends verified.
    pub async fn handshake(&self, tcp: TcpStream) -> Result<TlsStream<TcpStream>, DialError> {
        let config = Arc::clone(&self.tls.current().config);
        self.wire.handshake(tcp, config).await
    }

    /// HTTP/2 over it.
    pub async fn http2(&self, tls: TlsStream<TcpStream>) -> Result<Connection, DialError> {
        self.wire.http2(tls).await
    }
}

/// Where something of the hub's listens, and the name that it has to prove.
#[derive(Clone, Debug)]
pub struct Wire {
    address: HubAddress,
    name: ServerName<'static>,
}

impl Wire {
    /// To this address, for this name.
    pub fn new(address: HubAddress, name: &Host) -> Result<Self, TlsError> {
        Ok(Self {
            name: server_name(name.as_str())?,
            address,
        })
    }

    /// All steps, with this side of TLS.
    pub async fn dial(&self, config: Arc<ClientConfig>) -> Result<Connection, DialError> {
        let tcp = self.tcp().await?;
        let tls = self.handshake(tcp, config).await?;
        self.http2(tls).await
    }

    /// A TCP connection.
    pub async fn tcp(&self) -> Result<TcpStream, DialError> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_keepalive(Some(PING_INTERVAL));
        connector.set_tcp_user_timeout(Some(USER_TIMEOUT));
        let failed = |problem| DialError::Tcp {
            address: self.address.clone(),
            problem,
        };
        let uri: Uri = format!("http://{}", self.address)
            .parse()
            .map_err(|error: http::uri::InvalidUri| failed(error.to_string()))?;
        match timeout(STEP_TIMEOUT, connector.call(uri)).await {
            Ok(Ok(io)) => Ok(io.into_inner()),
            Ok(Err(error)) => Err(failed(root(&error))),
            Err(_) => Err(self.late("TCP")),
        }
    }

    /// TLS over it.
    pub async fn handshake(
        &self,
        tcp: TcpStream,
        config: Arc<ClientConfig>,
    ) -> Result<TlsStream<TcpStream>, DialError> {
        let connector = TlsConnector::from(config);
        match timeout(STEP_TIMEOUT, connector.connect(self.name.clone(), tcp)).await {
            Ok(Ok(tls)) => Ok(tls),
            Ok(Err(error)) => Err(DialError::Tls {
                address: self.address.clone(),
                problem: root(&error),
            }),
            Err(_) => Err(self.late("TLS")),
        }
    }

    /// HTTP/2 over it. The channel has this one connection: when that is gone, so is the channel.
    pub async fn http2(&self, tls: TlsStream<TcpStream>) -> Result<Connection, DialError> {
        let fate = Fate::default();
        let once = Arc::new(Mutex::new(Some(Stream::new(tls, fate.clone()))));
        let known = fate.clone();
        let connector = service_fn(move |_: Uri| {
            let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
            // tonic dials again when the connection is lost, and reports that failure in place of the loss.
            let fate = known.clone();
            async move {
                stream
                    .map(TokioIo::new)
                    .ok_or_else(|| io::Error::other(fate.to_string()))
            }
        });
        let failed = |problem| DialError::Http {
            address: self.address.clone(),
            problem,
        };
        // The scheme is what tonic would do TLS by; that is done already.
        let origin = format!("https://{}", self.address)
            .parse()
            .map_err(|error: http::uri::InvalidUri| failed(error.to_string()))?;
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))
            .map_err(|error| failed(root(&error)))?
            .origin(origin)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .buffer_size(8);
        match timeout(STEP_TIMEOUT, endpoint.connect_with_connector(connector)).await {
            Ok(Ok(channel)) => Ok(Connection { channel, fate }),
            Ok(Err(error)) => Err(failed(root(&error))),
            Err(_) => Err(self.late("HTTP/2")),
        }
    }

    fn late(&self, step: &'static str) -> DialError {
        DialError::Timeout {
            step,
            address: self.address.clone(),
        }
    }
}

/// What happened, out of an error's layers, and what to do about it where that is known. The layers above the innermost
/// one say only that something failed.
pub(crate) fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    loop {
        if let Some(text) = tls_problem(innermost) {
            return text;
        }
        match innermost.source() {
            Some(source) => innermost = source,
            None => return innermost.to_string(),
        }
    }
}

fn tls_problem(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    use rustls::{AlertDescription as Alert, CertificateError, Error};
    let inner = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
        .and_then(|inner| inner.downcast_ref::<Error>());
    let error = inner.or_else(|| error.downcast_ref::<Error>())?;
    let advice = match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the hub's certificate comes from another authority than the one trusted here"
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "the hub's certificate has another name: set hub.serverName to one that it has",
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "the hub's certificate has expired, or this machine's clock is wrong",
        Error::AlertReceived(Alert::UnknownCA | Alert::BadCertificate | Alert::DecryptError) => {
            "the hub does not trust our certificate: was it issued by this hub's authority?"
        }
        Error::AlertReceived(Alert::CertificateExpired) => {
            "our certificate has expired: `berth-hub token create` or `berth-hub cert issue` make way for a new one"
        }
        Error::AlertReceived(Alert::CertificateRevoked) => {
            "our certificate was revoked: ask the hub's operator"
        }
        _ => return Some(error.to_string()),
    };
    Some(format!("{error} ({advice})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("transport error")]
    struct Layer(#[source] io::Error);

    #[test]
    fn what_happened_is_found_under_the_layers_with_what_to_do() {
        let refused = Layer(io::Error::other("connection refused"));
        assert_eq!(root(&refused), "connection refused");
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::UnknownCA);
        let text = root(&Layer(io::Error::other(alert)));
        assert!(text.contains("does not trust our certificate"), "{text}");
    }
}
