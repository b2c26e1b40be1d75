//! Helm, and what it renders. Knows no single chart but for what each must be told.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use anyhow::{Context as _, Result, anyhow, ensure};
use berth_lab::parts::{Needs, Parts};
use berth_lab::progress::Silent;
use serde::Deserialize as _;
use serde_json::Value;

pub(crate) const HUB: &str = "berth-hub";
pub(crate) const AGENT: &str = "berth-agent";
/// What the agent's chart demands.
pub(crate) const ADDRESS: &str = "hub.address=hub.example.com:8443";

/// Everything optional switched on, so that no line of a template stays unrendered.
pub(crate) const HUB_ALL: &[&str] = &[
    "image.digest=sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
    "podDisruptionBudget.enabled=true",
    "networkPolicy.enabled=true",
    "networkPolicy.agentsFrom[0].ipBlock.cidr=10.0.0.0/8",
    "networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus",
    "serviceMonitor.enabled=true",
    "serviceMonitor.labels.release=prometheus",
    "service.nodePort=31443",
    "service.loadBalancerClass=example.com/lb",
    r"service.annotations.example\.com/pool=blue",
    r"serviceAccount.annotations.example\.com/role=hub",
    "service.enrollNodePort=31444",
    "tls.secretName=berth-hub-tls",
    "tls.clientCA.secretName=berth-ca",
    "podLabels.team=net",
    "podAnnotations.note=x",
    "priorityClassName=system-cluster-critical",
    "imagePullSecrets[0].name=pull",
    "nodeSelector.disk=ssd",
    "tolerations[0].operator=Exists",
    "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight=1",
    "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchFields[0].key=metadata.name",
    "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchFields[0].operator=Exists",
];
/// The same for the agent.
pub(crate) const AGENT_ALL: &[&str] = &[
    ADDRESS,
    "enroll.address=hub.example.com:8444",
    "enroll.caHash=sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
    "enroll.token=berth-join-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "kind=DaemonSet",
    "networkPolicy.enabled=true",
    "networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus",
    "podMonitor.enabled=true",
    "podMonitor.labels.release=prometheus",
    r"serviceAccount.annotations.example\.com/role=agent",
    "podLabels.team=net",
    "podAnnotations.note=x",
    "priorityClassName=system-node-critical",
    "imagePullSecrets[0].name=pull",
    "nodeSelector.role=edge",
    "tolerations[0].operator=Exists",
];

/// The directory of a chart.
pub(crate) fn chart(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy/charts")
        .join(name)
}

/// Runs helm with a chart and values of the form `path=value`.
pub(crate) fn helm(arguments: &[&str], name: &str, sets: &[&str]) -> Result<Output> {
    static HELM: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
        let needs = Needs {
            tools: true,
            ..Needs::CONTROL_PLANES
        };
        let parts =
            Parts::locate_or_build(needs, &mut Silent).map_err(|error| error.to_string())?;
        Ok(parts.path("helm"))
    });
    let helm = HELM.as_ref().map_err(|error| anyhow!("{error}"))?;
    // Helm keeps plugins and caches in its home, which must not be the developer's.
    let home = tempfile::tempdir()?;
    let mut command = Command::new(helm);
    command
        .args(arguments)
        .arg(chart(name))
        .env("HOME", home.path());
    for set in sets {
        command.args(["--set", set]);
    }
    command.output().context("cannot run helm")
}

/// The objects that helm would install, besides CRDs, as release `<chart>` in `berth-system`.
pub(crate) fn render(name: &str, sets: &[&str]) -> Result<Vec<Value>> {
    let arguments = ["template", name, "--namespace", "berth-system"];
    let output = helm(&arguments, name, sets)?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} {sets:?}: {complaint}");
    let documents = serde_yaml::Deserializer::from_slice(&output.stdout);
    let objects: Vec<Value> = documents
        .map(Value::deserialize)
        .collect::<Result<_, _>>()?;
    Ok(objects
        .into_iter()
        .filter(|object| !object.is_null())
        .collect())
}

/// Why helm renders nothing.
pub(crate) fn refusal(name: &str, sets: &[&str]) -> Result<String> {
    let output = helm(&["template", name], name, sets)?;
    ensure!(!output.status.success(), "{name} {sets:?} was accepted");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The kind of an object.
pub(crate) fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap_or_default()
}

/// The only object of a kind.
pub(crate) fn only<'a>(objects: &'a [Value], wanted: &str) -> Result<&'a Value> {
    let mut found = objects.iter().filter(|object| kind(object) == wanted);
    let first = found.next().with_context(|| format!("no {wanted}"))?;
    ensure!(found.next().is_none(), "more than one {wanted}");
    Ok(first)
}

/// The Deployment, or DaemonSet.
pub(crate) fn workload(objects: &[Value]) -> Result<&Value> {
    only(objects, "Deployment").or_else(|_| only(objects, "DaemonSet"))
}
