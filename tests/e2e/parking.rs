//! What becomes of the address of a Service that is deleted: kept for a while or for good, and given back at once to who waits.
//! Each test has a lab of its own, for somebody else's Service that waits would let go of what is parked here.

use anyhow::{Context, Result};
use berth_lab::{Lab, Seen, eventually};
use serde_json::Value;

use crate::support::{
    SOON, await_cut, await_event, await_nothing_left, await_service_gone, get, service,
};

/// Changes the spec of a Tenant.
async fn set(lab: &Lab, tenant: &str, spec: &str) -> Result<()> {
    let patch = format!(r#"{{"spec":{spec}}}"#);
    let management = lab.management();
    management
        .kubectl(&["patch", "tenant", tenant, "--type=merge", "-p", &patch])
        .await?;
    Ok(())
}

/// The UID and the address of the one management Service there is of this name.
async fn managed(lab: &Lab, tenant: &str, service: &str) -> Result<(String, String)> {
    let home = format!("berth-{tenant}");
    let selector = format!("berth.dev/service-name={service}");
    let found = get(
        lab.management(),
        &["services", "-n", &home, "-l", &selector],
    )
    .await?;
    let one = &found["items"][0];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ip = text(&one["status"]["loadBalancer"]["ingress"][0]["ip"]);
    Ok((text(&one["metadata"]["uid"]), ip))
}

#[tokio::test]
async fn point_05_parking_a_deleted_service_comes_back_to_its_address_and_a_retained_one_for_good()
-> Result<()> {
    let lab = Lab::builder().start_own().await?;
    let tenant = lab.tenant("acme").await?;
    let namespace = tenant.namespace().await?;
    let delete = async |name: &str| -> Result<()> {
        let arguments = ["delete", "svc", name, "-n", &namespace, "--wait=false"];
        tenant.kubectl(&arguments).await?;
        await_service_gone(&tenant, &namespace, name).await?;
        await_cut(&lab, "acme", &namespace, name).await
    };
    tenant.apply_in(&namespace, &service("web", "")).await?;
    let ip = tenant.await_ip(&namespace, "web").await?;
    let before = managed(&lab, "acme", "web").await?;

    // The tenant's Service is gone, and the address is kept, also by a hub that starts anew: another Service gets another one.
    delete("web").await?;
    assert_eq!(managed(&lab, "acme", "web").await?, before);
    lab.hub().kill().await?;
    lab.hub().start().await?;
    tenant.apply_in(&namespace, &service("between", "")).await?;
    assert_ne!(tenant.await_ip(&namespace, "between").await?, ip);
    tenant.apply_in(&namespace, &service("web", "")).await?;
    assert_eq!(tenant.await_ip(&namespace, "web").await?, ip);
    assert_eq!(
        managed(&lab, "acme", "web").await?,
        before,
        "without the allocator"
    );
    // Who looks at it here is told that it serves another one (point 5: an event on both sides).
    let selector = "berth.dev/service-name=web";
    let arguments = ["loadbalancers", "-n", "berth-acme", "-l", selector];
    let found = get(lab.management(), &arguments).await?;
    let name = found["items"][0]["metadata"]["name"].as_str();
    let name = name.context("no LoadBalancer")?;
    let note = await_event(lab.management(), "berth-acme", name, "Rebound").await?;
    assert!(note.contains("created anew"), "{note}");

    // Retain: the record stays as well, and says so.
    set(
        &lab,
        "acme",
        r#"{"reclaimPolicy":"Retain","releaseAfterSeconds":1}"#,
    )
    .await?;
    let arguments = ["delete", "svc", "web", "-n", &namespace, "--wait=false"];
    tenant.kubectl(&arguments).await?;
    await_service_gone(&tenant, &namespace, "web").await?;
    let table = lab
        .management()
        .kubectl(&["get", "loadbalancers", "-A"])
        .await?;
    let line = table.lines().find(|line| line.contains("/web "));
    assert!(
        line.is_some_and(|line| line.contains("Reserved") && line.contains(&ip)),
        "{table}"
    );
    tenant.apply_in(&namespace, &service("web", "")).await?;
    assert_eq!(tenant.await_ip(&namespace, "web").await?, ip);
    assert_eq!(managed(&lab, "acme", "web").await?, before);

    // And goes when the operator lets go of it.
    tenant.kubectl(&arguments).await?;
    await_service_gone(&tenant, &namespace, "web").await?;
    lab.management()
        .kubectl(&[
            "delete",
            "loadbalancers",
            "-n",
            "berth-acme",
            "-l",
            selector,
        ])
        .await?;
    await_nothing_left(&lab, "acme", &namespace, "web").await?;
    lab.stop().await?;
    Ok(())
}

#[tokio::test]
async fn parking_gives_way_at_once_to_who_waits_for_an_address() -> Result<()> {
    let lab = Lab::builder().start_own().await?;
    let tenant = lab.tenant("acme").await?;
    let namespace = tenant.namespace().await?;
    lab.management()
        .apply_in(
            "metallb-system",
            "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: tiny}\nspec: {addresses: [10.10.254.1-10.10.254.2], \
             autoAssign: false}\n",
        )
        .await?;
    // Without anybody who waits they would be kept for an hour.
    set(
        &lab,
        "acme",
        r#"{"addressPool":"tiny","releaseAfterSeconds":3600}"#,
    )
    .await?;
    let names = ["one", "two"];
    for name in names {
        tenant.apply_in(&namespace, &service(name, "")).await?;
    }
    for name in names {
        tenant.await_ip(&namespace, name).await?;
        let arguments = ["delete", "svc", name, "-n", &namespace, "--wait=false"];
        tenant.kubectl(&arguments).await?;
    }
    for name in names {
        await_service_gone(&tenant, &namespace, name).await?;
        await_cut(&lab, "acme", &namespace, name).await?;
        let (_, ip) = managed(&lab, "acme", name).await?;
        assert!(ip.starts_with("10.10.254."), "{name} keeps {ip}");
    }
    eventually(SOON, "two are parked", || async {
        let parked = lab.hub().metric("berth_load_balancers_parked", &[]).await?;
        match (parked - 2.0).abs() < 0.5 {
            true => Ok(()),
            false => Err(Seen(format!("{parked}"))),
        }
    })
    .await?;
    tenant.apply_in(&namespace, &service("new", "")).await?;
    let ip = tenant.await_ip(&namespace, "new").await?;
    assert!(ip.starts_with("10.10.254."), "{ip}");
    lab.stop().await?;
    Ok(())
}
