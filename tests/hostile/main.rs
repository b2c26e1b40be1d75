//! Hostile input: what a stranger, a stolen key or a malicious tenant can send to a hub, against the real hub process in front of
//! a real API server, over real sockets. Each test is a line of HOSTILE.md, by number, and shows the answer that stands there.
//! After each attack a neighbour's session, opened before it, gets an answer; the hub's memory is back within bounds; a metric
//! has counted the attack, and a line of the audit log tells of it and of where it came from ([`ground`]).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "all of this is tests"
)]

mod attacker;
mod evidence;
mod framing;
mod ground;
mod identity;
mod management;
mod nodes;
mod resources;
mod rights;
mod session_rules;
mod snapshots;
mod steering;
mod stolen;
mod transport;
mod transport_http2;
mod vanished;
