//! IP families: what is asked for and no other, and both or nothing where both are required. A lab of its own, for a pool with
//! IPv6, and a Service that waits for what no pool has.

use anyhow::Result;
use berth_lab::{Lab, Seen, Tenant, eventually};
use serde_json::{Value, json};

use crate::support::{SOON, await_condition, await_event, await_managed, get, patch, service};

const NAME: &str = "families";
const DUAL: &str = "ipFamilyPolicy: RequireDualStack\nipFamilies: [IPv4, IPv6]";

/// A pool of both families, for those who name it.
const POOL: &str = "apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: both, namespace: metallb-system}
spec: {addresses: [10.10.254.10-10.10.254.19, 'fd10:254::10-fd10:254::19'], autoAssign: false}
";

/// The addresses in a Service's status.
async fn addresses(tenant: &Tenant, namespace: &str, name: &str) -> Result<Vec<String>> {
    let object = get(tenant, &["svc", name, "-n", namespace]).await?;
    let ingress = object["status"]["loadBalancer"]["ingress"]
        .as_array()
        .cloned();
    let ips = ingress.into_iter().flatten();
    Ok(ips
        .filter_map(|it| Some(it["ip"].as_str()?.to_owned()))
        .collect())
}

/// The families of a Service's slices that have backends.
async fn backed(lab: &Lab, namespace: &str, name: &str) -> Result<Vec<String>> {
    let selector = format!("berth.dev/service-namespace={namespace},berth.dev/service-name={name}");
    let arguments = ["endpointslices", "-n", "berth-families", "-l", &selector];
    let slices = get(lab.management(), &arguments).await?;
    let slices = slices["items"].as_array().cloned().unwrap_or_default();
    let with = slices.iter().filter(|it| !it["endpoints"][0].is_null());
    let mut families: Vec<String> = with
        .filter_map(|it| Some(it["addressType"].as_str()?.to_owned()))
        .collect();
    families.sort();
    Ok(families)
}

async fn await_backed(lab: &Lab, namespace: &str, name: &str, wanted: &[&str]) -> Result<()> {
    let what = format!("{name} has backends of {wanted:?}");
    eventually(SOON, &what, || async {
        let found = backed(lab, namespace, name)
            .await
            .map_err(|e| Seen(e.to_string()))?;
        match found == wanted {
            true => Ok(()),
            false => Err(Seen(format!("{found:?}"))),
        }
    })
    .await?;
    Ok(())
}

async fn use_pool(lab: &Lab, pool: &str) -> Result<()> {
    let spec = json!({"spec": {"addressPool": pool}}).to_string();
    patch(lab.management(), &["tenant", NAME], &spec).await
}

/// Waits until new Services get addresses that begin like this: the hub hears of a Tenant and of a Service on two ways.
async fn await_pool(tenant: &Tenant, namespace: &str, prefix: &str) -> Result<()> {
    for n in 0..10 {
        let name = format!("probe-{n}");
        tenant.apply_in(namespace, &service(&name, "")).await?;
        let ip = tenant.await_ip(namespace, &name).await?;
        tenant
            .kubectl(&["delete", "svc", &name, "-n", namespace])
            .await?;
        if ip.starts_with(prefix) {
            return Ok(());
        }
    }
    anyhow::bail!("no address begins with {prefix}")
}

#[tokio::test]
async fn point_16_only_the_families_that_are_asked_for_and_both_or_nothing_where_required()
-> Result<()> {
    let lab = Lab::builder().start_own().await?;
    let tenant = lab.tenant(NAME).await?;
    let namespace = tenant.namespace().await?;
    lab.management().apply(POOL).await?;
    use_pool(&lab, "both").await?;

    // No node has an address of that family: it is said, and nothing is created.
    let v6 = "ipFamilyPolicy: SingleStack\nipFamilies: [IPv6]";
    tenant.apply_in(&namespace, &service("six", v6)).await?;
    let condition = ("berth.dev/Programmed", "False", "NoNodeAddress");
    let (kind, status, reason) = condition;
    let message = await_condition(&tenant, &namespace, "six", kind, status, reason).await?;
    assert!(message.contains("IPv6"), "{message}");
    await_event(&tenant, &namespace, "six", "UnAvailableLoadBalancer").await?;
    for n in [1, 2] {
        let add = json!([{
            "op": "add", "path": "/status/addresses/-",
            "value": {"type": "InternalIP", "address": format!("fd10:11::{n}")},
        }]);
        let node = format!("{NAME}-{n}");
        tenant
            .kubectl(&[
                "patch",
                "node",
                &node,
                "--subresource=status",
                "--type=json",
                "-p",
                &add.to_string(),
            ])
            .await?;
    }
    let ip = tenant.await_ip(&namespace, "six").await?;
    assert!(ip.starts_with("fd10:254::"), "{ip}");
    await_backed(&lab, &namespace, "six", &["IPv6"]).await?;

    // IPv4 alone, though pool and nodes have both.
    tenant.apply_in(&namespace, &service("four", "")).await?;
    let ip = tenant.await_ip(&namespace, "four").await?;
    assert!(ip.starts_with("10.10.254."), "{ip}");
    await_backed(&lab, &namespace, "four", &["IPv4"]).await?;
    assert_eq!(addresses(&tenant, &namespace, "four").await?, [ip]);

    tenant.apply_in(&namespace, &service("both", DUAL)).await?;
    tenant.await_ip(&namespace, "both").await?;
    let ips = addresses(&tenant, &namespace, "both").await?;
    assert!(
        ips.len() == 2 && ips[0].starts_with("10.10.254.") && ips[1].starts_with("fd10:254::"),
        "{ips:?}"
    );
    await_backed(&lab, &namespace, "both", &["IPv4", "IPv6"]).await?;
    let pinned = |it: &Value| {
        let pin = it["metadata"]["annotations"]["metallb.io/loadBalancerIPs"].as_str();
        pin == Some(ips.join(",").as_str())
    };
    let both = (NAME, namespace.as_str(), "both");
    await_managed(&lab, both, "it is pinned to both", pinned).await?;

    // A pool without IPv6: required is all or nothing, preferred takes what there is.
    use_pool(&lab, "management-pool").await?;
    await_pool(&tenant, &namespace, "10.10.255.").await?;
    let preferred = "ipFamilyPolicy: PreferDualStack\nipFamilies: [IPv4, IPv6]";
    tenant
        .apply_in(&namespace, &service("required", DUAL))
        .await?;
    tenant
        .apply_in(&namespace, &service("preferred", preferred))
        .await?;
    let ip = tenant.await_ip(&namespace, "preferred").await?;
    assert!(ip.starts_with("10.10.255."), "{ip}");
    let reason = "AllocationFailed";
    await_condition(&tenant, &namespace, "required", kind, status, reason).await?;
    await_event(&tenant, &namespace, "required", "SyncLoadBalancerFailed").await?;
    let none = addresses(&tenant, &namespace, "required").await?;
    assert!(none.is_empty(), "{none:?}");
    assert_eq!(addresses(&tenant, &namespace, "preferred").await?, [ip]);
    lab.stop().await?;
    Ok(())
}
