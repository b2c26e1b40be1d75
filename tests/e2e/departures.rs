//! What a deleted Tenant leaves: by its reclaim policy, whether the hub is there or not, and nothing at all where nobody has said that
//! it is meant. Each test has a lab of its own, for deletions of several Tenants at once are looked at together.

use anyhow::{Context, Result};
use berth_lab::{Lab, Seen, Tenant, eventually};
use serde_json::Value;

use crate::support::{SOON, await_event, berth_hub_tenant, get, patch, service};

/// A tenant with these Services, and their addresses.
async fn with(lab: &Lab, name: &str, services: &[&str]) -> Result<(Tenant, String, Vec<String>)> {
    let tenant = lab.tenant(name).await?;
    let namespace = tenant.namespace().await?;
    for service_name in services {
        tenant
            .apply_in(&namespace, &service(service_name, ""))
            .await?;
    }
    let mut addresses = Vec::new();
    for service_name in services {
        addresses.push(tenant.await_ip(&namespace, service_name).await?);
    }
    Ok((tenant, namespace, addresses))
}

async fn delete(lab: &Lab, tenant: &str) -> Result<()> {
    lab.management()
        .kubectl(&["delete", "tenant", tenant, "--wait=false"])
        .await?;
    Ok(())
}

async fn await_tenant_gone(lab: &Lab, tenant: &str) -> Result<()> {
    let what = format!("the Tenant {tenant} is gone");
    eventually(SOON, &what, || async {
        match get(lab.management(), &["tenant", tenant])
            .await
            .map_err(|e| Seen(e.to_string()))?
        {
            Value::Null => Ok(()),
            object => Err(Seen(object["status"]["conditions"].to_string())),
        }
    })
    .await?;
    Ok(())
}

/// How many objects of these kinds a tenant has in the management cluster.
async fn has(lab: &Lab, tenant: &str, kinds: &str) -> Result<usize> {
    let home = format!("berth-{tenant}");
    let labels = format!("berth.dev/tenant={tenant}");
    let found = get(lab.management(), &[kinds, "-n", &home, "-l", &labels]).await?;
    Ok(found["items"].as_array().map_or(0, Vec::len))
}

const ALL: &str = "services,endpointslices,loadbalancers.berth.dev";

/// The finalizer is on every Tenant before anything depends on it.
async fn await_guarded(lab: &Lab, tenant: &str) -> Result<()> {
    let what = format!("the Tenant {tenant} has its finalizer");
    eventually(SOON, &what, || async {
        let object = get(lab.management(), &["tenant", tenant])
            .await
            .map_err(|e| Seen(e.to_string()))?;
        let finalizers = object["metadata"]["finalizers"].to_string();
        match finalizers.contains("berth.dev/load-balancers") {
            true => Ok(()),
            false => Err(Seen(finalizers)),
        }
    })
    .await?;
    Ok(())
}

/// Audit lines of the hub with this reason about a tenant.
async fn audited(lab: &Lab, tenant: &str, reason: &str) -> Result<usize> {
    let log = lab.hub().log().await?;
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let about = |line: &Value| {
        line["event"] == "tenant" && line["tenant"] == tenant && line["reason"] == reason
    };
    Ok(lines.filter(about).count())
}

#[tokio::test]
async fn a_deleted_tenant_goes_with_its_traffic_and_its_certificate_is_none_of_the_nexts()
-> Result<()> {
    let lab = Lab::builder().start_own().await?;
    let management = lab.management();
    let (acme, _, _) = with(&lab, "acme", &["one", "two"]).await?;
    let (other, namespace, _) = with(&lab, "other", &["stays"]).await?;
    await_guarded(&lab, "acme").await?;
    // Somebody else's object in the tenant's namespace is nobody's to delete.
    let foreign = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: mine}\n";
    management.apply_in("berth-acme", foreign).await?;
    // Two of two at once would be held; this one alone is one of two.
    delete(&lab, "acme").await?;
    acme.agent()
        .await_log("tenant acme is being deleted", SOON)
        .await?;
    await_tenant_gone(&lab, "acme").await?;
    assert_eq!(has(&lab, "acme", ALL).await?, 0);
    assert!(
        !get(management, &["configmap", "mine", "-n", "berth-acme"])
            .await?
            .is_null()
    );
    for reason in ["deleting", "withdrawn", "deleted"] {
        assert_eq!(audited(&lab, "acme", reason).await?, 1, "{reason}");
    }
    await_event(management, "default", "acme", "Deleted").await?;
    assert_eq!(has(&lab, "other", "services").await?, 1);
    other.await_ip(&namespace, "stays").await?;

    // Another one of the same name: the former's cluster is not it.
    let anew = "apiVersion: berth.dev/v1alpha1\nkind: Tenant\nmetadata: {name: acme}\nspec: {}\n";
    management.apply(anew).await?;
    await_guarded(&lab, "acme").await?;
    acme.agent().stop().await?;
    acme.agent().process().start().await?;
    acme.agent()
        .await_log("of a Tenant of the same name that was deleted then", SOON)
        .await?;
    assert_eq!(has(&lab, "acme", ALL).await?, 0);
    let object = get(management, &["tenant", "acme"]).await?;
    assert!(object["status"]["clusterUID"].is_null(), "{object}");
    lab.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_deleted_tenants_addresses_are_retained_until_their_load_balancers_are_deleted()
-> Result<()> {
    let lab = Lab::builder().start_own().await?;
    let management = lab.management();
    let (acme, namespace, addresses) = with(&lab, "acme", &["one", "two"]).await?;
    let spec = r#"{"spec":{"reclaimPolicy":"Retain","suspended":true}}"#;
    patch(management, &["tenant", "acme"], spec).await?;
    await_guarded(&lab, "acme").await?;
    let said = berth_hub_tenant(&lab, &["delete", "acme", "--yes"]).await?;
    assert!(said.contains("are kept until"), "{said}");
    assert!(said.contains("acme is deleted"), "{said}");
    assert_eq!(has(&lab, "acme", "endpointslices").await?, 0, "no traffic");
    let table = management.kubectl(&["get", "loadbalancers", "-A"]).await?;
    for address in &addresses {
        let line = table.lines().find(|line| line.contains(address.as_str()));
        assert!(line.is_some_and(|it| it.contains("Reserved")), "{table}");
    }
    // It is no mistake, and is not told as one.
    let orphaned = async || lab.hub().metric("berth_load_balancers_orphaned", &[]).await;
    assert!(orphaned().await? < 0.5);

    // One is let go while the hub is down, and the other one before its eyes.
    let let_go = async |name: &str| {
        let selector = format!("berth.dev/service-name={name}");
        let arguments = [
            "delete",
            "loadbalancers",
            "-n",
            "berth-acme",
            "-l",
            &selector,
        ];
        management.kubectl(&arguments).await
    };
    let await_left = async |count: usize| {
        let what = format!("{count} Services are left");
        eventually(SOON, &what, || async {
            match has(&lab, "acme", "services")
                .await
                .map_err(|e| Seen(e.to_string()))?
            {
                left if left == count => Ok(()),
                left => Err(Seen(left.to_string())),
            }
        })
        .await
    };
    lab.hub().kill().await?;
    let_go("one").await?;
    lab.hub().start().await?;
    await_left(1).await?;

    // Made anew, it has the address again that was kept for its name.
    let anew = "apiVersion: berth.dev/v1alpha1\nkind: Tenant\nmetadata: {name: acme}\nspec: {healthCheck: {mode: None}, reclaimPolicy: Retain}\n";
    management.apply(anew).await?;
    // The operator lets the former's certificate be this one's.
    let forget = r#"{"metadata":{"annotations":{"berth.dev/tenant-deleted-at":null}}}"#;
    patch(management, &["namespace", "berth-acme"], forget).await?;
    acme.agent().restart().await?;
    assert_eq!(acme.await_ip(&namespace, "two").await?, addresses[1]);
    eventually(SOON, "it serves again", || async {
        match has(&lab, "acme", "endpointslices")
            .await
            .map_err(|e| Seen(e.to_string()))?
        {
            0 => Err(Seen("no slice".into())),
            _ => Ok(()),
        }
    })
    .await?;

    acme.agent().stop().await?;
    await_guarded(&lab, "acme").await?;
    berth_hub_tenant(&lab, &["delete", "acme", "--yes"]).await?;
    // The one that was let go has an address of its own again, and both are kept.
    assert_eq!(has(&lab, "acme", "services").await?, 2);
    let_go("one").await?;
    let_go("two").await?;
    await_left(0).await?;
    lab.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_tenant_that_is_deleted_while_the_hub_is_down_or_is_killed_goes_all_the_same()
-> Result<()> {
    let lab = Lab::builder().start_own().await?;
    let names: Vec<String> = (0..8).map(|n| format!("s{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    with(&lab, "acme", &names).await?;
    await_guarded(&lab, "acme").await?;
    lab.hub().kill().await?;
    delete(&lab, "acme").await?;
    let object = get(lab.management(), &["tenant", "acme"]).await?;
    assert!(!object["metadata"]["deletionTimestamp"].is_null());
    assert_eq!(has(&lab, "acme", "loadbalancers.berth.dev").await?, 8);
    lab.hub().start().await?;
    // Killed as soon as the first has gone, and again wherever it is then.
    eventually(SOON, "some of it has gone", || async {
        match has(&lab, "acme", ALL)
            .await
            .map_err(|e| Seen(e.to_string()))?
        {
            24 => Err(Seen("all is there".into())),
            _ => Ok(()),
        }
    })
    .await?;
    lab.hub().kill().await?;
    lab.hub().start().await?;
    await_tenant_gone(&lab, "acme").await?;
    assert_eq!(has(&lab, "acme", ALL).await?, 0);
    lab.stop().await?;
    Ok(())
}

#[tokio::test]
async fn all_tenants_deleted_at_once_are_held_and_can_be_saved_or_confirmed() -> Result<()> {
    let lab = Lab::builder().start_own().await?;
    let management = lab.management();
    let (saved, namespace, addresses) = with(&lab, "saved", &["web"]).await?;
    with(&lab, "meant", &["web"]).await?;
    for name in ["saved", "meant"] {
        await_guarded(&lab, name).await?;
    }
    let manifest = get(management, &["tenant", "saved"]).await?;
    // The mistake.
    management
        .kubectl(&["delete", "crd", "tenants.berth.dev", "--wait=false"])
        .await?;
    for name in ["saved", "meant"] {
        let what = format!("the deletion of {name} is held");
        eventually(SOON, &what, || async {
            let object = get(management, &["tenant", name])
                .await
                .map_err(|e| Seen(e.to_string()))?;
            let conditions = object["status"]["conditions"].to_string();
            match conditions.contains("ManyAtOnce")
                && conditions.contains("berth-hub tenant delete")
            {
                true => Ok(()),
                false => Err(Seen(conditions)),
            }
        })
        .await?;
        assert_eq!(audited(&lab, name, "deletion_held").await?, 1);
        assert_eq!(has(&lab, name, ALL).await?, 3, "it serves");
        await_event(management, "default", name, "DeletionHeld").await?;
    }
    let held = lab.hub().metric("berth_tenant_deletions_held", &[]).await?;
    assert!((held - 2.0).abs() < 0.5, "{held}");

    // A hub that starts anew holds them as well, also when only one is left.
    let none = r#"{"metadata":{"finalizers":null}}"#;
    patch(management, &["tenant", "saved"], none).await?;
    await_tenant_gone(&lab, "saved").await?;
    lab.hub().restart().await?;
    eventually(SOON, "it is held, and the other's are told", || async {
        let hub = lab.hub();
        let held = hub.metric("berth_tenant_deletions_held", &[]).await?;
        let label = "tenant=\"saved\"";
        let orphaned = hub
            .metric("berth_load_balancers_orphaned", &[label])
            .await?;
        match (held, orphaned) {
            (1.0, 1.0) => Ok(()),
            seen => Err(Seen(format!("{seen:?}"))),
        }
    })
    .await?;
    assert_eq!(has(&lab, "meant", ALL).await?, 3);
    assert_eq!(has(&lab, "saved", ALL).await?, 3);
    let (_, doctor) = lab.hub().doctor().await?;
    assert!(doctor.contains("load balancers of saved"), "{doctor}");
    assert!(doctor.contains("--namespace berth-saved"), "{doctor}");

    berth_hub_tenant(&lab, &["delete", "meant", "--yes"]).await?;
    assert_eq!(has(&lab, "meant", ALL).await?, 0);

    // The kind comes back, and the Tenant as it was: it is served as before, at its address.
    let what = "the CRD is gone";
    eventually(SOON, what, || async {
        match get(management, &["crd", "tenants.berth.dev"])
            .await
            .map_err(|e| Seen(e.to_string()))?
        {
            Value::Null => Ok(()),
            crd => Err(Seen(crd["status"]["conditions"].to_string())),
        }
    })
    .await?;
    let crds = lab.hub().command(&["crds"]).await?;
    management.apply(&crds).await?;
    management
        .kubectl(&[
            "wait",
            "crd/tenants.berth.dev",
            "--for=condition=Established",
            "--timeout=30s",
        ])
        .await?;
    let spec = serde_json::json!({
        "apiVersion": "berth.dev/v1alpha1", "kind": "Tenant",
        "metadata": { "name": "saved" }, "spec": manifest["spec"],
    });
    let spec = spec.to_string();
    eventually(SOON, "the Tenant is made again", || async {
        management
            .apply(&spec)
            .await
            .map(drop)
            .map_err(|e| Seen(e.to_string()))
    })
    .await?;
    await_guarded(&lab, "saved").await?;
    saved.agent().restart().await?;
    saved.apply_in(&namespace, &service("later", "")).await?;
    saved.await_ip(&namespace, "later").await?;
    let web = get(&saved, &["service", "web", "-n", &namespace]).await?;
    let ip = web["status"]["loadBalancer"]["ingress"][0]["ip"].as_str();
    assert_eq!(ip.context("an address")?, addresses[0]);
    lab.stop().await?;
    Ok(())
}
