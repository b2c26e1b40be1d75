//! `externalTrafficPolicy: Local`: connections arrive only on nodes of the tenant that have a pod to answer them.

use anyhow::Result;
use berth_lab::workload::Pods;
use berth_lab::{Seen, eventually};

use crate::arrivals::Arrivals;
use crate::support::{SOON, Stage, on_stage, url};

const NODES: [&str; 2] = ["a1", "a2"];

/// Waits until connections arrive on exactly these of the two nodes, all of them answered.
async fn await_arrivals(
    stage: &Stage,
    arrivals: &Arrivals<'_>,
    url: &str,
    on: [bool; 2],
) -> Result<()> {
    let what = format!("connections to {url} arrive on {NODES:?}: {on:?}");
    eventually(SOON, &what, || async {
        let counts = arrivals.during(stage.answering(url)).await?;
        match counts.map(|count| count > 0) == on {
            true => Ok(()),
            false => Err(Seen(format!("{counts:?} of them"))),
        }
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn point_24_local_leads_only_to_nodes_with_endpoints_and_follows_them() -> Result<()> {
    on_stage(async |stage| {
        let pods = Pods::new("web", 2);
        let ip = stage
            .web(&pods.on("a2"), "externalTrafficPolicy: Local")
            .await?;
        let url = url(&ip, 80);
        let port = stage.node_port("web").await?;
        let arrivals = Arrivals::at(&stage.lab, NODES, port).await?;
        await_arrivals(stage, &arrivals, &url, [false, true]).await?;
        stage.deploy(&pods.on("a1")).await?;
        await_arrivals(stage, &arrivals, &url, [true, false]).await?;
        stage.deploy(&pods).await?;
        await_arrivals(stage, &arrivals, &url, [true, true]).await
    })
    .await
}

#[tokio::test]
async fn point_24_a_switch_between_local_and_cluster_works_both_ways() -> Result<()> {
    on_stage(async |stage| {
        let ip = stage.web(&Pods::new("web", 2).on("a2"), "").await?;
        let url = url(&ip, 80);
        let port = stage.node_port("web").await?;
        let arrivals = Arrivals::at(&stage.lab, NODES, port).await?;
        await_arrivals(stage, &arrivals, &url, [true, true]).await?;
        for (policy, on) in [("Local", [false, true]), ("Cluster", [true, true])] {
            let change = format!(r#"{{"externalTrafficPolicy": "{policy}"}}"#);
            stage.merge("web", &change).await?;
            await_arrivals(stage, &arrivals, &url, on).await?;
            anyhow::ensure!(stage.tenant.await_ip(&stage.namespace, "web").await? == ip);
        }
        Ok(())
    })
    .await
}
