//! Why a connection never reached the gRPC layer: one reason per cause that a person would act on differently, taken
//! from the error of the TLS library. Texts contain nothing that the peer chose.

use std::io;

use rustls::{CertificateError, Error as TlsError, PeerIncompatible};

/// Why a connection was refused in the transport.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The address has too many handshakes in progress.
    #[error("too many handshakes in progress from this address")]
    TooManyHandshakes,
    /// The identity has too many connections open.
    #[error("too many connections open under this identity")]
    TooManyConnections,
    /// The handshake did not end in time.
    #[error("the TLS handshake took too long")]
    TooSlow,
    /// The peer went away, as a load balancer's TCP check does.
    #[error("the peer closed the connection")]
    Closed,
    /// Something else than TLS, plain HTTP for example.
    #[error("what was sent is not TLS")]
    NotTls,
    /// TLS 1.2 or older.
    #[error("TLS 1.3 is required")]
    OldTls,
    /// Without `h2` in the protocol negotiation.
    #[error("the client does not speak h2 (ALPN)")]
    NotH2,
    /// No client certificate.
    #[error("no client certificate was presented")]
    NoCertificate,
    /// A client certificate that is over.
    #[error("the client certificate has expired")]
    Expired,
    /// A client certificate that begins later.
    #[error("the client certificate is not yet valid; check the clocks")]
    NotYetValid,
    /// A certificate that none of our authorities made.
    #[error("the client certificate is not from a CA trusted here")]
    UnknownAuthority,
    /// A CA's own certificate, or one without clientAuth.
    #[error("the certificate presented is not a client's (CA:TRUE, or no clientAuth)")]
    WrongPurpose,
    /// A certificate or chain that is malformed, too long, or signed in a way not accepted.
    #[error("the client certificate is malformed or its chain too long")]
    BadCertificate,
    /// The client did not trust *us*.
    #[error("the client refused our certificate; does it have the current CA?")]
    RefusedByPeer,
    /// Anything else the TLS library objects to.
    #[error("the TLS handshake was not valid")]
    BadHandshake,
}

impl Refusal {
    /// The value of the metric's label `reason`, also in the log.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooManyHandshakes => "too-many-handshakes",
            Self::TooManyConnections => "too-many-connections",
            Self::TooSlow => "handshake-timeout",
            Self::Closed => "closed",
            Self::NotTls => "not-tls",
            Self::OldTls => "tls-version",
            Self::NotH2 => "no-h2",
            Self::NoCertificate => "no-certificate",
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::UnknownAuthority => "unknown-ca",
            Self::WrongPurpose => "wrong-purpose",
            Self::BadCertificate => "bad-certificate",
            Self::RefusedByPeer => "refused-by-peer",
            Self::BadHandshake => "bad-handshake",
        }
    }

    /// Whether it happens all day without anybody's fault, so that it is not worth a line.
    pub(super) fn is_ordinary(&self) -> bool {
        *self == Self::Closed
    }

    /// The reason in what an acceptor returned.
    pub(super) fn of(error: &io::Error) -> Self {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<TlsError>());
        match tls {
            Some(tls) => Self::of_tls(tls),
            None => Self::Closed,
        }
    }

    fn of_tls(error: &TlsError) -> Self {
        match error {
            TlsError::NoCertificatesPresented => Self::NoCertificate,
            TlsError::InvalidCertificate(problem) => Self::of_certificate(problem),
            TlsError::NoApplicationProtocol => Self::NotH2,
            TlsError::PeerIncompatible(
                PeerIncompatible::Tls13RequiredForQuic
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled,
            ) => Self::OldTls,
            TlsError::InvalidMessage(
                rustls::InvalidMessage::CertificatePayloadTooLarge
                | rustls::InvalidMessage::HandshakePayloadTooLarge,
            ) => Self::BadCertificate,
            TlsError::InvalidMessage(
                rustls::InvalidMessage::InvalidContentType
                | rustls::InvalidMessage::UnknownProtocolVersion,
            ) => Self::NotTls,
            TlsError::AlertReceived(_) => Self::RefusedByPeer,
            _ => Self::BadHandshake,
        }
    }

    fn of_certificate(problem: &CertificateError) -> Self {
        use CertificateError as E;
        match problem {
            E::Expired | E::ExpiredContext { .. } => Self::Expired,
            E::NotValidYet | E::NotValidYetContext { .. } => Self::NotYetValid,
            // A CA of the same name with another key: to webpki the signature is bad, to a person the CA is foreign.
            E::UnknownIssuer | E::BadSignature => Self::UnknownAuthority,
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => Self::WrongPurpose,
            _ => Self::BadCertificate,
        }
    }
}
