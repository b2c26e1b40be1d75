//! What the fuzz targets do: each takes bytes, makes of them what a hostile peer could do, does it to the real code, and
//! panics where something does not hold. `cargo fuzz` searches for such bytes (`make fuzz`), and an ordinary test runs what it
//! has found, so that both mean the same.
//!
//! - [`wire`]: bytes as messages, and messages as values of the model and back;
//! - [`hub`]: the hub's state machine under arbitrary agents, against a model of what may follow from what was said;
//! - [`agent`]: the agent's state machine under an arbitrary hub and arbitrary changes of its cluster;
//! - [`names`]: the names in certificates, and which of them are somebody;
//! - [`csr`]: requests for certificates, and what comes of them;
//! - [`policy`]: tenants under arbitrary policies, and what the planner and the claims let them have.

// A panic is how a target says that something does not hold.
#![allow(clippy::expect_used)]

pub mod agent;
pub mod csr;
pub mod hub;
mod model;
pub mod names;
pub mod policy;
mod say;
pub mod wire;

/// A target: its name, which is that of its corpus, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 6] = [
    ("wire", wire::run),
    ("hub", hub::run),
    ("agent", agent::run),
    ("names", names::run),
    ("csr", csr::run),
    ("policy", policy::run),
];
