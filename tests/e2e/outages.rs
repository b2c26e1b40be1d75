//! What is lost and comes back: hub, tenant API server, management API server. Nothing is deleted, and people are told once.

use std::time::Duration;

use anyhow::Result;
use berth_lab::{Lab, Seen, eventually};

use crate::support::{SOON, get, service};

#[tokio::test]
async fn the_hub_is_down_the_agent_says_so_once_and_comes_back_by_itself() -> Result<()> {
    let lab = Lab::builder().start_own().await?;
    let acme = lab.tenant("acme").await?;
    let namespace = acme.namespace().await?;
    acme.apply_in(&namespace, &service("before", "")).await?;
    let ip = acme.await_ip(&namespace, "before").await?;

    lab.hub().kill().await?;
    acme.apply_in(&namespace, &service("meanwhile", "")).await?;
    // Several attempts fail before the hub is back; each way of failing is one state, and one line.
    eventually(SOON, "the agent has tried five times", || async {
        let ended = acme
            .agent()
            .metric("berth_agent_sessions_ended_total", &[])
            .await?;
        match ended >= 5.0 {
            true => Ok(()),
            false => Err(Seen(format!("{ended} ended"))),
        }
    })
    .await?;
    let log = acme.agent().log().await?;
    let said: Vec<&str> = log
        .lines()
        .filter_map(|line| {
            line.split_once("not connected to the hub: ")?
                .1
                .split("; next attempt")
                .next()
        })
        .collect();
    assert!((1..=2).contains(&said.len()), "{said:#?}");
    assert!(said.len() < 2 || said[0] != said[1], "{said:#?}");
    assert_eq!(acme.await_ip(&namespace, "before").await?, ip);

    lab.hub().start().await?;
    acme.await_ip(&namespace, "meanwhile").await?;
    assert_eq!(acme.await_ip(&namespace, "before").await?, ip);
    lab.stop().await?;
    Ok(())
}

#[tokio::test]
async fn rule_7_the_tenants_api_server_is_down_and_nothing_is_deleted() -> Result<()> {
    let lab = Lab::builder().start_own().await?;
    let acme = lab.tenant("acme").await?;
    let namespace = acme.namespace().await?;
    acme.apply_in(&namespace, &service("web", "")).await?;
    let ip = acme.await_ip(&namespace, "web").await?;

    acme.kill_api_server().await?;
    lab.hub()
        .await_log("lost its cluster's API server", Duration::from_secs(60))
        .await?;
    let objects = get(lab.management(), &["loadbalancers", "-n", "berth-acme"]).await?;
    assert_eq!(objects["items"].as_array().map(Vec::len), Some(1));
    // The agent, restarted while its API server is away, knows nothing, and says so instead of sending nothing.
    acme.agent().kill().await?;
    acme.agent().process().start().await?;

    acme.start_api_server().await?;
    acme.agent().ready().await?;
    assert_eq!(acme.await_ip(&namespace, "web").await?, ip);
    let deletions = lab.management().audit().await?.by(":berth-hub");
    assert!(
        !deletions.0.iter().any(|w| w.verb == "delete"),
        "{deletions:?}"
    );
    lab.stop().await?;
    Ok(())
}

#[tokio::test]
async fn the_management_api_server_is_down_and_the_work_is_done_when_it_is_back() -> Result<()> {
    let lab = Lab::builder().start_own().await?;
    let acme = lab.tenant("acme").await?;
    let namespace = acme.namespace().await?;
    lab.management().kill_api_server().await?;
    acme.apply_in(&namespace, &service("web", "")).await?;
    lab.management().start_api_server().await?;
    acme.await_ip(&namespace, "web").await?;
    lab.stop().await?;
    Ok(())
}
