//! An address that was given stays with its Service, whatever changes, restarts, is lost or is built anew meanwhile, and although
//! somebody else wants one all the time. What restarts alone do is in `restarts`, what becomes of deleted ones in `parking`.

use anyhow::{Result, ensure};
use berth_lab::{Cluster, Lab, Seen, Tenant, eventually};
use serde_json::{Value, json};

use crate::quiet;
use crate::support::{SOON, await_cut, await_event, await_service_gone, get, service, tenant};

/// The one management Service of acme's Service of this name.
async fn managed(lab: &Lab, service: &str) -> Result<Value> {
    let selector = format!("berth.dev/service-name={service}");
    let arguments = ["services", "-n", "berth-acme", "-l", &selector];
    let mut found = get(lab.management(), &arguments).await?;
    Ok(found["items"][0].take())
}

async fn patch(cluster: &Cluster, namespace: &str, service: &str, patch: &Value) -> Result<()> {
    let patch = patch.to_string();
    let argv = [
        "patch",
        "service",
        service,
        "-n",
        namespace,
        "--type=json",
        "-p",
        &patch,
    ];
    cluster.kubectl(&argv).await?;
    Ok(())
}

/// Waits until connections to a port of the address go to this node port of acme's nodes, and to no other.
async fn await_ports(lab: &Lab, service: &str, port: u16, node_port: u16) -> Result<()> {
    let what = format!("acme's {service} leads from {port} to {node_port}");
    let selector = format!("berth.dev/service-name={service}");
    eventually(SOON, &what, || async {
        let object = managed(lab, service).await?;
        let ports: Vec<&Value> = object["spec"]["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|p| &p["port"])
            .collect();
        let arguments = ["endpointslices", "-n", "berth-acme", "-l", &selector];
        let slices = get(lab.management(), &arguments).await?;
        let targets: Vec<&Value> = slices["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|s| &s["ports"][0]["port"])
            .collect();
        match ports == [&json!(port)]
            && !targets.is_empty()
            && targets.iter().all(|t| **t == json!(node_port))
        {
            true => Ok(()),
            false => Err(Seen(format!("{ports:?} to {targets:?}"))),
        }
    })
    .await?;
    Ok(())
}

/// Somebody else in the management cluster who wants an address: MetalLB gives the lowest that is free.
async fn rival(lab: &Lab, name: &str) -> Result<()> {
    let yaml = service(name, "");
    Ok(lab.management().apply_in("default", &yaml).await?)
}

async fn rivals_ip(lab: &Lab, name: &str) -> Result<String> {
    Ok(berth_lab::await_ip(lab.management(), "default", name).await?)
}

#[tokio::test]
async fn point_05_and_10_and_30_an_address_outlives_changed_ports_lost_states_and_every_restart()
-> Result<()> {
    let lab = Lab::builder().start_own().await?;
    let acme = lab.tenant("acme").await?;
    let namespace = acme.namespace().await?;
    // MetalLB gives the lowest address that is free: with this one gone, it would be another one's than that which is kept.
    rival(&lab, "early").await?;
    let lowest = rivals_ip(&lab, "early").await?;
    let node_port = "ports: [{name: http, port: 80, targetPort: 8080, nodePort: 31080}]";
    let web = service("web", "").replace(
        "ports: [{name: http, port: 80, targetPort: 8080}]",
        node_port,
    );
    acme.apply_in(&namespace, &web).await?;
    let ip = acme.await_ip(&namespace, "web").await?;
    await_ports(&lab, "web", 80, 31_080).await?;
    let stays = async |when: &str| -> Result<()> {
        let object = managed(&lab, "web").await?;
        let given = &object["status"]["loadBalancer"]["ingress"][0]["ip"];
        ensure!(
            *given == ip,
            "{when}: the management Service has {given}, and had {ip}"
        );
        let found = acme.await_ip(&namespace, "web").await?;
        ensure!(found == ip, "{when}: the Service has {found}, and had {ip}");
        Ok(())
    };

    // Ports, while everybody is there, and while nobody is.
    let ports = |port: u16, node_port: u16| {
        json!([
            { "op": "replace", "path": "/spec/ports/0/port", "value": port },
            { "op": "replace", "path": "/spec/ports/0/nodePort", "value": node_port },
        ])
    };
    patch(&acme, &namespace, "web", &ports(80, 31_081)).await?;
    await_ports(&lab, "web", 80, 31_081).await?;
    stays("the node port changed").await?;
    lab.hub().kill().await?;
    acme.agent().kill().await?;
    lab.metallb().controller.kill().await?;
    patch(&acme, &namespace, "web", &ports(8_080, 31_082)).await?;
    lab.metallb().controller.start().await?;
    acme.agent().process().start().await?;
    lab.hub().start().await?;
    acme.agent().ready().await?;
    await_ports(&lab, "web", 8_080, 31_082).await?;
    stays("both ports changed, with hub, agent and MetalLB away").await?;

    // The allocator is away, what it gave is lost, and a lower address is free when it comes back.
    lab.metallb().controller.kill().await?;
    let name = managed(&lab, "web").await?["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let wipe = r#"{"status":{"loadBalancer":{"ingress":null}}}"#;
    lab.management()
        .kubectl(&[
            "patch",
            "service",
            &name,
            "-n",
            "berth-acme",
            "--subresource=status",
            "--type=merge",
            "-p",
            wipe,
        ])
        .await?;
    eventually(
        SOON,
        "the tenant is told that the address is not there",
        || async {
            let object = get(&acme, &["service", "web", "-n", &namespace]).await?;
            match object["status"]["loadBalancer"]["ingress"].is_null() {
                true => Ok(()),
                false => Err(Seen(object["status"].to_string())),
            }
        },
    )
    .await?;
    lab.management()
        .kubectl(&["delete", "service", "early"])
        .await?;
    lab.metallb().controller.start().await?;
    acme.await_ip(&namespace, "web").await?;
    stays("MetalLB came back to a wiped status").await?;
    rival(&lab, "late").await?;
    ensure!(rivals_ip(&lab, "late").await? == lowest);
    quiet::after(&lab, &acme).await?;

    // Retained, and deleted: not even a restart of all gives it to one who waits.
    let retain = r#"{"spec":{"reclaimPolicy":"Retain","releaseAfterSeconds":0}}"#;
    lab.management()
        .kubectl(&["patch", "tenant", "acme", "--type=merge", "-p", retain])
        .await?;
    acme.kubectl(&["delete", "service", "web", "-n", &namespace, "--wait=false"])
        .await?;
    await_service_gone(&acme, &namespace, "web").await?;
    lab.hub().kill().await?;
    lab.metallb().controller.kill().await?;
    rival(&lab, "last").await?;
    lab.metallb().controller.start().await?;
    lab.hub().start().await?;
    ensure!(rivals_ip(&lab, "last").await? != ip);
    acme.apply_in(&namespace, &web).await?;
    acme.await_ip(&namespace, "web").await?;
    await_ports(&lab, "web", 80, 31_080).await?;
    stays("deleted, retained, and made again").await?;
    quiet::after(&lab, &acme).await?;
    lab.stop().await?;
    Ok(())
}

async fn uid(cluster: &Cluster) -> Result<String> {
    let kube_system = get(cluster, &["namespace", "kube-system"]).await?;
    Ok(kube_system["metadata"]["uid"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

#[tokio::test]
async fn point_05_a_cluster_that_is_built_anew_under_the_same_name_has_its_addresses() -> Result<()>
{
    let lab = Lab::start().await?;
    let (lost, _) = tenant(&lab, "phoenix").await?;
    let shop = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    let names = ["web", "api"];
    let mut addresses = Vec::new();
    let furnish = async |cluster: &Tenant| -> Result<()> {
        cluster.apply(shop).await?;
        for name in names {
            cluster.apply_in("shop", &service(name, "")).await?;
        }
        Ok(())
    };
    furnish(&lost).await?;
    for name in names {
        addresses.push(lost.await_ip("shop", name).await?);
    }
    // The cluster is lost with everything in it; nobody says goodbye.
    lost.agent().kill().await?;

    let built = lab.tenant("ashes").await?;
    ensure!(uid(&lost).await? != uid(&built).await?);
    let certificate = lost.certificate();
    let tls = |flag: &str, path: std::path::PathBuf| format!("--tls-{flag}={}", path.display());
    let certificate = [
        tls("cert", certificate.certificate()),
        tls("key", certificate.key()),
    ];
    let agent = built
        .agent_with(&[&certificate[0], &certificate[1]])
        .await?;
    let kubeconfig = lab.management().kubeconfig_inside().display().to_string();
    let rebind = ["tenant", "rebind", "phoenix", "--kubeconfig", &kubeconfig];
    lab.hub().command(&rebind).await?;
    // It comes empty at first, and its Services are made again by whoever makes them.
    agent.start().await?;
    furnish(&built).await?;
    for (name, ip) in names.iter().zip(&addresses) {
        let found = built.await_ip("shop", name).await?;
        ensure!(found == *ip, "{name} has {found}, and had {ip}");
        await_event(&built, "shop", name, "EnsuredLoadBalancer").await?;
    }
    let object = get(lab.management(), &["tenant", "phoenix"]).await?;
    ensure!(
        object["status"]["clusterUID"] == json!(uid(&built).await?),
        "{object}"
    );

    // They are this cluster's now: it can delete them.
    built
        .kubectl(&["delete", "service", "web", "-n", "shop", "--wait=false"])
        .await?;
    await_service_gone(&built, "shop", "web").await?;
    await_cut(&lab, "phoenix", "shop", "web").await
}
