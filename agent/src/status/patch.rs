//! Steps as the bodies of requests. A finalizer's is a merge patch that names the version it was made for, because the
//! list is replaced whole; a status is applied on the server's side, where we own exactly the fields that we name.

use berth_common::model::ServiceKey;
use serde_json::{Value, json};

use crate::project::{ResourceVersion, SeenCondition, SeenIngress};

/// A merge patch of the finalizers. A changed object, or another one of that name, makes it fail with a conflict.
pub fn finalizers_patch(uid: &str, version: &ResourceVersion, finalizers: &[String]) -> Value {
    json!({"metadata": {"uid": uid, "resourceVersion": version.0, "finalizers": finalizers}})
}

/// An applied status.
pub fn status_patch(
    key: &ServiceKey,
    uid: &str,
    ingress: &[SeenIngress],
    conditions: &[SeenCondition],
) -> Value {
    let ingress: Vec<Value> = ingress.iter().map(entry).collect();
    let conditions: Vec<Value> = conditions.iter().map(condition).collect();
    let mut patch = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": key.namespace, "name": key.name, "uid": uid},
    });
    // What is not named is given up. Addresses that are there and not ours have to be taken over to be emptied.
    if !conditions.is_empty() {
        patch["status"] = json!({"conditions": conditions, "loadBalancer": {"ingress": ingress}});
    }
    patch
}

fn entry(ingress: &SeenIngress) -> Value {
    let mut entry = json!({});
    for (name, value) in [
        ("ip", &ingress.ip),
        ("hostname", &ingress.hostname),
        ("ipMode", &ingress.ip_mode),
    ] {
        if let Some(value) = value {
            entry[name] = json!(value);
        }
    }
    entry
}

fn condition(condition: &SeenCondition) -> Value {
    let mut out = json!({
        "type": condition.type_,
        "status": if condition.status { "True" } else { "False" },
        "reason": condition.reason,
        "message": condition.message,
        // The API's times have whole seconds.
        "lastTransitionTime": condition.since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    if let Some(generation) = condition.observed_generation {
        out["observedGeneration"] = json!(generation);
    }
    out
}
