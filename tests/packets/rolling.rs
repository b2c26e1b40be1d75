//! Pods are exchanged under traffic.

use std::time::Duration;

use anyhow::{Result, ensure};
use berth_lab::Traffic;
use berth_lab::traffic::lost;
use berth_lab::workload::Pods;
use tokio::time::Instant;

use crate::support::{SOON, Stage, on_stage, url};

/// For so long a pod serves on after its deletion: longer than everyone on the way takes to learn of it.
const GRACE: u8 = 5;

/// Between two connections.
const PACE: Duration = Duration::from_millis(15);

async fn update(stage: &Stage, policy: &str) -> Result<()> {
    let mut pods = Pods::new("web", 3);
    pods.grace = GRACE;
    let spec = format!("externalTrafficPolicy: {policy}");
    let ip = stage.web(&pods, &spec).await?;
    let url = url(&ip, 80);
    let several = "requests go to several pods";
    stage
        .await_answering(&url, several, |pods| pods > 1)
        .await?;

    let traffic = Traffic::start(stage.lab.client(), &url, PACE);
    traffic.await_calm(Instant::now(), SOON).await?;
    pods.version = 2;
    stage.deploy(&pods).await?;
    // Their ends come after the rollout's.
    let gone = [
        "wait",
        "pods",
        "--for=delete",
        "--timeout=60s",
        "-l",
        "version=v1",
        "-n",
    ];
    stage
        .tenant
        .kubectl(&[&gone[..], &[&stage.namespace]].concat())
        .await?;
    traffic.await_calm(Instant::now(), SOON).await?;
    let shots = traffic.stop().await?;
    let lost = lost(&shots);
    ensure!(shots.len() > 100, "only {} connections", shots.len());
    ensure!(
        lost.is_empty(),
        "{} of {} connections were lost: {:?}",
        lost.len(),
        shots.len(),
        lost.iter().take(5).collect::<Vec<_>>()
    );
    Ok(())
}

#[tokio::test]
async fn point_34_a_rolling_update_loses_nothing() -> Result<()> {
    on_stage(async |stage| update(stage, "Cluster").await).await
}

#[tokio::test]
async fn point_24_and_34_a_rolling_update_under_local_loses_nothing() -> Result<()> {
    on_stage(async |stage| update(stage, "Local").await).await
}
