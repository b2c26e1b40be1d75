//! YAML files of Kubernetes objects: splitting, filtering, applying. Knows `apiVersion`, `kind` and names; must not know what
//! the objects mean.

use std::time::Duration;

use kube::api::{Api, Patch, PatchParams};
use kube::core::{DynamicObject, GroupVersionKind, TypeMeta};
use kube::discovery::{Scope, pinned_kind};
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Context, Error, Result};
use crate::wait::eventually;

/// The field manager of what the lab applies.
const MANAGER: &str = "berth-lab";

/// How long the API server may take to serve a CRD that was just applied.
const SERVED: Duration = Duration::from_secs(10);

/// The objects of a YAML stream.
pub(crate) fn objects(yaml: &str) -> Result<Vec<Value>> {
    let documents = serde_yaml::Deserializer::from_str(yaml);
    let values = documents.map(Value::deserialize);
    let values: Vec<Value> = values
        .collect::<Result<_, _>>()
        .context("a manifest is not YAML")?;
    Ok(values
        .into_iter()
        .filter(|value| !value.is_null())
        .collect())
}

/// The kind of an object.
pub(crate) fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap_or_default()
}

/// Applies objects by server-side apply, each after the other; those without a namespace go to `namespace`.
pub(crate) async fn apply(client: &kube::Client, objects: &[Value], namespace: &str) -> Result<()> {
    for object in objects {
        let what = format!("{} {}", kind(object), object["metadata"]["name"]);
        let applied = apply_one(client, object, namespace).await;
        applied.with_context(|| format!("cannot apply {what}"))?;
    }
    Ok(())
}

async fn apply_one(client: &kube::Client, object: &Value, namespace: &str) -> Result<()> {
    let failed = "this is not a Kubernetes object";
    let types = TypeMeta::deserialize(object).context(failed)?;
    let kind = GroupVersionKind::try_from(&types).context(failed)?;
    let what = format!("{} {} is served", types.api_version, types.kind);
    let (resource, capabilities) = eventually(SERVED, &what, || async {
        Ok(pinned_kind(client, &kind).await?)
    })
    .await?;
    let name = object["metadata"]["name"].as_str();
    let name = name.ok_or_else(|| Error::Start("an object has no name".into()))?;
    let namespace = object["metadata"]["namespace"]
        .as_str()
        .unwrap_or(namespace);
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    let parameters = PatchParams::apply(MANAGER).force();
    api.patch(name, &parameters, &Patch::Apply(object)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_documents_are_no_objects() {
        let yaml = "---\n# nothing\n---\nkind: Service\nmetadata: {name: a}\n---\nkind: Pod\n";
        let kinds: Vec<_> = objects(yaml)
            .unwrap()
            .iter()
            .map(|o| kind(o).to_owned())
            .collect();
        assert_eq!(kinds, ["Service", "Pod"]);
    }

    #[test]
    fn what_is_not_yaml_is_refused() {
        assert!(objects("a: [").is_err());
    }
}
