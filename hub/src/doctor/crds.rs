//! Are the CustomResourceDefinitions there, and are they this release's?

use berth_common::doctor::Finding;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, CustomResourceExt as _, ResourceExt as _};
use serde_json::Value;

use crate::api::{LoadBalancer, Tenant};

const REMEDY: &str = "run `berth-hub crds | kubectl apply --server-side -f -` in the management cluster (helm does not upgrade CRDs)";

pub(super) async fn check(client: &Client) -> Vec<Finding> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut findings = Vec::new();
    for wanted in [Tenant::crd(), LoadBalancer::crd()] {
        let name = wanted.name_any();
        let subject = format!("CRD {name}");
        findings.push(match api.get_opt(&name).await {
            Err(error) => Finding::warn(
                subject,
                format!("cannot be read: {error}"),
                "give the hub's ServiceAccount get on customresourcedefinitions, as the chart does",
            ),
            Ok(None) => Finding::fail(subject, "missing", REMEDY),
            Ok(Some(found)) => match compare(&wanted, &found) {
                None => Finding::ok(subject, "present and current"),
                Some(path) => Finding::fail(
                    subject,
                    format!("is another release's: {path} differs"),
                    REMEDY,
                ),
            },
        });
    }
    findings
}

/// Where what is installed lacks something of what this release wants. What the API server added is no difference.
fn compare(wanted: &CustomResourceDefinition, found: &CustomResourceDefinition) -> Option<String> {
    let (wanted, found) = (
        serde_json::to_value(&wanted.spec).ok()?,
        serde_json::to_value(&found.spec).ok()?,
    );
    lacking(&wanted, &found, "spec")
}

fn lacking(wanted: &Value, found: &Value, path: &str) -> Option<String> {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            wanted.iter().find_map(|(key, value)| match found.get(key) {
                Some(there) => lacking(value, there, &format!("{path}.{key}")),
                // An empty list or object and its absence are the same to the API server.
                None if value.as_array().is_some_and(Vec::is_empty) || value.is_null() => None,
                None => Some(format!("{path}.{key}")),
            })
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => wanted
            .iter()
            .zip(found)
            .enumerate()
            .find_map(|(i, (w, f))| lacking(w, f, &format!("{path}[{i}]"))),
        (wanted, found) => (wanted != found).then(|| path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn additions_of_the_server_are_no_difference_and_a_missing_field_is() {
        let wanted = json!({ "a": 1, "list": [{ "x": true }], "empty": [] });
        let more = json!({ "a": 1, "list": [{ "x": true, "y": 0 }], "defaulted": "z" });
        assert_eq!(lacking(&wanted, &more, "spec"), None);
        let less = json!({ "a": 1, "list": [{}] });
        assert_eq!(
            lacking(&wanted, &less, "spec"),
            Some("spec.list[0].x".into())
        );
    }
}
