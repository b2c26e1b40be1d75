//! Waiting until a cluster has nothing left to do, so that one measurement does not pay for the one before: MetalLB spends
//! seconds on every Service's status after an address was released, and its client may write 20 times a second, 30 at once
//! after a pause. Knows that a cluster is written to; must not know by whom.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_lab::Cluster;
use tokio::time::interval;

/// A quiet time after which MetalLB's client may write 30 times at once again.
pub(crate) const FULL: Duration = Duration::from_secs(2);

/// A quiet time after which it has regained more than one Service takes, and kube-proxies have done their work.
pub(crate) const SHORT: Duration = Duration::from_millis(500);

/// How long work may go on. Releasing 1,000 addresses one by one keeps MetalLB busy for about a minute.
const DEADLINE: Duration = Duration::from_secs(300);

/// Between two looks: each costs next to nothing.
const BETWEEN: Duration = Duration::from_millis(20);

/// Waits until none of these clusters was written to for so long. The audit log knows of every write but those of leases, which
/// never rest.
pub(crate) async fn rest(clusters: &[&Cluster], quiet: Duration) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    let mut ticks = interval(BETWEEN);
    let mut before = sizes(clusters).await?;
    let mut since = Instant::now();
    while since.elapsed() < quiet {
        if Instant::now() > end {
            bail!("the clusters did not come to rest within {DEADLINE:?}");
        }
        ticks.tick().await;
        let now = sizes(clusters).await?;
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// How long the clusters' audit logs are.
async fn sizes(clusters: &[&Cluster]) -> Result<Vec<u64>> {
    let mut sizes = Vec::new();
    for cluster in clusters {
        let log = cluster.audit_log();
        let metadata = tokio::fs::metadata(&log).await;
        let failed = || format!("cannot look at {}", log.display());
        sizes.push(metadata.with_context(failed)?.len());
    }
    Ok(sizes)
}
