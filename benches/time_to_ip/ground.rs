//! The lab as the measurements want it: room for a thousand addresses, everything logging as in production, and a watched
//! namespace on each side. Knows how to set up; must not measure.

use std::path::Path;

use anyhow::{Context, Result};
use berth_lab::lab::ACME;
use berth_lab::progress::Console;
use berth_lab::{Cluster, Lab, Process, Program, Tenant, metallb};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::api::Api;

use crate::side::Side;
use crate::sightings::Sightings;

/// Beside the tutorial's 51 addresses, another 16,382 on the same network.
const ADDRESSES: &str = "10.10.128.1-10.10.191.254";

/// The label that says which of the tenant's Services a Service of the hub belongs to.
const SERVICE_NAME: &str = "berth.dev/service-name";

/// Where everything is measured.
pub(crate) struct Ground {
    /// The lab; with it everything ends.
    pub(crate) lab: Lab,
    /// Services created in the management cluster.
    pub(crate) direct: Side,
    /// Services created in a tenant's, unless Berth is left out.
    pub(crate) berth: Option<Berth>,
}

/// The way of one tenant through Berth.
pub(crate) struct Berth {
    /// Its cluster and agent.
    pub(crate) tenant: Tenant,
    /// Services created in the tenant's cluster.
    pub(crate) side: Side,
    /// What the hub makes of them in the management cluster, by the name of the tenant's Service.
    pub(crate) managed: Sightings,
}

impl Ground {
    /// Starts the lab, with or without Berth, whose programs log what `filter` lets through.
    pub(crate) async fn start(with_berth: bool, filter: &str) -> Result<Self> {
        let builder = Lab::builder().progress(Console::stderr());
        let builder = match with_berth {
            true => builder,
            false => builder.without_berth(),
        };
        let lab = builder.start_own().await?;
        let management = lab.management();
        management
            .apply(&metallb::pool("bench", ADDRESSES, "bench"))
            .await?;
        let metallb = &lab.metallb().controller;
        restart(metallb.clone().arg("--log-level=info")).await?;
        let direct = Side::new(management).await?;
        let berth = match with_berth {
            true => {
                log_at(lab.hub(), filter).await?;
                Some(Berth::of(&lab, ACME, filter).await?)
            }
            false => None,
        };
        Ok(Self { lab, direct, berth })
    }

    /// The clusters that must have come to rest before anything is measured.
    pub(crate) fn clusters(&self) -> Vec<&Cluster> {
        vec![self.lab.management(), self.lab.acme()]
    }

    /// Copies the logs of hub and agent, for a look at single steps.
    pub(crate) async fn save_logs(&self, directory: &Path) -> Result<()> {
        let Some(berth) = &self.berth else {
            return Ok(());
        };
        let logs = [
            ("hub.log", self.lab.hub().log().await?),
            ("agent.log", berth.tenant.agent().log().await?),
        ];
        for (name, log) in logs {
            let path = directory.join(name);
            let failed = || format!("cannot write {}", path.display());
            tokio::fs::write(&path, log).await.with_context(failed)?;
        }
        Ok(())
    }
}

impl Berth {
    /// The tenant of that name, whose agent logs what `filter` lets through.
    pub(crate) async fn of(lab: &Lab, name: &str, filter: &str) -> Result<Self> {
        let tenant = lab.tenant(name).await?;
        log_at(tenant.agent(), filter).await?;
        let side = Side::new(tenant.cluster()).await?;
        let client = lab.management().client().await?;
        let managed: Api<Service> = Api::namespaced(client, &format!("berth-{name}"));
        let name = |service: &Service| service.labels().get(SERVICE_NAME).cloned();
        Ok(Self {
            tenant,
            side,
            managed: Sightings::start(managed, SERVICE_NAME, name),
        })
    }
}

/// Restarts the hub or an agent with another log filter: the lab's own is for finding faults.
async fn log_at(program: &Program, filter: &str) -> Result<()> {
    restart(program.process().clone().env("BERTH_LOG_FILTER", filter)).await?;
    Ok(program.ready().await?)
}

async fn restart(process: Process) -> Result<()> {
    let failed = || format!("cannot restart {}", process.name());
    process.restart().await.with_context(failed)
}
