//! Gives every Service of the management cluster an address as soon as it is there. It stands in for MetalLB, which takes four
//! minutes for 5,000 addresses, and is none of what is measured here.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU32, Ordering},
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::json;

/// Addresses are given from here upwards: 10.10.128.0/17, of which the lab uses none.
const FIRST: u32 = u32::from_be_bytes([10, 10, 128, 1]);
/// As many requests at once as keep an API server busy.
const AT_ONCE: usize = 16;

/// Runs until dropped.
pub(crate) async fn run(client: Client) {
    let all: Api<Service> = Api::all(client.clone());
    let next = AtomicU32::new(FIRST);
    let services = watcher(all, watcher::Config::default())
        .default_backoff()
        .applied_objects();
    let give = |service: Result<Service, watcher::Error>| {
        let (client, next) = (client.clone(), &next);
        async move {
            let Ok(service) = service else { return };
            if !waits(&service) {
                return;
            }
            let ip = Ipv4Addr::from(next.fetch_add(1, Ordering::Relaxed));
            let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
            let api: Api<Service> = Api::namespaced(client, &namespace);
            let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": ip.to_string()}]}}});
            let patch = Patch::Merge(status);
            let parameters = PatchParams::default();
            if let Err(error) = api.patch_status(&name, &parameters, &patch).await {
                println!("no address for {namespace}/{name}: {error}");
            }
        }
    };
    services.for_each_concurrent(AT_ONCE, give).await;
}

fn waits(service: &Service) -> bool {
    let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    let balancer = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref());
    kind == Some("LoadBalancer") && ingress.is_none_or(Vec::is_empty)
}
