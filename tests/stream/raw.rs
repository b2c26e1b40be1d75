//! A peer that speaks `berth.v1` by hand, with a good certificate: what no agent of ours would say, and when.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use berth_agent::dial::Dialer;
use berth_common::{
    model::{Generation, ServiceKey},
    session::{digest::Digests, snapshot::Tally},
    tls::ClientTls,
};
use berth_wire::v1::{
    self, agent_message::Body as Say, agent_service_client::AgentServiceClient,
    hub_message::Body as Hear,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::{SOON, agent::settings};

/// Longer than the hub waits for a peer that says nothing.
const PATIENCE: Duration = Duration::from_secs(40);

pub(crate) struct Raw {
    pub(crate) sender: mpsc::Sender<v1::AgentMessage>,
    messages: Streaming<v1::HubMessage>,
}

impl Raw {
    /// A stream, with nothing said yet.
    pub(crate) async fn connect(tls: Arc<ClientTls>, hub: SocketAddr) -> Self {
        let dialer = Dialer::new(&settings(hub).hub, tls).unwrap();
        let connection = dialer.dial().await.unwrap();
        let (sender, receiver) = mpsc::channel(64);
        let mut client = AgentServiceClient::new(connection.channel);
        let messages = client.sync(ReceiverStream::new(receiver)).await.unwrap();
        Self {
            sender,
            messages: messages.into_inner(),
        }
    }

    /// A session that was welcomed and has told that it has nothing.
    pub(crate) async fn synced(tls: Arc<ClientTls>, hub: SocketAddr, cluster: &str) -> Self {
        let mut raw = Self::connect(tls, hub).await;
        raw.say(hello(cluster)).await;
        let Hear::Welcome(_) = raw.hear().await else {
            panic!("no Welcome");
        };
        raw.snapshot(1, &[]).await;
        raw.until_taken_in().await;
        raw
    }

    /// A peer that has gone is noticed where its status is awaited.
    pub(crate) async fn say(&self, body: Say) {
        let _ = self
            .sender
            .send(v1::AgentMessage { body: Some(body) })
            .await;
    }

    /// A whole snapshot of all buckets.
    pub(crate) async fn snapshot(&self, id: u64, resources: &[v1::Resource]) {
        let mut tally = Tally::default();
        for resource in resources {
            tally.add(
                resource.key.as_ref().unwrap(),
                Generation(resource.generation),
            );
        }
        self.say(begin(id)).await;
        self.say(page(id, resources)).await;
        self.say(Say::SnapshotEnd(tally.end(id))).await;
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Result<Option<Hear>, Status> {
        let message = timeout(SOON, self.messages.message()).await;
        Ok(message
            .expect("a message, or the end")?
            .map(|message| message.body.unwrap()))
    }

    /// The next message that is no heartbeat.
    pub(crate) async fn hear(&mut self) -> Hear {
        loop {
            match self.next().await.unwrap().expect("the stream goes on") {
                Hear::Heartbeat(_) => {}
                body => return body,
            }
        }
    }

    /// The answers of the next message that has any.
    pub(crate) async fn answers(&mut self) -> Vec<v1::Answer> {
        match self.hear().await {
            Hear::Answers(answers) => answers.answers,
            other => panic!("no answers but {other:?}"),
        }
    }

    /// The next message, which must ask for the state anew.
    pub(crate) async fn resync_required(&mut self) -> v1::ResyncRequired {
        match self.hear().await {
            Hear::ResyncRequired(resync) => resync,
            other => panic!("no ResyncRequired but {other:?}"),
        }
    }

    /// Waits for the heartbeat that says that a snapshot was verified.
    pub(crate) async fn until_taken_in(&mut self) {
        loop {
            if let Some(Hear::Heartbeat(_)) = self.next().await.unwrap() {
                return;
            }
        }
    }

    /// The status that ends the stream, whatever comes before it.
    pub(crate) async fn ended(&mut self) -> Status {
        loop {
            let message = timeout(PATIENCE, self.messages.message()).await;
            match message.expect("the stream goes on, and nobody says anything") {
                Ok(Some(_)) => {}
                Ok(None) => return Status::new(Code::Ok, "the stream ended"),
                Err(status) => return status,
            }
        }
    }
}

/// Hello of an agent that has nothing.
pub(crate) fn hello(cluster: &str) -> Say {
    hello_of(1, 1, cluster)
}

/// Hello of another release.
pub(crate) fn hello_of(min: u32, max: u32, cluster: &str) -> Say {
    Say::Hello(v1::Hello {
        protocol_min: min,
        protocol_max: max,
        agent_version: "0.1.0".into(),
        instance_id: "raw".into(),
        cluster_uid: cluster.into(),
        // Of something else than the hub holds, so that nothing is confirmed by them.
        digests: vec![1; Digests::default().to_bytes().len()].into(),
        ..v1::Hello::default()
    })
}

pub(crate) fn begin(id: u64) -> Say {
    Say::SnapshotBegin(v1::SnapshotBegin {
        id,
        ..v1::SnapshotBegin::default()
    })
}

pub(crate) fn page(id: u64, resources: &[v1::Resource]) -> Say {
    Say::SnapshotPage(v1::SnapshotPage {
        id,
        resources: resources.to_vec(),
    })
}

/// A delta of upserts.
pub(crate) fn delta(sequence: u64, resources: impl IntoIterator<Item = v1::Resource>) -> Say {
    let changes = resources.into_iter().map(|resource| v1::Change {
        change: Some(v1::change::Change::Upsert(resource)),
    });
    Say::Delta(v1::Delta {
        sequence,
        changes: changes.collect(),
    })
}

/// A Service on the wire.
pub(crate) fn resource(key: &ServiceKey, generation: u64) -> v1::Resource {
    v1::Resource {
        key: Some(v1::Key {
            kind: v1::Kind::Service.into(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }),
        generation,
        body: Some(v1::resource::Body::Service(v1::Service {
            uid: "uid".into(),
            ports: vec![v1::Port {
                protocol: v1::Protocol::Tcp.into(),
                port: 80,
                node_port: 30_080,
                ..v1::Port::default()
            }],
            families: vec![v1::IpFamily::V4.into()],
            traffic_policy: v1::TrafficPolicy::Cluster.into(),
            ..v1::Service::default()
        })),
    }
}
