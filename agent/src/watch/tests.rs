//! Scripted watches: what the library can deliver, in the orders in which it does.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use berth_common::model::ServiceKey;
use futures::stream;
use k8s_openapi::api::core::v1::Service;
use serde_json::json;

use super::*;
use crate::broker::Cache;

/// Notes what it is fed.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Notes {
    fn note(&self, text: String) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(text);
    }
}

impl Feed for Notes {
    type Object = Service;
    type Key = ServiceKey;
    type Seen = ();
    const CACHE: Cache = Cache::Services;

    fn key(service: &Service) -> Option<ServiceKey> {
        Some(ServiceKey::new("ns", service.metadata.name.clone()?))
    }

    /// Services called "x…" do not concern it.
    fn project(&self, service: Service) -> Option<(ServiceKey, ())> {
        let key = Self::key(&service)?;
        (!key.name.starts_with('x')).then_some((key, ()))
    }

    fn apply(&self, key: ServiceKey, (): ()) {
        self.note(format!("+{}", key.name));
    }

    fn delete(&self, key: &ServiceKey) {
        self.note(format!("-{}", key.name));
    }

    fn reset(&self, all: BTreeMap<ServiceKey, ()>) {
        let names: Vec<_> = all.keys().map(|key| key.name.as_str()).collect();
        self.note(format!("={}", names.join(",")));
    }

    fn lost(&self, reason: &str) -> bool {
        self.note(format!("!{reason}"));
        true
    }
}

fn service(name: &str) -> Service {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns"}})).unwrap()
}

async fn fed(events: Vec<Event<Service>>) -> (Vec<String>, Ended) {
    let notes = Notes::default();
    let ended = drain(&notes, stream::iter(events.into_iter().map(Ok))).await;
    (notes.0.into_inner().unwrap(), ended)
}

#[tokio::test]
async fn an_interrupted_re_read_counts_for_nothing_until_one_is_whole() {
    use Event::{Init, InitApply, InitDone};
    let (notes, ended) = fed(vec![
        Init,
        InitApply(service("a")),
        InitApply(service("b")),
        Init,
        InitApply(service("b")),
        InitDone,
        Init,
        InitApply(service("c")),
    ])
    .await;
    assert_eq!(notes, ["=b"]);
    assert!(ended.synced);
}

#[tokio::test]
async fn what_ceases_to_concern_us_is_deleted() {
    use Event::{Apply, Delete, Init, InitApply, InitDone};
    let (notes, _) = fed(vec![
        Init,
        InitApply(service("x")),
        InitDone,
        Apply(service("a")),
        Apply(service("x")),
        Delete(service("a")),
    ])
    .await;
    assert_eq!(notes, ["=", "+a", "-x", "-a"]);
}

#[tokio::test]
async fn an_error_ends_the_watch_and_deletes_nothing() {
    let notes = Notes::default();
    let gone = kube::core::Status::failure("too old resource version", "Expired").with_code(410);
    let ended = drain(
        &notes,
        stream::iter(vec![
            Ok(Event::Init),
            Ok(Event::InitApply(service("a"))),
            Ok(Event::InitDone),
            Err(watcher::Error::WatchStartFailed(kube::Error::Api(
                gone.boxed(),
            ))),
            Ok(Event::Delete(service("a"))),
        ]),
    )
    .await;
    assert_eq!(notes.0.into_inner().unwrap(), ["=a"]);
    assert_eq!(explain(&ended.error), "too old resource version");
}

#[test]
fn a_forbidden_list_says_what_to_look_at() {
    let status = kube::core::Status::failure("nodes is forbidden", "Forbidden").with_code(403);
    let error = watcher::Error::InitialListFailed(kube::Error::Api(status.boxed()));
    assert_eq!(
        explain(&error),
        "nodes is forbidden (does the agent's ClusterRole allow it?)"
    );
}

#[test]
fn an_api_server_that_is_back_is_read_within_two_seconds() {
    for failures in 0..100 {
        let pause = pause(failures, 1.0);
        assert!(
            pause <= Duration::from_secs(2),
            "{pause:?} after {failures}"
        );
        assert!(pause >= FIRST_PAUSE);
    }
}
