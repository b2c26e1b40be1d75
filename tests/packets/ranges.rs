//! `loadBalancerSourceRanges` decide who is answered, where the client's own address is still to be seen.

use anyhow::Result;
use berth_lab::address::{CLIENT, NODES};
use berth_lab::workload::Pods;

use crate::support::{SOON, on_stage, url};

#[tokio::test]
async fn point_14_source_ranges_refuse_and_allow_live_and_so_does_their_removal() -> Result<()> {
    on_stage(async |stage| {
        // Two hosts of the same network, so that nothing but the range tells them apart.
        let (client, neighbour) = (stage.lab.client(), stage.lab.host("b1"));
        let theirs = NODES[4].address;
        assert_eq!(NODES[4].name, "b1");

        let mine = format!("loadBalancerSourceRanges: [{CLIENT}/32]");
        let ip = stage.web(&Pods::new("web", 2), &mine).await?;
        let url = url(&ip, 80);
        neighbour.await_silence(&url, SOON).await?;
        client.get(&url).await?;

        let change = format!(r#"{{"loadBalancerSourceRanges": [" {theirs}/32 "]}}"#);
        stage.merge("web", &change).await?;
        neighbour.await_get(&url, SOON).await?;
        client.await_silence(&url, SOON).await?;

        let both = format!(r#"{{"loadBalancerSourceRanges": ["{theirs}/32", "10.10.3.0/24"]}}"#);
        stage.merge("web", &both).await?;
        client.await_get(&url, SOON).await?;
        neighbour.get(&url).await?;

        stage
            .merge("web", r#"{"loadBalancerSourceRanges": ["192.0.2.0/24"]}"#)
            .await?;
        client.await_silence(&url, SOON).await?;
        neighbour.await_silence(&url, SOON).await?;

        stage
            .merge("web", r#"{"loadBalancerSourceRanges": null}"#)
            .await?;
        client.await_get(&url, SOON).await?;
        neighbour.await_get(&url, SOON).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn point_14_source_ranges_hold_for_datagrams_too() -> Result<()> {
    on_stage(async |stage| {
        stage.deploy(&Pods::new("dns", 1)).await?;
        let ports = "[{name: dns, port: 53, protocol: UDP, targetPort: 3001}]";
        let mine = format!("loadBalancerSourceRanges: [{CLIENT}/32]");
        let ip = stage.serve("dns", ports, &mine).await?;
        let address = format!("{ip}:53").parse()?;
        let answered = || async { Ok(stage.lab.client().datagram(address, "mine").await?) };
        berth_lab::eventually(SOON, "the client is answered", answered).await?;
        for _ in 0..3 {
            let theirs = stage.lab.host("b1").datagram(address, "theirs").await;
            anyhow::ensure!(theirs.is_err(), "the neighbour was answered: {theirs:?}");
        }
        answered()
            .await
            .map_err(|seen: berth_lab::Seen| anyhow::anyhow!(seen.0))?;
        Ok(())
    })
    .await
}
