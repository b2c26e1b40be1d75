//! When each Service of a cluster was first seen, had an address, and was gone, as a watch tells it. Knows clocks and Services;
//! must not know who made them or why.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Service;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happened to one Service, and when this process learned of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moments {
    /// It exists.
    pub(crate) added: Instant,
    /// Its status has an address.
    pub(crate) addressed: Option<Instant>,
    /// It is gone: finalizers are released.
    pub(crate) gone: Option<Instant>,
}

/// The watch, and what it saw.
pub(crate) struct Sightings {
    seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    services: HashMap<String, Moments>,
    /// Why the watch ended. A watch that starts again has missed something, so its times would be worth nothing.
    failed: Option<String>,
}

/// The name under which a Service is looked for, if it is looked for at all.
type Name = fn(&Service) -> Option<String>;

impl Sightings {
    /// Watches Services of that selection from now on.
    pub(crate) fn start(api: Api<Service>, labels: &str, name: Name) -> Self {
        let (sender, seen) = watch::channel(Seen::default());
        let events = watcher(api, watcher::Config::default().labels(labels));
        let task = tokio::spawn(record(events, name, sender));
        Self { seen, task }
    }

    /// Waits until a Service has got that far, and says when it had. `None` when it has not by the deadline.
    pub(crate) async fn wait(
        &self,
        name: &str,
        deadline: Instant,
        when: fn(&Moments) -> Option<Instant>,
    ) -> Result<Option<Instant>> {
        let mut seen = self.seen.clone();
        let moment = |seen: &Seen| seen.services.get(name).and_then(when);
        let there = seen.wait_for(|seen| seen.failed.is_some() || moment(seen).is_some());
        let waited = tokio::time::timeout_at(deadline.into(), there).await;
        match waited {
            Err(_) => Ok(None),
            Ok(Err(_)) => bail!("the watch of Services ended"),
            Ok(Ok(seen)) => match &seen.failed {
                Some(why) => bail!("the watch of Services failed: {why}"),
                None => Ok(moment(&seen)),
            },
        }
    }

    /// What has happened to a Service so far.
    pub(crate) fn of(&self, name: &str) -> Option<Moments> {
        self.seen.borrow().services.get(name).copied()
    }

    /// Waits until so many Services of the selection exist, no more and no fewer; false when that is not so by the deadline.
    pub(crate) async fn count(&self, wanted: usize, deadline: Duration) -> bool {
        let mut seen = self.seen.clone();
        let alive = |seen: &Seen| {
            let alive = seen.services.values().filter(|m| m.gone.is_none());
            alive.count()
        };
        let there = seen.wait_for(|seen| alive(seen) == wanted);
        matches!(tokio::time::timeout(deadline, there).await, Ok(Ok(_)))
    }
}

impl Drop for Sightings {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn record(
    events: impl Stream<Item = watcher::Result<Event<Service>>>,
    name: Name,
    sender: watch::Sender<Seen>,
) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let now = Instant::now();
        let (service, gone) = match event {
            Ok(Event::Apply(service) | Event::InitApply(service)) => (service, false),
            Ok(Event::Delete(service)) => (service, true),
            Ok(Event::Init | Event::InitDone) => continue,
            Err(error) => {
                sender.send_modify(|seen| seen.failed = Some(error.to_string()));
                return;
            }
        };
        let Some(name) = name(&service) else { continue };
        sender.send_modify(|seen| {
            let new = Moments {
                added: now,
                addressed: None,
                gone: None,
            };
            let moments = seen.services.entry(name).or_insert(new);
            if has_address(&service) {
                moments.addressed.get_or_insert(now);
            }
            if gone {
                moments.gone.get_or_insert(now);
            }
        });
    }
}

fn has_address(service: &Service) -> bool {
    let status = service.status.as_ref();
    let ingress = status.and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    ingress.is_some_and(|ingress| ingress.iter().any(|entry| entry.ip.is_some()))
}
