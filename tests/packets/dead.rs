//! A node of the tenant loses its network. Its cluster takes most of a minute to notice; the hub's own probes find it in seconds.

use std::time::Duration;

use anyhow::{Result, ensure};
use berth_lab::traffic::lost;
use berth_lab::workload::Pods;
use berth_lab::{Seen, Traffic, eventually};
use tokio::time::Instant;

use crate::arrivals::Arrivals;
use crate::support::{SOON, Stage, alone_on_stage, on_stage, url};

/// How long requests may be lost after a node's death.
const BOUND: Duration = Duration::from_secs(3);

/// What a machine that runs other tests beside may add to it.
const SLACK: Duration = Duration::from_secs(2);

/// Between two requests.
const PACE: Duration = Duration::from_millis(20);

/// The agent is on the other one.
const NODE: &str = "a2";

const NODES: [&str; 2] = ["a1", NODE];

/// Cuts the node under traffic, and says for how long requests that began after the cut were lost.
async fn suffering(stage: &Stage, url: &str) -> Result<Duration> {
    // An earlier test may have cut it too.
    stage.await_backends(NODES.len()).await?;
    let traffic = Traffic::start(stage.lab.client(), url, PACE);
    traffic.await_calm(Instant::now(), SOON).await?;
    stage.lab.cut(NODE).await?;
    let cut = Instant::now();
    let calm = traffic.await_calm(cut, SOON).await;
    let shots = traffic.stop().await?;
    let lost = lost(&shots);
    ensure!(
        !lost.is_empty(),
        "the cut cost nothing, so it proves nothing"
    );
    calm?;
    let last = lost.last().map_or(cut, |shot| shot.began);
    Ok(last.saturating_duration_since(cut))
}

/// Cuts the node, and heals it whatever came of that.
async fn dead_node(stage: &Stage, pods: &Pods<'_>, policy: &str) -> Result<()> {
    let spec = format!("externalTrafficPolicy: {policy}");
    let ip = stage.web(pods, &spec).await?;
    dies_and_returns(stage, &url(&ip, 80)).await
}

async fn dies_and_returns(stage: &Stage, url: &str) -> Result<()> {
    let suffering = suffering(stage, url).await;
    stage.lab.heal(NODE).await?;
    let suffering = suffering?;
    ensure!(
        suffering <= BOUND + SLACK,
        "requests were lost for {suffering:?} after the cut"
    );

    // Back on the network it takes its part again.
    stage.await_backends(NODES.len()).await?;
    let port = stage.node_port("web").await?;
    let arrivals = Arrivals::at(&stage.lab, NODES, port).await?;
    eventually(SOON, "connections arrive on both nodes again", || async {
        let counts = arrivals.during(stage.answering(url)).await?;
        match counts.iter().all(|count| *count > 0) {
            true => Ok(()),
            false => Err(Seen(format!("{counts:?}"))),
        }
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn point_26_and_34_a_dead_node_stops_receiving_within_seconds_and_returns() -> Result<()> {
    // With the pods on the other node, every request can succeed.
    alone_on_stage(async |stage| dead_node(stage, &Pods::new("web", 2).on("a1"), "Cluster").await)
        .await
}

#[tokio::test]
async fn point_26_and_34_under_local_a_dead_nodes_pods_are_left_out_too() -> Result<()> {
    alone_on_stage(async |stage| dead_node(stage, &Pods::new("web", 2), "Local").await).await
}

/// Lets nothing through to a node's healthz, as a firewall that is open for node ports alone.
async fn firewall(stage: &Stage) -> Result<()> {
    let rules = "table ip firewall {\n chain in {\n  type filter hook input priority filter;\n  tcp dport 10256 drop\n }\n}\n";
    for node in NODES {
        let nft = stage.lab.host(node).command(["nft", "-f", "-"])?;
        nft.stdin(rules).run().await?;
    }
    Ok(())
}

async fn no_firewall(stage: &Stage) -> Result<()> {
    for node in NODES {
        let argv = ["nft", "delete", "table", "ip", "firewall"];
        stage.lab.host(node).sh(argv).await?;
    }
    Ok(())
}

#[tokio::test]
async fn point_24_and_26_where_healthz_is_not_to_be_heard_the_health_check_port_tells_a_dead_node()
-> Result<()> {
    alone_on_stage(async |stage| {
        // Below all that the API server chooses by itself.
        let port = 30_010;
        let spec = format!("externalTrafficPolicy: Local\nhealthCheckNodePort: {port}");
        let ip = stage.web(&Pods::new("web", 2), &spec).await?;
        let knocks = Arrivals::at(&stage.lab, NODES, port).await?;
        firewall(stage).await?;
        let tested = async {
            eventually(SOON, "the hub knocks at both nodes", || async {
                match knocks.count().await? {
                    [first, second] if first > 0 && second > 0 => Ok(()),
                    counts => Err(Seen(format!("{counts:?}"))),
                }
            })
            .await?;
            dies_and_returns(stage, &url(&ip, 80)).await
        }
        .await;
        no_firewall(stage).await?;
        tested
    })
    .await
}

#[tokio::test]
async fn point_25_that_no_backend_is_left_is_told_to_the_service() -> Result<()> {
    on_stage(async |stage| {
        let local = "externalTrafficPolicy: Local";
        let ip = stage.web(&Pods::new("web", 1), local).await?;
        Pods::new("web", 0)
            .deploy(&stage.tenant, &stage.namespace)
            .await?;
        eventually(SOON, "an event UnAvailableLoadBalancer", || async {
            let argv = [
                "get",
                "events.v1.events.k8s.io",
                "-n",
                &stage.namespace,
                "-o",
            ];
            let columns = "custom-columns=R:.reason,N:.note,O:.regarding.name";
            let events = stage
                .tenant
                .kubectl(&[&argv[..], &[columns]].concat())
                .await?;
            match events.contains("UnAvailableLoadBalancer") {
                true => Ok(()),
                false => Err(Seen(events)),
            }
        })
        .await?;
        ensure!(stage.tenant.await_ip(&stage.namespace, "web").await? == ip);
        Ok(())
    })
    .await
}
