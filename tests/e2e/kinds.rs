//! Services of every kind stand at once, in every state that lasts: nothing that restarts writes anything (point 33). This one
//! lab is its own, so that the hub can restart too, and the allocator, and the tenant's API server.

use anyhow::{Result, ensure};
use berth_lab::{Lab, Tenant};
use serde_json::json;

use crate::quiet::Written;
use crate::support::{await_condition, await_cut, await_event, await_service_gone, get, service};

const PROGRAMMED: &str = "berth.dev/Programmed";

/// The Services that are served, by name, and what their specs say beyond a port.
const SERVED: [(&str, &str); 7] = [
    ("plain", ""),
    ("classed", "loadBalancerClass: berth.dev/berth"),
    (
        "ranged",
        "loadBalancerSourceRanges: [10.10.3.0/24, ' 192.0.2.0/24 ', 198.51.100.0/25]",
    ),
    (
        "sticky",
        "sessionAffinity: ClientIP\nsessionAffinityConfig: {clientIP: {timeoutSeconds: 600}}",
    ),
    ("either", "ipFamilyPolicy: PreferDualStack"),
    ("asking", "loadBalancerIP: 10.10.255.240"),
    ("unready", "publishNotReadyAddresses: true"),
];

/// Those that wait or are refused, each with its reason.
const UNSERVED: [(&str, &str, &str); 3] = [
    (
        "bare",
        "allocateLoadBalancerNodePorts: false",
        "NodePortMissing",
    ),
    ("hollow", "externalTrafficPolicy: Local", "NoBackends"),
    (
        "forbidden",
        "loadBalancerIP: 203.0.113.1",
        "AddressNotAllowed",
    ),
];

async fn furnish(lab: &Lab, acme: &Tenant, namespace: &str) -> Result<()> {
    let policy =
        json!({ "spec": { "requestableIPs": ["10.10.255.0/24"], "releaseAfterSeconds": 3600 } });
    let policy = policy.to_string();
    let argv = ["patch", "tenant", "acme", "--type=merge", "-p", &policy];
    lab.management().kubectl(&argv).await?;
    for (name, spec) in SERVED {
        acme.apply_in(namespace, &service(name, spec)).await?;
    }
    let both = "ports: [{name: tcp, port: 53}, {name: udp, port: 53, protocol: UDP}, {name: web, port: 80, appProtocol: http}]";
    let one = "ports: [{name: http, port: 80, targetPort: 8080}]";
    acme.apply_in(namespace, &service("both", "").replace(one, both))
        .await?;
    for name in SERVED.map(|(name, _)| name).into_iter().chain(["both"]) {
        acme.await_ip(namespace, name).await?;
        await_condition(acme, namespace, name, PROGRAMMED, "True", "Programmed").await?;
        await_event(acme, namespace, name, "EnsuredLoadBalancer").await?;
    }
    for (name, spec, reason) in UNSERVED {
        acme.apply_in(namespace, &service(name, spec)).await?;
        await_condition(acme, namespace, name, PROGRAMMED, "False", reason).await?;
    }
    // One that was served, and whose present version is refused; one whose protocol is.
    let patch = r#"{"spec":{"loadBalancerIP":"203.0.113.2"}}"#;
    acme.kubectl(&["patch", "service", "plain", "-n", namespace, "-p", patch])
        .await?;
    await_condition(
        acme,
        namespace,
        "plain",
        PROGRAMMED,
        "False",
        "AddressNotAllowed",
    )
    .await?;
    let sctp = service("sctp", "").replace("port: 80,", "port: 80, protocol: SCTP,");
    acme.apply_in(namespace, &sctp).await?;
    await_condition(
        acme,
        namespace,
        "sctp",
        PROGRAMMED,
        "False",
        "UnsupportedProtocol",
    )
    .await?;
    // Somebody else's, one that is none any more, one whose address is parked.
    acme.apply_in(
        namespace,
        &service("foreign", "loadBalancerClass: example.com/other"),
    )
    .await?;
    for name in ["former", "parked"] {
        acme.apply_in(namespace, &service(name, "")).await?;
        acme.await_ip(namespace, name).await?;
    }
    let retype = r#"{"spec":{"type":"ClusterIP"}}"#;
    acme.kubectl(&["patch", "service", "former", "-n", namespace, "-p", retype])
        .await?;
    await_cut(lab, "acme", namespace, "former").await?;
    acme.kubectl(&[
        "delete",
        "service",
        "parked",
        "-n",
        namespace,
        "--wait=false",
    ])
    .await?;
    await_service_gone(acme, namespace, "parked").await?;
    await_cut(lab, "acme", namespace, "parked").await
}

/// All Services of the tenant as they stand, without what Kubernetes counts by itself.
async fn standing(acme: &Tenant, namespace: &str) -> Result<Vec<(String, serde_json::Value)>> {
    let found = get(acme, &["services", "-n", namespace]).await?;
    let all = found["items"].as_array().cloned().unwrap_or_default();
    Ok(all
        .into_iter()
        .map(|object| {
            let name = object["metadata"]["name"].to_string();
            (
                name,
                json!([object["metadata"]["resourceVersion"], object["status"]]),
            )
        })
        .collect())
}

#[tokio::test]
async fn point_33_services_of_every_kind_cost_no_write_whatever_restarts() -> Result<()> {
    let lab = Lab::builder().start_own().await?;
    let acme = lab.tenant("acme").await?;
    let namespace = acme.namespace().await?;
    furnish(&lab, &acme, &namespace).await?;

    let written = Written::at_rest(&lab, &acme).await?;
    let before = standing(&acme, &namespace).await?;
    acme.agent().restart().await?;
    written.nothing_since("the agent was restarted").await?;
    lab.hub().restart().await?;
    written.nothing_since("the hub was restarted").await?;
    acme.agent().kill().await?;
    lab.hub().kill().await?;
    lab.hub().start().await?;
    acme.agent().start().await?;
    written.nothing_since("both were killed").await?;
    lab.metallb().controller.restart().await?;
    written.nothing_since("the allocator was restarted").await?;
    // Everything is read anew from the tenant's API server, and from the management cluster's.
    acme.kill_api_server().await?;
    acme.start_api_server().await?;
    acme.agent().ready().await?;
    written
        .nothing_since("the tenant's API server was restarted")
        .await?;
    lab.management().kill_api_server().await?;
    lab.management().start_api_server().await?;
    written
        .nothing_since("the management API server was restarted")
        .await?;
    let after = standing(&acme, &namespace).await?;
    ensure!(before == after, "before {before:#?}\nafter {after:#?}");
    lab.stop().await?;
    Ok(())
}
