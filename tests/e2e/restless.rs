//! A Service that is changed without end: it costs its tenant's repetitions and no more, its operator is told, and the last
//! version is what is served.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use berth_hub::api::Tenant;
use berth_lab::{Lab, Seen, eventually};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    quotas::set,
    support::{await_managed, service, tenant},
    trail::await_line,
};

/// The condition stands when it has lasted for half a minute.
const LASTS: Duration = Duration::from_secs(90);

/// Between two changes.
const PACE: Duration = Duration::from_millis(100);

/// The `Throttled` condition of the Tenant, if it stands.
async fn throttled(lab: &Lab) -> Result<Option<String>> {
    let tenants: Api<Tenant> = Api::all(lab.management().client().await?);
    let status = tenants.get("restless").await?.status.unwrap_or_default();
    let mut conditions = status.conditions.into_iter();
    Ok(conditions
        .find(|it| it.type_ == "Throttled")
        .map(|it| it.message))
}

#[tokio::test]
async fn hostile_41_who_changes_a_service_without_end_is_held_back_and_told_and_served_as_it_is_at_last()
-> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, "restless").await?;
    // One repetition a second.
    set(
        &lab,
        "restless",
        &json!({ "quotas": { "changesPerSecond": 20 } }),
    )
    .await?;
    tenant.apply_in(&namespace, &service("web", "")).await?;
    let address = tenant.await_ip(&namespace, "web").await?;
    let mark = lab.management().audit_by(":berth-hub").await?.0.len();

    let services: Api<Service> = Api::namespaced(tenant.client().await?, &namespace);
    let began = Instant::now();
    let mut port = 1_000;
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let message = loop {
        ticks.tick().await;
        port += 1;
        let change = json!([{"op": "replace", "path": "/spec/ports/0/port", "value": port}]);
        let change = Patch::<()>::Json(serde_json::from_value(change)?);
        services
            .patch("web", &PatchParams::default(), &change)
            .await?;
        if let Some(message) = throttled(&lab).await? {
            break message;
        }
        ensure!(began.elapsed() < LASTS, "nobody is told after {port}");
    };
    let seconds = began.elapsed().as_secs();
    ensure!(message.contains("again and again"), "{message}");
    await_line(&lab, "restless", "refusal", "throttled").await?;
    ensure!(
        lab.hub()
            .metric("berth_tenants_restless_total", &[])
            .await?
            >= 1.0
    );

    // Whatever its tenant does, the Service was written as often as there were repetitions: one for nothing, one in hand.
    let home = "berth-restless/";
    let audit = lab.management().audit_by(":berth-hub").await?.since(mark);
    let written = audit.only(|w| w.resource == "services" && w.object.starts_with(home));
    let (written, changes) = (written.0.len() as u64, port - 1_000);
    ensure!(
        written <= seconds + 3 && 2 * written < changes,
        "{written} writes in {seconds} s of {changes} changes"
    );

    let is_last = |service: &Value| service["spec"]["ports"][0]["port"] == json!(port);
    let key = ("restless", namespace.as_str(), "web");
    await_managed(&lab, key, "as it is at last", is_last).await?;
    eventually(LASTS, "nothing is said any more", || async {
        match throttled(&lab).await.map_err(|e| Seen(e.to_string()))? {
            None => Ok(()),
            Some(message) => Err(Seen(message)),
        }
    })
    .await?;
    ensure!(
        tenant.await_ip(&namespace, "web").await? == address,
        "it keeps its address"
    );
    Ok(())
}
