//! Stands in for the kubelets of hand-made nodes: a pod that the scheduler placed gets a network namespace and an echo process,
//! whatever its image, and a status that says Ready once that listens. A pod that is deleted serves on for as long as its
//! `preStop.sleep` says, and without one ends at once. Knows pods and links; must not know Services. Where nodes have no network
//! a pod gets the status only.

mod link;

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use serde_json::json;
use tokio::task::JoinSet;

use crate::address::Node;
use crate::cluster::Cluster;
use crate::error::{Context, Error, Result};
use crate::process::Process;
use crate::site::Site;
use crate::wait::eventually;

/// The first address of a node that pods get; below are the node's own.
const FIRST: u8 = 10;
/// The last one.
const LAST: u8 = 250;
/// The port that says whether the echo process listens.
const PORT: u16 = 3000;
/// How long it may take to.
const LISTENING: Duration = Duration::from_secs(10);

/// Serves the cluster's hand-made nodes until the lab ends.
pub(crate) async fn serve(cluster: &Cluster) -> Result<()> {
    let mut keeper = Keeper {
        client: cluster.client().await?,
        cluster: cluster.name().to_owned(),
        pods: HashMap::new(),
        listed: HashSet::new(),
        leaving: HashSet::new(),
        ending: JoinSet::new(),
        links: 0,
    };
    let api: Api<Pod> = Api::all(keeper.client.clone());
    // Weak: the lab must be able to end while this waits for pods.
    let site = Arc::downgrade(&cluster.site);
    cluster.site.run(async move {
        let config = watcher::Config::default().fields("spec.nodeName!=");
        let mut events = std::pin::pin!(watch(api, config).default_backoff());
        loop {
            tokio::select! {
                event = events.next() => {
                    let (Some(event), Some(site)) = (event, site.upgrade()) else { return };
                    // The API server may be down because a test wants it so: the watch returns by itself.
                    if let Ok(event) = event {
                        keeper.see(&site, event).await;
                    }
                }
                Some(Ok(pod)) = keeper.ending.join_next() => {
                    let Some(site) = site.upgrade() else { return };
                    let ended = keeper.finish(&site, &pod).await;
                    keeper.note(&site, ended);
                }
            }
        }
    });
    Ok(())
}

/// A pod that runs.
#[derive(Debug)]
struct Running {
    node: String,
    address: Ipv4Addr,
    netns: Option<(String, Process)>,
}

struct Keeper {
    client: kube::Client,
    cluster: String,
    pods: HashMap<String, Running>,
    /// Those of the list that is being read: what ended while the API server was away is in no event.
    listed: HashSet<String>,
    /// Those that were deleted and serve on for a while, and the ends of these whiles.
    leaving: HashSet<String>,
    ending: JoinSet<Pod>,
    links: u32,
}

impl Keeper {
    async fn see(&mut self, site: &Site, event: Event<Pod>) {
        let done = match &event {
            Event::Init => {
                self.listed.clear();
                Ok(())
            }
            Event::InitApply(pod) => {
                self.listed.insert(pod.uid().unwrap_or_default());
                self.want(site, pod).await
            }
            Event::InitDone => self.end_unlisted(site).await,
            Event::Apply(pod) => self.want(site, pod).await,
            Event::Delete(pod) => self.end(site, &pod.uid().unwrap_or_default()).await,
        };
        self.note(site, done);
    }

    /// Writes down what went wrong.
    fn note(&self, site: &Site, done: Result<()>) {
        if let Err(error) = done {
            let line = format!("pods of {}: {}\n", self.cluster, error.chain());
            let log = site.sandbox.run_dir.log(&format!("{}/pods", self.cluster));
            // A log that cannot be written is not worth more.
            let _ = append(&log, &line);
        }
    }

    /// Does what a kubelet would for that pod now.
    async fn want(&mut self, site: &Site, pod: &Pod) -> Result<()> {
        let uid = pod.uid().unwrap_or_default();
        let spec = pod.spec.clone().unwrap_or_default();
        // Pods on the host's network are the lab's own: MetalLB's speakers.
        if spec.host_network == Some(true) {
            return Ok(());
        }
        if pod.metadata.deletion_timestamp.is_some() {
            let grace = grace(pod);
            if grace.is_zero() {
                return self.finish(site, pod).await;
            }
            if self.leaving.insert(uid) {
                let pod = pod.clone();
                self.ending.spawn(async move {
                    tokio::time::sleep(grace).await;
                    pod
                });
            }
            return Ok(());
        }
        let node = spec.node_name.unwrap_or_default();
        if !self.pods.contains_key(&uid) {
            let running = self.start(site, pod, &node).await?;
            self.pods.insert(uid.clone(), running);
        }
        match self.pods.get(&uid) {
            Some(running) if !is_ready(pod) => self.report(pod, running).await,
            _ => Ok(()),
        }
    }

    async fn start(&mut self, site: &Site, pod: &Pod, node: &str) -> Result<Running> {
        let on_fabric = Node::of(&self.cluster).find(|n| n.name == node);
        let taken = |n: &u8| {
            let mut pods = self.pods.values();
            pods.any(|pod| pod.node == node && pod.address.octets()[3] == *n)
        };
        let n = (FIRST..=LAST).find(|n| !taken(n));
        let n = n.ok_or_else(|| Error::Start(format!("node {node} is out of pod addresses")))?;
        let address = on_fabric.map_or(Ipv4Addr::new(10, 44, 1, n), |node| node.pod(n));
        let mut running = Running {
            node: node.to_owned(),
            address,
            netns: None,
        };
        let Some(node) = on_fabric.filter(|_| site.has_packets()) else {
            return Ok(running);
        };
        self.links += 1;
        let netns = format!("{}-p{}", node.name, self.links);
        link::add(&site.sandbox.control, node, &netns, address).await?;
        let process = site
            .process(&format!("pod/{netns}"), [site.part("echo")])
            .netns(Some(&netns))
            .env("ECHO_HOST", pod.name_any())
            .env("POD_IP", address.to_string());
        process.start().await?;
        let control = &site.sandbox.control;
        let listens = || async {
            let to = (address, PORT).into();
            Ok(control.dial(Some(node.name), to).await.map(drop)?)
        };
        eventually(LISTENING, &format!("{} listens", pod.name_any()), listens).await?;
        running.netns = Some((netns, process));
        Ok(running)
    }

    async fn report(&self, pod: &Pod, running: &Running) -> Result<()> {
        let conditions = ["Initialized", "ContainersReady", "Ready"]
            .map(|kind| json!({ "type": kind, "status": "True" }));
        let containers: Vec<_> = pod
            .spec
            .iter()
            .flat_map(|spec| &spec.containers)
            .map(|container| {
                json!({
                    "name": container.name,
                    "image": container.image,
                    "imageID": "lab:echo",
                    "ready": true,
                    "started": true,
                    "restartCount": 0,
                    "state": { "running": {} },
                })
            })
            .collect();
        let node = Node::of(&self.cluster).find(|node| node.name == running.node);
        let status = json!({ "status": {
            "phase": "Running",
            "podIP": running.address,
            "podIPs": [{ "ip": running.address }],
            "hostIP": node.map(|node| node.address),
            "conditions": conditions,
            "containerStatuses": containers,
        }});
        let pods: Api<Pod> =
            Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let patch = Patch::Strategic(status);
        pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    /// Ends the pods that the list, now complete, does not have.
    async fn end_unlisted(&mut self, site: &Site) -> Result<()> {
        let gone = self.pods.keys().filter(|uid| !self.listed.contains(*uid));
        for uid in gone.cloned().collect::<Vec<_>>() {
            self.end(site, &uid).await?;
        }
        Ok(())
    }

    /// Ends a pod that was deleted, and lets its object go.
    async fn finish(&mut self, site: &Site, pod: &Pod) -> Result<()> {
        let uid = pod.uid().unwrap_or_default();
        self.leaving.remove(&uid);
        self.end(site, &uid).await?;
        let namespace = pod.namespace().unwrap_or_default();
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let this = Preconditions {
            uid: Some(uid),
            resource_version: None,
        };
        let now = DeleteParams::default().grace_period(0).preconditions(this);
        match pods.delete(&pod.name_any(), &now).await {
            // Gone, or another one has its name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    /// Ends what was started for a pod.
    async fn end(&mut self, site: &Site, uid: &str) -> Result<()> {
        let Some(running) = self.pods.remove(uid) else {
            return Ok(());
        };
        if let Some((netns, process)) = running.netns {
            process.kill().await?;
            link::remove(&site.sandbox.control, &netns).await?;
        }
        Ok(())
    }
}

/// How long a pod serves after its deletion.
fn grace(pod: &Pod) -> Duration {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let sleeps = containers.filter_map(|container| {
        let hook = container.lifecycle.as_ref()?.pre_stop.as_ref()?;
        u64::try_from(hook.sleep.as_ref()?.seconds).ok()
    });
    Duration::from_secs(sleeps.max().unwrap_or(0))
}

fn append(path: &std::path::Path, line: &str) -> Result<()> {
    use std::io::Write;
    let file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(path);
    let mut file = file.context("cannot open the log of the pods")?;
    file.write_all(line.as_bytes())
        .context("cannot write the log of the pods")
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .filter_map(|status| status.conditions.as_ref());
    conditions
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}
