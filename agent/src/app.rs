//! The wiring of a running agent: makes every part, starts their tasks, and stops them in the right order. The only
//! place that knows all of them; it decides nothing else.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use berth_common::{
    admin::AdminServer,
    ready::{Blocker, Ready},
    session::agent::{AgentInfo, AgentSession},
    telemetry::{self, LogSettings, Metrics},
    tls::{self, ClientTls},
};
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    apply,
    broker::Broker,
    claims::Claims,
    dial::Dialer,
    events::Events,
    identity::{Joiner, Renewer, Vault},
    index::Index,
    link::Link,
    metrics::{AgentMetrics, ServiceStates},
    settings::{AgentSettings, Hub, TlsFiles},
    watch::{NodesFeed, ServicesFeed, SlicesFeed, follow, follow_cluster_uid, follow_slices},
};

/// How often the TLS files are looked at.
const TLS_INTERVAL: Duration = Duration::from_secs(10);
/// What may take longer than this at a stop is given up: Kubernetes kills after 30 s.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Our own release.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs until SIGTERM or SIGINT, or until a part fails that cannot be done without.
pub async fn run(settings: AgentSettings) -> anyhow::Result<()> {
    telemetry::init(&quiet(&settings.log))?;
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut parts = start(&settings, &stop).await?;
    info!(version = VERSION, hub = %settings.hub.address, "started");
    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = parts.tasks.join_next() => ended,
    };
    stop.cancel();
    if let Some(ended) = ended {
        let name = ended.context("a part of the agent panicked")?;
        anyhow::bail!("{name} ended, which it must not");
    }
    info!("stopping");
    if timeout(STOP_LIMIT, parts.finish()).await.is_err() {
        warn!(
            "not everything could be finished in {} s",
            STOP_LIMIT.as_secs()
        );
    }
    Ok(())
}

/// The running parts.
struct Parts {
    tasks: JoinSet<&'static str>,
    events: tokio::task::JoinHandle<()>,
    stop_events: CancellationToken,
}

impl Parts {
    /// Everything that makes events ends before what sends them.
    async fn finish(mut self) {
        while self.tasks.join_next().await.is_some() {}
        self.stop_events.cancel();
        // A panic in there has no consequence any more.
        let _ = self.events.await;
    }
}

async fn start(settings: &AgentSettings, stop: &CancellationToken) -> anyhow::Result<Parts> {
    let client = kube_client(settings.kubeconfig.as_deref()).await?;
    let source = Source::of(settings, &client)?;
    let instance_id = format!("{:016x}", fastrand::u64(..));

    let ready = Ready::new();
    let mut registry = Metrics::new("agent", VERSION);
    let metrics = AgentMetrics::new(registry.registry_mut());
    let events = Events::new(instance_name(&instance_id), metrics.clone());
    let session = AgentSession::new(AgentInfo {
        version: VERSION.to_owned(),
        instance_id,
    });
    let session = match source {
        Source::Own(_) => session.renewing(),
        Source::Files(_) => session,
    };
    let index = Index::new(claims(settings), settings.node_address_type.clone());
    let broker = Broker::new(index, session, Arc::clone(&events), metrics.clone());
    registry
        .registry_mut()
        .register_collector(Box::new(ServiceStates(Arc::clone(&broker))));
    let unready = ready.register("the first session with the hub");
    let caches = ready.register("the cluster's Services and nodes");
    let admin = AdminServer::bind(settings.admin_listen, Arc::new(registry), ready).await?;

    let mut tasks = JoinSet::new();
    let mut part = |name: &'static str, task: futures::future::BoxFuture<'static, ()>| {
        tasks.spawn(async move {
            task.await;
            name
        });
    };
    let stop_events = CancellationToken::new();
    let all_events = tokio::spawn(Arc::clone(&events).run(client.clone(), stop_events.clone()));
    part("the admin server", Box::pin(admin.serve(stop.clone())));
    part("the watch of Services", {
        let feed = ServicesFeed(Arc::clone(&broker));
        Box::pin(follow(feed, Api::all(client.clone()), stop.clone()))
    });
    part("the watch of nodes", {
        let feed = NodesFeed::new(Arc::clone(&broker), settings.node_address_type.clone());
        Box::pin(follow(feed, Api::all(client.clone()), stop.clone()))
    });
    part("the watch of EndpointSlices", {
        let feed = SlicesFeed(Arc::clone(&broker));
        Box::pin(follow_slices(feed, Api::all(client.clone()), stop.clone()))
    });
    part("the identity of the cluster", {
        let broker = Arc::clone(&broker);
        Box::pin(follow_cluster_uid(broker, client.clone(), stop.clone()))
    });
    part("the readiness of the cluster", {
        let mut synced = broker.source_synced();
        let stop = stop.clone();
        Box::pin(async move {
            tokio::select! {
                _ = synced.wait_for(|synced| *synced) => caches.done(),
                () = stop.cancelled() => {}
            }
            stop.cancelled().await;
        })
    });
    part("the writer of Services", {
        let broker = Arc::clone(&broker);
        Box::pin(apply::run(broker, client, metrics.clone(), stop.clone()))
    });
    part("the link to the hub", {
        let (hub, stop) = (settings.hub.clone(), stop.clone());
        Box::pin(async move {
            let all = linked(source, hub, broker, events, metrics, unready, stop.clone());
            if let Err(error) = all.await {
                // What could not be known before the certificate was there.
                error!("no link to the hub: {:#}", anyhow::Error::from(error));
            }
        })
    });
    Ok(Parts {
        tasks,
        events: all_events,
        stop_events,
    })
}

/// Where the identity comes from.
enum Source {
    /// From files, which somebody else renews.
    Files(Arc<ClientTls>),
    /// From the agent's own Secret, or from the hub.
    Own(Box<Joiner>),
}

impl Source {
    fn of(settings: &AgentSettings, client: &Client) -> Result<Self, tls::TlsError> {
        Ok(match &settings.enroll.secret {
            None => Self::Files(client_tls(&settings.tls)?),
            Some(secret) => {
                let vault = Vault::new(client.clone(), secret.clone());
                Self::Own(Box::new(Joiner::new(vault, settings, VERSION)?))
            }
        })
    }
}

/// Gets the identity, then keeps the session, and the identity good, until `stop`.
async fn linked(
    source: Source,
    hub: Hub,
    broker: Arc<Broker>,
    events: Arc<Events>,
    metrics: AgentMetrics,
    unready: Blocker,
    stop: CancellationToken,
) -> Result<(), tls::TlsError> {
    match source {
        Source::Files(tls) => {
            let dialer = Dialer::new(&hub, Arc::clone(&tls))?;
            let link = Link::new(broker, dialer, metrics, Some(unready));
            tokio::select! {
                () = link.run(stop) => {}
                () = tls.watch(TLS_INTERVAL) => {}
            }
        }
        Source::Own(joiner) => {
            let (stored, tls) = tokio::select! {
                found = joiner.obtain() => found,
                () = stop.cancelled() => return Ok(()),
            };
            let dialer = Dialer::new(&hub, tls)?;
            let link = Link::new(broker, dialer.clone(), metrics.clone(), Some(unready));
            let live = link.live();
            let renewer = Renewer::new(*joiner, stored, dialer, live, events, metrics);
            tokio::select! {
                () = link.run(stop) => {}
                () = renewer.run() => {}
            }
        }
    }
    Ok(())
}

/// Which Services these settings claim.
pub fn claims(settings: &AgentSettings) -> Claims {
    Claims {
        classless: !settings.use_load_balancer_class,
        classes: settings
            .load_balancer_classes
            .iter()
            .map(ToString::to_string)
            .collect(),
    }
}

/// The credentials for the hub, read now.
pub fn client_tls(files: &TlsFiles) -> Result<Arc<ClientTls>, tls::TlsError> {
    let files = tls::TlsFiles {
        cert: files.cert.clone(),
        key: files.key.clone(),
        ca: files.ca.clone(),
    };
    ClientTls::client(files, SystemTime::now())
}

/// A client of the tenant's API server: of a kubeconfig, or of the pod's own account.
pub async fn kube_client(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let config = match kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot use the kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("cannot use the kubeconfig {}", path.display()))?
        }
        None => Config::infer().await.context(
            "no way to this cluster's API server: neither $KUBECONFIG nor a pod's own account; set --kubeconfig",
        )?,
    };
    Client::try_from(config).context("cannot make a client of this cluster's API server")
}

/// Without the library's own line about each request that fails: the watches and the writer say so once, with the reason.
fn quiet(log: &LogSettings) -> LogSettings {
    const QUIETER: &str = "kube_client=error,kube_client::client::builder=off";
    let asked = log.filter.as_str();
    match format!("{QUIETER},{asked}").parse() {
        Ok(filter) if !asked.contains("kube_client") => LogSettings {
            filter,
            ..log.clone()
        },
        _ => log.clone(),
    }
}

/// The pod's name, which is its host name.
fn instance_name(instance_id: &str) -> String {
    std::env::var("HOSTNAME")
        .ok()
        .filter(|name| !name.is_empty() && name.len() <= 100)
        .unwrap_or_else(|| format!("berth-agent-{instance_id}"))
}
