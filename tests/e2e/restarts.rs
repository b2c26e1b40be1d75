//! Unchanged input writes nothing, whoever is restarted; and an address that was given stays.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use berth_lab::{Cluster, Lab, Seen, Writes, eventually};

use crate::support::{SOON, await_cut, await_event, await_service_gone, service};

/// Counts what the hub and this tenant's agent write, by the audit logs, and what the tenant's API server was asked to change
/// at all, by its own metric.
#[tokio::test]
async fn point_33_a_restart_of_either_side_writes_nothing() -> Result<()> {
    // A lab of its own: other tests' tenants would write meanwhile.
    let lab = Lab::builder().start_own().await?;
    let tenant = lab.tenant("acme").await?;
    let namespace = tenant.namespace().await?;
    for name in ["one", "two", "three"] {
        tenant.apply_in(&namespace, &service(name, "")).await?;
    }
    let mut addresses = Vec::new();
    for name in ["one", "two", "three"] {
        addresses.push(tenant.await_ip(&namespace, name).await?);
        crate::support::await_event(&tenant, &namespace, name, "EnsuredLoadBalancer").await?;
    }
    lab.management()
        .kubectl(&[
            "wait",
            "tenant/acme",
            "--for=condition=Connected",
            "--timeout=30s",
        ])
        .await?;
    lab.management()
        .kubectl(&[
            "wait",
            "loadbalancers",
            "--all",
            "-n",
            "berth-acme",
            "--for=condition=Programmed",
            "--timeout=30s",
        ])
        .await?;

    // MetalLB tells of its announcements in its own time: what it still had to write is over before the count begins.
    let management = at_rest(lab.management()).await?;
    let inside = at_rest(&tenant).await?;
    let by_hub = lab.management().audit().await?.by(":berth-hub").0.len();
    let by_agent = tenant.audit().await?.by(":berth-agent").0.len();

    tenant.agent().restart().await?;
    await_planned(&lab).await?;
    lab.hub().restart().await?;
    await_planned(&lab).await?;
    tenant.agent().kill().await?;
    tenant.agent().start().await?;
    await_planned(&lab).await?;

    let written = &lab.management().writes().await?.of(&COUNTED) - &management;
    assert_eq!(written.total(), 0, "management: {written}");
    let written = &tenant.writes().await?.of(&COUNTED) - &inside;
    assert_eq!(written.total(), 0, "tenant: {written}");

    // A fourth Service comes after all that the restarts may still have had in hand: whatever they wrote stands before it.
    tenant.apply_in(&namespace, &service("four", "")).await?;
    tenant.await_ip(&namespace, "four").await?;
    let audit = lab.management().audit().await?.by(":berth-hub");
    let inside = tenant.audit().await?.by(":berth-agent");
    for write in audit
        .since(by_hub)
        .0
        .iter()
        .chain(&inside.since(by_agent).0)
    {
        assert!(write.object.contains("four"), "{write:?}");
    }
    for (name, ip) in ["one", "two", "three"].iter().zip(&addresses) {
        assert_eq!(&tenant.await_ip(&namespace, name).await?, ip);
    }
    lab.stop().await?;
    Ok(())
}

/// Everything that Berth may write, in either cluster.
const COUNTED: [&str; 6] = [
    "services",
    "endpointslices",
    "loadbalancers",
    "tenants",
    "namespaces",
    "events",
];

/// Waits until nobody has written any of it for forty looks, and returns the count.
async fn at_rest(cluster: &Cluster) -> Result<Writes> {
    let last = Mutex::new((Writes::default(), 0));
    let writes = eventually(4 * SOON, "nobody writes", || async {
        let now = cluster.writes().await?.of(&COUNTED);
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        let equal = if last.0 == now { last.1 + 1 } else { 0 };
        *last = (now.clone(), equal);
        match equal >= 40 {
            true => Ok(now),
            false => Err(Seen(format!("the same for {equal} looks: {now}"))),
        }
    })
    .await?;
    Ok(writes)
}

/// Waits until the hub's present process has a session, has planned each of three Services, and has nothing left to plan.
async fn await_planned(lab: &Lab) -> Result<()> {
    eventually(SOON, "the hub has planned all and is at rest", || async {
        let hub = lab.hub();
        let live = hub.metric("berth_sessions", &[]).await?;
        let planned = hub.metric("berth_plan_duration_seconds_count", &[]).await?;
        let queued = hub.metric("berth_work_queue_length", &[]).await?;
        match live > 0.5 && planned >= 3.0 && queued < 0.5 {
            true => Ok(()),
            false => Err(Seen(format!(
                "{live} sessions, {planned} plans, {queued} queued"
            ))),
        }
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn point_05_a_service_that_is_made_anew_while_the_hub_is_away_keeps_its_address() -> Result<()>
{
    let lab = Lab::builder().start_own().await?;
    let tenant = lab.tenant("acme").await?;
    let namespace = tenant.namespace().await?;
    tenant.apply_in(&namespace, &service("web", "")).await?;
    let ip = tenant.await_ip(&namespace, "web").await?;
    // MetalLB and the hub both start anew; the address is pinned.
    lab.hub().kill().await?;
    lab.metallb().controller.kill().await?;
    lab.metallb().controller.start().await?;
    lab.hub().start().await?;
    tenant.apply_in(&namespace, &service("later", "")).await?;
    assert_ne!(tenant.await_ip(&namespace, "later").await?, ip);
    assert_eq!(tenant.await_ip(&namespace, "web").await?, ip);
    lab.stop().await?;
    Ok(())
}

#[tokio::test]
async fn point_31_a_deletion_while_the_hub_is_away_is_told_why_and_done_when_it_is_back()
-> Result<()> {
    let lab = Lab::builder().start_own().await?;
    let tenant = lab.tenant("acme").await?;
    let namespace = tenant.namespace().await?;
    tenant.apply_in(&namespace, &service("web", "")).await?;
    tenant.await_ip(&namespace, "web").await?;
    lab.hub().kill().await?;
    tenant
        .kubectl(&["delete", "svc", "web", "-n", &namespace, "--wait=false"])
        .await?;
    // Who waits for it is told why it stays.
    let reason = "DeleteLoadBalancerFailed";
    let note = await_event(&tenant, &namespace, "web", reason).await?;
    assert!(note.contains("as soon as the hub has confirmed"), "{note}");
    tenant.agent().kill().await?;
    tenant.agent().process().start().await?;
    lab.hub().start().await?;
    tenant.agent().ready().await?;
    await_service_gone(&tenant, &namespace, "web").await?;
    await_cut(&lab, "acme", &namespace, "web").await?;
    lab.stop().await?;
    Ok(())
}
