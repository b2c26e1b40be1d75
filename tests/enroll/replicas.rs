//! What an operator says of a tenant once counts at every replica of the hub: streams are cut at each, and whoever comes with a
//! certificate that is good no more is refused at each, also by one that has started since.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use berth_agent::dial::Dialer;
use berth_common::{
    identity::CertificateFacts,
    session::{digest::Digests, snapshot::Tally},
    settings::{Inputs, resolve},
    tls::{ClientTls, TlsFiles, TlsSource},
};
use berth_lab::{Seen, eventually};
use berth_wire::v1::{
    self, agent_message::Body as Say, agent_service_client::AgentServiceClient,
    hub_message::Body as Hear,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::{
    SOON,
    agent::tenant,
    ground::{Ground, Hub, der},
};

/// In which every live stream is cut, from the end of the command.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A certificate of a tenant, in files.
struct Certificate {
    tls: Arc<ClientTls>,
    serial: String,
}

impl Certificate {
    fn issue(ground: &Ground, tenant: &str, name: &str) -> Result<Self> {
        let directory = ground.lab.directory().join(format!("{tenant}-{name}"));
        let out = directory.display().to_string();
        let issue = ["cert", "issue", "--tenant", tenant, "--out", &out];
        let mut arguments = Vec::from(issue);
        arguments.extend(["--ca-secret", "berth-system/berth-ca"]);
        ground.operated(&arguments)?;
        let path = |file: &str| -> PathBuf { directory.join(file) };
        let files = TlsFiles {
            cert: path("tls.crt"),
            key: path("tls.key"),
            ca: path("ca.crt"),
        };
        let pem = std::fs::read_to_string(&files.cert)?;
        let facts = CertificateFacts::from_der(&der(&pem)?)?;
        Ok(Self {
            tls: TlsSource::client(files, SystemTime::now())?,
            serial: facts.serial.to_string(),
        })
    }
}

/// A session, welcomed.
struct Session {
    sender: mpsc::Sender<v1::AgentMessage>,
    messages: Streaming<v1::HubMessage>,
}

impl Session {
    /// Opens one, or says how it was refused.
    async fn open(
        hub: &Hub,
        certificate: &Certificate,
        tenant: &str,
    ) -> Result<Result<Self, Status>> {
        let address = hub.sessions.to_string();
        let inputs = Inputs {
            flags: [("hub.address", address)].into(),
            ..Inputs::default()
        };
        let settings: berth_agent::settings::AgentSettings = resolve(&inputs)?.parse()?;
        let dialer = Dialer::new(&settings.hub, certificate.tls.clone())?;
        let connection = dialer.dial().await?;
        let (sender, receiver) = mpsc::channel(8);
        let mut client = AgentServiceClient::new(connection.channel);
        let messages = match client.sync(ReceiverStream::new(receiver)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        let mut session = Self { sender, messages };
        session
            .say(Say::Hello(v1::Hello {
                protocol_min: 1,
                protocol_max: 1,
                agent_version: "0.1.0".into(),
                instance_id: "replicas".into(),
                cluster_uid: format!("cluster-of-{tenant}"),
                digests: vec![1; Digests::default().to_bytes().len()].into(),
                ..v1::Hello::default()
            }))
            .await;
        Ok(match session.next().await? {
            Ok(Some(Hear::Welcome(_))) => Ok(session),
            Ok(other) => return Err(anyhow!("no Welcome, but {other:?}")),
            Err(status) => Err(status),
        })
    }

    /// A peer that has gone is noticed where its status is awaited.
    async fn say(&self, body: Say) {
        let message = v1::AgentMessage { body: Some(body) };
        let _ = self.sender.send(message).await;
    }

    async fn next(&mut self) -> Result<Result<Option<Hear>, Status>> {
        let message = timeout(SOON, self.messages.message()).await;
        let message = message.context("the stream goes on, and nobody says anything")?;
        Ok(message.map(|it| it.and_then(|it| it.body)))
    }

    /// The status that ends the stream, whatever comes before it.
    async fn ended(mut self) -> Result<Status> {
        loop {
            match self.next().await? {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(Status::new(Code::Ok, "the stream ended")),
                Err(status) => return Ok(status),
            }
        }
    }

    /// The hub listens: it takes a snapshot of nothing in, and says so.
    async fn works(&mut self) -> Result<()> {
        let id = 1;
        self.say(Say::SnapshotBegin(v1::SnapshotBegin {
            id,
            ..v1::SnapshotBegin::default()
        }))
        .await;
        self.say(Say::SnapshotEnd(Tally::default().end(id))).await;
        loop {
            match self.next().await?? {
                Some(Hear::Heartbeat(_)) => return Ok(()),
                Some(_) => {}
                None => return Err(anyhow!("the stream has ended")),
            }
        }
    }
}

/// Waits until a hub that has not heard of the Tenant yet lets it in.
async fn let_in(hub: &Hub, certificate: &Certificate, tenant: &str) -> Result<Session> {
    let session = eventually(SOON, &format!("{tenant} is let in"), || async {
        let opened = Session::open(hub, certificate, tenant).await;
        let opened = opened.map_err(|error| Seen(format!("{error:#}")))?;
        opened.map_err(|status| Seen(status.to_string()))
    })
    .await?;
    Ok(session)
}

/// What is done about a tenant, and what its agents hear then.
struct Measure {
    tenant: &'static str,
    command: &'static str,
    /// It is about one certificate, and the tenant's other one is as good as before.
    by_serial: bool,
    code: Code,
    words: &'static str,
    /// In the metric of refused sessions.
    reason: &'static str,
    undone: Option<&'static str>,
}

const MEASURES: [Measure; 3] = [
    Measure {
        tenant: "replica-suspended",
        command: "suspend",
        by_serial: false,
        code: Code::PermissionDenied,
        words: "is suspended",
        reason: "suspended",
        undone: Some("resume"),
    },
    Measure {
        tenant: "replica-stolen",
        command: "revoke",
        by_serial: true,
        code: Code::Unauthenticated,
        words: "revoked by its serial number",
        reason: "revoked",
        undone: None,
    },
    Measure {
        tenant: "replica-revoked",
        command: "revoke",
        by_serial: false,
        code: Code::Unauthenticated,
        words: "all that are valid from before",
        reason: "revoked",
        undone: None,
    },
];

#[tokio::test]
async fn hostile_09_one_command_cuts_and_refuses_a_tenant_at_every_replica() -> Result<()> {
    let ground = Ground::get().await?;
    let one = Hub::start(ground, "replica-one", &[]).await?;
    let two = Hub::start(ground, "replica-two", &[]).await?;
    let mut hubs = [one, two];
    let neighbour = "replica-neighbour";
    tenant(ground, neighbour).await?;
    let good = Certificate::issue(ground, neighbour, "good")?;
    let mut neighbours = Vec::new();
    for hub in &hubs {
        neighbours.push(let_in(hub, &good, neighbour).await?);
    }
    for measure in &MEASURES {
        take(ground, &mut hubs, measure)
            .await
            .with_context(|| format!("{} of {}", measure.command, measure.tenant))?;
        // The second has been restarted.
        neighbours[0]
            .works()
            .await
            .context("the neighbour's session")?;
        neighbours[1] = let_in(&hubs[1], &good, neighbour).await?;
    }
    Ok(())
}

async fn take(ground: &Ground, hubs: &mut [Hub; 2], measure: &Measure) -> Result<()> {
    let name = measure.tenant;
    tenant(ground, name).await?;
    let bad = Certificate::issue(ground, name, "bad")?;
    let other = Certificate::issue(ground, name, "other")?;
    let [one, two] = hubs;
    let mut sessions = [
        let_in(one, &bad, name).await?,
        let_in(two, &bad, name).await?,
    ];
    for session in &mut sessions {
        session.works().await?;
    }
    let [first, second] = sessions;

    let mut command = vec!["tenant", measure.command, name];
    if measure.by_serial {
        command.extend(["--serial", &bad.serial]);
    }
    let said = ground.operated(&command)?;
    let told = Instant::now();
    let (first, second) = tokio::try_join!(first.ended(), second.ended())?;
    let took = told.elapsed();
    ensure!(took < AT_ONCE, "cut after {took:?}: {said}");
    println!(
        "{} of {name}: cut at both within {took:.0?}",
        measure.command
    );
    for status in [first, second] {
        is_refusal(measure, &status)?;
    }

    // From then on, at both, and at one that starts later.
    for round in ["at once", "after a restart"] {
        for hub in &*hubs {
            let label = format!("reason=\"{}\"", measure.reason);
            let metric = "berth_sessions_refused_total";
            let before = hub.counted(metric, &label).await?;
            let refused = Session::open(hub, &bad, name).await?.err();
            let refused = refused.with_context(|| format!("it is let in {round}"))?;
            is_refusal(measure, &refused).context(round)?;
            ensure!(
                hub.counted(metric, &label).await? > before,
                "not counted {round}"
            );
            match Session::open(hub, &other, name).await? {
                Ok(_) => ensure!(measure.by_serial, "its other certificate is let in {round}"),
                Err(status) => {
                    ensure!(!measure.by_serial, "its other certificate: {status}");
                    is_refusal(measure, &status)?;
                }
            }
        }
        if round == "at once" {
            hubs[1].restart().await?;
        }
    }
    if let Some(undone) = measure.undone {
        ground.operated(&["tenant", undone, name])?;
        for hub in &*hubs {
            let_in(hub, &bad, name).await?.works().await?;
        }
    }
    Ok(())
}

fn is_refusal(measure: &Measure, status: &Status) -> Result<()> {
    let is_it = status.code() == measure.code && status.message().contains(measure.words);
    ensure!(is_it, "{status}");
    Ok(())
}
