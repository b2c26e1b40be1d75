//! Against a real server on loopback, with a client that writes bytes: what a scraper, a probe, and a nuisance get.

use std::net::Ipv4Addr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

struct Running {
    address: SocketAddr,
    ready: Ready,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

async fn start() -> Running {
    let ready = Ready::new();
    let metrics = Arc::new(Metrics::new("test", "0.0.0"));
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = AdminServer::bind(any, metrics, ready.clone())
        .await
        .expect("a port of loopback");
    let stop = CancellationToken::new();
    Running {
        address: server.local_addr(),
        ready,
        served: tokio::spawn(server.serve(stop.clone())),
        stop,
    }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connects")
    }

    /// One request on a connection of its own; everything that comes back.
    async fn ask(&self, request_line: &str) -> String {
        let mut stream = self.connect().await;
        let request = format!("{request_line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("is taken");
        read_to_end(stream).await
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(DEADLINE, self.served)
            .await
            .expect("stops in time")
            .expect("without a panic");
    }
}

async fn read_to_end(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer))
        .await
        .expect("the connection ends in time")
        .expect("readable");
    answer
}

#[tokio::test]
async fn serves_metrics_as_openmetrics() {
    let server = start().await;
    let answer = server.ask("GET /metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains(
            "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"
        ),
        "{answer}"
    );
    assert!(
        answer.contains(r#"berth_build_info{component="test",version="0.0.0"} 1"#),
        "{answer}"
    );
    assert!(answer.ends_with("# EOF\n"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn readyz_names_what_is_pending_and_livez_what_is_dead() {
    let server = start().await;
    let caches = server.ready.register("management caches");
    let answer = server.ask("GET /readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(
        answer.ends_with("\r\n\r\nnot ready: management caches\n"),
        "{answer}"
    );
    assert!(server.ask("GET /livez").await.starts_with("HTTP/1.1 200 "));

    caches.done();
    assert!(
        server
            .ask("GET /readyz?verbose")
            .await
            .starts_with("HTTP/1.1 200 ")
    );

    drop(server.ready.vital("executor"));
    let answer = server.ask("GET /livez").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\ndead: executor\n"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn anything_else_is_refused() {
    let server = start().await;
    assert!(server.ask("GET /").await.starts_with("HTTP/1.1 404 "));
    assert!(
        server
            .ask("GET /metrics/")
            .await
            .starts_with("HTTP/1.1 404 ")
    );
    let answer = server.ask("POST /metrics").await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    let head = server.ask("HEAD /livez").await;
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_long_head_is_refused() {
    let server = start().await;
    let mut stream = server.connect().await;
    let padding = "x".repeat(2 * MAX_HEAD);
    // The server may answer and close before it has read all of it.
    let _ = stream
        .write_all(format!("GET /livez HTTP/1.1\r\npadding: {padding}").as_bytes())
        .await;
    let mut answer = Vec::new();
    let _ = timeout(DEADLINE, stream.read_to_end(&mut answer))
        .await
        .expect("the connection ends in time");
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
    server.stop().await;
}

/// Slow clients hold every place; they lose them by the header timeout, and a probe that waited is answered.
#[tokio::test]
async fn silent_clients_lose_their_places() {
    let server = start().await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = server.connect().await;
        stream.write_all(b"GET /livez HT").await.expect("is taken");
        silent.push(stream);
    }
    let answer = server.ask("GET /livez").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    for stream in silent {
        assert_eq!(read_to_end(stream).await, "", "closed without an answer");
    }
    server.stop().await;
}

#[tokio::test]
async fn stops_at_once_under_idle_connections_and_frees_the_port() {
    let server = start().await;
    let address = server.address;
    let mut idle = server.connect().await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("is taken");
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 200");
    server.stop().await;
    assert!(read_to_end(idle).await.ends_with("ok\n"));
    TcpListener::bind(address).await.expect("the port is free");
}

#[tokio::test]
async fn a_taken_port_is_a_clear_error() {
    let server = start().await;
    let metrics = Arc::new(Metrics::new("test", "0.0.0"));
    let error = AdminServer::bind(server.address, metrics, Ready::new())
        .await
        .expect_err("the port is taken");
    assert_eq!(
        error.to_string(),
        format!("cannot listen on {} (adminListen)", server.address)
    );
    server.stop().await;
}
