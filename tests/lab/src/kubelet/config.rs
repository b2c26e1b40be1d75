//! The configuration files of one node: the pod network, containerd, the kubelet. Text from a specification, nothing else.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::Spec;

/// containerd's configuration, below the node's directory.
pub(super) const CONTAINERD: &str = "containerd.toml";
/// The kubelet's.
pub(super) const KUBELET: &str = "kubelet.yaml";
/// Where containerd listens, in the node's private `/run`.
pub(super) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

const NETWORK: &str = "cni/10-lab.conflist";
const RUNC: &str = "runc";
const RESOLV: &str = "resolv.conf";

/// Every file: its path, content and mode. `cni` is where the plugins are.
pub(super) fn files(spec: &Spec, cni: &Path) -> Vec<(PathBuf, String, u32)> {
    let file = |name: &str, text| (spec.dir.join(name), text, 0o644);
    let mut files = vec![
        file(NETWORK, network(spec)),
        file(CONTAINERD, containerd(spec, cni)),
        file(KUBELET, kubelet(spec)),
        // The host's may be a link into the `/run` that the node does not see.
        file(RESOLV, String::new()),
    ];
    if spec.cgroup.is_none() {
        let lab = spec.lab.display().to_string().replace('\'', r"'\''");
        let script = format!("#!/bin/sh\nexec '{lab}' runc \"$@\"\n");
        files.push((spec.dir.join(RUNC), script, 0o755));
    }
    files
}

/// A bridge per node; routes between nodes are the fabric's.
fn network(spec: &Spec) -> String {
    json!({
        "cniVersion": "1.0.0",
        "name": "lab",
        "plugins": [{
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{ "subnet": spec.pod_cidr }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    })
    .to_string()
}

fn containerd(spec: &Spec, cni: &Path) -> String {
    let dir = spec.dir.display();
    let cni = cni.display();
    let runc = match spec.cgroup {
        Some(_) => String::new(),
        None => format!("BinaryName = \"{dir}/{RUNC}\"\n"),
    };
    // `restrict_oom_score_adj`: lowering the score takes a capability that users and some virtual machines lack.
    // `disable_apparmor`: loading a profile changes the host.
    format!(
        r#"version = 3
root = "{dir}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "lab.local/pause:1"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
disable_apparmor = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{cni}"]
conf_dir = "{dir}/cni"

[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = false
{runc}"#
    )
}

/// JSON is YAML. Nothing is evicted: a developer's full disk is not this node's business.
fn kubelet(spec: &Spec) -> String {
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": false,
        "failSwapOn": false,
        "cgroupDriver": "cgroupfs",
        "enforceNodeAllocatable": [],
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": spec.client_ca },
        },
        "authorization": { "mode": "Webhook" },
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "volumePluginDir": spec.dir.join("volume-plugins"),
        "podLogsDir": "/var/log/pods",
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "1Mi",
            "nodefs.available": "0%",
            "imagefs.available": "0%",
            "nodefs.inodesFree": "0%",
        },
        "nodeStatusUpdateFrequency": "4s",
        "makeIPTablesUtilChains": false,
        "podCIDR": spec.pod_cidr,
        "resolvConf": spec.dir.join(RESOLV),
    });
    match &spec.cgroup {
        Some(lab) => config["cgroupRoot"] = json!(format!("/{lab}/{}", spec.name)),
        None => {
            config["cgroupsPerQOS"] = json!(false);
            config["featureGates"] = json!({ "KubeletInUserNamespace": true });
        }
    }
    config.to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    pub(in crate::kubelet) fn spec(cgroup: Option<&str>) -> Spec {
        Spec {
            name: "a1".into(),
            address: Ipv4Addr::new(10, 10, 2, 1),
            pod_cidr: "10.42.1.0/24".into(),
            dir: "/tmp/lab/node/a1".into(),
            bin: "/parts".into(),
            images: vec!["/parts/pause.tar".into()],
            kubeconfig: "/tmp/lab/kubeconfig".into(),
            client_ca: "/tmp/lab/ca.crt".into(),
            cgroup: cgroup.map(str::to_owned),
            lab: "/it's/lab".into(),
        }
    }

    fn text(spec: &Spec, name: &str) -> Option<String> {
        files(spec, Path::new("/usr/lib/cni"))
            .into_iter()
            .find_map(|(path, text, _)| (path == spec.dir.join(name)).then_some(text))
    }

    #[test]
    fn with_a_cgroup_pods_live_below_it() {
        let spec = spec(Some("berth-lab-x"));
        let kubelet: serde_json::Value =
            serde_json::from_str(&text(&spec, KUBELET).unwrap()).unwrap();
        assert_eq!(kubelet["cgroupRoot"], "/berth-lab-x/a1");
        assert!(kubelet.get("featureGates").is_none());
        assert!(!text(&spec, CONTAINERD).unwrap().contains("BinaryName"));
        assert!(text(&spec, RUNC).is_none());
    }

    #[test]
    fn without_one_the_lab_stands_in_for_runc() {
        let spec = spec(None);
        let kubelet: serde_json::Value =
            serde_json::from_str(&text(&spec, KUBELET).unwrap()).unwrap();
        assert_eq!(kubelet["cgroupsPerQOS"], false);
        assert!(
            text(&spec, CONTAINERD)
                .unwrap()
                .contains("BinaryName = \"/tmp/lab/node/a1/runc\"")
        );
        let script = text(&spec, RUNC).unwrap();
        assert!(script.contains(r"exec '/it'\''s/lab' runc"), "{script}");
    }

    #[test]
    fn pods_get_addresses_of_the_nodes_range() {
        let network: serde_json::Value =
            serde_json::from_str(&text(&spec(None), NETWORK).unwrap()).unwrap();
        assert_eq!(
            network["plugins"][0]["ipam"]["ranges"][0][0]["subnet"],
            "10.42.1.0/24"
        );
    }
}
