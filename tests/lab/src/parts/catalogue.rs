//! The list of everything a lab is made of: what each part is called, where it comes from, and who needs it. A table and
//! nothing else.

use std::time::Duration;

use super::module::{CONTAINERD, KUBERNETES, METALLB, Module, PROGRAMS, TOOLS};

/// What a run needs beyond control planes; parts that nobody needs are not built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// Nodes that move packets: kube-proxy, MetalLB, the echo workload.
    pub nodes: bool,
    /// Real kubelets with containerd.
    pub kubelets: bool,
    /// grpcurl and helm.
    pub tools: bool,
}

impl Needs {
    /// Control planes alone: API server, etcd, controller manager, scheduler, kubectl.
    pub const CONTROL_PLANES: Self = Self {
        nodes: false,
        kubelets: false,
        tools: false,
    };
    /// Everything there is.
    pub const ALL: Self = Self {
        nodes: true,
        kubelets: true,
        tools: true,
    };

    fn include(self, group: Group) -> bool {
        match group {
            Group::ControlPlane => true,
            Group::Node => self.nodes || self.kubelets,
            Group::Kubelet => self.kubelets,
            Group::Tool => self.tools,
        }
    }
}

/// Who needs a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    ControlPlane,
    Node,
    Kubelet,
    Tool,
}

/// Where a part comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// `go build` of one package.
    Package(&'static str),
    /// A file of a dependency: its module path, and the file's path in it.
    File(&'static str, &'static str),
    /// A container image around another part, run as this user.
    Image(&'static str, &'static str),
}

/// One part.
#[derive(Debug)]
pub(super) struct Part {
    /// What it is called, and its file's name.
    pub(super) name: &'static str,
    pub(super) group: Group,
    pub(super) module: &'static Module,
    pub(super) source: Source,
    /// How long a cold build takes on 2 cores, in the order of this table; 0 when it is instant.
    pub(super) seconds: u64,
}

impl Part {
    pub(super) fn usual(&self) -> Option<Duration> {
        (self.seconds > 0).then(|| Duration::from_secs(self.seconds))
    }
}

const fn go(
    name: &'static str,
    group: Group,
    module: &'static Module,
    package: &'static str,
    seconds: u64,
) -> Part {
    Part {
        name,
        group,
        module,
        source: Source::Package(package),
        seconds,
    }
}

const fn image(name: &'static str, program: &'static str, user: &'static str) -> Part {
    Part {
        name,
        group: Group::Kubelet,
        module: &PROGRAMS,
        source: Source::Image(program, user),
        seconds: 0,
    }
}

/// The file of MetalLB's module with its CRDs and RBAC.
pub(super) const METALLB_MANIFEST: &str = "metallb-native.yaml";

/// Every part. The order is that of building: an image comes after its program.
#[rustfmt::skip] // one part a line reads as the table it is
pub(super) static CATALOGUE: &[Part] = {
    use Group::{ControlPlane, Kubelet, Node, Tool};
    &[
        go("kube-apiserver", ControlPlane, &KUBERNETES, "k8s.io/kubernetes/cmd/kube-apiserver", 200),
        go("kube-controller-manager", ControlPlane, &KUBERNETES, "k8s.io/kubernetes/cmd/kube-controller-manager", 50),
        go("kube-scheduler", ControlPlane, &KUBERNETES, "k8s.io/kubernetes/cmd/kube-scheduler", 5),
        go("kubectl", ControlPlane, &KUBERNETES, "k8s.io/kubernetes/cmd/kubectl", 20),
        go("etcd", ControlPlane, &TOOLS, "go.etcd.io/etcd/server/v3", 20),
        go("kube-proxy", Node, &KUBERNETES, "k8s.io/kubernetes/cmd/kube-proxy", 7),
        go("metallb-controller", Node, &METALLB, "go.universe.tf/metallb/controller", 75),
        go("metallb-speaker", Node, &METALLB, "go.universe.tf/metallb/speaker", 6),
        Part {
            name: METALLB_MANIFEST,
            group: Node,
            module: &METALLB,
            source: Source::File("go.universe.tf/metallb", "config/manifests/metallb-native.yaml"),
            seconds: 0,
        },
        go("echo", Node, &PROGRAMS, "./echo", 2),
        go("pause", Kubelet, &PROGRAMS, "./pause", 1),
        image("echo.tar", "echo", "65532:65532"),
        image("pause.tar", "pause", "65535:65535"),
        go("kubelet", Kubelet, &KUBERNETES, "k8s.io/kubernetes/cmd/kubelet", 15),
        go("containerd", Kubelet, &CONTAINERD, "github.com/containerd/containerd/v2/cmd/containerd", 45),
        go("containerd-shim-runc-v2", Kubelet, &CONTAINERD, "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", 2),
        go("ctr", Kubelet, &CONTAINERD, "github.com/containerd/containerd/v2/cmd/ctr", 3),
        go("grpcurl", Tool, &TOOLS, "github.com/fullstorydev/grpcurl/cmd/grpcurl", 20),
        go("helm", Tool, &TOOLS, "helm.sh/helm/v4/cmd/helm", 80),
    ]
};

/// The parts that `needs` asks for, in building order.
pub(super) fn wanted(needs: Needs) -> Vec<&'static Part> {
    CATALOGUE
        .iter()
        .filter(|part| needs.include(part.group))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(needs: Needs) -> Vec<&'static str> {
        wanted(needs).iter().map(|part| part.name).collect()
    }

    #[test]
    fn a_run_without_kubelets_builds_none() {
        let needs = Needs {
            nodes: true,
            ..Needs::CONTROL_PLANES
        };
        let names = names(needs);
        assert!(names.contains(&"kube-proxy") && names.contains(&"echo"));
        assert!(!names.contains(&"kubelet") && !names.contains(&"helm"));
    }

    #[test]
    fn kubelets_need_the_nodes_parts_too() {
        let needs = Needs {
            kubelets: true,
            ..Needs::CONTROL_PLANES
        };
        assert!(names(needs).contains(&"kube-proxy"));
    }

    #[test]
    fn names_are_unique_and_images_follow_their_programs() {
        let all = names(Needs::ALL);
        assert_eq!(all.len(), CATALOGUE.len());
        for (at, part) in CATALOGUE.iter().enumerate() {
            assert!(!all[..at].contains(&part.name), "{} twice", part.name);
            if let Source::Image(program, _) = part.source {
                assert!(all[..at].contains(&program), "{program} comes too late");
            }
        }
    }
}
