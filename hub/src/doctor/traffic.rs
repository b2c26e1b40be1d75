//! Does anything answer behind the load balancers? A TCP connection to each node port, from here: the tenant's kube-proxy
//! refuses it when no pod is ready, the tutorial's second trap.

use std::{collections::BTreeMap, io::ErrorKind, net::SocketAddr, time::Duration};

use berth_common::doctor::Finding;
use futures::{StreamExt as _, stream};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use tokio::net::TcpStream;

use crate::objects::{MANAGED_BY, MANAGER};

/// A node that does not answer within this is as good as away.
const PATIENCE: Duration = Duration::from_secs(2);
/// Connections tried at once.
const AT_ONCE: usize = 64;
/// Load balancers that are tried; a doctor is no load test.
const MOST: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reply {
    Open,
    Refused,
    Silent,
}

pub(super) async fn check(client: &Client) -> Vec<Finding> {
    let api: Api<EndpointSlice> = Api::all(client.clone());
    let params = ListParams::default()
        .labels(&format!("{MANAGED_BY}={MANAGER}"))
        .limit(u32::try_from(MOST).unwrap_or(u32::MAX));
    let slices = match api.list(&params).await {
        Ok(slices) => slices.items,
        Err(error) => {
            return vec![Finding::warn(
                "backends",
                format!("cannot be read: {error}"),
                "give the hub's ServiceAccount list on endpointslices, as the chart does",
            )];
        }
    };
    let targets: Vec<(String, SocketAddr)> = slices.iter().flat_map(targets).collect();
    let replies: Vec<(String, SocketAddr, Reply)> = stream::iter(targets)
        .map(|(name, target)| async move { (name, target, probe(target).await) })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    judge(replies)
}

fn targets(slice: &EndpointSlice) -> Vec<(String, SocketAddr)> {
    let name = format!(
        "{}/{}",
        slice.namespace().unwrap_or_default(),
        slice
            .labels()
            .get("kubernetes.io/service-name")
            .cloned()
            .unwrap_or_default()
    );
    let ports = slice.ports.iter().flatten();
    let tcp = ports.filter(|p| p.protocol.as_deref() == Some("TCP"));
    tcp.filter_map(|p| u16::try_from(p.port?).ok())
        .flat_map(|port| {
            let addresses = slice.endpoints.iter().flat_map(|e| &e.addresses);
            addresses.filter_map(move |a| Some(SocketAddr::new(a.parse().ok()?, port)))
        })
        .map(|target| (name.clone(), target))
        .collect()
}

async fn probe(target: SocketAddr) -> Reply {
    match tokio::time::timeout(PATIENCE, TcpStream::connect(target)).await {
        Ok(Ok(_)) => Reply::Open,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Reply::Refused,
        Ok(Err(_)) | Err(_) => Reply::Silent,
    }
}

fn judge(replies: Vec<(String, SocketAddr, Reply)>) -> Vec<Finding> {
    let mut services: BTreeMap<String, Vec<(SocketAddr, Reply)>> = BTreeMap::new();
    for (name, target, reply) in replies {
        services.entry(name).or_default().push((target, reply));
    }
    let total = services.len();
    let mut findings: Vec<Finding> = services
        .into_iter()
        .filter_map(|(name, mut replies)| {
            replies.sort();
            let (target, best) = *replies.iter().min_by_key(|(_, reply)| *reply)?;
            let subject = format!("backends of {name}");
            match best {
                Reply::Open => None,
                Reply::Refused => Some(Finding::warn(
                    subject,
                    format!("{target} refuses connections: no pod is ready behind it"),
                    "in the tenant's cluster look at the Deployment's events: one that names a ServiceAccount which \
                     nothing creates never makes a pod (FailedCreate)",
                )),
                Reply::Silent => Some(Finding::warn(
                    subject,
                    format!("{target} does not answer from here"),
                    "check routes and firewalls between the management nodes and the tenant's nodes, and the agent's nodeAddressType",
                )),
            }
        })
        .collect();
    if findings.is_empty() {
        findings.push(Finding::ok(
            "backends",
            format!("something answers behind each of {total} TCP load balancer(s)"),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tutorials_second_trap_is_named() {
        let target: SocketAddr = "10.10.2.1:30000".parse().unwrap();
        let findings = judge(vec![("berth-acme/backend".into(), target, Reply::Refused)]);
        assert!(
            findings[0].remedy.contains("ServiceAccount"),
            "{}",
            findings[0]
        );
    }

    #[test]
    fn one_node_that_answers_is_enough() {
        let at = |s: &str| s.parse().unwrap();
        let findings = judge(vec![
            ("a".into(), at("10.0.0.1:1"), Reply::Silent),
            ("a".into(), at("10.0.0.2:1"), Reply::Open),
        ]);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].remedy.is_empty());
    }
}
