//! How many load balancers and ports a tenant may have, in all: never one more stands in the management cluster, not even for a
//! moment, whoever dies; who finds no room is told, and served as soon as there is some.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use berth_lab::{Lab, Seen, Tenant, eventually};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

use crate::quiet::Written;
use crate::support::{
    SOON, await_condition, await_event, await_no_address, await_service_gone, berth_hub_tenant,
    get, patch, service, tenant,
};

/// Changes the spec of a Tenant.
pub(crate) async fn set(lab: &Lab, tenant: &str, spec: &Value) -> Result<()> {
    let object = ["tenant", tenant];
    patch(
        lab.management(),
        &object,
        &json!({ "spec": spec }).to_string(),
    )
    .await
}

/// Waits until a Service is refused for a quota, and returns the condition's message.
async fn await_refused(tenant: &Tenant, namespace: &str, name: &str) -> Result<String> {
    let kind = "berth.dev/Programmed";
    await_condition(tenant, namespace, name, kind, "False", "QuotaExceeded").await
}

/// The most Services that stood in the management cluster for a tenant at any moment, by the API server's own log.
async fn most_at_once(lab: &Lab, tenant: &str) -> Result<usize> {
    let home = format!("berth-{tenant}/");
    let audit = lab.management().audit_by(":berth-hub").await?;
    let (mut there, mut most) = (BTreeSet::new(), 0);
    for write in audit
        .only(|w| w.resource == "services" && w.object.starts_with(&home))
        .0
    {
        match (write.verb.as_str(), write.code) {
            ("delete", 200) => {
                there.remove(&write.object);
            }
            (_, 200 | 201) => {
                there.insert(write.object);
            }
            _ => {}
        }
        most = most.max(there.len());
    }
    Ok(most)
}

/// Waits until the Tenant's status has these figures, and returns the line that `kubectl get tenants` prints.
async fn await_usage(lab: &Lab, tenant: &str, figures: &[(&str, u64)]) -> Result<String> {
    let what = format!("the Tenant {tenant} says {figures:?}");
    eventually(SOON, &what, || async {
        let object = get(lab.management(), &["tenant", tenant])
            .await
            .map_err(|e| Seen(e.to_string()))?;
        let status = &object["status"];
        match figures
            .iter()
            .all(|(name, count)| status[*name] == json!(count))
        {
            true => Ok(()),
            false => Err(Seen(status.to_string())),
        }
    })
    .await?;
    let table = lab.management().kubectl(&["get", "tenants"]).await?;
    let line = table
        .lines()
        .find(|line| line.starts_with(&format!("{tenant} ")));
    Ok(line.context("the tenant's line")?.to_owned())
}

/// Waits until what is made from now on is newer than the load balancer of this Service: Kubernetes knows ages by the second.
async fn await_next_second(lab: &Lab, tenant: &str, namespace: &str, name: &str) -> Result<()> {
    let object = crate::support::managed(lab, tenant, namespace, name).await?;
    let created: Time = serde_json::from_value(object["metadata"]["creationTimestamp"].clone())?;
    let created = SystemTime::from(created.0);
    eventually(SOON, "the next second", || async {
        match created.elapsed() {
            Ok(age) if age >= Duration::from_secs(1) => Ok(()),
            age => Err(Seen(format!("{age:?}"))),
        }
    })
    .await?;
    Ok(())
}

async fn delete(tenant: &Tenant, namespace: &str, name: &str) -> Result<()> {
    let arguments = ["delete", "svc", name, "-n", namespace, "--wait=false"];
    tenant.kubectl(&arguments).await?;
    Ok(())
}

#[tokio::test]
async fn quota_full_is_told_and_the_next_is_served_at_once_when_another_goes() -> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, "quota").await?;
    // Parked addresses would be kept for an hour, if nobody waited.
    let spec = json!({ "quotas": { "loadBalancers": 2, "ports": 4 }, "releaseAfterSeconds": 3600 });
    set(&lab, "quota", &spec).await?;
    for name in ["a", "b"] {
        tenant.apply_in(&namespace, &service(name, "")).await?;
        tenant.await_ip(&namespace, name).await?;
    }
    for name in ["d", "c"] {
        tenant.apply_in(&namespace, &service(name, "")).await?;
        let message = await_refused(&tenant, &namespace, name).await?;
        ensure!(
            message.contains("2 load balancers") && message.contains("quotas.loadBalancers"),
            "{message}"
        );
    }
    let event = await_event(&tenant, &namespace, "d", "SyncLoadBalancerFailed").await?;
    ensure!(event.contains("quotas.loadBalancers"), "{event}");
    let labels = ["quota=\"load_balancers\"", "result=\"refused\""];
    let refused = lab
        .hub()
        .metric("berth_quota_refusals_total", &labels)
        .await?;
    ensure!(refused >= 2.0, "{refused}");
    let log = lab.hub().log().await?;
    let audited = |line: &&str| {
        line.contains("\"refusal\"") && line.contains("\"QuotaExceeded\"") && line.contains("/d: ")
    };
    ensure!(
        log.lines().filter(audited).count() == 1,
        "one line in the audit log"
    );
    let line = await_usage(
        &lab,
        "quota",
        &[("loadBalancers", 2), ("ports", 2), ("waiting", 2)],
    )
    .await?;
    let columns: Vec<&str> = line.split_whitespace().collect();
    ensure!(
        columns.windows(3).any(|three| three == ["2", "2", "2"]),
        "{line}"
    );

    // The first that came, and not the first by name; and although the address of the other is parked for an hour.
    let began = Instant::now();
    delete(&tenant, &namespace, "a").await?;
    tenant.await_ip(&namespace, "d").await?;
    println!(
        "served {:.0?} after the deletion of another",
        began.elapsed()
    );
    await_service_gone(&tenant, &namespace, "a").await?;
    await_refused(&tenant, &namespace, "c").await?;

    // Ports: a change of one that is there beyond the total leaves what was.
    let ip = tenant.await_ip(&namespace, "b").await?;
    let ports: Vec<Value> = (1..=4)
        .map(|n| json!({ "name": format!("p{n}"), "port": 80 + n }))
        .collect();
    let spec = json!({ "spec": { "ports": ports } }).to_string();
    patch(&tenant, &["svc", "b", "-n", &namespace], &spec).await?;
    let event = await_event(&tenant, &namespace, "b", "UpdateLoadBalancerFailed").await?;
    ensure!(
        event.contains("4 ports") && event.contains("quotas.ports"),
        "{event}"
    );
    ensure!(tenant.await_ip(&namespace, "b").await? == ip);
    let managed = crate::support::managed(&lab, "quota", &namespace, "b").await?;
    ensure!(
        managed["spec"]["ports"].as_array().map(Vec::len) == Some(1),
        "{managed}"
    );

    // Raised: both by themselves.
    await_next_second(&lab, "quota", &namespace, "d").await?;
    set(
        &lab,
        "quota",
        &json!({ "quotas": { "loadBalancers": 3, "ports": 6 } }),
    )
    .await?;
    tenant.await_ip(&namespace, "c").await?;
    let what = "b has its ports";
    crate::support::await_managed(&lab, ("quota", &namespace, "b"), what, |it| {
        it["spec"]["ports"].as_array().map(Vec::len) == Some(4)
    })
    .await?;
    ensure!(most_at_once(&lab, "quota").await? <= 3);
    await_usage(
        &lab,
        "quota",
        &[("loadBalancers", 3), ("ports", 6), ("waiting", 0)],
    )
    .await?;
    crate::quiet::after(&lab, &tenant).await?;

    // Lowered: who has one keeps it, and whoever comes is refused; enforced, the newest goes, and is told.
    set(
        &lab,
        "quota",
        &json!({ "quotas": { "loadBalancers": 2, "ports": 6 } }),
    )
    .await?;
    tenant.apply_in(&namespace, &service("e", "")).await?;
    await_refused(&tenant, &namespace, "e").await?;
    for name in ["b", "c", "d"] {
        tenant.await_ip(&namespace, name).await?;
    }
    set(&lab, "quota", &json!({ "enforce": true })).await?;
    let message = await_refused(&tenant, &namespace, "c").await?;
    ensure!(message.contains("quotas.loadBalancers"), "{message}");
    let labels = ["quota=\"load_balancers\"", "result=\"withdrawn\""];
    let withdrawn = lab
        .hub()
        .metric("berth_quota_refusals_total", &labels)
        .await?;
    ensure!((withdrawn - 1.0).abs() < 0.5, "{withdrawn}");
    await_no_address(&tenant, &namespace, "c").await?;
    for name in ["b", "d"] {
        tenant.await_ip(&namespace, name).await?;
    }
    await_usage(
        &lab,
        "quota",
        &[("loadBalancers", 2), ("ports", 5), ("waiting", 2)],
    )
    .await?;
    set(
        &lab,
        "quota",
        &json!({ "quotas": { "loadBalancers": 4, "ports": null } }),
    )
    .await?;
    for name in ["c", "e"] {
        tenant.await_ip(&namespace, name).await?;
    }
    let listed = berth_hub_tenant(&lab, &["list"]).await?;
    ensure!(listed.contains("quota"), "{listed}");
    Ok(())
}

#[tokio::test]
async fn quota_is_exact_when_fifty_come_at_once_and_the_hub_is_killed_among_them() -> Result<()> {
    const QUOTA: usize = 10;
    let lab = Lab::builder().start_own().await?;
    let acme = lab.tenant("acme").await?;
    let namespace = acme.namespace().await?;
    set(
        &lab,
        "acme",
        &json!({ "quotas": { "loadBalancers": QUOTA } }),
    )
    .await?;
    let services: Api<Service> = Api::namespaced(acme.client().await?, &namespace);
    let object = |n: usize| -> Result<Service> {
        Ok(serde_json::from_value(json!({
            "metadata": { "name": format!("s{n:02}") },
            "spec": { "type": "LoadBalancer", "selector": { "app": "x" }, "ports": [{ "port": 80 }] },
        }))?)
    };
    let created =
        (0..50).map(|n| {
            let services = services.clone();
            let object = object(n);
            async move {
                Ok::<_, anyhow::Error>(services.create(&PostParams::default(), &object?).await?)
            }
        });
    let managed: Api<Service> = Api::namespaced(lab.management().client().await?, "berth-acme");
    let (all, killed) = tokio::join!(try_join_all(created), async {
        // In the middle: some are there, and not all that may be.
        let what = "some management Services are there";
        let some = eventually(SOON, what, || async {
            match managed.list(&Default::default()).await?.items.len() {
                0 => Err(Seen("none".into())),
                n => Ok(n),
            }
        })
        .await?;
        lab.hub().kill().await?;
        Ok::<usize, anyhow::Error>(some)
    });
    all?;
    println!("killed with {} there", killed?);
    lab.hub().start().await?;
    let settled = async || -> Result<BTreeSet<String>> {
        let what = "10 are served and 40 are told";
        let found = eventually(Duration::from_secs(60), what, || async {
            let list = services.list(&Default::default()).await?;
            let (mut served, mut told) = (BTreeSet::new(), 0);
            for service in list {
                let name = service.metadata.name.unwrap_or_default();
                let status = service.status.unwrap_or_default();
                let refused = status
                    .conditions
                    .iter()
                    .flatten()
                    .any(|c| c.reason == "QuotaExceeded");
                let ingress = status
                    .load_balancer
                    .and_then(|lb| lb.ingress)
                    .unwrap_or_default();
                match (ingress.is_empty(), refused) {
                    (false, false) => drop(served.insert(name)),
                    (true, true) => told += 1,
                    _ => {}
                }
            }
            match (served.len(), told) {
                (QUOTA, 40) => Ok(served),
                (served, told) => Err(Seen(format!("{served} served, {told} told"))),
            }
        })
        .await?;
        Ok(found)
    };
    let first = settled().await?;
    ensure!(most_at_once(&lab, "acme").await? == QUOTA);

    // A restart takes nobody's place, and writes nothing.
    let written = Written::at_rest(&lab, &acme).await?;
    lab.hub().kill().await?;
    lab.hub().start().await?;
    lab.hub().ready().await?;
    await_usage(&lab, "acme", &[("loadBalancers", 10), ("waiting", 40)]).await?;
    ensure!(settled().await? == first);
    written.nothing_since("the hub came back").await?;

    // Five go: the first five by name of those that wait are served, for after a restart they stand in line by name.
    let waiting: Vec<String> = (0..50)
        .map(|n| format!("s{n:02}"))
        .filter(|name| !first.contains(name))
        .collect();
    for name in first.iter().take(5) {
        delete(&acme, &namespace, name).await?;
    }
    for name in &waiting[..5] {
        acme.await_ip(&namespace, name).await?;
    }
    for name in &waiting[5..] {
        await_refused(&acme, &namespace, name).await?;
    }
    ensure!(most_at_once(&lab, "acme").await? == QUOTA);
    lab.stop().await?;
    Ok(())
}
