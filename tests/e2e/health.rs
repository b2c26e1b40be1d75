//! Nodes that fall silent, seen from the hub: a link is really cut, and the objects that the data path reads follow.

use std::time::{Duration, Instant};

use anyhow::Result;
use berth_lab::{Lab, Seen, Writes, eventually};
use serde_json::Value;

use crate::support::{SOON, await_condition, await_event, get, service};

const HOME: &str = "berth-acme";

/// The addresses in all slices of the tenant, in order.
async fn backends(lab: &Lab) -> Result<Vec<String>, Seen> {
    let slices = get(lab.management(), &["endpointslices", "-n", HOME])
        .await
        .map_err(|e| Seen(e.to_string()))?;
    let slices = slices["items"].as_array().cloned().unwrap_or_default();
    let mut all: Vec<String> = slices
        .iter()
        .flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default())
        .filter_map(|endpoint| Some(endpoint["addresses"][0].as_str()?.to_owned()))
        .collect();
    all.sort();
    Ok(all)
}

async fn await_backends(lab: &Lab, wanted: &[&str]) -> Result<()> {
    let what = format!("the slices have {wanted:?}");
    eventually(SOON, &what, || async {
        let found = backends(lab).await?;
        if found == wanted {
            Ok(())
        } else {
            Err(Seen(format!("{found:?}")))
        }
    })
    .await?;
    Ok(())
}

/// Waits until the only record's condition has this reason.
async fn await_health(lab: &Lab, reason: &str) -> Result<()> {
    let what = format!("BackendsHealthy is {reason}");
    eventually(SOON, &what, || async {
        let records = get(lab.management(), &["loadbalancers.berth.dev", "-n", HOME])
            .await
            .map_err(|e| Seen(e.to_string()))?;
        let conditions = &records["items"][0]["status"]["conditions"];
        let is = |c: &Value| c["type"] == "BackendsHealthy" && c["reason"] == reason;
        match conditions.as_array().is_some_and(|all| all.iter().any(is)) {
            true => Ok(()),
            false => Err(Seen(conditions.to_string())),
        }
    })
    .await?;
    Ok(())
}

async fn slice_writes(lab: &Lab) -> Result<u64> {
    let writes: Writes = lab.management().writes().await?.of(&["endpointslices"]);
    Ok(writes.total())
}

#[tokio::test]
async fn point_26_a_node_whose_link_is_cut_leaves_the_slices_and_all_cut_all_stay() -> Result<()> {
    let lab = Lab::builder().start_own().await?;
    if !lab.has_packets() {
        // The kernel allows no namespaces here, and there is no link to cut.
        return Ok(());
    }
    let acme = lab.tenant("acme").await?;
    let namespace = acme.namespace().await?;
    acme.apply_in(&namespace, &service("web", "")).await?;
    let ip = acme.await_ip(&namespace, "web").await?;
    let (a1, a2) = ("10.10.2.1", "10.10.2.2");
    await_backends(&lab, &[a1, a2]).await?;
    await_health(&lab, "Healthy").await?;
    // Both were found good, and not only not judged yet.
    eventually(SOON, "both nodes are probed", || async {
        let good = ["result=\"good\""];
        let probes = lab.hub().metric("berth_health_probes_total", &good).await;
        match probes {
            Ok(count) if count >= 4.0 => Ok(()),
            other => Err(Seen(format!("{other:?}"))),
        }
    })
    .await?;

    let before = slice_writes(&lab).await?;
    let cut = Instant::now();
    lab.cut("a1").await?;
    await_backends(&lab, &[a2]).await?;
    let found: Duration = cut.elapsed();
    println!("a cut node left the slices after {found:.1?}");
    // One a slice (the planner's tests say so exactly), and a machine that is too busy may lose the other node for a moment.
    let written = slice_writes(&lab).await? - before;
    assert!((1..=3).contains(&written), "{written} writes");

    lab.cut("a2").await?;
    await_health(&lab, "AllFailing").await?;
    await_backends(&lab, &[a1, a2]).await?;

    lab.heal("a2").await?;
    await_health(&lab, "Healthy").await?;
    await_backends(&lab, &[a2]).await?;
    lab.heal("a1").await?;
    await_backends(&lab, &[a1, a2]).await?;
    assert_eq!(acme.await_ip(&namespace, "web").await?, ip);
    lab.stop().await?;
    Ok(())
}

#[tokio::test]
async fn point_25_without_a_ready_pod_under_local_the_tenant_is_told_and_keeps_its_address()
-> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = crate::support::tenant(&lab, "hollow").await?;
    let local = "externalTrafficPolicy: Local";
    tenant.apply_in(&namespace, &service("web", local)).await?;
    let ip = tenant.await_ip(&namespace, "web").await?;
    let condition = "berth.dev/Programmed";
    let said =
        await_condition(&tenant, &namespace, "web", condition, "False", "NoBackends").await?;
    assert!(said.contains("ready endpoint"), "{said}");
    let note = await_event(&tenant, &namespace, "web", "UnAvailableLoadBalancer").await?;
    assert_eq!(note, said);
    assert_eq!(tenant.await_ip(&namespace, "web").await?, ip);

    tenant
        .apply_in(
            &namespace,
            &service("web", "externalTrafficPolicy: Cluster"),
        )
        .await?;
    await_condition(&tenant, &namespace, "web", condition, "True", "Programmed").await?;
    assert_eq!(tenant.await_ip(&namespace, "web").await?, ip);
    crate::quiet::after(&lab, &tenant).await
}
