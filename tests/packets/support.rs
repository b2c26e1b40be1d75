//! What every test here needs: a namespace of its own in the tenant `acme`, pods and Services to apply, answers to read, and the
//! evidence when it fails. Nothing here knows what is tested.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use berth_lab::workload::{Pods, service};
use berth_lab::{Lab, Seen, Tenant, eventually};
use futures::FutureExt;
use serde_json::Value;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::evidence::evidence;

/// How long a level may take to be reached. Far beyond what it takes: a test that needs it all has failed.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// How long a node may take to be trusted again. The hub wants one that was lost several times to be good for longer each time.
const BACK: Duration = Duration::from_secs(120);

/// How many requests show where requests go: with two places to go to, all of them going to one by chance is out of the question.
pub(crate) const MANY: usize = 24;

/// Who has the nodes: most tests share them, and one that takes a node away has them alone.
static NODES: RwLock<()> = RwLock::const_new(());

enum Hold {
    Shared(#[allow(dead_code, reason = "held, not read")] RwLockReadGuard<'static, ()>),
    Alone(#[allow(dead_code, reason = "held, not read")] RwLockWriteGuard<'static, ()>),
}

/// Where a test acts: the lab, the tenant `acme`, and a namespace there that nobody else uses.
pub(crate) struct Stage {
    pub(crate) lab: Lab,
    pub(crate) tenant: Tenant,
    pub(crate) namespace: String,
    _nodes: Hold,
}

/// Runs a test beside others.
pub(crate) async fn on_stage(test: impl AsyncFnOnce(&Stage) -> Result<()>) -> Result<()> {
    run(Hold::Shared(NODES.read().await), test).await
}

/// Runs a test that does to the nodes what others would notice.
pub(crate) async fn alone_on_stage(test: impl AsyncFnOnce(&Stage) -> Result<()>) -> Result<()> {
    run(Hold::Alone(NODES.write().await), test).await
}

async fn run(nodes: Hold, test: impl AsyncFnOnce(&Stage) -> Result<()>) -> Result<()> {
    let lab = Lab::start().await?;
    if !lab.has_packets() {
        eprintln!("skipped: without namespaces no packet is sent");
        return Ok(());
    }
    let tenant = lab.tenant("acme").await?;
    let namespace = tenant.namespace().await?;
    let stage = Stage {
        lab,
        tenant,
        namespace,
        _nodes: nodes,
    };
    let tested = test(&stage);
    witnessed(&stage.lab, &[&stage.tenant], &stage.namespace, tested).await
}

/// Shares the nodes, for a test that brings its own stage.
pub(crate) async fn shared_nodes() -> RwLockReadGuard<'static, ()> {
    NODES.read().await
}

/// Runs a test, and where it fails or panics prints what is known about that namespace of these tenants.
pub(crate) async fn witnessed(
    lab: &Lab,
    tenants: &[&Tenant],
    namespace: &str,
    test: impl Future<Output = Result<()>>,
) -> Result<()> {
    let ended = AssertUnwindSafe(test).catch_unwind().await;
    if !matches!(ended, Ok(Ok(()))) {
        eprintln!("{}", evidence(lab, tenants, namespace).await);
    }
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl Stage {
    /// Applies pods and waits until they are there and those before them are gone.
    pub(crate) async fn deploy(&self, pods: &Pods<'_>) -> Result<()> {
        Ok(pods.deploy(&self.tenant, &self.namespace).await?)
    }

    /// Applies a Service and returns its address.
    pub(crate) async fn serve(&self, name: &str, ports: &str, spec: &str) -> Result<String> {
        let yaml = service(name, ports, spec);
        self.tenant.apply_in(&self.namespace, &yaml).await?;
        Ok(self.tenant.await_ip(&self.namespace, name).await?)
    }

    /// Pods `web` and a Service of the same name on port 80 that leads to them, reached once. Its address.
    pub(crate) async fn web(&self, pods: &Pods<'_>, spec: &str) -> Result<String> {
        self.deploy(pods).await?;
        let ip = self.serve("web", HTTP, spec).await?;
        self.lab.client().await_get(&url(&ip, 80), SOON).await?;
        Ok(ip)
    }

    /// Changes the Service's spec by a JSON merge patch.
    pub(crate) async fn merge(&self, name: &str, patch: &str) -> Result<()> {
        let patch = format!(r#"{{"spec": {patch}}}"#);
        self.patch(name, "merge", &patch).await
    }

    /// Changes the Service by a JSON patch.
    pub(crate) async fn patch(&self, name: &str, kind: &str, patch: &str) -> Result<()> {
        let kind = format!("--type={kind}");
        let argv = [
            "patch",
            "service",
            name,
            "-n",
            &self.namespace,
            &kind,
            "-p",
            patch,
        ];
        self.tenant.kubectl(&argv).await?;
        Ok(())
    }

    /// A Service as JSON.
    pub(crate) async fn service(&self, name: &str) -> Result<Value> {
        let argv = ["get", "service", name, "-n", &self.namespace, "-o", "json"];
        Ok(serde_json::from_str(&self.tenant.kubectl(&argv).await?)?)
    }

    /// The node port of a Service's only port.
    pub(crate) async fn node_port(&self, name: &str) -> Result<u16> {
        let port = self.service(name).await?["spec"]["ports"][0]["nodePort"].as_u64();
        let port = port.with_context(|| format!("Service {name} has no node port"))?;
        Ok(u16::try_from(port)?)
    }

    /// Waits until the Service `web` has so many backends in the management cluster. Where one that was lost returns, connections
    /// do not show it: the hub's own knocks arrive at it too.
    pub(crate) async fn await_backends(&self, wanted: usize) -> Result<()> {
        let of = format!(
            "berth.dev/service-name=web,berth.dev/service-namespace={}",
            self.namespace
        );
        let addresses = "jsonpath={.items[*].endpoints[*].addresses[*]}";
        let argv = ["get", "endpointslices", "-A", "-l", &of, "-o", addresses];
        let what = format!("web has {wanted} backends");
        eventually(BACK, &what, || async {
            let found = self.lab.management().kubectl(&argv).await?;
            match found.split_whitespace().count() == wanted {
                true => Ok(()),
                false => Err(Seen(found)),
            }
        })
        .await?;
        Ok(())
    }

    /// The pods that answer [`MANY`] requests one after the other, each with how many it answered.
    pub(crate) async fn answering(&self, url: &str) -> Result<BTreeMap<String, usize>> {
        let client = self.lab.client();
        let mut answering = BTreeMap::new();
        for _ in 0..MANY {
            let answer = client.get(url).await?;
            *answering
                .entry(word(&answer, "host")?.to_owned())
                .or_default() += 1;
        }
        Ok(answering)
    }

    /// Waits until as many pods answer as `enough` wants.
    pub(crate) async fn await_answering(
        &self,
        url: &str,
        what: &str,
        enough: impl Fn(usize) -> bool,
    ) -> Result<BTreeMap<String, usize>> {
        let found = eventually(SOON, what, || async {
            let answering = self.answering(url).await?;
            match enough(answering.len()) {
                true => Ok(answering),
                false => Err(Seen(format!("answers by {answering:?}"))),
            }
        });
        Ok(found.await?)
    }
}

/// One TCP port, 80, to the echo server.
pub(crate) const HTTP: &str = "[{name: http, port: 80, targetPort: 3000}]";

/// Where a port of an address is asked.
pub(crate) fn url(ip: &str, port: u16) -> String {
    format!("http://{ip}:{port}/")
}

/// One of the words of an answer: `host`, `ip`, `from` or `path`.
pub(crate) fn word<'a>(answer: &'a str, name: &str) -> Result<&'a str> {
    let words = answer.split_whitespace();
    let mut values = words.filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    values
        .next()
        .ok_or_else(|| anyhow!("no {name} in {answer:?}"))
}
