//! The rights that the project's charts give: rendered by the real helm, applied without the workloads, which run as processes
//! of the lab. Knows charts; must not know what the programs do with their rights.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::binaries::workspace;
use crate::cluster::Cluster;
use crate::error::{Context, Error, Result};
use crate::manifests::{self, kind};

/// Where both charts are installed.
pub(crate) const NAMESPACE: &str = "berth-system";

/// The kinds that make up rights.
const RIGHTS: [&str; 5] = [
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ClusterRole",
    "ClusterRoleBinding",
];

/// The kinds that run something.
const WORKLOADS: [&str; 2] = ["Deployment", "DaemonSet"];

/// A chart that was installed but for its workload, which the caller runs as a process.
#[derive(Debug, Clone)]
pub struct Installed {
    /// Everything that helm has rendered, the workload as well.
    pub objects: Vec<Value>,
    /// A kubeconfig, for use outside of the lab, of the service account that the workload would run as.
    pub kubeconfig: PathBuf,
}

/// Installs a chart with helm's arguments, as in `["--set", "hub.address=hub.example:8443"]`, but for its workload.
pub(crate) async fn install_but_workload(
    cluster: &Cluster,
    chart: &str,
    arguments: &[String],
) -> Result<Installed> {
    let path = workspace().join("deploy/charts").join(chart);
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE },
    })];
    objects.extend(definitions(&path.join("crds"))?);
    let rendered = render(cluster, chart, &path, arguments).await?;
    let rendered = manifests::objects(&rendered)?;
    let rest = rendered
        .iter()
        .filter(|object| !WORKLOADS.contains(&kind(object)));
    objects.extend(rest.cloned());
    manifests::apply(&cluster.client().await?, &objects, NAMESPACE).await?;
    let account = account(&rendered).ok_or_else(|| {
        Error::Start(format!(
            "the chart {chart} has no workload with a service account"
        ))
    })?;
    let kubeconfig = cluster.kubeconfig_outside_of(NAMESPACE, account).await?;
    Ok(Installed {
        objects: rendered,
        kubeconfig,
    })
}

/// Applies the CRDs and the rights of a chart, and returns a kubeconfig, for use inside, of the service account that its
/// workload would run as.
pub(crate) async fn install(cluster: &Cluster, chart: &str) -> Result<PathBuf> {
    let path = workspace().join("deploy/charts").join(chart);
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE },
    })];
    objects.extend(definitions(&path.join("crds"))?);
    let rendered = render(cluster, chart, &path, &values(chart)).await?;
    let rendered = manifests::objects(&rendered)?;
    let rights = rendered
        .iter()
        .filter(|object| RIGHTS.contains(&kind(object)));
    objects.extend(rights.cloned());
    manifests::apply(&cluster.client().await?, &objects, NAMESPACE).await?;
    let account = account(&rendered).ok_or_else(|| {
        Error::Start(format!(
            "the chart {chart} has no workload with a service account"
        ))
    })?;
    cluster.kubeconfig_of(NAMESPACE, account).await
}

async fn render(
    cluster: &Cluster,
    chart: &str,
    path: &Path,
    arguments: &[String],
) -> Result<String> {
    let mut helm = tokio::process::Command::new(cluster.site.parts.path("helm"));
    helm.args(["template", chart, "--namespace", NAMESPACE])
        .arg(path)
        .args(arguments)
        .env("HOME", cluster.site.path("helm"))
        .kill_on_drop(true);
    let output = helm.output().await.context("cannot run helm")?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Start(format!(
        "helm cannot render the chart {chart}: {complaint}"
    )))
}

/// What each chart demands to be told. It ends up in the workloads, which are left out here.
fn values(chart: &str) -> Vec<String> {
    match chart {
        "berth-agent" => vec!["--set".into(), "hub.address=hub.invalid:8443".into()],
        _ => vec![],
    }
}

/// The CRDs that helm would install before everything else.
fn definitions(directory: &Path) -> Result<Vec<Value>> {
    let mut files: Vec<_> = match std::fs::read_dir(directory) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => Vec::new(),
    };
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let yaml = std::fs::read_to_string(&file);
        let yaml = yaml.with_context(|| format!("cannot read {}", file.display()))?;
        all.extend(manifests::objects(&yaml)?);
    }
    Ok(all)
}

/// The service account of a chart's workload.
fn account(rendered: &[Value]) -> Option<&str> {
    let workload = rendered
        .iter()
        .find(|object| WORKLOADS.contains(&kind(object)))?;
    workload["spec"]["template"]["spec"]["serviceAccountName"].as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workload_names_the_account() {
        let yaml = "kind: ServiceAccount\nmetadata: {name: other}\n---\nkind: Deployment\n\
                    spec: {template: {spec: {serviceAccountName: berth-hub}}}\n";
        let rendered = manifests::objects(yaml).unwrap();
        assert_eq!(account(&rendered), Some("berth-hub"));
        assert_eq!(account(&rendered[..1]), None);
    }
}
