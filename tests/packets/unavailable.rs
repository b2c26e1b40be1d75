//! A Service without a pod to answer: nobody answers, and the address stays. With the policy Cluster the tenant's nodes are still
//! backends and refuse connections; with Local there is no backend, and MetalLB withdraws the announcement until there is one.

use anyhow::{Result, ensure};
use berth_lab::workload::Pods;
use berth_lab::{Error, Seen, eventually};

use crate::support::{SOON, Stage, on_stage, url};

/// Waits until a connection fails at once, which is what a client can act on, and not by a timeout.
async fn await_refusal(stage: &Stage, url: &str) -> Result<()> {
    eventually(SOON, &format!("{url} is refused"), || async {
        match stage.lab.client().get(url).await {
            Err(Error::Unanswered { why, .. }) if why.contains("Connection refused") => Ok(()),
            other => Err(Seen(format!("{other:?}"))),
        }
    })
    .await?;
    Ok(())
}

async fn without_pods(stage: &Stage, policy: &str) -> Result<()> {
    let spec = format!("externalTrafficPolicy: {policy}");
    let ip = stage.web(&Pods::new("web", 2), &spec).await?;
    let url = url(&ip, 80);
    stage.deploy(&Pods::new("web", 0)).await?;
    match policy {
        "Local" => stage.lab.client().await_silence(&url, SOON).await?,
        _ => await_refusal(stage, &url).await?,
    }
    let status = &stage.service("web").await?["status"]["loadBalancer"]["ingress"][0]["ip"];
    ensure!(*status == *ip, "the status has {status} and had {ip}");
    stage.deploy(&Pods::new("web", 1)).await?;
    stage.lab.client().await_get(&url, SOON).await?;
    ensure!(stage.tenant.await_ip(&stage.namespace, "web").await? == ip);
    Ok(())
}

#[tokio::test]
async fn point_25_without_endpoints_connections_are_refused_and_the_address_stays() -> Result<()> {
    on_stage(async |stage| without_pods(stage, "Cluster").await).await
}

#[tokio::test]
async fn point_25_without_local_endpoints_nobody_answers_and_the_address_stays() -> Result<()> {
    on_stage(async |stage| without_pods(stage, "Local").await).await
}
