//! The stream over real sockets: the agent's real link and the hub's real listener, server and sessions, with mutual TLS, on
//! both sides of a proxy that breaks connections byte by byte. No cluster is needed: what the agent has read is put
//! into its broker, and a small planner stands where the hub's executor would.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "all of this is test code, which clippy takes only the tests themselves for"
)]

mod agent;
mod hub;
mod pki;
mod proxy;
mod raw;

mod black_holes;
mod blocked;
mod cuts;
mod fencing;
mod floods;
mod leaving;
mod rules;
mod slow;

use std::time::{Duration, Instant};

/// For levels that come about in less than a second on an idle machine.
const SOON: Duration = Duration::from_secs(20);

/// Waits until a level is reached, and tells how long that took.
async fn eventually(what: &str, within: Duration, mut level: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !level() {
        assert!(began.elapsed() < within, "never within {within:?}: {what}");
        // How often to look, not how long to wait.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}
