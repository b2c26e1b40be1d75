//! A cluster's nodes: objects where there is no kubelet, and a real kube-proxy on each that has a network. Knows the address
//! plan; what a pod is, [`crate::pods`] knows.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::api::Api;

use crate::address::Node;
use crate::cluster::Cluster;
use crate::control_plane::token;
use crate::error::Result;
use crate::isolation::Isolation;
use crate::kubelet;
use crate::pods;
use crate::site::text;
use crate::wait::{Seen, eventually};

/// Which packet filter kube-proxy programs.
const PROXY_MODE: &str = "nftables";

/// How long a kubelet may take from nothing to ready, beside three others on two cores.
const KUBELET: Duration = Duration::from_secs(120);

/// Starts what the cluster's nodes are made of: kubelets, or objects whose pods the lab runs; and kube-proxies.
pub(crate) async fn start(cluster: &Cluster, kubelets: bool) -> Result<()> {
    if kubelets {
        start_kubelets(cluster).await?;
    } else {
        register(cluster).await?;
        pods::serve(cluster).await?;
    }
    if cluster.site.has_packets() {
        start_proxies(cluster).await?;
    }
    Ok(())
}

/// Registers hand-made nodes for the cluster: those of the fabric where it has some there, else two that exist in name only.
pub(crate) async fn register(cluster: &Cluster) -> Result<()> {
    let mut nodes: Vec<_> = Node::of(cluster.name())
        .map(|node| (node.name.to_owned(), node.address, node.pod_cidr()))
        .collect();
    if nodes.is_empty() {
        nodes.extend([1_u8, 2].map(|n| {
            let address = cluster.plan.imaginary_node(n);
            let name = format!("{}-{n}", cluster.name());
            (name, address, format!("10.44.{n}.0/24"))
        }));
    }
    for (name, address, pods) in nodes {
        cluster.hand_made_node(&name, address, &pods).await?;
    }
    Ok(())
}

/// Starts kube-proxy on every node of the cluster that is on the fabric.
async fn start_proxies(cluster: &Cluster) -> Result<()> {
    let token = token(cluster.name(), "proxy");
    let kubeconfig = cluster.kubeconfig_for("kube-proxy", &token)?;
    for node in Node::of(cluster.name()) {
        let argv = [
            cluster.site.part("kube-proxy"),
            format!("--kubeconfig={}", text(&kubeconfig)),
            format!("--hostname-override={}", node.name),
            format!("--proxy-mode={PROXY_MODE}"),
            format!("--cluster-cidr={}", node.cluster_cidr()),
            // These settings are the machine's, not the namespace's, and refused there.
            "--conntrack-max-per-core=0".into(),
            "--conntrack-tcp-timeout-established=0s".into(),
            "--conntrack-tcp-timeout-close-wait=0s".into(),
        ];
        let name = format!("{}/kube-proxy-{}", cluster.name(), node.name);
        let process = cluster.site.process(&name, argv);
        process.netns(Some(node.name)).start().await?;
    }
    Ok(())
}

/// Starts a real kubelet with containerd on every node of the cluster.
async fn start_kubelets(cluster: &Cluster) -> Result<()> {
    let site = &cluster.site;
    let run_dir = &site.sandbox.run_dir;
    let images =
        ["pause", "echo"].map(|image| site.sandbox.inside(&site.parts.image(image)).into());
    for node in Node::of(cluster.name()) {
        let token = token(cluster.name(), node.name);
        let spec = kubelet::Spec {
            name: node.name.into(),
            address: node.address,
            pod_cidr: node.pod_cidr(),
            dir: run_dir.directory(&format!("node/{}", node.name))?,
            bin: site.sandbox.inside(site.parts.bin()).into(),
            images: images.to_vec(),
            kubeconfig: cluster.kubeconfig_for(node.name, &token)?,
            client_ca: site.path(&format!("{}/pki/ca.crt", cluster.name())),
            cgroup: (site.sandbox.isolation == Isolation::Root).then(|| run_dir.name()),
            lab: site.program("lab").into(),
        };
        let path = run_dir.write(&format!("node/{}/spec.json", node.name), spec.to_json())?;
        let argv = [site.program("lab"), "node".into(), text(&path)];
        let name = format!("{}/node-{}", cluster.name(), node.name);
        site.process(&name, argv)
            .netns(Some(node.name))
            .start()
            .await?;
    }
    Ok(())
}

/// Waits until every kubelet of the cluster says that its node is ready.
pub(crate) async fn await_ready(cluster: &Cluster) -> Result<()> {
    let nodes: Api<KubeNode> = Api::all(cluster.client().await?);
    for node in Node::of(cluster.name()) {
        let what = format!("node {} is ready", node.name);
        eventually(KUBELET, &what, || async {
            let conditions = nodes
                .get(node.name)
                .await?
                .status
                .unwrap_or_default()
                .conditions;
            let conditions = conditions.unwrap_or_default();
            let ready = conditions
                .iter()
                .find(|condition| condition.type_ == "Ready");
            match ready {
                Some(condition) if condition.status == "True" => Ok(()),
                Some(condition) => Err(Seen(condition.message.clone().unwrap_or_default())),
                None => Err("it has no condition Ready".into()),
            }
        })
        .await?;
    }
    Ok(())
}
