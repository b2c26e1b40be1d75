//! Wires the hub together and takes it apart again. Every long-lived task is started here; none decides anything.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use berth_common::{
    admin::AdminServer,
    identity::TenantName,
    model::{Answer, Outcome, ServiceKey},
    ready::Ready,
    session::{held::Wanted, hub::Limits},
    telemetry::{self, Metrics},
    tls::TlsFiles,
};
use kube::Client;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    audit,
    ca::{Authority, CaError, DEFAULT_AUTHORITY_LIFETIME, Issuing, follow, store::Place},
    certificates::Certificates,
    cli::KubeArgs,
    deletion::{self, Departures, OrphanedLoadBalancers},
    enroll::{EnrollMetrics, Enrollments, Renewals, Tokens},
    execute::{Desires, Executor, PER_TENANT, WriteMetrics},
    health::{self, Health, Verdicts, metrics::HealthMetrics},
    listen::{self, Clients, ListenLimits, ListenMetrics},
    metrics::{AbsentLoadBalancers, SessionMetrics},
    objects::Id,
    observe::{self, Cache, Changes, Directory, Former},
    plan::{Allocator, Want},
    release, serve,
    serving::Serving,
    session::Sessions,
    settings::{self, HubSettings},
    shutdown, standing,
    tenants::{Admission, Marks, Revocations, Tenants},
    work::Work,
};

/// How often certificate files are looked at for changes.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When something it cannot do without is missing: a port, a certificate, the management cluster's address.
pub async fn run(settings: HubSettings) -> anyhow::Result<()> {
    telemetry::init(&settings.log)?;
    info!(version = env!("CARGO_PKG_VERSION"), "berth-hub starts");
    let started = Instant::now();
    raise_open_files();
    let client = client(&settings).await?;
    let (stop, stop_sessions) = (CancellationToken::new(), CancellationToken::new());
    let ready = Ready::new();
    // Before anybody can ask: nothing that holds readiness up would be ready.
    let caches = ready.register("the management cluster's objects");
    let mut tasks = JoinSet::new();

    let cache = Arc::new(Cache::default());
    let directory = Arc::new(Directory::new(settings.management()));
    let former = Arc::new(Former::default());
    let departures = Arc::new(Departures::default());
    let work = Arc::new(Work::new(PER_TENANT));
    let probing = HealthMetrics::default();
    let health = Arc::new(Health::new(probing.clone()));
    let marks = Arc::new(Planning {
        work: work.clone(),
        cache: cache.clone(),
        health: health.clone(),
    });
    let first_session = first_session(SystemTime::now());
    let tenants = Tenants::new(first_session, Limits::default(), marks.clone());
    let tenants = Arc::new(tenants.with_snapshots(settings.snapshots));

    let mut metrics = Metrics::new("hub", env!("CARGO_PKG_VERSION"));
    let listening = ListenMetrics::register(metrics.registry_mut());
    let (sessions, writes) = (SessionMetrics::default(), WriteMetrics::default());
    audit::register(metrics.registry_mut());
    let enrolling = EnrollMetrics::default();
    enrolling.register(metrics.registry_mut());
    sessions.register(metrics.registry_mut());
    tenants.turn_gauges().register(metrics.registry_mut());
    writes.register(metrics.registry_mut());
    probing.register(metrics.registry_mut());
    metrics
        .registry_mut()
        .register_collector(Box::new(AbsentLoadBalancers(tenants.clone())));
    metrics
        .registry_mut()
        .register_collector(Box::new(OrphanedLoadBalancers {
            directory: directory.clone(),
            cache: cache.clone(),
            departures: departures.clone(),
        }));
    let admin = AdminServer::bind(settings.admin_listen, Arc::new(metrics), ready.clone()).await?;
    tasks.spawn(admin.serve(stop.clone()));
    tasks.spawn(audit::keep(stop.clone()));

    tasks.spawn(observe::run(
        client.clone(),
        cache.clone(),
        directory.clone(),
        former.clone(),
        work.clone(),
        stop.clone(),
    ));
    tasks.spawn(admit(
        directory.clone(),
        former.clone(),
        tenants.clone(),
        health.clone(),
        stop.clone(),
    ));
    let ground = Arc::new(health::ground::Hub {
        directory: directory.clone(),
        cache: cache.clone(),
        metrics: writes.clone(),
        tenants: tenants.clone(),
        marks,
    });
    tasks.spawn(health.clone().run(ground, stop.clone()));
    tasks.spawn(tenants.clone().keep_passing(stop.clone()));
    let wishes = Arc::new(Wishes {
        tenants: tenants.clone(),
        cache: cache.clone(),
        directory: directory.clone(),
        departures: departures.clone(),
        metrics: writes.clone(),
        health,
    });
    let executor = Executor::new(
        client.clone(),
        cache.clone(),
        directory.clone(),
        work.clone(),
        wishes,
        match settings.allocator {
            settings::Allocator::MetalLb => Allocator::MetalLb,
            settings::Allocator::Other => Allocator::Other,
        },
        writes,
    );
    tasks.spawn(executor.run(stop.clone()));
    tasks.spawn(release::keep(
        client.clone(),
        tenants.clone(),
        directory.clone(),
        stop.clone(),
    ));
    let place = place(&settings, &client);
    let issuing = match &place {
        Some(place) => Some(issuing(place, &settings).await?),
        None => None,
    };
    let certificates = Arc::new(Certificates::default());
    let sources = standing::Sources {
        tenants: tenants.clone(),
        records: directory.clone(),
        cache: cache.clone(),
        work: work.clone(),
        certificates: certificates.clone(),
        issuing: issuing.clone(),
        departures: departures.clone(),
    };
    tasks.spawn(standing::keep(
        client.clone(),
        sources,
        started,
        stop.clone(),
    ));

    let tokens = Tokens::new(client.clone(), settings.enroll.tokens.clone());
    tasks.spawn(deletion::keep(
        deletion::Parts {
            client: client.clone(),
            directory: directory.clone(),
            cache: cache.clone(),
            work: work.clone(),
            former: former.clone(),
            departures,
            tokens: issuing.as_ref().map(|_| tokens.clone()),
        },
        stop.clone(),
    ));
    let serving = serving(&settings, issuing.clone())?;
    info!(certificate = %serving.sessions().health(SystemTime::now()), "the hub's certificate is there");
    tasks.spawn(serving.clone().keep(CERTIFICATES_EVERY));
    if let (Some(place), Some(issuing)) = (place, &issuing) {
        tasks.spawn(follow::follow(
            place,
            settings.trust_domain.clone(),
            issuing.clone(),
            serving.clone(),
            tenants.clone(),
            stop.clone(),
        ));
    }

    // Agents are let in when there is something to compare them with: before that, all would look unknown.
    let (reporter, health) = tonic_health::server::health_reporter();
    let seen = async {
        directory.synced().await;
        former.synced().await;
        cache.synced().await;
    };
    tokio::select! {
        () = seen => {}
        signal = shutdown::requested() => {
            signal?;
            return Ok(());
        }
    }
    // The admissions of the first list are in place before the first agent is.
    tenants.admit(admissions(&directory, &former));
    let socket = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("cannot listen on {} (listen)", settings.listen))?;
    let limits = ListenLimits {
        handshakes: settings.handshakes,
        handshakes_per_address: settings.handshakes_per_address,
        ..ListenLimits::default()
    };
    let incoming = listen::listen(
        socket,
        serving.sessions().clone(),
        Clients::Named(settings.trust_domain.clone()),
        limits.clone(),
        listening.clone(),
    )?;
    let mut renewals = None;
    if let Some(issuing) = issuing {
        let socket = TcpListener::bind(settings.enroll.listen)
            .await
            .with_context(|| {
                format!(
                    "cannot listen on {} (enroll.listen)",
                    settings.enroll.listen
                )
            })?;
        let strangers = listen::listen(
            socket,
            serving.enrollment().clone(),
            Clients::Anyone,
            limits,
            listening,
        )?;
        let enrollments = Enrollments::new(
            client,
            tokens,
            issuing.clone(),
            former.clone(),
            enrolling.clone(),
        );
        let stop = stop.clone();
        tasks.spawn(async move {
            if let Err(error) = serve::serve_enrollment(strangers, enrollments, stop).await {
                warn!("enrollment has ended: {:#}", anyhow::Error::from(error));
            }
        });
        renewals = Some(Renewals::new(
            issuing,
            tenants.clone(),
            certificates.clone(),
            enrolling,
        ));
    }
    reporter
        .set_service_status(serve::SERVICE, tonic_health::ServingStatus::Serving)
        .await;
    caches.done();
    info!("ready");

    let stop_server = CancellationToken::new();
    let service = Sessions::new(tenants.clone(), sessions, stop_sessions.clone());
    let mut server = tokio::spawn(serve::serve(
        incoming,
        service.telling(certificates),
        renewals,
        health,
        stop_server.clone(),
    ));
    tokio::select! {
        signal = shutdown::requested() => signal?,
        ended = &mut server => ended.context("the gRPC server")??,
        Some(ended) = tasks.join_next() => {
            // Every one of them runs until it is told to stop: one that has ended by itself has panicked.
            ended.context("a part of the hub")?;
            anyhow::bail!("a part of the hub has ended by itself");
        }
    }
    reporter
        .set_service_status(serve::SERVICE, tonic_health::ServingStatus::NotServing)
        .await;
    let leave = async {
        shutdown::drain(&tenants, &stop_sessions).await;
        stop_server.cancel();
        let _ = server.await;
    };
    if tokio::time::timeout(shutdown::HARD_STOP, leave)
        .await
        .is_err()
    {
        warn!("some connections did not end in time and are left behind");
    }
    stop.cancel();
    info!("berth-hub has ended");
    Ok(())
}

/// Every agent's connection is an open file, and what a process may have without asking is often 1,024.
fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard));
    match raised {
        Ok(limit) => info!(limit, "open files: one for each agent, and a few"),
        Err(error) => warn!(%error, "the limit of open files stays as it is"),
    }
}

async fn client(settings: &HubSettings) -> anyhow::Result<Client> {
    let cluster = KubeArgs {
        kubeconfig: settings.kubeconfig.clone(),
    };
    Ok(cluster.client().await?)
}

/// Where the authority is kept, if the settings name one.
fn place(settings: &HubSettings, client: &Client) -> Option<Place> {
    match (&settings.ca.secret, &settings.ca.dir) {
        (Some(secret), _) => Some(Place::Secret(client.clone(), secret.clone())),
        (None, Some(dir)) => Some(Place::Directory(dir.clone())),
        (None, None) => None,
    }
}

/// The authority. In a Secret it is made where there is none; of two hubs that do so at once,
/// one is the first, and the other takes that one's.
async fn issuing(place: &Place, settings: &HubSettings) -> anyhow::Result<Arc<Issuing>> {
    let domain = &settings.trust_domain;
    let authority = match place.authority(Some(domain)).await {
        Err(CaError::NotFound { .. }) if settings.ca.secret.is_some() => {
            let lifetime = DEFAULT_AUTHORITY_LIFETIME;
            let made = Authority::create(domain.clone(), lifetime, SystemTime::now())?;
            match place.keep_authority(&made).await {
                Ok(()) => {
                    info!("made a certificate authority in {place}: keep a copy of it safe");
                    made
                }
                Err(CaError::AlreadyExists { .. }) => place.authority(Some(domain)).await?,
                Err(error) => return Err(error.into()),
            }
        }
        other => other?,
    };
    Ok(Arc::new(Issuing::new(authority, settings.ca.lifetime)))
}

fn serving(settings: &HubSettings, issuing: Option<Arc<Issuing>>) -> anyhow::Result<Serving> {
    let now = SystemTime::now();
    Ok(match issuing {
        Some(issuing) if !settings.ca.server_names.is_empty() => {
            Serving::issued(issuing, settings.ca.server_names.clone(), now)?
        }
        _ => {
            let files = TlsFiles {
                cert: settings.tls.cert.clone(),
                key: settings.tls.key.clone(),
                ca: settings.tls.client_ca.clone(),
            };
            Serving::from_files(files, now)?
        }
    })
}

/// Above every number of an earlier process: the seconds since 1970 leave room for a million sessions each.
fn first_session(now: SystemTime) -> u64 {
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    seconds << 20
}

/// Keeps the admissions, and who is probed, in step with the `Tenant` objects; and has all that a tenant wants planned again when
/// its policy has changed, also what was refused and of which nothing is there. A change costs what that one tenant costs: on
/// a fleet's first connection every Tenant's status is written, and each of these is a change.
async fn admit(
    directory: Arc<Directory>,
    former: Arc<Former>,
    tenants: Arc<Tenants>,
    health: Arc<Health>,
    stop: CancellationToken,
) {
    tokio::join!(directory.synced(), former.synced());
    let mut policies = health::ground::Policies::default();
    let mut mark = u64::MAX;
    let mut noted = Box::pin(former.changed());
    loop {
        let changed = directory.changed();
        match directory.changes(&mut mark) {
            Changes::Many => {
                policies.take(&directory, &health);
                tenants.admit(admissions(&directory, &former));
                directory.all().keys().for_each(|name| tenants.replan(name));
            }
            Changes::Of(names) => {
                for (name, replan) in names {
                    let facts = directory.get(&name);
                    policies.take_one(&name, facts.as_deref(), &health);
                    let admission = facts
                        .as_deref()
                        .map(|facts| admission(&name, facts, &former));
                    tenants.admit_one(&name, admission);
                    if replan {
                        tenants.replan(&name);
                    }
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed => {}
            () = &mut noted => {
                noted = Box::pin(former.changed());
                tenants.admit(admissions(&directory, &former));
            }
        }
    }
}

fn admission(name: &TenantName, facts: &observe::TenantFacts, former: &Former) -> Admission {
    let own = facts.admission();
    match former.of(name) {
        None => own,
        former_until => Admission {
            revoked: Arc::new(Revocations {
                former_until,
                ..(*own.revoked).clone()
            }),
            ..own
        },
    }
}

fn admissions(
    directory: &Directory,
    former: &Former,
) -> std::collections::BTreeMap<TenantName, Admission> {
    let each = |(name, facts): (&TenantName, &Arc<observe::TenantFacts>)| {
        (name.clone(), admission(name, facts, former))
    };
    directory.all().iter().map(each).collect()
}

/// What sessions touch becomes work.
struct Planning {
    work: Arc<Work>,
    cache: Arc<Cache>,
    health: Arc<Health>,
}

impl Marks for Planning {
    fn service(&self, tenant: &TenantName, key: &ServiceKey) {
        self.work.add(&Id::new(tenant.clone(), key.clone()));
        self.health.touch(tenant);
    }

    fn observed(&self, tenant: &TenantName) {
        for key in self.cache.keys_of(tenant) {
            self.work.add(&Id::new(tenant.clone(), key));
        }
    }

    fn keys(&self, tenant: &TenantName) -> Vec<ServiceKey> {
        self.cache.serving_keys_of(tenant)
    }
}

/// What the executor asks of the tenants and tells them.
struct Wishes {
    tenants: Arc<Tenants>,
    cache: Arc<Cache>,
    directory: Arc<Directory>,
    departures: Arc<Departures>,
    metrics: WriteMetrics,
    health: Arc<Health>,
}

impl Desires for Wishes {
    fn want(&self, tenant: &TenantName, key: &ServiceKey) -> Want {
        match self.directory.get(tenant) {
            None => return Want::NoTenant,
            Some(facts) if facts.deleting && self.departures.goes(tenant) => {
                return Want::TenantDeleted;
            }
            // Until that is decided, everything stays as it is.
            Some(facts) if facts.deleting => return Want::Unknown,
            // What is held is what the former one of that name wanted.
            Some(facts) if !self.tenants.is_admitted(tenant, &facts.uid) => return Want::Unknown,
            Some(_) => {}
        }
        let (wanted, nodes) = self.tenants.wanted(tenant, key);
        match wanted {
            Wanted::Present(generation, service) => Want::Present {
                generation,
                service,
                nodes,
            },
            Wanted::Unreadable {
                generation,
                refusal,
                last,
            } => Want::Unreadable {
                generation,
                refusal,
                last,
                nodes,
            },
            Wanted::Deleted(_) => Want::Deleted,
            // An address that is kept is not missed: it waits for no grace, and no brake holds it.
            Wanted::Absent if self.cache.rests(&Id::new(tenant.clone(), key.clone())) => {
                Want::Deleted
            }
            Wanted::Absent => {
                let Some(since) = self.tenants.miss(tenant, key, Instant::now()) else {
                    // It came back in this moment, and is work again.
                    return Want::Unknown;
                };
                Want::Absent {
                    since,
                    held: self.tenants.holds(tenant, key),
                }
            }
            Wanted::Unknown => Want::Unknown,
        }
    }

    fn health(&self, tenant: &TenantName) -> Option<Arc<Verdicts>> {
        health::ground::verdicts(&self.health, &self.directory, tenant)
    }

    fn answer(&self, tenant: &TenantName, key: &ServiceKey, answer: Answer) {
        let refused = match &answer.outcome {
            Outcome::Refused { field, why } => Some((field.clone(), why.clone())),
            _ => None,
        };
        // Each plan says it again; it is told once.
        if self.tenants.answer(tenant, key, answer)
            && let Some((field, why)) = refused
        {
            self.metrics.refused(&why.reason);
            let detail = format!("{key}: {field}: {}", why.message);
            audit::service(tenant, &why.reason, &detail);
        }
    }

    fn gone(&self, tenant: &TenantName, key: &ServiceKey) {
        self.tenants.gone(tenant, key);
    }

    fn replan(&self, tenant: &TenantName) {
        self.tenants.replan(tenant);
        // What was to be knocked at is to be knocked at no more, or again.
        self.health.touch(tenant);
    }
}
