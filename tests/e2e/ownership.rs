//! Whose a Service is, and that whoever's it is no more is let go: by a change of class, across restarts, and when there is
//! nothing left to delete. Agents are stopped here, and a Tenant goes: each test has a tenant of its own.

use anyhow::Result;
use berth_lab::{Cluster, Lab, Seen, eventually};
use serde_json::json;

use crate::support::{
    SOON, await_cut, await_managed, await_service_gone, get, patch, service, tenant,
};

/// Waits until nothing of Berth's is left on a Service.
async fn await_clean(cluster: &Cluster, namespace: &str, name: &str) -> Result<()> {
    let what = format!("nothing of Berth's is left on {name}");
    eventually(SOON, &what, || async {
        let object = get(cluster, &["svc", name, "-n", namespace])
            .await
            .map_err(|e| Seen(e.to_string()))?;
        let clean = object["metadata"]["finalizers"].is_null()
            && object["status"]["loadBalancer"] == json!({})
            && object["status"]["conditions"].is_null();
        clean.then_some(()).ok_or_else(|| Seen(object.to_string()))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn point_02_classless_services_are_ours_until_a_class_is_demanded() -> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, "demanding").await?;
    tenant.apply_in(&namespace, &service("plain", "")).await?;
    let moved = service("moved", "loadBalancerClass: kubelb");
    tenant.apply_in(&namespace, &moved).await?;
    tenant.await_ip(&namespace, "plain").await?;

    // The class is configurable, so that a cluster that comes from another product keeps its manifests.
    let demanding = tenant
        .agent_with(&[
            "--use-load-balancer-class",
            "--load-balancer-classes=kubelb",
        ])
        .await?;
    demanding.start().await?;
    tenant.await_ip(&namespace, "moved").await?;
    await_clean(&tenant, &namespace, "plain").await?;
    await_cut(&lab, "demanding", &namespace, "plain").await?;
    // Served after all that the agent had to do about others that came before it.
    tenant.apply_in(&namespace, &service("later", "")).await?;
    let last = service("last", "loadBalancerClass: kubelb");
    tenant.apply_in(&namespace, &last).await?;
    tenant.await_ip(&namespace, "last").await?;
    await_clean(&tenant, &namespace, "later").await?;
    demanding.stop().await?;
    Ok(())
}

#[tokio::test]
async fn point_06_after_a_restart_the_wanted_and_the_leaving_are_looked_at_again() -> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, "reborn").await?;
    for name in ["stays", "deleted", "retyped", "changed"] {
        tenant.apply_in(&namespace, &service(name, "")).await?;
    }
    let ip = tenant.await_ip(&namespace, "stays").await?;
    for name in ["deleted", "retyped", "changed"] {
        tenant.await_ip(&namespace, name).await?;
    }
    tenant.agent().kill().await?;
    tenant
        .kubectl(&["delete", "svc", "deleted", "-n", &namespace, "--wait=false"])
        .await?;
    let retype = r#"{"spec":{"type":"ClusterIP"}}"#;
    patch(&tenant, &["svc", "retyped", "-n", &namespace], retype).await?;
    let sticky = r#"{"spec":{"sessionAffinity":"ClientIP"}}"#;
    patch(&tenant, &["svc", "changed", "-n", &namespace], sticky).await?;
    tenant.apply_in(&namespace, &service("new", "")).await?;
    let waits = get(&tenant, &["svc", "deleted", "-n", &namespace]).await?;
    assert!(!waits.is_null(), "the finalizer holds it");

    tenant.agent().start().await?;
    tenant.await_ip(&namespace, "new").await?;
    await_service_gone(&tenant, &namespace, "deleted").await?;
    await_cut(&lab, "reborn", &namespace, "deleted").await?;
    await_clean(&tenant, &namespace, "retyped").await?;
    await_cut(&lab, "reborn", &namespace, "retyped").await?;
    let changed = ("reborn", namespace.as_str(), "changed");
    let followed = |it: &serde_json::Value| it["spec"]["sessionAffinity"] == "ClientIP";
    await_managed(&lab, changed, "the change is followed", followed).await?;
    assert_eq!(tenant.await_ip(&namespace, "stays").await?, ip);
    Ok(())
}

#[tokio::test]
async fn point_07_what_is_not_there_is_deleted_and_a_tenant_that_is_gone_holds_nothing()
-> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, "vanished").await?;
    for name in ["first", "second"] {
        tenant.apply_in(&namespace, &service(name, "")).await?;
        tenant.await_ip(&namespace, name).await?;
    }
    // Suspended, the hub makes nothing anew: somebody's hand takes away all that there is of the first.
    let suspend = |yes: bool| json!({"spec": {"suspended": yes}}).to_string();
    let management = lab.management();
    patch(management, &["tenant", "vanished"], &suspend(true)).await?;
    let what = "the session has ended";
    eventually(SOON, what, || async {
        let up = tenant
            .agent()
            .metric("berth_agent_session_up", &[])
            .await
            .map_err(|e| Seen(e.to_string()))?;
        (up < 0.5).then_some(()).ok_or_else(|| Seen(up.to_string()))
    })
    .await?;
    tenant
        .kubectl(&["delete", "svc", "first", "-n", &namespace, "--wait=false"])
        .await?;
    let selector = "berth.dev/service-name=first";
    let kinds = "loadbalancers.berth.dev,endpointslices,services";
    management
        .kubectl(&["delete", kinds, "-n", "berth-vanished", "-l", selector])
        .await?;
    let waits = get(&tenant, &["svc", "first", "-n", &namespace]).await?;
    assert!(!waits.is_null(), "nobody has confirmed its end");
    patch(management, &["tenant", "vanished"], &suspend(false)).await?;
    // By itself it would come back after some minutes.
    tenant.agent().restart().await?;
    await_service_gone(&tenant, &namespace, "first").await?;

    management
        .kubectl(&["delete", "tenant", "vanished"])
        .await?;
    tenant
        .kubectl(&["delete", "svc", "second", "-n", &namespace, "--wait=false"])
        .await?;
    await_service_gone(&tenant, &namespace, "second").await?;
    Ok(())
}
