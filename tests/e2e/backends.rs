//! Which addresses receive a Service's traffic: what its slices in the management cluster say.

use anyhow::Result;
use berth_lab::{Lab, Seen, Write, eventually};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams};

use crate::support::SOON;

/// A Service: its tenant, its namespace and its name.
type Of<'a> = [&'a str; 3];

/// The addresses in all slices of a tenant's Service, in order.
pub(crate) async fn backends(lab: &Lab, service: Of<'_>) -> Result<Vec<String>> {
    let client = lab.management().client().await?;
    let slices: Api<EndpointSlice> = Api::namespaced(client, &format!("berth-{}", service[0]));
    addresses(&slices, service).await
}

async fn addresses(slices: &Api<EndpointSlice>, service: Of<'_>) -> Result<Vec<String>> {
    let [_, namespace, name] = service;
    let selector = format!("berth.dev/service-namespace={namespace},berth.dev/service-name={name}");
    let found = slices
        .list(&ListParams::default().labels(&selector))
        .await?;
    let endpoints = found.items.into_iter().flat_map(|slice| slice.endpoints);
    let mut all: Vec<String> = endpoints.flat_map(|endpoint| endpoint.addresses).collect();
    all.sort();
    Ok(all)
}

/// Waits until these addresses, and no others, receive the Service's traffic. In any order.
pub(crate) async fn await_backends(lab: &Lab, service: Of<'_>, wanted: &[&str]) -> Result<()> {
    let mut wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    wanted.sort();
    let what = format!("traffic of {service:?} goes to {wanted:?}");
    let client = lab.management().client().await?;
    let slices = Api::namespaced(client, &format!("berth-{}", service[0]));
    eventually(SOON, &what, || async {
        let found = addresses(&slices, service).await?;
        if found == wanted {
            Ok(())
        } else {
            Err(Seen(format!("{found:?}")))
        }
    })
    .await?;
    Ok(())
}

/// The hub's writes to slices of a tenant so far.
pub(crate) async fn slice_writes(lab: &Lab, tenant: &str) -> Result<Vec<Write>> {
    let home = format!("berth-{tenant}/");
    let audit = lab.management().audit_by(":berth-hub").await?;
    let of_slices =
        |write: &Write| write.resource == "endpointslices" && write.object.starts_with(&home);
    Ok(audit.only(of_slices).0)
}
