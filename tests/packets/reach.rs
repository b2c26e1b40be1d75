//! Packets reach the pod that they are meant for, and no other.

use anyhow::{Result, ensure};
use berth_lab::lab::BRAVO;
use berth_lab::workload::{Pods, service};
use berth_lab::{Lab, Seen, eventually};

use crate::support::{SOON, on_stage, shared_nodes, url, witnessed, word};

#[tokio::test]
async fn point_11_and_34_tcp_and_udp_on_one_port_reach_a_pod() -> Result<()> {
    on_stage(async |stage| {
        stage.deploy(&Pods::new("dns", 2)).await?;
        let ports = "[{name: tcp, port: 53, targetPort: 3000}, {name: udp, port: 53, protocol: UDP, targetPort: 3001}]";
        let ip = stage.serve("dns", ports, "").await?;
        let client = stage.lab.client();
        let answer = client.await_get(&(url(&ip, 53) + "by-tcp"), SOON).await?;
        ensure!(word(&answer, "host")?.starts_with("dns-"), "{answer}");
        ensure!(word(&answer, "path")? == "/by-tcp", "{answer}");

        let address = format!("{ip}:53").parse()?;
        let answer = eventually(SOON, "a datagram is answered", || async {
            Ok(client.datagram(address, "by-udp").await?)
        })
        .await?;
        ensure!(word(&answer, "host")?.starts_with("dns-"), "{answer}");
        ensure!(word(&answer, "path")? == "by-udp", "{answer}");
        Ok(())
    })
    .await
}

/// Both have the Service `shop/web` with the same port and the same node port; only the address tells them apart.
#[tokio::test]
async fn point_34_two_tenants_with_one_node_port_and_one_name_never_meet() -> Result<()> {
    let _nodes = shared_nodes().await;
    let lab = Lab::start().await?;
    if !lab.has_packets() {
        eprintln!("skipped: without namespaces no packet is sent");
        return Ok(());
    }
    let acme = lab.tenant("acme").await?;
    let bravo = lab.tenant(BRAVO).await?;
    let tenants = [
        (&acme, "acme-pod", "10.42."),
        (&bravo, "bravo-pod", "10.41."),
    ];
    let test = async {
        let ports = "[{name: tcp, port: 80, targetPort: 3000, nodePort: 31080}, \
                     {name: udp, port: 80, protocol: UDP, targetPort: 3001, nodePort: 31080}]";
        let mut served = Vec::new();
        for (tenant, pods, range) in tenants {
            tenant.kubectl(&["create", "namespace", "shop"]).await?;
            Pods::new(pods, 2).deploy(tenant, "shop").await?;
            let yaml = service("web", ports, "").replace("{app: web}", &format!("{{app: {pods}}}"));
            tenant.apply_in("shop", &yaml).await?;
            served.push((tenant.await_ip("shop", "web").await?, pods, range));
        }
        ensure!(
            served[0].0 != served[1].0,
            "one address for both: {served:?}"
        );

        let client = lab.client();
        for (ip, ..) in &served {
            client.await_get(&url(ip, 80), SOON).await?;
            let address = format!("{ip}:80").parse()?;
            eventually(SOON, "a datagram is answered", || async {
                Ok(client.datagram(address, "first").await?)
            })
            .await?;
        }
        // In turns, so that a mix-up of connections that follow each other would show.
        for round in 0..25 {
            for (ip, pods, range) in &served {
                let by_tcp = client.get(&url(ip, 80)).await?;
                let by_udp = client
                    .datagram(format!("{ip}:80").parse()?, &format!("round-{round}"))
                    .await?;
                for answer in [by_tcp, by_udp] {
                    let theirs = word(&answer, "host")?.starts_with(pods)
                        && word(&answer, "ip")?.starts_with(range);
                    ensure!(theirs, "{ip} of {pods} was answered by {answer}");
                }
            }
        }

        // The end of one is not the other's.
        let argv = ["delete", "service", "web", "-n", "shop"];
        acme.kubectl(&argv).await?;
        client.await_silence(&url(&served[0].0, 80), SOON).await?;
        let answer = client.get(&url(&served[1].0, 80)).await?;
        ensure!(word(&answer, "host")?.starts_with("bravo-pod"), "{answer}");
        let mine = "berth.dev/service-namespace=shop";
        eventually(SOON, "one record of the two is left", || async {
            // The Service stays a while longer: its address is parked.
            let argv = [
                "get",
                "loadbalancers.berth.dev",
                "-A",
                "-l",
                mine,
                "-o",
                "name",
            ];
            let names = lab.management().kubectl(&argv).await?;
            match names.lines().count() {
                1 => Ok(()),
                _ => Err(Seen(names)),
            }
        })
        .await?;
        Ok(())
    };
    witnessed(&lab, &[&acme, &bravo], "shop", test).await
}
