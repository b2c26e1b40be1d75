//! A hub on loopback that follows a script. It keeps to the stream's rules by the simplest means: it holds nothing, asks
//! for everything, and gives every Service the same address.

use std::{
    fs, io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use berth_common::tls::{ServerTls, TlsFiles};
use berth_wire::v1::{
    self,
    agent_service_server::{AgentService, AgentServiceServer},
};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport::server::Connected};

use super::DEADLINE;

/// What the hub does.
#[derive(Clone)]
pub(super) enum Scene {
    /// Welcomes, takes everything in and answers it.
    Serve,
    /// Asks the first session to come back within 20 ms, serves the others.
    DrainFirst,
    /// Ends the first session without a word after Welcome, serves the others.
    DropFirst,
    /// Refuses every session.
    Refuse(Status),
}

pub(super) struct TestHub {
    pub(super) address: SocketAddr,
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
    sessions: watch::Receiver<usize>,
    ended: watch::Receiver<usize>,
    clean: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl TestHub {
    pub(super) async fn start(scene: Scene) -> Self {
        let directory = TempDir::new().unwrap();
        let issuer = authority(&directory);
        write_leaf(
            &directory,
            &issuer,
            "server",
            SanType::IpAddress([127, 0, 0, 1].into()),
        );
        let hub = Self::listen(scene, directory, issuer).await;
        hub.renew_client_certificate();
        hub
    }

    async fn listen(scene: Scene, directory: TempDir, issuer: Issuer<'static, KeyPair>) -> Self {
        let tls = ServerTls::server(files(&directory, "server"), SystemTime::now()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sessions_sender, sessions) = watch::channel(0);
        let (ended_sender, ended) = watch::channel(0);
        let (clean, connections) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let service = Script {
            scene,
            sessions: sessions_sender,
            ended: ended_sender,
            clean: Arc::clone(&clean),
        };
        let (accepted, incoming) = mpsc::channel(1);
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let acceptor = TlsAcceptor::from(Arc::clone(&tls.current().config));
                let Ok(tls) = acceptor.accept(tcp).await else {
                    continue;
                };
                if accepted.send(io::Result::Ok(Conn(tls))).await.is_err() {
                    return;
                }
            }
        });
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(AgentServiceServer::new(service))
                .serve_with_incoming(ReceiverStream::new(incoming)),
        );
        Self {
            address,
            directory,
            issuer,
            sessions,
            ended,
            clean,
            connections,
        }
    }

    pub(super) fn client_files(&self) -> TlsFiles {
        files(&self.directory, "client")
    }

    pub(super) fn renew_client_certificate(&self) {
        let uri = SanType::URI("spiffe://berth.local/tenant/acme".try_into().unwrap());
        write_leaf(&self.directory, &self.issuer, "client", uri);
    }

    pub(super) async fn until_sessions(&mut self, count: usize) {
        let level = self.sessions.wait_for(|sessions| *sessions >= count);
        assert!(timeout(DEADLINE, level).await.is_ok(), "{count} sessions");
    }

    pub(super) async fn until_sessions_ended(&mut self, count: usize) {
        let level = self.ended.wait_for(|ended| *ended >= count);
        assert!(
            timeout(DEADLINE, level).await.is_ok(),
            "{count} sessions ended"
        );
    }

    /// Sessions that the agent ended as the protocol wants it.
    pub(super) fn clean_ends(&self) -> usize {
        self.clean.load(Ordering::SeqCst)
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn files(directory: &TempDir, name: &str) -> TlsFiles {
    let path = |suffix: &str| directory.path().join(format!("{name}.{suffix}"));
    TlsFiles {
        cert: path("crt"),
        key: path("key"),
        ca: directory.path().join("ca.crt"),
    }
}

fn authority(directory: &TempDir) -> Issuer<'static, KeyPair> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    fs::write(directory.path().join("ca.crt"), certificate.pem()).unwrap();
    Issuer::new(params, key)
}

fn write_leaf(directory: &TempDir, issuer: &Issuer<'static, KeyPair>, name: &str, san: SanType) {
    let key = KeyPair::generate().unwrap();
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.not_before = (now - Duration::from_secs(3_600)).into();
    params.not_after = (now + Duration::from_secs(3_600)).into();
    params.subject_alt_names = vec![san];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    let certificate = params.signed_by(&key, issuer).unwrap();
    let files = files(directory, name);
    fs::write(files.cert, certificate.pem()).unwrap();
    fs::write(files.key, key.serialize_pem()).unwrap();
}

struct Script {
    scene: Scene,
    sessions: watch::Sender<usize>,
    ended: watch::Sender<usize>,
    clean: Arc<AtomicUsize>,
}

type Sender = mpsc::Sender<Result<v1::HubMessage, Status>>;

#[tonic::async_trait]
impl AgentService for Script {
    type SyncStream = ReceiverStream<Result<v1::HubMessage, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let mut number = 0;
        self.sessions.send_modify(|sessions| {
            *sessions += 1;
            number = *sessions;
        });
        let (sender, receiver) = mpsc::channel(16);
        let scene = match (&self.scene, number) {
            (Scene::Refuse(status), _) => return Err(status.clone()),
            (Scene::DrainFirst | Scene::DropFirst, 2..) => Scene::Serve,
            (scene, _) => scene.clone(),
        };
        let (ended, clean) = (self.ended.clone(), Arc::clone(&self.clean));
        tokio::spawn(async move {
            if serve(scene, request.into_inner(), sender).await {
                clean.fetch_add(1, Ordering::SeqCst);
            }
            ended.send_modify(|ended| *ended += 1);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// True: the agent ended the stream.
async fn serve(scene: Scene, mut messages: Streaming<v1::AgentMessage>, sender: Sender) -> bool {
    use v1::{agent_message::Body as Said, hub_message::Body as Say};
    loop {
        let message = match messages.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return true,
            Err(_) => return false,
        };
        let answers = match message.body.unwrap() {
            Said::Hello(_) => {
                let welcome = v1::Welcome {
                    protocol: 1,
                    session: 1,
                    digests: vec![0; 4096].into(),
                    ..Default::default()
                };
                say(&sender, Say::Welcome(welcome)).await;
                match scene {
                    Scene::DropFirst => return false,
                    Scene::DrainFirst => {
                        let drain = v1::Drain {
                            within_ms: 20,
                            reason: "test".into(),
                        };
                        say(&sender, Say::Drain(drain)).await;
                    }
                    Scene::Serve | Scene::Refuse(_) => {}
                }
                continue;
            }
            Said::SnapshotPage(page) => page.resources.into_iter().map(programmed).collect(),
            Said::SnapshotEnd(_) => {
                say(&sender, Say::Heartbeat(v1::Heartbeat { sequence: 0 })).await;
                continue;
            }
            Said::Delta(delta) => delta
                .changes
                .into_iter()
                .map(|change| match change.change.unwrap() {
                    v1::change::Change::Upsert(resource) => programmed(resource),
                    v1::change::Change::Delete(deletion) => v1::Answer {
                        key: deletion.key,
                        generation: deletion.generation,
                        outcome: v1::Outcome::Deleted.into(),
                        ..Default::default()
                    },
                })
                .collect(),
            Said::Source(_)
            | Said::SnapshotBegin(_)
            | Said::TurnRequest(_)
            | Said::Heartbeat(_) => continue,
        };
        say(&sender, Say::Answers(v1::Answers { answers })).await;
    }
}

fn programmed(resource: v1::Resource) -> v1::Answer {
    v1::Answer {
        key: resource.key,
        generation: resource.generation,
        outcome: v1::Outcome::Programmed.into(),
        ingress: vec![v1::Ingress {
            ip: "192.0.2.1".into(),
            hostname: String::new(),
        }],
        ..Default::default()
    }
}

async fn say(sender: &Sender, body: v1::hub_message::Body) {
    // A reader that has gone is noticed by the next read.
    let _ = sender.send(Ok(v1::HubMessage { body: Some(body) })).await;
}

/// A TLS stream as tonic wants it.
struct Conn(TlsStream<TcpStream>);

impl Connected for Conn {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
