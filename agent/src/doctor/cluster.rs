//! This cluster: its API server, what the agent is allowed there, and whether its nodes can receive traffic.

use std::collections::{BTreeMap, BTreeSet};

use berth_common::model::{IpFamily, NodeName};
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::Node,
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};

use crate::{explain::explain, project::SeenNode, settings::AgentSettings, watch::cluster_uid};
use berth_common::doctor::Report;

/// What the agent has to be allowed, and nothing besides: group, resource, subresource, name, verbs. The chart's
/// ClusterRole grants exactly this.
pub const PERMISSIONS: &[(&str, &str, &str, &str, &[&str])] = &[
    ("", "services", "", "", &["get", "list", "watch", "patch"]),
    ("", "services", "status", "", &["patch"]),
    ("", "nodes", "", "", &["list", "watch"]),
    (
        "discovery.k8s.io",
        "endpointslices",
        "",
        "",
        &["list", "watch"],
    ),
    ("events.k8s.io", "events", "", "", &["create"]),
    ("", "namespaces", "", "kube-system", &["get"]),
];
/// Nodes in one page of the list.
const PAGE_SIZE: u32 = 500;

pub(super) async fn examine(settings: &AgentSettings, client: &Client, report: &mut Report) {
    match cluster_uid(client).await {
        Ok(uid) => report.ok("API server", format!("reachable; this cluster is {uid}")),
        Err(error) => report.fail("API server", error.to_string()),
    }
    permissions(client, report).await;
    nodes(settings, client, report).await;
}

async fn permissions(client: &Client, report: &mut Report) {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut missing = Vec::new();
    for (group, resource, subresource, name, verbs) in PERMISSIONS {
        for verb in *verbs {
            let text = |part: &str| Some(part.to_owned()).filter(|part| !part.is_empty());
            let review = SelfSubjectAccessReview {
                spec: SelfSubjectAccessReviewSpec {
                    resource_attributes: Some(ResourceAttributes {
                        group: text(group),
                        resource: text(resource),
                        subresource: text(subresource),
                        name: text(name),
                        verb: text(verb),
                        ..ResourceAttributes::default()
                    }),
                    ..SelfSubjectAccessReviewSpec::default()
                },
                ..SelfSubjectAccessReview::default()
            };
            let allowed = match api.create(&PostParams::default(), &review).await {
                Ok(answer) => answer.status.is_some_and(|status| status.allowed),
                Err(error) => {
                    return report.fail(
                        "permissions",
                        format!("cannot be asked for: {}", explain(&error)),
                    );
                }
            };
            if !allowed {
                let slash = if subresource.is_empty() { "" } else { "/" };
                missing.push(format!("{verb} {resource}{slash}{subresource}"));
            }
        }
    }
    if missing.is_empty() {
        report.ok("permissions", "all that the agent needs");
    } else {
        let text = format!(
            "missing: {}; apply the chart's ClusterRole",
            missing.join(", ")
        );
        report.fail("permissions", text);
    }
}

async fn nodes(settings: &AgentSettings, client: &Client, report: &mut Report) {
    let api: Api<Node> = Api::all(client.clone());
    let mut all = BTreeMap::new();
    let mut params = ListParams::default().limit(PAGE_SIZE);
    loop {
        let page = match api.list(&params).await {
            Ok(page) => page,
            Err(error) => {
                return report.fail("nodes", format!("cannot be listed: {}", explain(&error)));
            }
        };
        all.extend(page.items.iter().filter_map(|node| {
            let name = NodeName(node.metadata.name.clone()?);
            Some((name, SeenNode::project(node, &settings.node_address_type)))
        }));
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            break;
        }
    }
    judge_nodes(settings, &all, report);
}

fn judge_nodes(settings: &AgentSettings, all: &BTreeMap<NodeName, SeenNode>, report: &mut Report) {
    let wanted: Vec<_> = settings
        .node_address_type
        .iter()
        .map(ToString::to_string)
        .collect();
    let wanted = wanted.join(" or ");
    let candidates: Vec<_> = all.values().filter(|node| node.is_candidate()).collect();
    let usable: Vec<_> = candidates
        .iter()
        .filter(|node| !node.addresses.is_empty())
        .collect();
    let counts = format!(
        "{} of {} nodes can receive traffic",
        usable.len(),
        all.len()
    );
    if usable.is_empty() {
        let types: BTreeSet<_> = candidates
            .iter()
            .flat_map(|node| &node.types)
            .map(String::as_str)
            .collect();
        let types: Vec<_> = types.into_iter().collect();
        return report.fail(
            "nodes",
            format!(
                "{counts}: none has an address of type {wanted} (present: {}); set nodeAddressType, or look for the label \
                 node.kubernetes.io/exclude-from-external-load-balancers",
                types.join(", ")
            ),
        );
    }
    let families: BTreeSet<_> = usable
        .iter()
        .flat_map(|node| &node.addresses)
        .map(IpFamily::of)
        .collect();
    let families: Vec<_> = families.into_iter().map(IpFamily::as_str).collect();
    let text = format!("{counts} at their {wanted}, by {}", families.join(" and "));
    if usable.iter().any(|node| node.ready) {
        report.ok("nodes", text);
    } else {
        report.warn("nodes", format!("{text}; none of them is ready"));
    }
}

#[cfg(test)]
mod tests {
    use berth_common::doctor::Level;

    use super::*;
    use crate::project::AddressType;

    fn settings() -> AgentSettings {
        let inputs = berth_common::settings::Inputs {
            flags: BTreeMap::from([("hub.address", "hub.example:8443".to_owned())]),
            ..Default::default()
        };
        berth_common::settings::resolve::<AgentSettings>(&inputs)
            .unwrap()
            .parse()
            .unwrap()
    }

    fn node(addresses: &[&str], ready: bool) -> SeenNode {
        SeenNode {
            excluded: false,
            deleting: false,
            doomed: false,
            ready,
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            types: BTreeSet::from([AddressType::ExternalIp.to_string()]),
        }
    }

    fn judged(nodes: &[SeenNode]) -> (Level, String) {
        let mut report = Report::default();
        let all = nodes
            .iter()
            .enumerate()
            .map(|(n, node)| (NodeName(n.to_string()), node.clone()));
        judge_nodes(&settings(), &all.collect(), &mut report);
        let finding = &report.0[0];
        (finding.level, finding.found.clone())
    }

    #[test]
    fn point_23_the_doctor_says_which_types_were_wanted_and_which_there_are() {
        let (verdict, text) = judged(&[node(&[], true)]);
        assert_eq!(verdict, Level::Fail);
        assert!(
            text.contains("type InternalIP (present: ExternalIP)"),
            "{text}"
        );
        assert_eq!(judged(&[node(&["10.0.0.1"], false)]).0, Level::Warn);
        let (verdict, text) = judged(&[node(&["10.0.0.1", "fd00::1"], true), node(&[], true)]);
        assert_eq!(verdict, Level::Ok);
        assert_eq!(
            text,
            "1 of 2 nodes can receive traffic at their InternalIP, by IPv4 and IPv6"
        );
    }
}
