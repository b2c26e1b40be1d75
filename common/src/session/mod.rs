//! The session between agent and hub: two state machines that take events and give messages, without async, clock or IO,
//! so that a simulator can drive them through any history. DESIGN.md "The stream" is their specification.
//!
//! - [`digest`]: what a side holds, in 256 comparable buckets;
//! - [`snapshot`]: whole buckets in pages with a verified end;
//! - [`agent`]: what the tenant wants, and what of it the hub has still to hear;
//! - [`held`]: what the hub has heard of one tenant; it outlives sessions;
//! - [`greeting`]: Hello, as the hub reads it;
//! - [`hub`]: one live session as the hub sees it.

pub mod agent;
pub mod digest;
mod duplicates;
pub mod greeting;
pub mod held;
pub mod hub;
pub mod snapshot;
#[cfg(test)]
mod tests;

use std::time::Duration;

/// The trailer with a word for machines, where a status code says too little.
pub const REASON_TRAILER: &str = "berth-reason";
/// [`REASON_TRAILER`] of a PERMISSION_DENIED where no `Tenant` of that name exists: the agent may let go of Services that wait
/// for a teardown, for whoever deleted the tenant wanted that (LOADBALANCER.md point 7).
pub const TENANT_UNKNOWN: &str = "tenant-unknown";
/// The protocol version of this release.
pub const PROTOCOL: u32 = 1;
/// The feature by which a hub bounds how many agents send a snapshot at the same time.
pub const TURNS: &str = "turns";
/// The feature by which a hub tells during a session which annotations may pass.
pub const ANNOTATIONS: &str = "annotations";
/// The feature by which a hub asks an agent to renew its certificate before it is due. Only agents that keep theirs by themselves have it.
pub const REISSUE: &str = "reissue";
/// All features of this release.
pub const FEATURES: &[&str] = &[TURNS, ANNOTATIONS, REISSUE];
/// Each side says something at least this often.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
/// A peer that said nothing for this long is gone (DESIGN.md rule 10).
pub const SILENCE: Duration = Duration::from_secs(30);
/// How large a page of a snapshot, a delta or a batch of answers becomes at most.
pub const PAGE_BYTES: usize = 256 * 1024;
/// The largest message that either side reads.
pub const MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// The peer broke the rules of the stream: the session ends, and nothing it sent is acted on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A message came where another was due.
    #[error("{0} out of turn")]
    OutOfTurn(&'static str),
    /// The peer's protocol versions and ours do not meet.
    #[error(
        "this side speaks protocol {PROTOCOL}, the peer speaks {min} to {max}: upgrade the older of the two"
    )]
    Version {
        /// The lowest that the peer speaks.
        min: u32,
        /// The highest that the peer speaks.
        max: u32,
    },
    /// A message without a body, or with one that this release does not know.
    #[error("a message without a body that this release knows")]
    Unreadable,
    /// A field has a value that no peer in order sends.
    #[error("{0}")]
    Invalid(String),
    /// More than the limits that Welcome told.
    #[error("{0}")]
    TooMuch(String),
    /// The peer said nothing for [`SILENCE`].
    #[error("the peer said nothing for {} s", SILENCE.as_secs())]
    Silent,
}
