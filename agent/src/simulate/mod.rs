//! A simulated fleet: thousands of tenants in one process, each with the real session machine, the real link and dialler, and a
//! certificate of its own, and none with a cluster. For seeing what a hub does with many agents: it knows nothing of
//! Kubernetes, and nothing of how a hub is measured.

mod credentials;
mod figures;
mod limits;
mod tenant;

use std::{
    io::Write,
    net::IpAddr,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use berth_common::{
    identity::TrustDomain,
    telemetry::{self, LogFilter, LogFormat, LogSettings},
};
use clap::Args;
use prometheus_client::registry::Registry;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::{
    credentials::{Authority, Credentials},
    figures::Look,
    tenant::name,
};
use self::{
    figures::Figures,
    tenant::{Nature, Tenant},
};
use crate::{
    dial::Dialer,
    link::Link,
    metrics::AgentMetrics,
    settings::{Host, Hub, HubAddress},
};

/// Between two lines.
const EVERY: Duration = Duration::from_secs(1);
/// Between two rounds of changes.
const CHURN_TICK: Duration = Duration::from_millis(10);
/// How long all agents together may take to leave in order.
const LEAVING: Duration = Duration::from_secs(5);
/// How long the first dials are spread for each agent, as the hub asks a fleet to come back.
const SPREAD_EACH: Duration = Duration::from_millis(1);

/// What `berth-agent simulate` takes.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Each agent is the real thing but for the cluster behind it: its own certificate, connection and session. The hub must know the \
tenants, named sim-00001 and up; a hub takes them like any other and makes load balancers for them, so this belongs in a \
management cluster that is for trying things out.

  # Make 1,000 Tenants
  for n in $(seq -f sim-%05g 1000); do
    printf 'apiVersion: berth.dev/v1alpha1\\nkind: Tenant\\nmetadata: {name: %s}\\n---\\n' $n
  done | kubectl apply -f -

  # Connect 1,000 agents, with certificates made from the authority of `berth-hub ca init --dir ca`
  berth-agent simulate --hub hub.example:8443 --tenants 1000 --ca-cert ca/ca.crt --ca-key ca/ca.key

  # Then change 50 Services a second, all tenants together
  berth-agent simulate … --churn 50

  # Measure one session alone: each Service asks for an address that its Tenant may not have, is refused, and costs the
  # management cluster nothing
  berth-agent simulate … --tenants 1 --services 100 --request-ip 192.0.2.1 --churn max

A line a second says how many are connected and synced. A round begins with the start, and again with the first session lost by \
a fleet that was whole; it ends when the hub holds everything of all. Ctrl-C ends it; what the hub made stays until its Tenants \
are deleted.")]
pub struct Options {
    /// Where the hub is
    #[arg(long, value_name = "HOST:PORT")]
    pub hub: HubAddress,
    /// The name that the hub's certificate carries, where it is not the host of --hub
    #[arg(long, value_name = "NAME")]
    pub hub_server_name: Option<Host>,
    /// How many agents: sim-00001 and up
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99_999))]
    pub tenants: u32,
    /// The number of the first
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99_999))]
    pub first: u32,
    /// How many Services each of them wants
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub services: usize,
    /// How many Services change in a second, over the whole fleet; or max: a session changes one whenever there is room
    /// for a message
    #[arg(long, value_name = "PER-SECOND|max", default_value = "0")]
    pub churn: Churn,
    /// Within how many seconds all agents dial for the first time. By default a thousandth of a second for each agent
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub spread: Option<Duration>,
    /// An address that every Service asks for
    #[arg(long, value_name = "IP")]
    pub request_ip: Option<IpAddr>,
    /// A directory with the agents' certificates: NAME/tls.crt, NAME/tls.key and NAME/ca.crt, as `berth-hub cert issue
    /// --tenant NAME --out DIRECTORY/NAME` writes them
    #[arg(
        long,
        value_name = "DIRECTORY",
        required_unless_present = "ca_key",
        conflicts_with_all = ["ca_cert", "ca_key"]
    )]
    pub certificates: Option<PathBuf>,
    /// The certificate of the hub's authority, from which the agents' are made. For tests and benchmarks only: the key of a
    /// real authority stays in its Secret
    #[arg(long, value_name = "FILE", requires = "ca_key")]
    pub ca_cert: Option<PathBuf>,
    /// The key of that authority
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    pub ca_key: Option<PathBuf>,
    /// The first part of every identity that is made: spiffe://DOMAIN/tenant/NAME
    #[arg(long, value_name = "DOMAIN", default_value = "berth.local")]
    pub trust_domain: String,
    /// How the state is shown: text, or json with one object a line
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub report: Form,
    /// What is logged besides. Thousands of agents say a lot at `info`
    #[arg(long, value_name = "FILTER", default_value = "error")]
    pub log_filter: String,
}

/// The form of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs)]
pub enum Form {
    Text,
    Json,
}

/// How often something changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Churn {
    /// So often in a second, over the whole fleet.
    Rate(f64),
    /// As often as the hub takes it.
    Max,
}

impl FromStr for Churn {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse::<f64>()) {
            ("max", _) => Ok(Self::Max),
            (_, Ok(rate)) if (0.0..=1e6).contains(&rate) => Ok(Self::Rate(rate)),
            _ => Err("expected changes in a second, from 0 to 1000000, or max"),
        }
    }
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    let seconds = text.parse().ok();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or("expected seconds, such as 5 or 0.5")
}

/// What a fleet is to be.
pub struct Plan {
    /// Where the hub is.
    pub hub: Hub,
    /// The number of the first agent.
    pub first: usize,
    /// How many agents.
    pub tenants: usize,
    /// How many Services each.
    pub services: usize,
    /// What every Service asks for.
    pub request_ip: Option<IpAddr>,
    /// How often one changes.
    pub churn: Churn,
    /// Within which time the first dials happen.
    pub spread: Duration,
}

/// A running fleet. Dropped, it is gone at once.
pub struct Fleet {
    figures: Arc<Figures>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Fleet {
    /// Makes the agents and has them dial.
    ///
    /// # Errors
    /// When a certificate is missing or cannot be used, or the process may not open enough sockets.
    pub fn start(plan: &Plan, credentials: &Credentials) -> anyhow::Result<Self> {
        limits::make_room(plan.tenants)?;
        let stop = CancellationToken::new();
        let metrics = AgentMetrics::new(&mut Registry::default());
        let mut dialers = Vec::with_capacity(plan.tenants);
        for number in (plan.first..).take(plan.tenants) {
            let name = name(number)?;
            let tls = credentials
                .of(&name)
                .with_context(|| format!("the certificate of {name}"))?;
            dialers.push(Dialer::new(&plan.hub, tls)?);
        }
        // Making certificates takes time, and is none of what is measured.
        let figures = Arc::new(Figures::new(plan.tenants, Instant::now()));
        let nature = Nature {
            services: plan.services,
            request_ip: plan.request_ip,
            restless: plan.churn == Churn::Max,
        };
        let mut tasks = JoinSet::new();
        let mut tenants = Vec::with_capacity(plan.tenants);
        for (index, dialer) in dialers.into_iter().enumerate() {
            let tenant = Tenant::new(plan.first + index, nature.clone(), Arc::clone(&figures));
            let tenant = Arc::new(tenant);
            let link = Link::new(Arc::clone(&tenant), dialer, metrics.clone(), None);
            let first = plan.spread.mul_f64(fastrand::f64());
            let stop = stop.clone();
            tasks.spawn(async move {
                tokio::select! {
                    () = sleep(first) => {}
                    () = stop.cancelled() => return,
                }
                link.run(stop).await;
            });
            tenants.push(tenant);
        }
        if let Churn::Rate(rate) = plan.churn
            && rate > 0.0
        {
            let (whole, stop) = (figures.whole(), stop.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = churn(tenants, rate, whole) => {}
                    () = stop.cancelled() => {}
                }
            });
        }
        Ok(Self {
            figures,
            tasks,
            stop,
        })
    }

    /// How the fleet stands.
    pub fn look(&self) -> Look {
        self.figures.look(Instant::now())
    }

    /// The number of the last round at whose end all were synced.
    pub fn whole(&self) -> watch::Receiver<u32> {
        self.figures.whole()
    }

    /// Has every agent end its session in order.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = timeout(LEAVING, all).await;
    }
}

/// Changes Services of tenants at random, once the whole fleet was synced.
async fn churn(tenants: Vec<Arc<Tenant>>, rate: f64, mut whole: watch::Receiver<u32>) {
    if whole.wait_for(|round| *round > 0).await.is_err() {
        return;
    }
    let mut ticks = interval(CHURN_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = ticks.tick().await;
    let mut due = 0.0;
    loop {
        let now = ticks.tick().await;
        due += rate * now.duration_since(last).as_secs_f64();
        last = now;
        while due >= 1.0 {
            due -= 1.0;
            if let Some(tenant) = tenants.get(fastrand::usize(..tenants.len())) {
                tenant.change();
            }
        }
    }
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: Options, out: &mut impl Write) -> anyhow::Result<()> {
    let filter: LogFilter = options.log_filter.parse().map_err(anyhow::Error::msg)?;
    telemetry::init(&LogSettings {
        format: LogFormat::Text,
        filter,
    })?;
    let trust_domain = TrustDomain::parse(&options.trust_domain).context("--trust-domain")?;
    let credentials = match (&options.certificates, &options.ca_cert, &options.ca_key) {
        (Some(directory), ..) => Credentials::Directory(directory.clone()),
        (None, Some(cert), Some(key)) => Credentials::authority(cert, key, trust_domain)?,
        _ => anyhow::bail!("either --certificates, or --ca-cert and --ca-key"),
    };
    let tenants = usize::try_from(options.tenants)?;
    let plan = Plan {
        hub: Hub {
            address: options.hub,
            server_name: options.hub_server_name,
        },
        first: usize::try_from(options.first)?,
        tenants,
        services: options.services,
        request_ip: options.request_ip,
        churn: options.churn,
        spread: options.spread.unwrap_or(SPREAD_EACH * options.tenants),
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let fleet = Fleet::start(&plan, &credentials)?;
    let mut whole = fleet.whole();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = whole.changed() => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
        let look = fleet.look();
        let line = match options.report {
            Form::Text => look.to_string(),
            Form::Json => serde_json::to_string(&look)?,
        };
        // Whoever read has gone: nobody needs this fleet any more.
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    fleet.stop().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn churn_is_a_rate_or_max() {
        assert_eq!("max".parse(), Ok(Churn::Max));
        assert_eq!("0.5".parse(), Ok(Churn::Rate(0.5)));
        for bad in ["-1", "NaN", "inf", "fast", ""] {
            assert!(bad.parse::<Churn>().is_err(), "{bad}");
        }
    }
}
