//! The hub's front door: TCP connections become TLS streams whose peer is known, or are refused with a reason. It
//! knows sockets, TLS and identities; it does not know tenants' objects or policy, and it answers no request. A
//! certificate of our CA whose name is no identity passes, for the gRPC layer to answer UNAUTHENTICATED.

mod accepted;
mod expiry;
mod frames;
mod metrics;
mod refusal;
mod slots;
#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use berth_common::{
    identity::{CertificateFacts, IdentityError, TrustDomain, identity_of},
    tls::{ALPN_H2, ServerTls},
};
use futures::Stream;
use rustls_pki_types::CertificateDer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, info, warn};

pub use accepted::{Accepted, Hangup, Holder, Peer};
pub use expiry::Expiry;
pub use metrics::ListenMetrics;
pub use refusal::Refusal;

pub(crate) use slots::address_key;
use slots::{Slot, Slots};

use crate::{audit, lines};

/// Accepted connections that wait for the gRPC server. It takes them at once, so a few are enough.
const ACCEPTED_QUEUE: usize = 64;

/// How long to wait after `accept` failed, which it does when file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whom a door is for.
#[derive(Clone, Debug)]
pub enum Clients {
    /// Holders of a certificate of our CA, in this trust domain.
    Named(TrustDomain),
    /// Anybody: who comes has no certificate yet, asks one question, and is gone.
    Anyone,
}

/// How much the door lets in. The defaults suit a hub of thousands of tenants.
#[derive(Clone, Debug)]
pub struct ListenLimits {
    /// From the connection to the end of the handshake.
    pub handshake: Duration,
    /// How long sent bytes may stay unacknowledged before the kernel gives the connection up.
    pub user_timeout: Duration,
    /// Handshakes in progress, of all addresses. Beyond it connections wait in the kernel's queue.
    pub handshakes: usize,
    /// Handshakes in progress of one address (IPv6: of one /64). Beyond it connections are closed at once.
    pub handshakes_per_address: usize,
    /// Connections open at once under one identity. An agent needs one, and a second one while it reconnects.
    pub connections_per_identity: usize,
    /// Connections open at once of one address, where clients have no identity.
    pub connections_per_address: usize,
    /// How long a connection without an identity may be open.
    pub anonymous: Duration,
}

impl Default for ListenLimits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            user_timeout: Duration::from_secs(30),
            handshakes: 256,
            handshakes_per_address: 64,
            connections_per_identity: 32,
            connections_per_address: 128,
            anonymous: Duration::from_secs(30),
        }
    }
}

/// The accepted connections, for `tonic`'s `serve_with_incoming_shutdown`. Dropping it closes the socket and every
/// handshake in progress; accepted connections live on.
#[derive(Debug)]
pub struct Incoming {
    accepted: mpsc::Receiver<Accepted>,
    local: SocketAddr,
    // Held for its drop, which aborts the accept loop and, with it, the handshakes.
    _tasks: JoinSet<()>,
}

impl Incoming {
    /// The address listened on, with the port that the kernel chose where none was given.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

/// Never an error: what goes wrong with one connection is nothing to the server.
impl Stream for Incoming {
    type Item = Result<Accepted, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.accepted.poll_recv(cx).map(|next| next.map(Ok))
    }
}

/// Starts to accept on a bound socket. Each connection gets the TLS configuration that is current when it arrives.
///
/// # Errors
/// When the socket does not tell its own address.
pub fn listen(
    socket: TcpListener,
    tls: Arc<ServerTls>,
    clients: Clients,
    limits: ListenLimits,
    metrics: ListenMetrics,
) -> io::Result<Incoming> {
    let local = socket.local_addr()?;
    let (sender, accepted) = mpsc::channel(ACCEPTED_QUEUE);
    let door = Arc::new(Door {
        tls,
        handshakes: Arc::new(Semaphore::new(limits.handshakes)),
        per_address: Slots::new(limits.handshakes_per_address),
        per_holder: Slots::new(match &clients {
            Clients::Named(_) => limits.connections_per_identity,
            Clients::Anyone => limits.connections_per_address,
        }),
        clients,
        limits,
        metrics,
        sender,
    });
    match &door.clients {
        Clients::Named(_) => info!(address = %local, "listening for agents"),
        Clients::Anyone => info!(address = %local, "listening for agents that are to be admitted"),
    }
    let mut tasks = JoinSet::new();
    tasks.spawn(accept(socket, door));
    Ok(Incoming {
        accepted,
        local,
        _tasks: tasks,
    })
}

/// What every handshake shares.
struct Door {
    tls: Arc<ServerTls>,
    clients: Clients,
    handshakes: Arc<Semaphore>,
    per_address: Slots<std::net::IpAddr>,
    per_holder: Slots<Holder>,
    limits: ListenLimits,
    metrics: ListenMetrics,
    sender: mpsc::Sender<Accepted>,
}

/// The accept loop. It ends when dropped.
async fn accept(socket: TcpListener, door: Arc<Door>) {
    let mut handshakes = JoinSet::new();
    loop {
        // Finished handshakes are let go of as they are counted out; the set never grows past the semaphore.
        while handshakes.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&door.handshakes).acquire_owned().await else {
            return;
        };
        match socket.accept().await {
            Ok((stream, remote)) => match door.per_address.take(address_key(remote.ip())) {
                Some(slot) => {
                    handshakes.spawn(Arc::clone(&door).receive(stream, remote, slot, permit));
                }
                None => door.refuse(remote, &Refusal::TooManyHandshakes),
            },
            Err(error) => {
                warn!(%error, "cannot accept connections; is the limit of open files reached?");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Door {
    /// One connection, from its arrival to the server or to its refusal.
    async fn receive(
        self: Arc<Self>,
        stream: TcpStream,
        remote: SocketAddr,
        slot: Slot<std::net::IpAddr>,
        permit: OwnedSemaphorePermit,
    ) {
        let handshaking = self.metrics.count_handshake();
        let outcome = self.handshake(stream, remote).await;
        drop(handshaking);
        // Before the permit goes: whoever gets that finds a place for its address.
        drop(slot);
        match outcome {
            // The permit is kept until the server has taken the connection: it is what bounds those who wait.
            Ok(accepted) => {
                self.metrics.accepted.inc();
                let _ = self.sender.send(accepted).await;
                drop(permit);
            }
            Err(refusal) => self.refuse(remote, &refusal),
        }
    }

    async fn handshake(&self, stream: TcpStream, remote: SocketAddr) -> Result<Accepted, Refusal> {
        set_options(&stream, self.limits.user_timeout);
        let config = Arc::clone(&self.tls.current().config);
        let handshake = TlsAcceptor::from(config).accept(stream);
        let stream = match timeout(self.limits.handshake, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(Refusal::of(&error)),
            Err(_) => return Err(Refusal::TooSlow),
        };
        if stream.get_ref().1.alpn_protocol() != Some(ALPN_H2) {
            return Err(Refusal::NotH2);
        }
        let (peer, holder) = match &self.clients {
            Clients::Named(trust_domain) => {
                let peer = peer(&stream, remote, trust_domain)?;
                let identity = peer.identity.as_ref().ok().map(|it| it.identity.clone());
                (peer, Holder::Identity(identity))
            }
            Clients::Anyone => {
                let peer = stranger(remote, self.limits.anonymous);
                (peer, Holder::Address(address_key(remote.ip())))
            }
        };
        let slot = self
            .per_holder
            .take(holder)
            .ok_or(Refusal::TooManyConnections)?;
        Ok(Accepted::new(stream, peer, slot, self.metrics.clone()))
    }

    /// Counts a refusal, and says it while the lines last.
    fn refuse(&self, remote: SocketAddr, refusal: &Refusal) {
        self.metrics.refuse(refusal);
        if refusal.is_ordinary() {
            debug!(%remote, reason = refusal.reason(), "connection ended in the handshake: {refusal}");
            return;
        }
        audit::refusal(
            &audit::Subject::peer(remote),
            refusal.reason(),
            &refusal.to_string(),
        );
        if let Some(suppressed) = lines::LOG.spend(audit::payer(remote, None)) {
            warn!(%remote, reason = refusal.reason(), suppressed, "connection refused: {refusal}");
        }
    }
}

fn peer(
    stream: &TlsStream<TcpStream>,
    remote: SocketAddr,
    trust_domain: &TrustDomain,
) -> Result<Peer, Refusal> {
    let leaf: &CertificateDer<'_> = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first)
        .ok_or(Refusal::NoCertificate)?;
    let identity = identity_of(leaf, trust_domain);
    let serial = match &identity {
        Ok(certificate) => Some(certificate.serial.clone()),
        Err(_) => CertificateFacts::from_der(leaf)
            .ok()
            .map(|facts| facts.serial),
    };
    let expires = identity
        .as_ref()
        .map_or_else(|_| SystemTime::now(), |certificate| certificate.not_after);
    Ok(Peer {
        identity,
        serial,
        remote,
        hangup: Hangup::default(),
        expiry: Expiry::new(expires),
    })
}

/// A peer without a certificate. Its connection ends after a while whatever it does.
fn stranger(remote: SocketAddr, allowed: Duration) -> Peer {
    let peer = Peer {
        identity: Err(IdentityError::NoCertificate),
        serial: None,
        remote,
        hangup: Hangup::default(),
        expiry: Expiry::new(SystemTime::now() + allowed),
    };
    let hangup = peer.hangup.clone();
    tokio::spawn(async move {
        sleep(allowed).await;
        hangup.hang_up();
    });
    peer
}

/// Without delay, for messages are small and awaited; and with an end to waiting for a dead peer.
fn set_options(stream: &TcpStream, user_timeout: Duration) {
    // Both are improvements, not conditions: the keepalive of HTTP/2 finds a dead peer as well, only later.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "TCP_NODELAY is not set");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(user_timeout)) {
        debug!(%error, "TCP_USER_TIMEOUT is not set");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = user_timeout;
}
