//! MetalLB in the management cluster: its own manifests, its controller and speakers as processes of nodes, each with the
//! token of its service account and so with its real rights. Knows MetalLB; must not know Berth.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::address::{Node, POOL};
use crate::cluster::Cluster;
use crate::error::{Context, Result};
use crate::manifests::{self, kind};
use crate::process::Process;
use crate::site::text;

const NAMESPACE: &str = "metallb-system";

/// What runs as processes here, and the webhooks, which would need Services that reach them.
const LEFT_OUT: [&str; 4] = [
    "Deployment",
    "DaemonSet",
    "Service",
    "ValidatingWebhookConfiguration",
];

/// MetalLB's processes.
#[derive(Debug)]
pub struct Metallb {
    /// The one that allocates addresses.
    pub controller: Process,
    /// Those that announce them, one a node: `m1`, `m2`. None where there are no packets.
    pub speakers: Vec<Process>,
}

impl Metallb {
    /// Applies its manifests and starts it, without any pool.
    pub(crate) async fn start(cluster: &Cluster) -> Result<Self> {
        let path = cluster.site.parts.metallb_manifests();
        let yaml = std::fs::read_to_string(&path);
        let yaml = yaml.with_context(|| format!("cannot read {}", path.display()))?;
        let mut objects = manifests::objects(&yaml)?;
        objects.retain(|object| !LEFT_OUT.contains(&kind(object)));
        // Namespaces and definitions first, whatever the file's order.
        objects.sort_by_key(|object| match kind(object) {
            "Namespace" => 0,
            "CustomResourceDefinition" => 1,
            _ => 2,
        });
        let client = cluster.client().await?;
        manifests::apply(&client, &objects, NAMESPACE).await?;

        let bytes: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
            .take(128)
            .collect();
        let secret = STANDARD.encode(bytes);
        manifests::apply(&client, &[memberlist(&secret)], NAMESPACE).await?;
        cluster
            .site
            .sandbox
            .run_dir
            .write("memberlist/secretkey", secret)?;

        let controller = controller(cluster).await?;
        controller.start().await?;
        let mut speakers = Vec::new();
        if cluster.site.has_packets() {
            let kubeconfig = cluster.kubeconfig_of(NAMESPACE, "speaker").await?;
            for node in Node::of(cluster.name()) {
                speaker_pod(cluster, node).await?;
                let speaker = speaker(cluster, node, &text(&kubeconfig));
                speaker.start().await?;
                speakers.push(speaker);
            }
        }
        Ok(Self {
            controller,
            speakers,
        })
    }
}

/// The pool of the tutorial and its announcement, mended: the tutorial's own names a pool that does not exist.
#[must_use]
pub fn tutorial_pool() -> String {
    pool("management-pool", POOL, "extern")
}

/// A pool and its announcement, as YAML. `addresses` is a range: `10.10.240.1-10.10.247.254`.
#[must_use]
pub fn pool(name: &str, addresses: &str, advertisement: &str) -> String {
    format!(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\n\
         metadata: {{name: {name}, namespace: {NAMESPACE}}}\nspec: {{addresses: [{addresses}]}}\n---\n\
         apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\n\
         metadata: {{name: {advertisement}, namespace: {NAMESPACE}}}\nspec: {{ipAddressPools: [{name}]}}\n"
    )
}

fn memberlist(secret: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": "memberlist", "namespace": NAMESPACE },
        "stringData": { "secretkey": secret },
    })
}

async fn controller(cluster: &Cluster) -> Result<Process> {
    let kubeconfig = cluster.kubeconfig_of(NAMESPACE, "controller").await?;
    let site = &cluster.site;
    let argv = [
        site.part("metallb-controller"),
        format!("--port={}", site.sandbox.port(7473)?),
        "--log-level=debug".into(),
        "--webhook-mode=disabled".into(),
        "--disable-cert-rotation".into(),
    ];
    let node = Node::of(cluster.name())
        .next()
        .filter(|_| site.has_packets());
    Ok(site
        .process("management/metallb-controller", argv)
        .netns(node.map(|node| node.name))
        .env("KUBECONFIG", text(&kubeconfig))
        .env("METALLB_NAMESPACE", NAMESPACE)
        .env("METALLB_ML_SECRET_NAME", "memberlist")
        .env("METALLB_DEPLOYMENT", "controller"))
}

fn speaker(cluster: &Cluster, node: &Node, kubeconfig: &str) -> Process {
    let site = &cluster.site;
    let address = node.address.to_string();
    let argv = [
        site.part("metallb-speaker"),
        "--port=7472".into(),
        "--log-level=debug".into(),
    ];
    site.process(&format!("management/metallb-speaker-{}", node.name), argv)
        .netns(Some(node.name))
        .env("KUBECONFIG", kubeconfig)
        .env("METALLB_NAMESPACE", NAMESPACE)
        .env("METALLB_NODE_NAME", node.name)
        .env("METALLB_POD_NAME", format!("speaker-{}", node.name))
        .env("METALLB_HOST", &address)
        .env("METALLB_ML_BIND_ADDR", &address)
        .env("METALLB_ML_LABELS", "app=metallb,component=speaker")
        .env("METALLB_ML_SECRET_KEY_PATH", text(&site.path("memberlist")))
}

/// The speaker reads its own pod and finds the others by label, so each process gets an object.
async fn speaker_pod(cluster: &Cluster, node: &Node) -> Result<()> {
    use k8s_openapi::api::core::v1::Pod;
    use kube::api::{Api, Patch, PatchParams};
    let name = format!("speaker-{}", node.name);
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": { "app": "metallb", "component": "speaker" },
        },
        "spec": {
            "hostNetwork": true,
            // A real kubelet must not take it up, and a scheduler must not place it.
            "schedulerName": "nobody",
            "serviceAccountName": "speaker",
            "tolerations": [{ "operator": "Exists" }],
            "containers": [{ "name": "speaker", "image": "lab.local/metallb-speaker:1" }],
        },
    });
    let client = cluster.client().await?;
    manifests::apply(&client, &[pod], NAMESPACE).await?;
    let status = json!({ "status": {
        "phase": "Running",
        "hostIP": node.address,
        "podIP": node.address,
        "podIPs": [{ "ip": node.address }],
        "conditions": [{ "type": "Ready", "status": "True" }],
    }});
    let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
    pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tutorials_announcement_is_mended() {
        let objects = manifests::objects(&tutorial_pool()).unwrap();
        assert_eq!(
            objects[0]["metadata"]["name"],
            objects[1]["spec"]["ipAddressPools"][0]
        );
        assert_eq!(objects[1]["metadata"]["name"], "extern");
        assert_eq!(objects[0]["spec"]["addresses"][0], POOL);
    }
}
