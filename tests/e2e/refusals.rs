//! What cannot be served is said on that very Service, with what to do about it, and all others are served.

use anyhow::Result;
use berth_lab::Lab;

use crate::support::{await_condition, await_event, get, service, tenant};

#[tokio::test]
async fn point_12_sctp_is_refused_with_condition_and_event_and_the_neighbour_is_served()
-> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, "sctp").await?;
    let sctp = service("sctp", "").replace("port: 80,", "port: 80, protocol: SCTP,");
    tenant.apply_in(&namespace, &sctp).await?;
    tenant.apply_in(&namespace, &service("tcp", "")).await?;
    tenant.await_ip(&namespace, "tcp").await?;
    let message = await_condition(
        &tenant,
        &namespace,
        "sctp",
        "LoadBalancerPortsError",
        "True",
        "UnsupportedProtocol",
    )
    .await?;
    assert!(message.contains("SCTP"), "{message}");
    let event = await_event(&tenant, &namespace, "sctp", "SyncLoadBalancerFailed").await?;
    assert!(event.contains("SCTP"), "{event}");
    let object = get(&tenant, &["service", "sctp", "-n", &namespace]).await?;
    assert!(object["status"]["loadBalancer"]["ingress"].is_null());
    crate::quiet::after(&lab, &tenant).await
}

#[tokio::test]
async fn point_13_a_service_without_node_ports_is_refused_until_it_has_some() -> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, "noports").await?;
    tenant
        .apply_in(
            &namespace,
            &service("bare", "allocateLoadBalancerNodePorts: false"),
        )
        .await?;
    let message = await_condition(
        &tenant,
        &namespace,
        "bare",
        "berth.dev/Programmed",
        "False",
        "NodePortMissing",
    )
    .await?;
    assert!(
        message.contains("allocateLoadBalancerNodePorts"),
        "says what to do: {message}"
    );
    let patch = r#"{"spec":{"allocateLoadBalancerNodePorts":true}}"#;
    tenant
        .kubectl(&["patch", "svc", "bare", "-n", &namespace, "-p", patch])
        .await?;
    tenant.await_ip(&namespace, "bare").await?;
    await_condition(
        &tenant,
        &namespace,
        "bare",
        "berth.dev/Programmed",
        "True",
        "Programmed",
    )
    .await?;
    crate::quiet::after(&lab, &tenant).await
}

#[tokio::test]
async fn point_23_nodes_without_an_address_of_the_wanted_type_are_told_to_the_service() -> Result<()>
{
    let lab = Lab::builder().start_own().await?;
    let acme = lab.tenant("acme").await?;
    let namespace = acme.namespace().await?;
    acme.agent().stop().await?;
    let picky = acme.agent_with(&["--node-address-type=ExternalIP"]).await?;
    picky.process().start().await?;
    acme.apply_in(&namespace, &service("web", "")).await?;
    let event = await_event(&acme, &namespace, "web", "UnAvailableLoadBalancer").await?;
    assert!(
        event.contains("ExternalIP") && event.contains("InternalIP"),
        "which type was wanted and which there is: {event}"
    );
    let message = await_condition(
        &acme,
        &namespace,
        "web",
        "berth.dev/Programmed",
        "False",
        "NoNodeAddress",
    )
    .await?;
    assert!(message.contains("ExternalIP"), "{message}");
    lab.stop().await?;
    Ok(())
}
