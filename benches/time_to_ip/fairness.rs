//! What one tenant costs the others while it does what it should not: changes its Services 10,000 times a second, or breaks the
//! stream's rules as often as it can. One at a time, another tenant's new Services are timed without either and beside each, in
//! turns, so that all find the same number of Services and the same machine. Knows the target; must not know how anything is set up.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use berth_lab::Hub;
use berth_wire::v1;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, ListParams, PostParams};
use nix::unistd::gettid;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    net::TcpStream,
    process::Command,
    sync::oneshot,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_rustls::TlsConnector;

use berth_agent::simulate::Look;
use berth_hub::api::{HealthCheck, HealthMode, LoadBalancer, Tenant, TenantSpec};

use crate::attacker::{
    certificates::Forger,
    frames::SYNC,
    messages,
    session::{Calls, Session},
    tls,
};
use crate::fleet::Fleet;
use crate::ground::Ground;
use crate::numbers::Spread;
use crate::phases::names;
use crate::report::Report;
use crate::rest::{FULL, rest};
use crate::steps;
use crate::writes::Marks;

/// How much longer the slowest in a hundred may wait beside a tenant that misbehaves.
const LONGER: f64 = 1.1;
/// Between two Services.
const PACE: Duration = Duration::from_millis(250);
/// How many Services the one that changes them has, and how often it changes one in a second.
const SERVICES: usize = 100;
const FLEET: [&str; 4] = ["--tenants", "1", "--services", "100"];
const CHANGES: &str = "10000";
/// The first name of a simulated fleet.
const RESTLESS: &str = "sim-00001";
/// Who breaks the rules.
const MALLORY: &str = "mallory";
/// So many Services may be made until each of those has been changed once.
const BEGINNING: usize = 100;
/// How long the misbehaviour may take to begin.
const BEGINS: Duration = Duration::from_secs(120);
/// Between two attempts of one whom the hub does not let in.
const AGAIN: Duration = Duration::from_millis(1);
/// Bytes that are no message.
const GARBAGE: usize = 1_024;
/// How many broken messages there are in a session before one that ends it.
const REFUSED: u64 = 100;

/// How much goes on.
pub(crate) struct Fairness {
    /// How often each way has its turn.
    pub(crate) rounds: usize,
    /// How many Services are timed in each turn.
    pub(crate) each: usize,
}

/// What goes on beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    Changes,
    Garbage,
}

impl Beside {
    const ALL: [Self; 3] = [Self::Nothing, Self::Changes, Self::Garbage];

    fn text(self) -> &'static str {
        match self {
            Self::Nothing => "alone",
            Self::Changes => "beside changes",
            Self::Garbage => "beside garbage",
        }
    }
}

impl Fairness {
    /// Measures all ways, through Berth.
    pub(crate) async fn measure(&self, ground: &Ground, report: &mut Report) -> Result<()> {
        let Some(berth) = &ground.berth else {
            return Ok(());
        };
        println!(
            "\n{} one at a time, alone and beside tenants that misbehave",
            self.rounds * self.each
        );
        for tenant in [RESTLESS, MALLORY] {
            admit(ground, tenant).await?;
        }
        berth.side.one("warm-fair").await?;
        settle(ground).await?;
        let mut times: [Vec<Duration>; 3] = Default::default();
        let mut timed: [Vec<String>; 3] = Default::default();
        let mut beginning = Vec::new();
        for round in 0..self.rounds {
            for turn in 0..Beside::ALL.len() {
                // Whoever goes first finds fewer Services.
                let at = (round + turn) % Beside::ALL.len();
                let beside = Beside::ALL[at];
                rest(&ground.clusters(), FULL).await?;
                let misbehaviour = Misbehaviour::begin(ground, beside).await?;
                let mut ticks = interval(PACE);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                // The first change of each Service is one as anybody's; what is looked at is how that goes on.
                for name in names(&format!("begin-{round}-{at}"), BEGINNING) {
                    ticks.tick().await;
                    let time = berth.side.one(&name).await?;
                    if beside == Beside::Changes {
                        beginning.push(time);
                    }
                    if misbehaviour.is_in_course(ground).await? {
                        break;
                    }
                }
                ensure!(
                    misbehaviour.is_in_course(ground).await?,
                    "the changes do not get through"
                );
                let (marks, began) = (Marks::now(ground).await?, Instant::now());
                for name in names(&format!("fair-{round}-{at}"), self.each) {
                    ticks.tick().await;
                    times[at].push(berth.side.one(&name).await?);
                    timed[at].push(name);
                }
                let seconds = began.elapsed().as_secs().max(1);
                if let Some(did) = misbehaviour.end().await? {
                    println!("  {}: {did}", beside.text());
                }
                let (management, _) = marks.until_now(ground, seconds as usize).await?;
                println!("  {}, writes a second: {management}", beside.text());
            }
        }
        let [alone, changes, garbage] = times.map(Spread::new);
        for (beside, spread) in Beside::ALL.into_iter().zip([&alone, &changes, &garbage]) {
            println!("  {:<15} {spread}", beside.text());
        }
        println!("  {:<15} {}", "their beginning", Spread::new(beginning));
        for (beside, names) in Beside::ALL.into_iter().zip(&timed) {
            println!("  {:<15} {}", beside.text(), steps::of(berth, names));
            if let Some(slowest) = steps::of_slowest(berth, names) {
                println!("  {:<15} {slowest}", "");
            }
        }
        for (beside, spread) in [(Beside::Changes, &changes), (Beside::Garbage, &garbage)] {
            let row = |what: &str| format!("{}, {what}", beside.text());
            report.ratio(&row("p50"), alone.p50(), spread.p50(), None);
            report.ratio(&row("p99"), alone.p99(), spread.p99(), Some(LONGER));
        }
        Ok(())
    }
}

/// Admits a tenant whose nodes are made up: nobody is to be asked at their addresses.
async fn admit(ground: &Ground, name: &str) -> Result<()> {
    let api: Api<Tenant> = Api::all(ground.lab.management().client().await?);
    let spec = TenantSpec {
        health_check: Some(HealthCheck {
            mode: HealthMode::None,
            ..HealthCheck::default()
        }),
        ..TenantSpec::default()
    };
    api.create(&PostParams::default(), &Tenant::new(name, spec))
        .await?;
    Ok(())
}

/// Lets a thread have of the processors what nobody else wants: who misbehaves does so on a machine of its own.
async fn behind(id: i32) -> Result<()> {
    let mut renice = Command::new("renice");
    let renice = renice.args(["-n", "19", "-p", &id.to_string()]);
    let output = renice.output().await.context("renice")?;
    ensure!(output.status.success(), "renice: {output:?}");
    Ok(())
}

/// Has the Services of the one who will change them served. New ones are MetalLB's work, as anybody's are, and not what is looked at.
async fn settle(ground: &Ground) -> Result<()> {
    let fleet = Fleet::start(ground.lab.hub(), &FLEET).await?;
    let client = ground.lab.management().client().await?;
    let services: Api<Service> = Api::namespaced(client, &format!("berth-{RESTLESS}"));
    let deadline = Instant::now() + BEGINS;
    loop {
        let found = services.list(&ListParams::default()).await?.items;
        let is_served = |service: &&Service| -> Option<()> {
            let status = service.status.as_ref()?.load_balancer.as_ref()?;
            status
                .ingress
                .as_ref()
                .filter(|them| !them.is_empty())
                .map(drop)
        };
        if found.iter().filter(|it| is_served(it).is_some()).count() == SERVICES {
            return fleet.stop().await;
        }
        ensure!(Instant::now() < deadline, "{RESTLESS} is not served");
        sleep(PACE).await;
    }
}

/// How often each load balancer of the one who changes them was written.
async fn generations(ground: &Ground) -> Result<BTreeMap<String, i64>> {
    let client = ground.lab.management().client().await?;
    let records: Api<LoadBalancer> = Api::namespaced(client, &format!("berth-{RESTLESS}"));
    let found = records.list(&ListParams::default()).await?.items;
    let each = found.into_iter().filter_map(|record| {
        let meta = record.metadata;
        Some((meta.name?, meta.generation?))
    });
    Ok(each.collect())
}

/// What goes on until it is ended.
enum Misbehaviour {
    None,
    Fleet {
        fleet: Fleet,
        began: Instant,
        changes: u64,
        /// Of each load balancer, before.
        generations: BTreeMap<String, i64>,
    },
    Garbage(Garbage),
}

impl Misbehaviour {
    /// Begins, and returns when it is in full course.
    async fn begin(ground: &Ground, beside: Beside) -> Result<Self> {
        let hub = ground.lab.hub();
        Ok(match beside {
            Beside::Nothing => Self::None,
            Beside::Changes => {
                let generations = generations(ground).await?;
                let fleet =
                    Fleet::start(hub, &[&FLEET[..], &["--churn", CHANGES]].concat()).await?;
                let synced = |look: &Look| look.synced == 1;
                let look = fleet.until("the hub holds everything", BEGINS, synced);
                let look = look.await?;
                Self::Fleet {
                    fleet,
                    began: Instant::now(),
                    changes: look.changes,
                    generations,
                }
            }
            Beside::Garbage => Self::Garbage(Garbage::begin(hub).await?),
        })
    }

    /// Whether every Service has been changed once. What was told before that is not held back.
    async fn is_in_course(&self, ground: &Ground) -> Result<bool> {
        let Self::Fleet {
            generations: before,
            ..
        } = self
        else {
            return Ok(true);
        };
        let now = generations(ground).await?;
        Ok(now
            .iter()
            .all(|(name, generation)| before.get(name).is_some_and(|it| it < generation)))
    }

    /// Ends it, and says how much of it there was.
    async fn end(self) -> Result<Option<String>> {
        match self {
            Self::None => Ok(None),
            Self::Fleet {
                fleet,
                began,
                changes,
                ..
            } => {
                let look = fleet.look().await?.context("the fleet said nothing")?;
                let seconds = began.elapsed().as_secs_f64();
                fleet.stop().await?;
                let changes = look.changes.saturating_sub(changes) as f64 / seconds;
                let deltas = look.deltas;
                Ok(Some(format!(
                    "{changes:.0} changes a second, {deltas} deltas in all"
                )))
            }
            Self::Garbage(garbage) => Ok(Some(garbage.end())),
        }
    }
}

/// A tenant that keeps to no rule.
struct Garbage {
    /// Dropped, it ends.
    _over: oneshot::Sender<()>,
    counts: Arc<Counts>,
    began: Instant,
}

#[derive(Default)]
struct Counts {
    sessions: AtomicU64,
    turned_away: AtomicU64,
    messages: AtomicU64,
}

impl Garbage {
    async fn begin(hub: &Hub) -> Result<Self> {
        let credential = Forger::stolen(&hub.ca_directory()).tenant(MALLORY);
        let config = Arc::new(tls::config(&hub.ca(), &credential));
        let (name, address) = (hub.address().ip(), hub.forwarded(hub.address()).await?);
        let counts = Arc::new(Counts::default());
        let mine = counts.clone();
        let misbehave = async move {
            loop {
                if session(&config, name, address, &mine).await.is_none() {
                    mine.turned_away.fetch_add(1, Ordering::Relaxed);
                    sleep(AGAIN).await;
                }
            }
        };
        let (over, end) = oneshot::channel();
        let (running, runs) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::spawn(move || {
            let _ = running.send(gettid().as_raw());
            runtime.block_on(async {
                tokio::select! {
                    () = misbehave => {}
                    _ = end => {}
                }
            });
        });
        behind(runs.await?).await?;
        let began = Instant::now();
        Ok(Self {
            _over: over,
            counts,
            began,
        })
    }

    fn end(self) -> String {
        let seconds = self.began.elapsed().as_secs_f64();
        let [sessions, away, messages] = [
            &self.counts.sessions,
            &self.counts.turned_away,
            &self.counts.messages,
        ]
        .map(|count| count.load(Ordering::Relaxed) as f64 / seconds);
        format!(
            "{sessions:.1} sessions a second, {away:.1} turned away, {messages:.0} broken messages a second"
        )
    }
}

/// One session: resources that cannot be read, and at last bytes that are no message. None: it was not let in.
async fn session(
    config: &Arc<ClientConfig>,
    name: IpAddr,
    address: SocketAddr,
    counts: &Counts,
) -> Option<()> {
    let stream = TcpStream::connect(address).await.ok()?;
    let name = ServerName::IpAddress(name.into());
    let connector = TlsConnector::from(config.clone());
    let connection = connector.connect(name, stream).await.ok()?;
    let mut calls = Calls::over(connection).await.ok()?;
    let mut session: Session = calls.call(SYNC, &[]).await.ok()?;
    session.welcomed(MALLORY).await.ok()?;
    session.told(1, &[]).await.ok()?;
    counts.sessions.fetch_add(1, Ordering::Relaxed);
    for sequence in 1..=REFUSED {
        if session.is_over() {
            return Some(());
        }
        let broken = v1::Resource {
            generation: sequence,
            ..messages::service("No-Name", sequence, 0)
        };
        session.say(messages::upsert(sequence, broken)).await;
        counts.messages.fetch_add(1, Ordering::Relaxed);
    }
    session.say_bytes(&[0xff; GARBAGE]).await;
    counts.messages.fetch_add(1, Ordering::Relaxed);
    session.ended().await;
    Some(())
}
