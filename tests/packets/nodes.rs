//! A tenant's node that should receive nothing receives nothing.

use anyhow::Result;
use berth_lab::workload::Pods;
use berth_lab::{Seen, eventually};

use crate::arrivals::Arrivals;
use crate::support::{SOON, Stage, alone_on_stage, url};

const NODES: [&str; 2] = ["a1", "a2"];

/// Says of a hand-made node whether it is ready, as a node's controller would.
async fn set_ready(stage: &Stage, node: &str, ready: bool) -> Result<()> {
    let status = if ready { "True" } else { "False" };
    let patch = format!(
        r#"{{"status": {{"conditions": [{{"type": "Ready", "status": "{status}", "reason": "Test"}}]}}}}"#
    );
    let argv = ["patch", "node", node, "--subresource=status", "-p", &patch];
    stage.tenant.kubectl(&argv).await?;
    Ok(())
}

async fn await_arrivals(
    stage: &Stage,
    arrivals: &Arrivals<'_>,
    url: &str,
    what: &str,
    on: [bool; 2],
) -> Result<()> {
    eventually(SOON, what, || async {
        let counts = arrivals.during(stage.answering(url)).await?;
        match counts.map(|count| count > 0) == on {
            true => Ok(()),
            false => Err(Seen(format!("{counts:?}"))),
        }
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn point_22_and_34_a_node_that_is_not_ready_stops_receiving_and_returns() -> Result<()> {
    alone_on_stage(async |stage| {
        let ip = stage.web(&Pods::new("web", 2).on("a1"), "").await?;
        let url = url(&ip, 80);
        let port = stage.node_port("web").await?;
        let arrivals = Arrivals::at(&stage.lab, NODES, port).await?;
        stage.await_backends(NODES.len()).await?;
        for (ready, on) in [
            (true, [true, true]),
            (false, [true, false]),
            (true, [true, true]),
        ] {
            set_ready(stage, "a2", ready).await?;
            let what = format!("with a2's readiness {ready} connections arrive on {on:?}");
            await_arrivals(stage, &arrivals, &url, &what, on).await?;
        }
        Ok(())
    })
    .await
}

/// The agent does nothing about the taint alone, as upstream. The node's own kube-proxy says 503 then, and the hub hears it.
#[tokio::test]
async fn point_21_and_26_a_node_that_the_autoscaler_will_delete_stops_receiving_and_returns()
-> Result<()> {
    alone_on_stage(async |stage| {
        let ip = stage.web(&Pods::new("web", 2).on("a1"), "").await?;
        let url = url(&ip, 80);
        let port = stage.node_port("web").await?;
        let arrivals = Arrivals::at(&stage.lab, NODES, port).await?;
        let on = [true, true];
        stage.await_backends(NODES.len()).await?;
        await_arrivals(stage, &arrivals, &url, "both nodes receive", on).await?;
        let taint = "ToBeDeletedByClusterAutoscaler";
        let tainted = format!("{taint}=now:NoSchedule");
        stage
            .tenant
            .kubectl(&["taint", "node", "a2", &tainted])
            .await?;
        let what = "with the taint a2 receives nothing";
        let left = await_arrivals(stage, &arrivals, &url, what, [true, false]).await;
        let untainted = format!("{taint}-");
        stage
            .tenant
            .kubectl(&["taint", "node", "a2", &untainted])
            .await?;
        left?;
        stage.await_backends(NODES.len()).await?;
        await_arrivals(stage, &arrivals, &url, "both receive again", on).await
    })
    .await
}
