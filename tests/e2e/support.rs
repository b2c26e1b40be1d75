//! What the tests say often: a Service to create, a condition or an event to wait for, and that nothing was left behind.

use std::time::Duration;

use anyhow::Result;
use berth_lab::{Cluster, Lab, Seen, Tenant, eventually};
use serde_json::Value;

/// How long a level may take to be reached. Far beyond what it takes: a test that needs it all has failed.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A Service of type LoadBalancer with one port, and whatever else its spec should say.
pub(crate) fn service(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: LoadBalancer\n  selector: {{app: {name}}}\n  \
         ports: [{{name: http, port: 80, targetPort: 8080}}]\n{}",
        indent(spec)
    )
}

fn indent(spec: &str) -> String {
    spec.lines().map(|line| format!("  {line}\n")).collect()
}

/// A tenant of the test's own, with a namespace of its own.
pub(crate) async fn tenant(lab: &Lab, name: &str) -> Result<(Tenant, String)> {
    let tenant = lab.tenant(name).await?;
    let namespace = tenant.namespace().await?;
    Ok((tenant, namespace))
}

/// Runs `berth-hub tenant` as the operator.
pub(crate) async fn berth_hub_tenant(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let kubeconfig = lab.management().kubeconfig_inside().display().to_string();
    let mut all = vec!["tenant"];
    all.extend(arguments);
    all.extend(["--kubeconfig", &kubeconfig]);
    Ok(lab.hub().command(&all).await?)
}

/// An object as JSON, or null where there is none.
pub(crate) async fn get(cluster: &Cluster, arguments: &[&str]) -> Result<Value> {
    let mut argv = vec!["get", "--ignore-not-found", "-o", "json"];
    argv.extend(arguments);
    let text = cluster.kubectl(&argv).await?;
    Ok(match text.trim() {
        "" => Value::Null,
        json => serde_json::from_str(json)?,
    })
}

/// Waits until a Service's condition has this status and reason, and returns its message.
pub(crate) async fn await_condition(
    cluster: &Cluster,
    namespace: &str,
    service: &str,
    kind: &str,
    status: &str,
    reason: &str,
) -> Result<String> {
    let what = format!("Service {namespace}/{service} has {kind}={status} ({reason})");
    let message = eventually(SOON, &what, || async {
        let object = get(cluster, &["service", service, "-n", namespace])
            .await
            .map_err(|e| Seen(e.to_string()))?;
        let conditions = object["status"]["conditions"].as_array().cloned();
        let found = conditions
            .into_iter()
            .flatten()
            .find(|c| c["type"] == kind && c["status"] == status && c["reason"] == reason);
        match found {
            Some(condition) => Ok(condition["message"].as_str().unwrap_or_default().to_owned()),
            None => Err(Seen(format!("status {}", object["status"]))),
        }
    })
    .await?;
    Ok(message)
}

/// Waits until an event about a Service with this reason exists, and returns its text.
pub(crate) async fn await_event(
    cluster: &Cluster,
    namespace: &str,
    service: &str,
    reason: &str,
) -> Result<String> {
    let what = format!("Service {namespace}/{service} has an event {reason}");
    let note = eventually(SOON, &what, || async {
        let events = get(cluster, &["events.v1.events.k8s.io", "-n", namespace])
            .await
            .map_err(|e| Seen(e.to_string()))?;
        let items = events["items"].as_array().cloned().unwrap_or_default();
        let found = items
            .iter()
            .find(|e| e["regarding"]["name"] == service && e["reason"] == reason);
        match found {
            Some(event) => Ok(event["note"].as_str().unwrap_or_default().to_owned()),
            None => Err(Seen(
                items
                    .iter()
                    .map(|e| format!("{} {}: {}", e["regarding"]["name"], e["reason"], e["note"]))
                    .collect::<Vec<_>>()
                    .join("; "),
            )),
        }
    })
    .await?;
    Ok(note)
}

/// Waits until nothing in the management cluster belongs to a tenant's Service any more.
pub(crate) async fn await_nothing_left(
    lab: &Lab,
    tenant: &str,
    namespace: &str,
    service: &str,
) -> Result<()> {
    let kinds = "services,endpointslices,loadbalancers.berth.dev";
    await_none(lab, kinds, tenant, namespace, service).await
}

/// Waits until nothing is left of a tenant's Service that traffic could take: its address may still be parked.
pub(crate) async fn await_cut(
    lab: &Lab,
    tenant: &str,
    namespace: &str,
    service: &str,
) -> Result<()> {
    let kinds = "endpointslices,loadbalancers.berth.dev";
    await_none(lab, kinds, tenant, namespace, service).await
}

async fn await_none(
    lab: &Lab,
    kinds: &str,
    tenant: &str,
    namespace: &str,
    service: &str,
) -> Result<()> {
    let home = format!("berth-{tenant}");
    let selector =
        format!("berth.dev/service-namespace={namespace},berth.dev/service-name={service}");
    let what = format!("no {kinds} of {tenant}:{namespace}/{service} is left in {home}");
    eventually(SOON, &what, || async {
        let left = get(lab.management(), &[kinds, "-n", &home, "-l", &selector])
            .await
            .map_err(|e| Seen(e.to_string()))?;
        match left["items"].as_array().map_or(0, Vec::len) {
            0 => Ok(()),
            n => Err(Seen(format!("{n} objects: {left}"))),
        }
    })
    .await?;
    Ok(())
}

/// Waits until a cluster's Service is gone.
pub(crate) async fn await_service_gone(
    cluster: &Cluster,
    namespace: &str,
    service: &str,
) -> Result<()> {
    let what = format!("Service {namespace}/{service} is gone");
    eventually(SOON, &what, || async {
        match get(cluster, &["service", service, "-n", namespace])
            .await
            .map_err(|e| Seen(e.to_string()))?
        {
            Value::Null => Ok(()),
            object => Err(Seen(format!(
                "finalizers {}",
                object["metadata"]["finalizers"]
            ))),
        }
    })
    .await?;
    Ok(())
}

/// The management Service of a tenant's Service, or null.
pub(crate) async fn managed(
    lab: &Lab,
    tenant: &str,
    namespace: &str,
    service: &str,
) -> Result<Value> {
    let home = format!("berth-{tenant}");
    let selector =
        format!("berth.dev/service-namespace={namespace},berth.dev/service-name={service}");
    let arguments = ["services", "-n", &home, "-l", &selector];
    Ok(get(lab.management(), &arguments).await?["items"][0].clone())
}

/// Waits until the management Service of a tenant's Service is as it should be, and returns it.
pub(crate) async fn await_managed(
    lab: &Lab,
    (tenant, namespace, service): (&str, &str, &str),
    what: &str,
    is_so: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let what = format!("the management Service of {tenant}:{namespace}/{service}: {what}");
    let found = eventually(SOON, &what, || async {
        let object = managed(lab, tenant, namespace, service)
            .await
            .map_err(|e| Seen(e.to_string()))?;
        match is_so(&object) {
            true => Ok(object),
            false => Err(Seen(object.to_string())),
        }
    })
    .await?;
    Ok(found)
}

/// Changes an object by a merge patch.
pub(crate) async fn patch(cluster: &Cluster, object: &[&str], patch: &str) -> Result<()> {
    let mut argv = vec!["patch"];
    argv.extend(object);
    argv.extend(["--type=merge", "-p", patch]);
    cluster.kubectl(&argv).await?;
    Ok(())
}

/// Waits until a Service has no address any more.
pub(crate) async fn await_no_address(tenant: &Tenant, namespace: &str, name: &str) -> Result<()> {
    let what = format!("{name} has no address any more");
    eventually(SOON, &what, || async {
        let object = get(tenant, &["svc", name, "-n", namespace])
            .await
            .map_err(|e| Seen(e.to_string()))?;
        match object["status"]["loadBalancer"]["ingress"].is_null() {
            true => Ok(()),
            false => Err(Seen(object["status"].to_string())),
        }
    })
    .await?;
    Ok(())
}
