//! What a change costs clients who go on asking: another port, a node whose cable is cut, pods that are exchanged, a Service that
//! goes and comes back, and ranges that shut somebody out. Each begins and ends with everything answered.

use std::time::Duration;

use anyhow::{Context, Result};
use berth_lab::traffic::{Shot, lost};
use berth_lab::workload::{Pods, service};
use berth_lab::{Traffic, address::CLIENT};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use kube::api::{Api, PostParams};
use tokio::time::Instant;

use crate::ground::{Ground, PORT, SOON};
use crate::numbers::{Spread, text};
use crate::report::Report;
use crate::rest::{FULL, SHORT};

/// Between two requests, and so how exactly a moment is known.
const PACE: Duration = Duration::from_millis(10);

/// How long a port may be dead after a change.
const DEAD: Duration = Duration::from_millis(1_500);

/// How long a node without a network may cost requests.
const CUT: Duration = Duration::from_secs(3);

/// After so long a node is given up on.
const PATIENCE: Duration = Duration::from_secs(20);

/// For so long a graceful pod serves on after its deletion.
const GRACE: u8 = 5;

/// A node of the tenant whose cable can be cut: its agent is on the other one.
const NODE: &str = "a2";

const HTTP: &str = "[{name: http, port: 80, targetPort: 3000}]";

impl Ground {
    /// Pods and a Service of that name, reached once; where.
    async fn serve(&self, pods: &Pods<'_>, spec: &str) -> Result<String> {
        pods.deploy(&self.tenant, &self.namespace).await?;
        let yaml = service(pods.name, HTTP, spec);
        self.tenant.apply_in(&self.namespace, &yaml).await?;
        let ip = self.tenant.await_ip(&self.namespace, pods.name).await?;
        let url = url(&ip, PORT);
        self.lab.client().await_get(&url, SOON).await?;
        Ok(ip)
    }

    /// Changes a Service's only port, and says when the API server had it.
    async fn set_port(&self, name: &str, change: impl FnOnce(&mut ServicePort)) -> Result<Instant> {
        let services: Api<Service> = Api::namespaced(self.tenant.client().await?, &self.namespace);
        let mut object = services.get(name).await?;
        let spec = object.spec.as_mut();
        let port = spec.and_then(|spec| spec.ports.as_mut()?.first_mut());
        change(port.with_context(|| format!("Service {name} has no port"))?);
        services
            .replace(name, &PostParams::default(), &object)
            .await?;
        Ok(Instant::now())
    }

    fn traffic(&self, url: &str) -> Traffic {
        Traffic::start(self.lab.client(), url, PACE)
    }
}

fn url(ip: &str, port: u16) -> String {
    format!("http://{ip}:{port}/")
}

/// From the first request that was lost to the end of the pace after the last one.
fn gap(shots: &[Shot]) -> Duration {
    match lost(shots).as_slice() {
        [] => Duration::ZERO,
        [first, .., last] => last.began + PACE - first.began,
        [_] => PACE,
    }
}

/// How long a new port is not answered after a change, and how long clients of a port suffer from another node port behind it.
pub(crate) async fn ports(ground: &Ground, changes: usize, report: &mut Report) -> Result<()> {
    let ip = ground.serve(&Pods::new("ports", 2), "").await?;
    let mut dead = Vec::new();
    for n in 0..changes {
        let port = if n % 2 == 0 { 8080 } else { PORT };
        ground.rest(FULL).await?;
        let traffic = ground.traffic(&url(&ip, port));
        let changed = ground.set_port("ports", |it| it.port = port.into()).await?;
        let answered = traffic.await_answer(changed, SOON).await?.ended;
        traffic.stop().await?;
        dead.push(answered - changed);
    }
    let dead = Spread::new(dead);
    let met = dead.p99() <= DEAD;
    let took = (None, text(dead.p99()));
    report.row(
        "a changed port is dead for, the longest",
        took,
        "≤ 1.50 s",
        "12 s",
        met,
    );

    let port = if changes.is_multiple_of(2) {
        PORT
    } else {
        8080
    };
    let mut gaps = Vec::new();
    for n in 0..changes {
        ground.rest(FULL).await?;
        let traffic = ground.traffic(&url(&ip, port));
        traffic.await_calm(Instant::now(), SOON).await?;
        let other = 31_500 + i32::try_from(n)?;
        let changed = ground
            .set_port("ports", |it| it.node_port = Some(other))
            .await?;
        // Whoever still has the old one is through with it by then.
        ground.rest(FULL).await?;
        traffic.await_calm(changed, SOON).await?;
        gaps.push(gap(&traffic.stop().await?));
    }
    let gaps = Spread::new(gaps);
    println!(
        "\nports, {changes} changes\n  dead     {dead}\n  another node port behind: gap {gaps}"
    );
    let met = gaps.p99() <= DEAD;
    let took = (None, text(gaps.p99()));
    report.row(
        "another node port, requests lost for, the longest",
        took,
        "≤ 1.50 s",
        "not measured",
        met,
    );
    Ok(())
}

/// How long requests are lost after a node's cable was cut, with backends elsewhere, and with `Local` and backends on both.
pub(crate) async fn cut(ground: &Ground, cuts: usize, report: &mut Report) -> Result<()> {
    let elsewhere = Pods::new("elsewhere", 2).on("a1");
    let both = Pods::new("both", 2);
    for (pods, policy, what) in [
        (elsewhere, "Cluster", "backends elsewhere"),
        (both, "Local", "policy Local"),
    ] {
        let spec = format!("externalTrafficPolicy: {policy}");
        let url = url(&ground.serve(&pods, &spec).await?, PORT);
        println!("\na cut node, {what}");
        let mut took = Vec::new();
        for _ in 0..cuts {
            // A node that was lost has to be good for longer each time before it takes its part again.
            ground.await_backends(pods.name, 2).await?;
            took.push(one_cut(ground, &url).await?);
        }
        let took = Spread::new(took);
        println!("  all requests succeed after: {took}");
        let longest = took.p99();
        let said = match longest {
            PATIENCE => format!("over {}", text(PATIENCE)),
            longest => text(longest),
        };
        let figure = format!("a cut node, {what}, the longest");
        report.row(&figure, (None, said), "≤ 3.00 s", "28 s", longest <= CUT);
    }
    Ok(())
}

/// The time from a cut to the last request that was lost, at most [`PATIENCE`].
async fn one_cut(ground: &Ground, url: &str) -> Result<Duration> {
    ground.rest(FULL).await?;
    let traffic = ground.traffic(url);
    traffic.await_calm(Instant::now(), SOON).await?;
    ground.lab.cut(NODE).await?;
    let since = Instant::now();
    let calm = traffic.await_calm(since, PATIENCE).await;
    let shots = traffic.stop().await?;
    ground.lab.heal(NODE).await?;
    let lost = lost(&shots);
    let last = lost
        .last()
        .context("the cut cost nothing, so it shows nothing")?;
    let took = match calm {
        Ok(()) => last.began.saturating_duration_since(since),
        Err(_) => PATIENCE,
    };
    println!(
        "  {} of {} requests lost, {}",
        lost.len(),
        shots.len(),
        text(took)
    );
    Ok(took)
}

/// How many requests a rolling update of graceful pods loses.
pub(crate) async fn rolling_update(ground: &Ground, report: &mut Report) -> Result<()> {
    for policy in ["Cluster", "Local"] {
        let name = format!("rolling-{}", policy.to_lowercase());
        let mut pods = Pods::new(&name, 3);
        pods.grace = GRACE;
        let spec = format!("externalTrafficPolicy: {policy}");
        let ip = ground.serve(&pods, &spec).await?;
        ground.rest(SHORT).await?;
        let traffic = ground.traffic(&url(&ip, PORT));
        traffic.await_calm(Instant::now(), SOON).await?;
        pods.version = 2;
        pods.deploy(&ground.tenant, &ground.namespace).await?;
        let selector = format!("app={name},version=v1");
        let argv = [
            "wait",
            "pods",
            "--for=delete",
            "-l",
            &selector,
            "-n",
            &ground.namespace,
        ];
        ground.tenant.kubectl(&argv).await?;
        traffic.await_calm(Instant::now(), SOON).await?;
        let shots = traffic.stop().await?;
        let lost = lost(&shots).len();
        println!(
            "\nrolling update, {policy}: {lost} of {} requests lost",
            shots.len()
        );
        let figure = format!("a rolling update loses, policy {policy}");
        let said = (None, format!("{lost} of {}", shots.len()));
        report.row(&figure, said, "0", "not measured", lost == 0);
    }
    Ok(())
}

/// Whether a Service that is deleted, and created again after another, has its address.
pub(crate) async fn comes_back(ground: &Ground, report: &mut Report) -> Result<()> {
    let (_, before) = ground.through("comes-back").await?;
    ground.rest(SHORT).await?;
    let argv = ["delete", "service", "comes-back", "-n", &ground.namespace];
    ground.tenant.kubectl(&argv).await?;
    let (_, between) = ground.through("in-between").await?;
    let (_, after) = ground.through("comes-back").await?;
    println!("\ndeleted with {before}, then another got {between}, created again with {after}");
    let same = before == after;
    let said = if same { "the same" } else { "another" };
    report.row(
        "deleted and created again: the address",
        (None, said.into()),
        "the same",
        "lost",
        same,
    );
    Ok(())
}

/// Whether an address outside the ranges is refused, and one inside is answered.
pub(crate) async fn source_ranges(ground: &Ground, report: &mut Report) -> Result<()> {
    let pods = Pods::new("ranges", 1);
    let ip = ground.serve(&pods, "").await?;
    let (inside, outside) = (ground.lab.client(), ground.lab.host("b1"));
    let url = url(&ip, PORT);
    outside.await_get(&url, SOON).await?;
    ground
        .serve(&pods, &format!("loadBalancerSourceRanges: [{CLIENT}/32]"))
        .await?;
    let refused = outside.await_silence(&url, PATIENCE).await.is_ok();
    let answered = inside.get(&url).await;
    answered.context("the client inside the range is not answered")?;
    let said = if refused { "enforced" } else { "not enforced" };
    report.row(
        "source ranges are",
        (None, said.into()),
        "enforced",
        "not enforced",
        refused,
    );
    Ok(())
}
