//! One running cluster as a test sees it: a client, kubectl, its parts to kill and start, and who wrote what. Knows Kubernetes;
//! must not know Berth.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;

use crate::address::Plan;
use crate::charts::{self, Installed};
use crate::control_plane::{self, ControlPlane, DEADLINE, Duties};
use crate::error::{Context, Error, Result};
use crate::manifests;
use crate::process::Process;
use crate::protocol::Exit;
use crate::site::Site;
use crate::wait::{Seen, eventually};
use crate::writes::{Audit, Writes};
use crate::{forward, kubeconfig};

/// How long the controller manager may take to fill a new namespace.
const SOON: Duration = Duration::from_secs(20);

/// How long the tokens of service accounts are valid, in seconds: longer than any lab.
const TOKEN_SECONDS: i64 = 24 * 3600;

/// A cluster of the lab.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) site: Arc<Site>,
    pub(crate) plan: Plan,
    name: String,
    control_plane: ControlPlane,
    kubeconfig: PathBuf,
    outside: SocketAddr,
    namespaces: AtomicU32,
}

impl Cluster {
    /// Starts a control plane and waits until it serves and has its first service account.
    pub(crate) async fn start(
        site: Arc<Site>,
        name: &str,
        index: u16,
        duties: Duties,
    ) -> Result<Self> {
        let plan = control_plane::plan(&site, index)?;
        let control_plane = ControlPlane::prepare(&site, name, &plan, duties)?;
        control_plane.start().await?;
        let to = (plan.address, plan.ports.api).into();
        let outside = forward::open(&site, None, to).await?;
        let file = kubeconfig::render(
            name,
            &format!("https://{outside}"),
            &control_plane.ca,
            &control_plane::token(name, "admin"),
        );
        let path = format!("{name}/kubeconfig.outside");
        let kubeconfig = site.sandbox.run_dir.write(&path, file)?;
        let cluster = Self {
            site,
            plan,
            name: name.to_owned(),
            control_plane,
            kubeconfig,
            outside,
            namespaces: AtomicU32::new(0),
        };
        cluster.await_api().await?;
        cluster.control_plane.start_controllers().await?;
        cluster.await_namespace("default").await?;
        Ok(cluster)
    }

    /// Its name: `management`, or the tenant's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A client with every right. Each is made for the runtime that asks, so a test makes its own and keeps it.
    pub async fn client(&self) -> Result<kube::Client> {
        client(&self.kubeconfig).await
    }

    /// A kubeconfig with every right, for programs outside the lab.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The same for programs inside it.
    #[must_use]
    pub fn kubeconfig_inside(&self) -> PathBuf {
        self.site.path(&format!("{}/kubeconfig", self.name))
    }

    /// Installs a chart of this project but for its workload, which the caller runs as a process. `arguments` are helm's.
    pub async fn install(&self, chart: &str, arguments: &[String]) -> Result<Installed> {
        charts::install_but_workload(self, chart, arguments).await
    }

    /// A kubeconfig, for use inside, with the rights of a service account and nothing more.
    pub(crate) async fn kubeconfig_of(&self, namespace: &str, account: &str) -> Result<PathBuf> {
        let token = self.token_of(namespace, account).await?;
        self.kubeconfig_for(account, &token)
    }

    /// The same for programs outside.
    pub(crate) async fn kubeconfig_outside_of(
        &self,
        namespace: &str,
        account: &str,
    ) -> Result<PathBuf> {
        let token = self.token_of(namespace, account).await?;
        let server = format!("https://{}", self.outside);
        let text = kubeconfig::render(&self.name, &server, &self.control_plane.ca, &token);
        let path = format!("{}/kubeconfig.outside.{account}", self.name);
        self.site.sandbox.run_dir.write(&path, text)
    }

    async fn token_of(&self, namespace: &str, account: &str) -> Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, namespace);
        let spec = TokenRequestSpec {
            expiration_seconds: Some(TOKEN_SECONDS),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest {
            spec,
            ..TokenRequest::default()
        };
        let parameters = PostParams::default();
        let answer = accounts.create_token_request(account, &parameters, &request);
        let token = answer.await?.status.map(|status| status.token);
        token.ok_or_else(|| Error::Start(format!("{account} got no token")))
    }

    /// A kubeconfig, for use inside, with that token; `file` names it.
    pub(crate) fn kubeconfig_for(&self, file: &str, token: &str) -> Result<PathBuf> {
        let server = control_plane::server(&self.plan);
        let text = kubeconfig::render(&self.name, &server, &self.control_plane.ca, token);
        let path = format!("{}/kubeconfig.{file}", self.name);
        self.site.sandbox.run_dir.write(&path, text)
    }

    /// Runs the real kubectl with these arguments and returns what it prints.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = tokio::process::Command::new(self.site.parts.path("kubectl"));
        command
            .env("HOME", self.site.path("."))
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(arguments)
            .kill_on_drop(true);
        let output = command.output().await.context("cannot run kubectl")?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Error::Command {
            command: format!("kubectl {}", arguments.join(" ")),
            exit: Exit::Code(output.status.code().unwrap_or(-1)),
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// Applies YAML by server-side apply, into the namespace `default` where it names none.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        self.apply_in("default", yaml).await
    }

    /// Applies YAML by server-side apply, into that namespace where it names none.
    pub async fn apply_in(&self, namespace: &str, yaml: &str) -> Result<()> {
        let client = self.client().await?;
        manifests::apply(&client, &manifests::objects(yaml)?, namespace).await
    }

    /// A namespace that nothing else uses, with its default service account.
    pub async fn namespace(&self) -> Result<String> {
        let number = self.namespaces.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("test-{number}");
        let api: Api<Namespace> = Api::all(self.client().await?);
        let object = Namespace {
            metadata: kube::core::ObjectMeta {
                name: Some(name.clone()),
                ..Default::default()
            },
            ..Namespace::default()
        };
        api.create(&PostParams::default(), &object).await?;
        self.await_namespace(&name).await?;
        Ok(name)
    }

    /// The API server's process.
    #[must_use]
    pub fn api_server(&self) -> &Process {
        &self.control_plane.api_server
    }

    /// etcd's process.
    #[must_use]
    pub fn etcd(&self) -> &Process {
        &self.control_plane.etcd
    }

    /// The controller manager's process.
    #[must_use]
    pub fn controller_manager(&self) -> &Process {
        &self.control_plane.controllers
    }

    /// Kills the API server, as a crash would.
    pub async fn kill_api_server(&self) -> Result<()> {
        self.api_server().kill().await
    }

    /// Starts the API server again and waits until it serves.
    pub async fn start_api_server(&self) -> Result<()> {
        self.api_server().start().await?;
        self.await_api().await
    }

    /// How often each kind of object was written so far, by anybody. Subtract an earlier count.
    pub async fn writes(&self) -> Result<Writes> {
        let metrics = get(&self.client().await?, "/metrics").await?;
        Ok(Writes::from_metrics(&metrics))
    }

    /// Who wrote what so far. Subtract an earlier length.
    pub async fn audit(&self) -> Result<Audit> {
        let log = tokio::fs::read_to_string(self.audit_log()).await;
        Ok(Audit::parse(&log.context("cannot read the audit log")?))
    }

    /// What was written so far by those whose name ends like this: `:berth-hub`. Only their lines are read, for a log that many
    /// tests write to is long.
    pub async fn audit_by(&self, user: &str) -> Result<Audit> {
        let log = tokio::fs::read_to_string(self.audit_log()).await;
        let log = log.context("cannot read the audit log")?;
        let theirs = format!("{user}\"");
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(&theirs)).collect();
        Ok(Audit::parse(&lines.join("\n")).by(user))
    }

    /// Where the audit log is: it grows with every write, also with one that changes nothing.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.site.path(&format!("{}/audit.log", self.name))
    }

    async fn await_api(&self) -> Result<()> {
        let client = self.client().await?;
        let look = || async { Ok::<_, Seen>(get(&client, "/readyz").await?) };
        self.api_server().ready(DEADLINE, look).await.map(drop)
    }

    async fn await_namespace(&self, name: &str) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, name);
        let what = format!("namespace {name} of {} has its service account", self.name);
        eventually(SOON, &what, || async { Ok(accounts.get("default").await?) })
            .await
            .map(drop)
    }

    /// Creates a node that is an object and nothing else, with room for pods.
    pub async fn hand_made_node(
        &self,
        name: &str,
        address: std::net::Ipv4Addr,
        pod_cidr: &str,
    ) -> Result<()> {
        let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(self.client().await?);
        let object = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": { "kubernetes.io/hostname": name, "kubernetes.io/os": "linux" },
            },
            "spec": { "podCIDR": pod_cidr, "podCIDRs": [pod_cidr] },
        });
        let failed = "a hand-made node is not a Node";
        let node = serde_json::from_value(object).context(failed)?;
        nodes.create(&PostParams::default(), &node).await?;
        let room = json!({ "cpu": "8", "memory": "16Gi", "pods": "200" });
        let status = json!({ "status": {
            "addresses": [
                { "type": "InternalIP", "address": address },
                { "type": "Hostname", "address": name },
            ],
            "capacity": room,
            "allocatable": room,
            "conditions": [{
                "type": "Ready",
                "status": "True",
                "reason": "HandMade",
                "message": "an object of the lab without a kubelet",
                "lastHeartbeatTime": "2026-01-01T00:00:00Z",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        }});
        let patch = kube::api::Patch::Merge(status);
        nodes
            .patch_status(name, &Default::default(), &patch)
            .await?;
        // Admission taints every new node; the controller that would take the taint away does not run here.
        let untaint = kube::api::Patch::Merge(json!({ "spec": { "taints": null } }));
        nodes.patch(name, &Default::default(), &untaint).await?;
        Ok(())
    }
}

/// A client for a kubeconfig file.
async fn client(kubeconfig: &Path) -> Result<kube::Client> {
    let failed = || format!("cannot use {}", kubeconfig.display());
    let file = Kubeconfig::read_from(kubeconfig).with_context(failed)?;
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(file, &options).await;
    Ok(kube::Client::try_from(config.with_context(failed)?)?)
}

/// The text at a path of the API server.
async fn get(client: &kube::Client, path: &str) -> Result<String> {
    let request = http::Request::get(path).body(Vec::new());
    let request = request.context("a path is malformed")?;
    Ok(client.request_text(request).await?)
}
