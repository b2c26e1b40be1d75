//! May the hub's account do what the hub does?

use berth_common::doctor::Finding;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::{Api, Client, api::PostParams};

/// (group, resource, verbs): the chart's ClusterRole, which a test holds equal to this.
pub const NEEDED: &[(&str, &str, &[&str])] = &[
    ("berth.dev", "tenants", &["get", "list", "watch", "patch"]),
    ("berth.dev", "tenants/status", &["patch"]),
    (
        "berth.dev",
        "loadbalancers",
        &["get", "list", "watch", "create", "patch", "delete"],
    ),
    ("berth.dev", "loadbalancers/status", &["patch"]),
    (
        "",
        "services",
        &["get", "list", "watch", "create", "patch", "delete"],
    ),
    (
        "discovery.k8s.io",
        "endpointslices",
        &["get", "list", "watch", "create", "patch", "delete"],
    ),
    ("", "namespaces", &["list", "watch", "create", "patch"]),
    ("", "events", &["list", "watch"]),
    ("events.k8s.io", "events", &["create", "patch"]),
];

pub(super) async fn check(client: &Client) -> Vec<Finding> {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut missing = Vec::new();
    for (group, resource, verbs) in NEEDED {
        for verb in *verbs {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let review = SelfSubjectAccessReview {
                spec: SelfSubjectAccessReviewSpec {
                    resource_attributes: Some(ResourceAttributes {
                        group: Some((*group).into()),
                        resource: Some(resource.into()),
                        subresource: (!subresource.is_empty()).then(|| subresource.into()),
                        verb: Some((*verb).into()),
                        ..ResourceAttributes::default()
                    }),
                    ..SelfSubjectAccessReviewSpec::default()
                },
                ..SelfSubjectAccessReview::default()
            };
            match api.create(&PostParams::default(), &review).await {
                Ok(answer) if answer.status.as_ref().is_some_and(|s| s.allowed) => {}
                Ok(_) => missing.push(format!("{verb} {}", display(group, resource, subresource))),
                Err(error) => {
                    return vec![Finding::warn(
                        "rights",
                        format!("cannot be asked for: {error}"),
                        "the API server refuses SelfSubjectAccessReview; check the token",
                    )];
                }
            }
        }
    }
    vec![if missing.is_empty() {
        Finding::ok("rights", "the account may do all that the hub does")
    } else {
        Finding::fail(
            "rights",
            format!("missing: {}", missing.join(", ")),
            "apply the ClusterRole of the chart berth-hub, and bind it to the hub's ServiceAccount",
        )
    }]
}

fn display(group: &str, resource: &str, subresource: &str) -> String {
    let mut name = resource.to_owned();
    if !group.is_empty() {
        name = format!("{name}.{group}");
    }
    if !subresource.is_empty() {
        name = format!("{name}/{subresource}");
    }
    name
}
