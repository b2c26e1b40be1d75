//! What tests and measurements run in a tenant: pods that echo, and Services that lead to them, as YAML. Knows manifests; must not
//! know what they are for.

use crate::cluster::Cluster;
use crate::error::Result;

/// Pods of a Deployment.
#[derive(Debug, Clone, Copy)]
pub struct Pods<'a> {
    /// The Deployment's name, and the label `app` of its pods.
    pub name: &'a str,
    /// How many.
    pub replicas: usize,
    /// The only node they may be on.
    pub node: Option<&'a str>,
    /// For how many seconds each serves on after its deletion.
    pub grace: u8,
    /// Changes with every rollout.
    pub version: u8,
}

impl<'a> Pods<'a> {
    /// Pods on all nodes alike, whatever pods of an earlier version are where, that end at once.
    #[must_use]
    pub fn new(name: &'a str, replicas: usize) -> Self {
        Self {
            name,
            replicas,
            node: None,
            grace: 0,
            version: 1,
        }
    }

    /// The same, on that node.
    #[must_use]
    pub fn on(self, node: &'a str) -> Self {
        let node = Some(node);
        Self { node, ..self }
    }

    fn yaml(&self) -> String {
        let Self {
            name,
            replicas,
            grace,
            version,
            ..
        } = self;
        let node = self.node.map_or_else(String::new, |node| {
            format!("      nodeSelector: {{kubernetes.io/hostname: {node}}}\n")
        });
        let hook = match grace {
            0 => String::new(),
            seconds => format!(", lifecycle: {{preStop: {{sleep: {{seconds: {seconds}}}}}}}"),
        };
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  \
             selector: {{matchLabels: {{app: {name}}}}}\n  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}\n  \
             template:\n    metadata: {{labels: {{app: {name}, version: v{version}}}}}\n    spec:\n{node}      \
             topologySpreadConstraints:\n      - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, \
             whenUnsatisfiable: DoNotSchedule, nodeTaintsPolicy: Honor, matchLabelKeys: [pod-template-hash], \
             labelSelector: {{matchLabels: {{app: {name}}}}}}}\n      \
             containers: [{{name: echo, image: \"lab.local/echo:1\"{hook}}}]\n"
        )
    }

    /// Applies them and waits until they are ready; those before them may still serve for their grace.
    pub async fn deploy(&self, cluster: &Cluster, namespace: &str) -> Result<()> {
        cluster.apply_in(namespace, &self.yaml()).await?;
        let deployment = format!("deployment/{}", self.name);
        let argv = [
            "rollout",
            "status",
            &deployment,
            "-n",
            namespace,
            "--timeout=60s",
        ];
        cluster.kubectl(&argv).await.map(drop)
    }
}

/// A Service of type LoadBalancer that leads to the pods of the same name, with whatever else its spec should say.
#[must_use]
pub fn service(name: &str, ports: &str, spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: LoadBalancer\n  \
         selector: {{app: {name}}}\n  ports: {ports}\n{spec}"
    )
}
