//! Proves that a lab moves packets, without Berth: what the hub would do for a tenant's Service is done here by hand. Knows the
//! tutorial's workload; a failure here is the lab's, not Berth's.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use kube::api::Api;

use crate::address::Node;
use crate::error::{Error, Result};
use crate::lab::{ACME, Lab};
use crate::tenant::await_ip;

/// kube-proxy syncs once a second, and a pod's image may have to be unpacked first.
const DEADLINE: Duration = Duration::from_secs(60);

const WORKLOAD: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: check}
---
apiVersion: v1
kind: Service
metadata: {name: check}
spec: {type: NodePort, selector: {app: check}, ports: [{name: http, port: 3000}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: check}
spec:
  replicas: 2
  selector: {matchLabels: {app: check}}
  template:
    metadata: {labels: {app: check}}
    spec:
      serviceAccountName: check
      containers: [{name: echo, image: "lab.local/echo:1", ports: [{containerPort: 3000}]}]
"#;

/// Sends a request from the client to a load balancer's address, and says what answered and how long everything took.
pub async fn packets(lab: &Lab) -> Result<String> {
    let acme = lab.acme();
    let namespace = acme.namespace().await?;
    acme.apply_in(&namespace, WORKLOAD).await?;
    let services: Api<Service> = Api::namespaced(acme.client().await?, &namespace);
    let spec = services.get("check").await?.spec.unwrap_or_default();
    let port = spec.ports.iter().flatten().find_map(|port| port.node_port);
    let port = port.ok_or_else(|| Error::Start("the Service check has no node port".into()))?;

    let started = Instant::now();
    let management = lab.management();
    let behind = management.namespace().await?;
    management.apply_in(&behind, &load_balancer(port)).await?;
    let ip = await_ip(management, &behind, "check").await?;
    let allocated = started.elapsed();
    if !lab.has_packets() {
        return Ok(format!(
            "{ip} was given after {allocated:.1?}; without namespaces no packet is sent"
        ));
    }
    let url = format!("http://{ip}:3000/check");
    let answer = lab.client().await_get(&url, DEADLINE).await?;
    let reached = started.elapsed();
    for (cluster, namespace) in [(acme, &namespace), (management, &behind)] {
        let arguments = ["delete", "namespace", namespace, "--wait=false"];
        cluster.kubectl(&arguments).await?;
    }
    Ok(format!(
        "{ip} was given after {allocated:.1?} and reached from the client after {reached:.1?}: {}",
        answer.trim()
    ))
}

/// The management Service for a node port of acme.
fn load_balancer(port: i32) -> String {
    let endpoints: String = Node::of(ACME)
        .map(|node| {
            format!(
                "  - {{addresses: [{}], conditions: {{ready: true}}}}\n",
                node.address
            )
        })
        .collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: check}}\n\
         spec: {{type: LoadBalancer, allocateLoadBalancerNodePorts: false, \
         ports: [{{name: http, port: 3000, targetPort: {port}}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: check-1, labels: {{kubernetes.io/service-name: check}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: {port}, protocol: TCP}}]\nendpoints:\n{endpoints}"
    )
}
