//! The admin port: `/metrics`, `/livez` and `/readyz` over plain HTTP/1.1, for Prometheus and the kubelet. It serves what
//! `telemetry` and `ready` know and knows nothing else; it takes no input but a path, and bounds connections, headers and
//! time, for the port is open to the cluster's network.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    ready::Ready,
    telemetry::{Metrics, OPENMETRICS},
};

/// Connections served at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// A request's head must arrive within this, and an idle connection is closed after it.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// No connection is older than this: a peer that reads slowly, or never, gives its place back.
const MAX_AGE: Duration = Duration::from_secs(60);
/// What an answer under way gets to finish when its connection must end.
const GRACE: Duration = Duration::from_secs(2);
/// The longest request head.
const MAX_HEAD: usize = 16 * 1024;
/// The pause after a failed accept (no file descriptor left), which would otherwise be tried again at once, hot.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the admin port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is in use, not this machine's, or not allowed.
    #[error("cannot listen on {address} (adminListen)")]
    Bind {
        /// The address of the setting.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The admin server, listening but not yet serving.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    metrics: Arc<Metrics>,
    ready: Ready,
}

impl AdminServer {
    /// Opens the port, so that a process whose port is taken fails before it does anything else.
    pub async fn bind(
        address: SocketAddr,
        metrics: Arc<Metrics>,
        ready: Ready,
    ) -> Result<Self, AdminError> {
        let bind_error = |source| AdminError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind_error)?;
        let address = listener.local_addr().map_err(bind_error)?;
        Ok(Self {
            listener,
            address,
            state: Arc::new(State { metrics, ready }),
        })
    }

    /// The address that was bound: the setting's, with the port the kernel chose where that said 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is cancelled, then lets answers under way finish, for at most two seconds.
    pub async fn serve(self, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                // Reaps what has ended; a panic in a connection is that connection's end and nothing more.
                Some(_) = connections.join_next() => continue,
                accepted = accept(&self.listener, &places) => accepted,
            };
            match accepted {
                Ok((stream, place)) => {
                    let connection = serve_connection(stream, self.state.clone(), stop.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin port cannot accept a connection");
                    let _ = timeout(ACCEPT_PAUSE, stop.cancelled()).await;
                }
            }
        }
        drop(self.listener);
        while connections.join_next().await.is_some() {}
    }
}

type Place = tokio::sync::OwnedSemaphorePermit;

/// Takes a place first, so that nothing is accepted that would have to wait in our memory.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> io::Result<(TcpStream, Place)> {
    let place = places
        .clone()
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

async fn serve_connection(stream: TcpStream, state: Arc<State>, stop: CancellationToken) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&state, request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // Errors are the peer's: a reset, a timeout, or not HTTP. Nobody acts on them.
        _ = connection.as_mut() => return,
        _ = timeout(MAX_AGE, stop.cancelled()) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, connection).await;
}

/// The whole of the API, without any IO.
fn respond(state: &State, method: &Method, path: &str) -> Response<Full<Bytes>> {
    if !matches!(path, "/metrics" | "/livez" | "/readyz") {
        return text(StatusCode::NOT_FOUND, "see /metrics, /livez, /readyz\n");
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
        let allow = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allow);
        return response;
    }
    match path {
        "/metrics" => match state.metrics.encode() {
            Ok(metrics) => typed(StatusCode::OK, OPENMETRICS, metrics),
            Err(error) => {
                tracing::error!(%error, "metrics cannot be encoded");
                text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "metrics cannot be encoded\n",
                )
            }
        },
        "/livez" => health("dead", &state.ready.dead()),
        _ => health("not ready", &state.ready.pending()),
    }
}

/// 200 if nothing stands against it, else 503 with a line for each thing that does.
fn health(what: &str, against: &[String]) -> Response<Full<Bytes>> {
    if against.is_empty() {
        return text(StatusCode::OK, "ok\n");
    }
    let lines: String = against
        .iter()
        .map(|name| format!("{what}: {name}\n"))
        .collect();
    text(StatusCode::SERVICE_UNAVAILABLE, lines)
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests;
