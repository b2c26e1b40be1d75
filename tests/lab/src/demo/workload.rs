//! The demo's third step: the tutorial's workload is applied, gets its address, and answers. Knows the tutorial's names; must not
//! know how the address came.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use kube::api::Api;
use kube::runtime::wait::await_condition;

use super::{human, transcript};
use crate::error::{Context, Error, Result};
use crate::lab::{ACME, Lab, MANAGEMENT};
use crate::manifests::{self, kind};
use crate::tenant::Tenant;

/// The file that the tutorial has people apply.
const WORKLOAD: &str = include_str!("../../../../docs/tutorial/backend.yaml");
/// Its Service, and the namespace it goes to.
pub(super) const SERVICE: &str = "backend";
pub(super) const NAMESPACE: &str = "default";

/// How long an address may take: it takes a tenth of a second.
const ADDRESS: Duration = Duration::from_secs(60);
/// How long the pods may take, and then the packets: kube-proxy syncs once a second.
const ANSWER: Duration = Duration::from_secs(60);

/// Applies the workload, waits for the Service's address and says how long it took.
pub(super) async fn apply(acme: &Tenant) -> Result<String> {
    let client = acme.client().await?;
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let objects = manifests::objects(WORKLOAD)?;
    let apply = async {
        let mut created = Instant::now();
        for object in &objects {
            manifests::apply(&client, std::slice::from_ref(object), NAMESPACE).await?;
            if kind(object) == "Service" {
                created = Instant::now();
            }
        }
        Ok::<_, Error>(created)
    };
    // Watching before there is anything to see, so that the time is the Service's and not the watch's.
    let watch = async {
        let has_address = |service: Option<&Service>| service.and_then(address).is_some();
        let seen = await_condition(services, SERVICE, has_address);
        let seen = tokio::time::timeout(ADDRESS, seen).await;
        (Instant::now(), seen)
    };
    let (created, (given, seen)) = tokio::join!(apply, watch);
    let created = created?;
    let Ok(service) = seen else {
        return Err(explain(acme).await);
    };
    let service = service.context("the Service cannot be watched")?;
    let ip = service.as_ref().and_then(address).unwrap_or_default();
    println!(
        "{ip} was given {} after the Service was created.",
        human(given.saturating_duration_since(created))
    );
    Ok(ip)
}

/// The first address of a Service's status.
fn address(service: &Service) -> Option<String> {
    let ingress = service
        .status
        .as_ref()?
        .load_balancer
        .as_ref()?
        .ingress
        .as_ref()?;
    ingress.first()?.ip.clone()
}

/// Why there is no address, as far as the Service itself says.
async fn explain(acme: &Tenant) -> Error {
    let described = acme.kubectl(&["describe", "service", SERVICE]).await;
    Error::Start(format!(
        "the Service has no address after {} s:\n{}",
        ADDRESS.as_secs(),
        described.unwrap_or_else(|error| error.chain())
    ))
}

/// Shows both clusters' views and what the client gets.
pub(super) async fn show(lab: &Lab, acme: &Tenant, ip: &str) -> Result<()> {
    let service = ["get", "svc", SERVICE];
    transcript(
        ACME,
        "kubectl get svc backend",
        &acme.kubectl(&service).await?,
    );
    let balancers = ["get", "loadbalancers", "-A"];
    let seen = lab.management().kubectl(&balancers).await?;
    transcript(MANAGEMENT, "kubectl get loadbalancers -A", &seen);

    let available = [
        "wait",
        "--for=condition=Available",
        "deploy/backend",
        "--timeout=60s",
    ];
    acme.kubectl(&available).await?;
    let url = format!("http://{ip}:3000/");
    if !lab.has_packets() {
        println!(
            "\nNo packet is sent: there is no network for it. With namespaces a client beside the clusters would now fetch {url}"
        );
        return Ok(());
    }
    let since = Instant::now();
    let answer = lab.client().await_get(&url, ANSWER).await?;
    println!("\nclient: GET {url} answers\n{}", answer.trim_end());
    println!(
        "(answered {} after the pods were ready)",
        human(since.elapsed())
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tutorial_is_what_the_demo_speaks_of() {
        let objects = manifests::objects(WORKLOAD).unwrap();
        let named = |wanted: &str| {
            objects
                .iter()
                .find(|object| kind(object) == wanted)
                .unwrap()
        };
        let service = named("Service");
        assert_eq!(service["metadata"]["name"], SERVICE);
        assert_eq!(service["spec"]["type"], "LoadBalancer");
        assert_eq!(service["spec"]["ports"][0]["port"], 3000);
        // The trap of the original: a Deployment whose ServiceAccount nothing creates.
        let pod = &named("Deployment")["spec"]["template"]["spec"];
        assert_eq!(
            pod["serviceAccountName"],
            named("ServiceAccount")["metadata"]["name"]
        );
    }
}
