//! An attacker's tools: certificates that no authority in order makes, TLS as bad as it gets, HTTP/2 frame by frame, and gRPC
//! byte by byte. Nothing here knows what the hub should answer.

pub(crate) mod certificates;
pub(crate) mod frames;
pub(crate) mod messages;
pub(crate) mod session;
pub(crate) mod tls;
