//! Events on Services, and on the agent's own Secret, for people who look with `kubectl describe`. Nothing ever waits for them: they lie in a bounded
//! queue, the oldest is dropped when it is full, and one that the API server does not take is lost and counted.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use berth_common::model::ServiceKey;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::{sync::Notify, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{metrics::AgentMetrics, project::FIELD_MANAGER, status::Notice};

/// Events that wait at most: a burst of a thousand new Services with two each.
const CAPACITY: usize = 2_048;
/// Requests at once.
const CONCURRENCY: usize = 4;
/// A request that takes longer is given up.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The API's limit to a note, in bytes.
const MAX_NOTE: usize = 1_024;

/// The queue of events.
#[derive(Debug)]
pub struct Events {
    queue: Mutex<VecDeque<Pending>>,
    arrived: Notify,
    metrics: AgentMetrics,
    /// This process's name in events.
    instance: String,
}

#[derive(Debug)]
struct Pending {
    kind: &'static str,
    key: ServiceKey,
    uid: String,
    notice: Notice,
    at: Timestamp,
}

impl Events {
    /// An empty queue of the agent called `instance`.
    pub fn new(instance: String, metrics: AgentMetrics) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            arrived: Notify::new(),
            metrics,
            instance,
        })
    }

    /// Takes an event along, never waits; also says it in the log, at the level a person wants.
    pub fn push(&self, key: &ServiceKey, uid: &str, notice: Notice) {
        if notice.warning {
            warn!(service = %key, reason = notice.reason, "{}", notice.note);
        } else if notice.reason == "EnsuringLoadBalancer" {
            debug!(service = %key, reason = notice.reason, "{}", notice.note);
        } else {
            info!(service = %key, reason = notice.reason, "{}", notice.note);
        }
        self.queue("Service", key, uid, notice);
    }

    /// The same about a Secret, by its namespace and name; whoever calls has said it in the log.
    pub fn about_secret(&self, key: &ServiceKey, uid: &str, notice: Notice) {
        self.queue("Secret", key, uid, notice);
    }

    fn queue(&self, kind: &'static str, key: &ServiceKey, uid: &str, notice: Notice) {
        let pending = Pending {
            kind,
            key: key.clone(),
            uid: uid.to_owned(),
            notice,
            at: Timestamp::now(),
        };
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() == CAPACITY {
            queue.pop_front();
            self.metrics.event("dropped");
        }
        queue.push_back(pending);
        self.arrived.notify_one();
    }

    /// Sends what comes, until `stop` is cancelled; then what is left, while the caller waits.
    pub async fn run(self: Arc<Self>, client: Client, stop: CancellationToken) {
        let mut requests = JoinSet::new();
        loop {
            while requests.len() < CONCURRENCY
                && let Some(pending) = self.pop()
            {
                let client = client.clone();
                let events = Arc::clone(&self);
                requests.spawn(async move { events.send(client, pending).await });
            }
            tokio::select! {
                Some(_) = requests.join_next() => {}
                () = self.arrived.notified() => {}
                () = stop.cancelled(), if requests.is_empty() => return,
            }
        }
    }

    async fn send(&self, client: Client, pending: Pending) {
        let api: Api<Event> = Api::namespaced(client, &pending.key.namespace);
        let event = self.event(&pending);
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let failure = match timeout(REQUEST_TIMEOUT, api.create(&params, &event)).await {
            Ok(Ok(_)) => return self.metrics.event("sent"),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        self.metrics.event("failed");
        debug!(about = %pending.key, reason = pending.notice.reason, failure, "event lost");
    }

    fn event(&self, pending: &Pending) -> Event {
        let Pending {
            kind,
            key,
            uid,
            notice,
            at,
        } = pending;
        Event {
            metadata: ObjectMeta {
                namespace: Some(key.namespace.clone()),
                name: Some(format!("{}.{:x}", key.name, at.as_nanosecond())),
                ..ObjectMeta::default()
            },
            action: Some(notice.reason.to_owned()),
            event_time: Some(MicroTime(*at)),
            note: Some(shorten(&notice.note)),
            reason: Some(notice.reason.to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some((*kind).to_owned()),
                namespace: Some(key.namespace.clone()),
                name: Some(key.name.clone()),
                uid: Some(uid.clone()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some("berth.dev/agent".to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if notice.warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        }
    }

    /// The words of all that wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> Vec<&'static str> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.iter().map(|pending| pending.notice.reason).collect()
    }

    fn pop(&self) -> Option<Pending> {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }
}

fn shorten(note: &str) -> String {
    let mut end = note.len().min(MAX_NOTE);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    fn events() -> Arc<Events> {
        Events::new(
            "agent-1".into(),
            AgentMetrics::new(&mut Registry::default()),
        )
    }

    #[test]
    fn the_oldest_is_dropped_and_counted_when_nobody_takes_them() {
        let events = events();
        for n in 0..CAPACITY + 3 {
            let notice = Notice::normal("EnsuringLoadBalancer", n.to_string());
            events.push(&ServiceKey::new("ns", "web"), "u", notice);
        }
        assert_eq!(events.metrics.events("dropped"), 3);
        assert_eq!(events.pop().unwrap().notice.note, "3");
    }

    #[test]
    fn point_31_an_event_names_the_service_and_keeps_the_apis_limits() {
        let events = events();
        let note = "ü".repeat(1_000);
        events.push(
            &ServiceKey::new("ns", "web"),
            "u",
            Notice::warning("SyncLoadBalancerFailed", note),
        );
        let event = events.event(&events.pop().unwrap());
        assert_eq!(event.note.unwrap().len(), 1_024);
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        assert_eq!(event.reason.as_deref(), Some("SyncLoadBalancerFailed"));
        let regarding = event.regarding.unwrap();
        assert_eq!(
            (regarding.kind.as_deref(), regarding.uid.as_deref()),
            (Some("Service"), Some("u"))
        );
    }
}
