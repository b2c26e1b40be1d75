//! One cluster's control plane: etcd, API server, controller manager and, where pods are placed, scheduler, each a process of
//! the lab. Knows their flags; must not know nodes.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::address::{GATEWAY, NODES, Plan, Ports};
use crate::error::{Context, Result};
use crate::pki::{self, Authority};
use crate::process::Process;
use crate::site::{Site, text};

/// Measured: 2.4 to 3.3 s alone, more when two start at once on two cores.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// What a control plane is for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Duties {
    /// Its nodes are real kubelets, whose absence must be noticed.
    pub(crate) kubelets: bool,
    /// Its pods get nodes.
    pub(crate) scheduler: bool,
}

/// Who writes what, which the API server's metrics do not say. Reads and the server's own leases would be most of it.
const AUDIT_POLICY: &str = r#"{
  "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
  "rules": [
    {"level": "None", "verbs": ["get", "list", "watch"]},
    {"level": "None", "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}]},
    {"level": "Metadata"}
  ]
}"#;

/// The processes of one.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    pub(crate) etcd: Process,
    pub(crate) api_server: Process,
    pub(crate) controllers: Process,
    pub(crate) scheduler: Option<Process>,
    /// The cluster's CA, PEM.
    pub(crate) ca: String,
}

/// The token of a user of the cluster's token file.
pub(crate) fn token(cluster: &str, user: &str) -> String {
    format!("lab-{cluster}-{user}")
}

impl ControlPlane {
    /// Writes its files and prepares its processes; none is started.
    pub(crate) fn prepare(site: &Site, cluster: &str, plan: &Plan, duties: Duties) -> Result<Self> {
        let ca = Authority::new(&format!("lab-{cluster}-ca"))?;
        write_pki(site, cluster, plan, &ca)?;
        let ca = ca.pair().certificate;
        let run_dir = &site.sandbox.run_dir;
        for (user, file) in [
            ("admin", "kubeconfig"),
            ("controllers", "kubeconfig.controllers"),
            ("scheduler", "kubeconfig.scheduler"),
        ] {
            let token = token(cluster, user);
            let text = crate::kubeconfig::render(cluster, &server(plan), &ca, &token);
            run_dir.write(&format!("{cluster}/{file}"), text)?;
        }
        run_dir.write(&format!("{cluster}/audit-policy.json"), AUDIT_POLICY)?;
        Ok(Self {
            etcd: etcd(site, cluster, plan.ports),
            api_server: api_server(site, cluster, plan),
            controllers: controllers(site, cluster, plan.ports, duties),
            scheduler: duties
                .scheduler
                .then(|| scheduler(site, cluster, plan.ports)),
            ca,
        })
    }

    /// Starts everything; the API server answers some seconds later, and the others wait for it by themselves.
    pub(crate) async fn start(&self) -> Result<()> {
        self.etcd.start().await?;
        self.api_server.start().await
    }

    /// Starts what needs an API server that answers.
    pub(crate) async fn start_controllers(&self) -> Result<()> {
        self.controllers.start().await?;
        match &self.scheduler {
            Some(scheduler) => scheduler.start().await,
            None => Ok(()),
        }
    }
}

/// Where its API server is, for those inside the lab.
pub(crate) fn server(plan: &Plan) -> String {
    format!("https://{}:{}", plan.address, plan.ports.api)
}

fn write_pki(site: &Site, cluster: &str, plan: &Plan, ca: &Authority) -> Result<()> {
    let mut names: Vec<String> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    .map(String::from)
    .into();
    let addresses = [GATEWAY, Ipv4Addr::LOCALHOST, plan.first_service];
    names.extend(addresses.map(|address| address.to_string()));
    let server = ca.server("kube-apiserver", names)?;
    let kubelet_client = ca.client("kube-apiserver-kubelet-client", "system:masters")?;
    let (sa_key, sa_pub) = pki::signing_key()?;
    let ca = ca.pair();
    let files = [
        ("ca.crt", ca.certificate),
        ("ca.key", ca.key),
        ("apiserver.crt", server.certificate),
        ("apiserver.key", server.key),
        ("kubelet-client.crt", kubelet_client.certificate),
        ("kubelet-client.key", kubelet_client.key),
        ("sa.key", sa_key),
        ("sa.pub", sa_pub),
        ("tokens.csv", tokens(cluster)),
    ];
    for (file, content) in files {
        let path = format!("{cluster}/pki/{file}");
        site.sandbox.run_dir.write(&path, content)?;
    }
    Ok(())
}

/// The users of a cluster: the lab itself, its controllers and scheduler (by name, so that the audit log tells them apart),
/// kube-proxy, and each node.
fn tokens(cluster: &str) -> String {
    let mut lines = String::new();
    for (user, name, groups) in [
        ("admin", "admin", ",system:masters"),
        (
            "controllers",
            "system:kube-controller-manager",
            ",system:masters",
        ),
        ("scheduler", "system:kube-scheduler", ",system:masters"),
        ("proxy", "system:kube-proxy", ""),
    ] {
        lines += &format!("{},{name},{user}{groups}\n", token(cluster, user));
    }
    for node in NODES.iter().filter(|node| node.cluster == cluster) {
        let name = node.name;
        let token = token(cluster, name);
        lines += &format!("{token},system:node:{name},node-{name},system:nodes\n");
    }
    lines
}

fn etcd(site: &Site, cluster: &str, ports: Ports) -> Process {
    let client = format!("http://127.0.0.1:{}", ports.etcd);
    let peer = format!("http://127.0.0.1:{}", ports.peer);
    let data = text(&site.path(&format!("{cluster}/etcd")));
    let argv = [
        site.part("etcd"),
        format!("--data-dir={data}"),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--unsafe-no-fsync".into(),
        "--log-level=warn".into(),
    ];
    site.process(&format!("{cluster}/etcd"), argv)
}

fn api_server(site: &Site, cluster: &str, plan: &Plan) -> Process {
    let file = |name: &str| text(&site.path(&format!("{cluster}/{name}")));
    let pki = |name: &str| file(&format!("pki/{name}"));
    let argv = [
        site.part("kube-apiserver"),
        format!("--etcd-servers=http://127.0.0.1:{}", plan.ports.etcd),
        format!("--secure-port={}", plan.ports.api),
        format!("--bind-address={}", plan.address),
        format!("--advertise-address={}", plan.address),
        format!("--tls-cert-file={}", pki("apiserver.crt")),
        format!("--tls-private-key-file={}", pki("apiserver.key")),
        format!("--client-ca-file={}", pki("ca.crt")),
        format!("--kubelet-client-certificate={}", pki("kubelet-client.crt")),
        format!("--kubelet-client-key={}", pki("kubelet-client.key")),
        "--kubelet-preferred-address-types=InternalIP".into(),
        format!("--service-account-key-file={}", pki("sa.pub")),
        format!("--service-account-signing-key-file={}", pki("sa.key")),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!("--service-cluster-ip-range={}", plan.service_cidr),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        format!("--token-auth-file={}", pki("tokens.csv")),
        "--allow-privileged=true".into(),
        "--endpoint-reconciler-type=lease".into(),
        format!("--audit-policy-file={}", file("audit-policy.json")),
        format!("--audit-log-path={}", file("audit.log")),
    ];
    site.process(&format!("{cluster}/kube-apiserver"), argv)
}

fn controllers(site: &Site, cluster: &str, ports: Ports, duties: Duties) -> Process {
    let file = |name: &str| text(&site.path(&format!("{cluster}/{name}")));
    let kubeconfig = file("kubeconfig.controllers");
    // Hand-made nodes send no heartbeats; these two would take them and their pods away.
    let which = match duties.kubelets {
        true => "*",
        false => "*,-node-lifecycle-controller,-pod-garbage-collector-controller",
    };
    let argv = [
        site.part("kube-controller-manager"),
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        format!("--service-account-private-key-file={}", file("pki/sa.key")),
        format!("--root-ca-file={}", file("pki/ca.crt")),
        format!("--cluster-signing-cert-file={}", file("pki/ca.crt")),
        format!("--cluster-signing-key-file={}", file("pki/ca.key")),
        "--leader-elect=false".into(),
        format!("--secure-port={}", ports.controllers),
        "--bind-address=127.0.0.1".into(),
        format!("--cert-dir={}", file("controllers")),
        format!("--controllers={which}"),
    ];
    site.process(&format!("{cluster}/kube-controller-manager"), argv)
}

fn scheduler(site: &Site, cluster: &str, ports: Ports) -> Process {
    let file = |name: &str| text(&site.path(&format!("{cluster}/{name}")));
    let kubeconfig = file("kubeconfig.scheduler");
    let argv = [
        site.part("kube-scheduler"),
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--leader-elect=false".into(),
        format!("--secure-port={}", ports.scheduler),
        "--bind-address=127.0.0.1".into(),
        format!("--cert-dir={}", file("scheduler")),
    ];
    site.process(&format!("{cluster}/kube-scheduler"), argv)
}

/// A plan for the cluster with that place, on this site.
pub(crate) fn plan(site: &Site, index: u16) -> Result<Plan> {
    if site.has_packets() {
        return Ok(Plan::fabric(index));
    }
    let free = || {
        site.sandbox
            .port(0)
            .context("a control plane needs five ports")
    };
    let ports = Ports {
        etcd: free()?,
        peer: free()?,
        api: free()?,
        controllers: free()?,
        scheduler: free()?,
    };
    Ok(Plan::loopback(index, ports))
}
