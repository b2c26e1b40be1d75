//! The demo's last step: the Service goes, and with it everything that Berth made for it. Knows the label of what the hub owns;
//! must not know which objects those are.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, DeleteParams};
use kube::runtime::conditions::is_deleted;
use kube::runtime::wait::await_condition;

use super::human;
use super::workload::{NAMESPACE, SERVICE};
use crate::error::{Context, Error, Result};
use crate::lab::{ACME, Lab};
use crate::tenant::Tenant;
use crate::wait::{Seen, eventually};

/// How long the tenant's object may stay: it waits for the hub to say that the data path is cut.
const GONE: Duration = Duration::from_secs(30);
/// How long the address may be kept: a while on purpose, for a Service that comes back.
const RELEASED: Duration = Duration::from_secs(120);

/// What is asked for: everything of the hub's, in every namespace.
const OWNED: [&str; 7] = [
    "get",
    "loadbalancers,services,endpointslices",
    "-A",
    "-l",
    "app.kubernetes.io/managed-by=berth-hub",
    "-o",
    "name",
];

/// Deletes the Service and waits until nothing is left of it.
pub(super) async fn delete(lab: &Lab, acme: &Tenant, ip: &str) -> Result<()> {
    let services: Api<Service> = Api::namespaced(acme.client().await?, NAMESPACE);
    let uid = services
        .get(SERVICE)
        .await?
        .metadata
        .uid
        .unwrap_or_default();
    let since = Instant::now();
    services.delete(SERVICE, &DeleteParams::default()).await?;
    let gone = await_condition(services, SERVICE, is_deleted(&uid));
    match tokio::time::timeout(GONE, gone).await {
        Ok(done) => done.map(drop).context("the Service cannot be watched")?,
        Err(_) => return Err(stuck(acme).await),
    }
    println!("{ACME}'s Service is gone after {}.", human(since.elapsed()));

    if !owned(lab).await?.is_empty() {
        println!("The hub keeps {ip} for a moment, in case the Service comes back …");
    }
    eventually(RELEASED, "nothing of the hub's is left", || async {
        match owned(lab).await? {
            left if left.is_empty() => Ok(()),
            left => Err(Seen(left)),
        }
    })
    .await?;
    println!(
        "{ip} is free again after {}, and the management cluster has no LoadBalancer, Service or EndpointSlice of Berth's left.",
        human(since.elapsed())
    );
    if lab.has_packets() {
        silent(lab, ip).await?;
    }
    Ok(())
}

/// The names of everything the hub owns.
async fn owned(lab: &Lab) -> Result<String> {
    let names = lab.management().kubectl(&OWNED).await?;
    Ok(names.trim().replace('\n', ", "))
}

/// Makes sure that nobody answers any more.
async fn silent(lab: &Lab, ip: &str) -> Result<()> {
    let url = format!("http://{ip}:3000/");
    eventually(GONE, &format!("{url} stops answering"), || async {
        match lab.client().get(&url).await {
            Err(Error::Unanswered { .. }) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(answer) => Err(Seen(answer)),
        }
    })
    .await?;
    println!("The client gets no answer from {url} any more.");
    Ok(())
}

/// Why the Service is still there, as far as it says itself.
async fn stuck(acme: &Tenant) -> Error {
    let described = acme.kubectl(&["describe", "service", SERVICE]).await;
    Error::Start(format!(
        "the Service is still there {} s after its deletion:\n{}",
        GONE.as_secs(),
        described.unwrap_or_else(|error| error.chain())
    ))
}
