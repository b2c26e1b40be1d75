//! How clusters are admitted, against the real hub and the real agent as processes on this machine, over real sockets, with the real API
//! servers of a lab of this binary's own. What strangers try has the number of its line in HOSTILE.md.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests, and a panic is how one fails"
)]

mod agent;
mod attacker;
mod ground;
mod hostile;
mod join;
mod leash;
mod renewal;
mod replicas;
mod rotation;

use std::time::Duration;

/// How long a level may take to be reached. Far beyond what it takes: a test that needs it all has failed.
const SOON: Duration = Duration::from_secs(60);
