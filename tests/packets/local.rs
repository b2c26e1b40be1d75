//! `externalTrafficPolicy: Local`: connections arrive only on nodes of the tenant that have a pod to answer them.

use anyhow::{Context, Result};
use berth_lab::address::Node;
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

/// Waits until the kube-proxies of exactly these of the two nodes say at the Service's own port that there are endpoints; the
/// others say so too, with 503.
async fn await_word(stage: &Stage, port: u64, on: [bool; 2]) -> Result<()> {
    let beside = stage.lab.host("m1");
    for (node, has_endpoints) in Node::of(stage.tenant.name()).zip(on) {
        let url = format!("http://{}:{port}/healthz", node.address);
        let what = format!("{url} says that there are endpoints: {has_endpoints}");
        eventually(SOON, &what, || async {
            match beside.get(&url).await {
                Ok(_) if has_endpoints => Ok(()),
                Err(error) if !has_endpoints && error.to_string().contains("answered 503") => {
                    Ok(())
                }
                other => Err(Seen(format!("{other:?}"))),
            }
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn point_24_where_connections_arrive_the_health_check_port_says_that_there_are_endpoints()
-> Result<()> {
    on_stage(async |stage| {
        let pods = Pods::new("web", 2);
        let local = "externalTrafficPolicy: Local";
        let ip = stage.web(&pods.on("a2"), local).await?;
        let url = url(&ip, 80);
        let spec = &stage.service("web").await?["spec"];
        let health = spec["healthCheckNodePort"].as_u64();
        let health = health.context("a Local Service has a health check port")?;
        let arrivals = Arrivals::at(&stage.lab, NODES, stage.node_port("web").await?).await?;
        for (pods, on) in [
            (pods.on("a2"), [false, true]),
            (pods.on("a1"), [true, false]),
            (pods, [true, true]),
        ] {
            stage.deploy(&pods).await?;
            await_word(stage, health, on).await?;
            await_arrivals(stage, &arrivals, &url, on).await?;
        }
        Ok(())
    })
    .await
}
