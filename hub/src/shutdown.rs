//! The order of leaving: agents are told and given a moment, streams end, the server stops, and whatever hangs then is left
//! behind by a hard deadline (PITFALLS 6).

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::tenants::Tenants;

/// Agents return within this time to whichever hub is there then.
const RETURN_WITHIN: Duration = Duration::from_secs(2);
/// How long agents may take to leave after they were told.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);
/// After this the process ends, whoever is still connected.
pub const HARD_STOP: Duration = Duration::from_secs(25);

/// Resolves at SIGTERM or SIGINT.
///
/// # Errors
/// When the signals cannot be caught.
pub async fn requested() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Takes no more sessions, tells every agent to leave, waits for them, and then ends what is left of the streams by `sessions`.
pub async fn drain(tenants: &Arc<Tenants>, sessions: &CancellationToken) {
    tenants.leave();
    let live = tenants.live();
    if live > 0 {
        info!(sessions = live, "leaving: agents are told to come back");
        tenants.drain(RETURN_WITHIN, "the hub is being stopped");
        let deadline = Instant::now() + LEAVE_WITHIN;
        loop {
            let changed = tenants.changed();
            tokio::pin!(changed);
            if tenants.live() == 0 || tokio::time::timeout_at(deadline, changed).await.is_err() {
                break;
            }
        }
    }
    sessions.cancel();
}
