//! Berth's own kinds in the management cluster, `berth.dev/v1alpha1`: the Rust types, and the CustomResourceDefinitions
//! made of them. It knows shapes and what the API server can check by itself; it must not know what the hub does with
//! them. Field descriptions that `kubectl explain` shows are the doc comments here.

#[allow(
    unreachable_pub,
    reason = "KubeSchema repeats the type where nobody sees it"
)]
mod load_balancer;
#[allow(
    unreachable_pub,
    reason = "KubeSchema repeats the type where nobody sees it"
)]
mod tenant;

use kube::CustomResourceExt as _;

pub use load_balancer::{
    Family, LoadBalancer, LoadBalancerPort, LoadBalancerSpec, LoadBalancerStatus, PortProtocol,
    Source, TrafficPolicy,
};
pub use tenant::{
    Annotations, CertificateStatus, Credentials, HealthCheck, HealthMode, Quotas, ReclaimPolicy,
    Tenant, TenantSpec, TenantStatus,
};

/// The API group.
pub const GROUP: &str = "berth.dev";
/// The only version there is yet.
pub const VERSION: &str = "v1alpha1";

/// The CustomResourceDefinitions, each with the name of the file that the chart keeps it in.
pub fn crd_files() -> Result<Vec<(&'static str, String)>, serde_yaml::Error> {
    [
        ("loadbalancers.yaml", LoadBalancer::crd()),
        ("tenants.yaml", Tenant::crd()),
    ]
    .into_iter()
    .map(|(file, crd)| serde_yaml::to_string(&crd).map(|yaml| (file, yaml)))
    .collect()
}

/// All CustomResourceDefinitions as one YAML stream, for `berth-hub crds | kubectl apply -f -`.
pub fn crds() -> Result<String, serde_yaml::Error> {
    let documents: Vec<String> = crd_files()?.into_iter().map(|(_, yaml)| yaml).collect();
    Ok(documents.join("---\n"))
}

#[cfg(test)]
mod tests;
