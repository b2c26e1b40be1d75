//! One tenant of a simulated fleet: the real state machine of the session, wanting Services that no cluster has. Everything
//! about it follows from its number, so that a fleet that was stopped and started again is the same tenants in the same
//! clusters.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use berth_common::{
    identity::{NameError, TenantName},
    model::{
        Body, IpFamily, Key, Node, NodeName, Port, Protocol, Service, ServiceKey, TrafficPolicy,
    },
    session::{
        ProtocolError,
        agent::{AgentInfo, AgentSession, Event, Source},
    },
};
use berth_wire::v1;
use tokio::sync::{Notify, watch};

use super::figures::Figures;
use crate::link::Party;

/// The first of the node ports; a changed Service has one of the next thousand.
const NODE_PORT: usize = 30_000;
const NODE_PORTS: usize = 1_000;

/// The name of a tenant: `sim-00001`.
pub fn name(number: usize) -> Result<TenantName, NameError> {
    TenantName::parse(&format!("sim-{number:05}"))
}

/// What the tenants of a fleet are like.
#[derive(Clone, Debug, Default)]
pub(super) struct Nature {
    pub(super) services: usize,
    pub(super) request_ip: Option<IpAddr>,
    /// Each message but the last is followed by a change.
    pub(super) restless: bool,
}

/// The tenant.
pub(super) struct Tenant {
    nature: Nature,
    mind: Mutex<Mind>,
    outbound: Notify,
    figures: Arc<Figures>,
    /// Of all tenants alike: there is no cluster to be read.
    read: watch::Sender<bool>,
}

struct Mind {
    session: AgentSession,
    changes: usize,
    up: bool,
    synced: bool,
}

impl Tenant {
    pub(super) fn new(number: usize, nature: Nature, figures: Arc<Figures>) -> Self {
        let mut session = AgentSession::new(AgentInfo {
            version: concat!(env!("CARGO_PKG_VERSION"), "+simulated").to_owned(),
            instance_id: format!("{:016x}", fastrand::u64(..)),
        });
        session.upsert(Key::Node(NodeName("node-1".to_owned())), node(number));
        for index in 0..nature.services {
            session.upsert(key(index), service(index, 0, nature.request_ip));
        }
        // No session is open yet for which this could be another cluster.
        let _ = session.set_source(Source::Synced {
            cluster_uid: format!("simulated-cluster-{number:05}"),
        });
        Self {
            nature,
            mind: Mutex::new(Mind {
                session,
                changes: 0,
                up: false,
                synced: false,
            }),
            outbound: Notify::new(),
            figures,
            read: watch::Sender::new(true),
        }
    }

    /// Changes one Service: the next in turn gets another node port.
    pub(super) fn change(&self) {
        self.alter(&mut self.lock());
        self.outbound.notify_one();
    }

    fn alter(&self, mind: &mut Mind) {
        let index = mind.changes % self.nature.services.max(1);
        mind.changes += 1;
        let version = mind.changes.div_ceil(self.nature.services.max(1));
        let body = service(index, version, self.nature.request_ip);
        if index < self.nature.services && mind.session.upsert(key(index), body) {
            self.figures.changed();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Mind> {
        self.mind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Party for Tenant {
    fn source_synced(&self) -> watch::Receiver<bool> {
        self.read.subscribe()
    }

    fn connected(&self, now: Instant) {
        self.lock().session.connected(now);
    }

    fn disconnected(&self) {
        let mut mind = self.lock();
        mind.session.disconnected();
        let up = std::mem::take(&mut mind.up);
        let synced = std::mem::take(&mut mind.synced);
        self.figures.lost(up, synced, Instant::now());
    }

    fn received(&self, message: v1::HubMessage, now: Instant) -> Result<Vec<Event>, ProtocolError> {
        let mut mind = self.lock();
        let mut news = mind.session.received(message, now)?;
        for event in &news {
            match event {
                Event::Welcomed {
                    reconnect_spread, ..
                } => {
                    mind.up = true;
                    self.figures.welcomed(*reconnect_spread);
                }
                Event::Synced => {
                    if !std::mem::replace(&mut mind.synced, true) {
                        self.figures.synced(now);
                    }
                }
                Event::Answer(_, answer) => self.figures.answered(&answer.outcome),
                Event::Waiting { .. }
                | Event::Drain { .. }
                | Event::Reissue { .. }
                | Event::Ignored(_) => {}
            }
        }
        drop(mind);
        news.retain(|event| !matches!(event, Event::Answer(..)));
        self.outbound.notify_one();
        Ok(news)
    }

    fn next_message(
        &self,
        now: Instant,
    ) -> Result<Result<v1::AgentMessage, Option<Instant>>, ProtocolError> {
        let mut mind = self.lock();
        mind.session.check(now)?;
        let mut message = mind.session.next_message(now);
        if message.is_none() && self.nature.restless && mind.synced {
            self.alter(&mut mind);
            message = mind.session.next_message(now);
        }
        match message {
            Some(message) => {
                self.figures.sent(&message);
                Ok(Ok(message))
            }
            None => Ok(Err(mind.session.deadline())),
        }
    }

    fn outbound(&self) -> impl Future<Output = ()> + Send {
        self.outbound.notified()
    }

    fn redial(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    fn tenant_unknown(&self) {}
}

fn key(index: usize) -> Key {
    Key::Service(ServiceKey::new("default", format!("app-{index:05}")))
}

fn service(index: usize, version: usize, request_ip: Option<IpAddr>) -> Body {
    let node_port = NODE_PORT + (index + version) % NODE_PORTS;
    Body::Service(Service {
        uid: format!("simulated-service-{index:05}"),
        ports: vec![Port {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: u16::try_from(node_port).ok(),
            app_protocol: None,
        }],
        families: vec![IpFamily::V4],
        require_dual_stack: false,
        affinity_seconds: None,
        source_ranges: BTreeSet::new(),
        traffic_policy: TrafficPolicy::Cluster,
        local_nodes: BTreeSet::new(),
        health_check_node_port: None,
        requested_ips: request_ip.into_iter().collect(),
        annotations: BTreeMap::new(),
    })
}

/// An address of its own for each, out of 10.128.0.0/9.
fn node(number: usize) -> Body {
    let [.., a, b, c] = number.to_be_bytes();
    Body::Node(Node {
        addresses: BTreeSet::from([Ipv4Addr::new(10, 128 | a, b, c).into()]),
    })
}
