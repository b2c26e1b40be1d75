//! The lab as these measurements want it: the hub alone, with Tenants for a whole fleet, and an allocator that is quick. Knows how
//! to set up; must not measure.

use anyhow::Result;
use berth_hub::api::{Tenant, TenantSpec};
use berth_lab::{Audit, Lab, Process, progress::Console};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{Api, PostParams};
use tokio::task::JoinSet;

use crate::allocator;

/// How many Tenants are created at once.
const AT_ONCE: usize = 16;

/// Where everything is measured.
pub(crate) struct Ground {
    /// The lab; with it everything ends.
    pub(crate) lab: Lab,
    /// The hub's process, as these measurements start it.
    pub(crate) hub: Process,
    tenants: u32,
    _allocator: JoinSet<()>,
}

impl Ground {
    pub(crate) async fn start(filter: &str, environment: &[String]) -> Result<Self> {
        let lab = Lab::builder()
            .progress(Console::stderr())
            .start_own()
            .await?;
        lab.metallb().controller.stop().await?;
        // The whole fleet has one address here, which is nobody's business on a network of one machine.
        let mut hub = lab.hub().process().clone().env("BERTH_LOG_FILTER", filter);
        hub = hub.env("BERTH_HANDSHAKES_PER_ADDRESS", "256");
        for variable in environment {
            if let Some((name, value)) = variable.split_once('=') {
                hub = hub.env(name, value);
            }
        }
        let mut allocator = JoinSet::new();
        allocator.spawn(allocator::run(lab.management().client().await?));
        let mut ground = Self {
            lab,
            hub,
            tenants: 0,
            _allocator: allocator,
        };
        ground.restart_hub().await?;
        ground.admit(1).await?;
        Ok(ground)
    }

    /// Admits tenants up to this number.
    pub(crate) async fn admit(&mut self, tenants: u32) -> Result<()> {
        let api: Api<Tenant> = Api::all(self.lab.management().client().await?);
        stream::iter(self.tenants + 1..=tenants)
            .map(|number| {
                let tenant = Tenant::new(&format!("sim-{number:05}"), TenantSpec::default());
                let api = api.clone();
                async move { api.create(&PostParams::default(), &tenant).await }
            })
            .buffer_unordered(AT_ONCE)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        self.tenants = self.tenants.max(tenants);
        Ok(())
    }

    /// Stops the hub in order and starts it again.
    pub(crate) async fn restart_hub(&self) -> Result<()> {
        self.hub.restart().await?;
        Ok(self.lab.hub().ready().await?)
    }

    /// Kills the hub and starts it again at once, as Kubernetes does after a crash.
    pub(crate) async fn crash_hub(&self) -> Result<()> {
        self.hub.kill().await?;
        self.hub.start().await?;
        Ok(self.lab.hub().ready().await?)
    }

    /// Everything that the hub has written to the management cluster.
    pub(crate) async fn writes(&self) -> Result<Audit> {
        Ok(self.lab.management().audit().await?.by(":berth-hub"))
    }

    /// How long the audit log is, which has every write but those of leases.
    pub(crate) async fn audited(&self) -> Result<u64> {
        let log = self.lab.management().audit_log();
        Ok(tokio::fs::metadata(log).await?.len())
    }

    /// The end of the hub's log.
    pub(crate) async fn last_words(&self) -> Result<String> {
        let log = self.hub.log().await?;
        let mut lines: Vec<_> = log.lines().rev().take(20).collect();
        lines.reverse();
        Ok(lines.join("\n"))
    }
}
