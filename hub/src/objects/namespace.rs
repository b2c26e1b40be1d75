//! The namespace of a tenant's objects, `berth-<tenant>`.

use berth_common::identity::TenantName;
use serde_json::{Value, json};

use super::{MANAGED_BY, MANAGER, TENANT};

/// The Namespace to apply.
pub fn manifest(tenant: &TenantName) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": tenant.namespace(),
            "labels": { MANAGED_BY: MANAGER, TENANT: tenant.as_str() },
        },
    })
}
