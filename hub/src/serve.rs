//! The gRPC server: which services there are, who may call which, and the limits of HTTP/2. Every connection that gets here
//! has passed the TLS handshake; what its certificate allows is decided per service.

mod refusals;

use std::{sync::Arc, time::Duration};

use berth_common::{identity::Identity, session::MESSAGE_BYTES};
use berth_wire::{
    slim,
    v1::{
        agent_service_server::AgentServiceServer, enrollment_server::EnrollmentServer,
        renewal_server::RenewalServer,
    },
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Status, body::Body, service::interceptor::InterceptedService, transport::Server,
};
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::util::{MapRequestLayer, MapResponseLayer};

use crate::{
    enroll::{Enrollments, Renewals},
    listen::{Incoming, Peer},
    session::Sessions,
};
use refusals::Refusals;

/// The name under which `grpc.health.v1` answers for the sessions' service, besides the empty one.
pub const SERVICE: &str = "berth.v1.AgentService";

/// Large enough for a request that is refused as too large, in words.
const CERTIFICATE_MESSAGE_BYTES: usize = 256 * 1024;

/// Why the server could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptor set in this binary is broken.
    #[error("the embedded descriptor set cannot be read")]
    Descriptors(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("the gRPC server failed")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves until `stop` is cancelled and every connection has ended.
///
/// # Errors
/// [`ServeError`]; a single connection's failure is none.
pub async fn serve<H: Health>(
    incoming: Incoming,
    sessions: Sessions,
    renewals: Option<Renewals>,
    health: HealthServer<H>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(berth_wire::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let metrics = sessions.metrics().clone();
    bounded()
        .layer(tower::layer::layer_fn(move |inner| {
            Refusals::new(inner, metrics.clone())
        }))
        .layer(MapResponseLayer::new(|response: http::Response<Body>| {
            response.map(slim::sent)
        }))
        .layer(MapRequestLayer::new(|request: http::Request<Body>| {
            request.map(slim::received)
        }))
        .add_service(AgentServiceServer::new(sessions).max_decoding_message_size(MESSAGE_BYTES))
        .add_optional_service(renewals.map(|renewals| {
            RenewalServer::new(renewals).max_decoding_message_size(CERTIFICATE_MESSAGE_BYTES)
        }))
        .add_service(InterceptedService::new(health, anyone))
        .add_service(InterceptedService::new(reflection, admins))
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await?;
    Ok(())
}

/// Serves those who have no certificate yet: the one call by which they get one.
///
/// # Errors
/// As [`serve`].
pub async fn serve_enrollment(
    incoming: Incoming,
    enrollments: Enrollments,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    bounded()
        .add_service(
            EnrollmentServer::new(enrollments).max_decoding_message_size(CERTIFICATE_MESSAGE_BYTES),
        )
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await?;
    Ok(())
}

/// PITFALLS 2: what is not set here reaches hyper as no limit at all. No maximum age (PITFALLS 1).
fn bounded() -> Server {
    Server::builder()
        .max_concurrent_streams(8)
        .http2_max_local_error_reset_streams(Some(64))
        .http2_max_pending_accept_reset_streams(Some(20))
        .http2_max_header_list_size(16 * 1024)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(512 * 1024)
}

/// Health is for everyone whom the hub knows by name.
fn anyone(request: Request<()>) -> Result<Request<()>, Status> {
    identity(&request)?;
    Ok(request)
}

/// Reflection tells what there is to call: the operator's business.
fn admins(request: Request<()>) -> Result<Request<()>, Status> {
    match identity(&request)? {
        Identity::Admin(_) => Ok(request),
        other => Err(Status::permission_denied(format!(
            "{other} is no admin: reflection needs a certificate made with `berth-hub cert issue --admin NAME`"
        ))),
    }
}

fn identity(request: &Request<()>) -> Result<Identity, Status> {
    let peer = request
        .extensions()
        .get::<Arc<Peer>>()
        .ok_or_else(|| Status::unauthenticated("no client certificate"))?;
    match &peer.identity {
        Ok(certificate) => Ok(certificate.identity.clone()),
        Err(error) => Err(Status::unauthenticated(format!(
            "the client certificate names nobody: {error}"
        ))),
    }
}
