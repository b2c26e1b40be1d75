//! What hub and agent share: the model, the way between model and messages, the session's state machines, identity, TLS,
//! and the plain furniture of a service (settings, telemetry, readiness, backoff).

pub mod admin;
pub mod annotations;
pub mod backoff;
pub mod doctor;
pub mod identity;
pub mod model;
pub mod ready;
pub mod session;
pub mod settings;
pub mod telemetry;
pub mod tls;
pub mod wire;
