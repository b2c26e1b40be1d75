//! The broker between a pretended cluster and a pretended hub, without either.

use std::collections::{BTreeMap, BTreeSet};

use berth_common::{
    model::NodeName,
    session::agent::AgentInfo,
    wire::{answer_to_wire, key_to_wire},
};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::*;
use crate::{
    claims::{Claims, STANDARD_FINALIZER},
    project::{AddressType, SeenNode},
    status::Step,
};

struct Stage {
    broker: Arc<Broker>,
    now: Instant,
    version: u64,
}

fn key() -> ServiceKey {
    ServiceKey::new("ns", "web")
}

impl Stage {
    fn new() -> Self {
        let claims = Claims {
            classless: true,
            classes: BTreeSet::new(),
        };
        let metrics = AgentMetrics::new(&mut Registry::default());
        let info = AgentInfo {
            version: "0".into(),
            instance_id: "i".into(),
        };
        let broker = Broker::new(
            Index::new(claims, vec![AddressType::InternalIp]),
            AgentSession::new(info),
            Events::new("i".into(), metrics.clone()),
            metrics,
        );
        Self {
            broker,
            now: Instant::now(),
            version: 0,
        }
    }

    /// Has read a cluster with one node and one Service, and has a live session.
    fn live(service: Value) -> Self {
        let mut stage = Self::new();
        stage.read_nodes();
        let seen = stage.service(service);
        stage.read_services([seen].into());
        stage.broker.cluster_uid("cluster".into());
        stage.broker.connected(stage.now);
        let sent = stage.sent();
        assert!(
            matches!(sent[0].body, Some(v1::agent_message::Body::Hello(_))),
            "{sent:?}"
        );
        stage.hear(v1::hub_message::Body::Welcome(v1::Welcome {
            protocol: 1,
            session: 7,
            digests: vec![0; 4096].into(),
            ..Default::default()
        }));
        stage.sent();
        stage
    }

    fn service(&mut self, change: Value) -> (ServiceKey, SeenService) {
        self.version += 1;
        let mut service = json!({
            "metadata": {"namespace": "ns", "name": "web", "uid": "u", "resourceVersion": self.version.to_string()},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30080}]},
            "status": {},
        });
        for (path, value) in change.as_object().unwrap() {
            let (parent, name) = path.rsplit_once('/').unwrap();
            service.pointer_mut(parent).unwrap()[name] = value.clone();
        }
        SeenService::project(serde_json::from_value(service).unwrap()).unwrap()
    }

    fn read_services(&self, all: BTreeMap<ServiceKey, SeenService>) {
        self.broker
            .cache_synced(Cache::Services, self.now, |index| index.reset_services(all));
    }

    fn read_nodes(&self) {
        let node = json!({"metadata": {"name": "n"}, "status": {
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
        let node = SeenNode::project(
            &serde_json::from_value(node).unwrap(),
            &[AddressType::InternalIp],
        );
        let all = BTreeMap::from([(NodeName("n".into()), node)]);
        self.broker
            .cache_synced(Cache::Nodes, self.now, |index| index.reset_nodes(all));
    }

    fn change(&mut self, change: Value) {
        let (key, seen) = self.service(change);
        self.broker
            .update(self.now, |index| index.apply_service(key, seen, true));
    }

    fn sent(&self) -> Vec<v1::AgentMessage> {
        std::iter::from_fn(|| self.broker.next_message(self.now).unwrap().ok()).collect()
    }

    fn hear(&self, body: v1::hub_message::Body) {
        let message = v1::HubMessage { body: Some(body) };
        self.broker.received(message, self.now).unwrap();
    }

    fn answer(&self, outcome: Outcome, ip: &str, generation: Generation) {
        let answer = Answer {
            generation,
            outcome,
            ingress: ip
                .parse()
                .map(berth_common::model::Ingress::Ip)
                .into_iter()
                .collect(),
        };
        let answers = vec![answer_to_wire(&Key::Service(key()), &answer)];
        self.hear(v1::hub_message::Body::Answers(v1::Answers { answers }));
    }

    fn plan(&self) -> Option<Step> {
        self.broker
            .plan(&key(), "2026-11-01T10:00:00Z".parse().unwrap())
            .map(|plan| plan.step)
    }

    /// Takes the key out of the queue, as a writer with nothing to do would.
    fn idle(&self) -> bool {
        match self.broker.take(self.now) {
            Ok(key) => {
                self.broker.done(&key);
                false
            }
            Err(_) => true,
        }
    }

    /// The generation of the deletion that was just sent.
    fn deletion(&self) -> Generation {
        for message in self.sent() {
            let Some(v1::agent_message::Body::Delta(delta)) = message.body else {
                continue;
            };
            for change in delta.changes {
                if let Some(v1::change::Change::Delete(deletion)) = change.change {
                    assert_eq!(deletion.key, Some(key_to_wire(&Key::Service(key()))));
                    return Generation(deletion.generation);
                }
            }
        }
        panic!("no deletion was sent");
    }
}

fn adopted() -> Value {
    json!({"/metadata/finalizers": [STANDARD_FINALIZER]})
}

fn deleting() -> Value {
    json!({"/metadata/finalizers": [STANDARD_FINALIZER], "/metadata/deletionTimestamp": "2026-11-01T00:00:00Z"})
}

#[test]
fn an_answer_to_the_present_version_becomes_a_status() {
    let stage = Stage::live(adopted());
    let generation = stage.broker.generation(&key()).unwrap();
    assert_eq!(stage.plan(), None);
    assert!(!stage.idle());
    stage.answer(Outcome::Programmed, "192.0.2.1", generation);
    assert!(!stage.idle(), "the answer is work");
    assert!(matches!(stage.plan(), Some(Step::Status { .. })));
    assert_eq!(stage.broker.count_services()["pending"], 1);
}

#[test]
fn a_change_makes_the_answer_before_it_history() {
    let mut stage = Stage::live(adopted());
    let generation = stage.broker.generation(&key()).unwrap();
    stage.answer(Outcome::Programmed, "192.0.2.1", generation);
    let mut change = adopted();
    change["/spec/ports"] = json!([{"port": 81, "nodePort": 30080}]);
    stage.change(change);
    assert_eq!(stage.plan(), None);
    assert_ne!(stage.broker.generation(&key()), Some(generation));
}

#[test]
fn point_07_the_finalizer_goes_with_the_hubs_word() {
    let mut stage = Stage::live(adopted());
    stage.change(deleting());
    assert_eq!(stage.plan(), None);
    let deletion = stage.deletion();
    stage.answer(Outcome::Deleted, "", deletion);
    assert!(
        matches!(stage.plan(), Some(Step::Finalizers { finalizers, .. }) if finalizers.is_empty())
    );
}

#[test]
fn point_06_a_deletion_under_way_at_the_start_is_asked_for_again() {
    let stage = Stage::live(deleting());
    let deletion = {
        // The snapshot of the start does not name it, the first delta does.
        stage.broker.connected(stage.now);
        stage.sent();
        stage.hear(v1::hub_message::Body::Welcome(v1::Welcome {
            protocol: 1,
            session: 8,
            digests: vec![0; 4096].into(),
            ..Default::default()
        }));
        stage.deletion()
    };
    stage.answer(Outcome::Deleted, "", deletion);
    assert!(stage.plan().is_some());
}

#[test]
fn point_07_where_the_hub_does_not_know_the_tenant_services_may_go() {
    let mut stage = Stage::live(adopted());
    stage.broker.disconnected();
    stage.change(deleting());
    assert_eq!(stage.plan(), None);
    stage.broker.tenant_unknown();
    assert!(matches!(stage.plan(), Some(Step::Finalizers { .. })));
}

#[test]
fn point_31_who_deletes_while_the_hub_cannot_be_asked_is_told_once_why() {
    let mut stage = Stage::live(adopted());
    stage.broker.disconnected();
    stage.broker.unheard("connection refused");
    assert!(stage.broker.events.waiting().is_empty(), "nobody waits");
    stage.change(deleting());
    stage.broker.unheard("connection refused");
    stage.broker.unheard("connection refused");
    assert_eq!(
        stage.broker.events.waiting(),
        ["DeletingLoadBalancer", "DeleteLoadBalancerFailed"]
    );
    assert_eq!(stage.plan(), None, "and it waits on");
}

#[test]
fn an_unknown_tenant_lets_later_deletions_go_too_until_the_hub_welcomes_it() {
    let mut stage = Stage::live(adopted());
    stage.broker.disconnected();
    stage.broker.tenant_unknown();
    stage.change(deleting());
    assert!(matches!(stage.plan(), Some(Step::Finalizers { .. })));
}

#[test]
fn the_source_is_synced_when_all_was_read_and_the_cluster_is_known() {
    let mut stage = Stage::new();
    let synced = stage.broker.source_synced();
    let seen = stage.service(adopted());
    stage.read_services([seen].into());
    stage.read_nodes();
    assert!(!*synced.borrow());
    assert!(*stage.broker.uid_wanted().borrow());
    stage.broker.cluster_uid("cluster".into());
    assert!(*synced.borrow());
}

#[test]
fn after_a_loss_the_cluster_is_asked_who_it_is_after_the_reading() {
    let stage = Stage::live(adopted());
    let (synced, uid_wanted) = (stage.broker.source_synced(), stage.broker.uid_wanted());
    assert!(stage.broker.cache_lost(Cache::Nodes, "connection refused"));
    assert!(
        !stage.broker.cache_lost(Cache::Nodes, "connection refused"),
        "said once"
    );
    assert!(!*synced.borrow());
    stage.broker.cluster_uid("cluster".into());
    stage.read_nodes();
    assert!(!*synced.borrow(), "the identity is older than the reading");
    assert!(*uid_wanted.borrow());
    stage.broker.cluster_uid("cluster".into());
    assert!(*synced.borrow());
}

#[test]
fn point_24_slices_hold_back_the_first_word_and_later_only_their_services() {
    let local = json!({"/spec/externalTrafficPolicy": "Local"});
    let mut stage = Stage::new();
    let (synced, slices) = (stage.broker.source_synced(), stage.broker.slices_wanted());
    stage.read_nodes();
    let seen = stage.service(local.clone());
    stage.read_services([seen].into());
    stage.broker.cluster_uid("cluster".into());
    assert!(*slices.borrow() && !*synced.borrow());
    stage
        .broker
        .cache_synced(Cache::EndpointSlices, stage.now, |index| {
            index.reset_slices(BTreeMap::new())
        });
    assert!(*synced.borrow());
    stage.change(json!({}));
    assert!(!*slices.borrow());
    stage.broker.slices_dropped();
    stage.change(local);
    assert!(*slices.borrow() && *synced.borrow());
}

#[test]
fn only_what_came_without_an_address_is_timed() {
    let had = json!({"/metadata/finalizers": [STANDARD_FINALIZER], "/status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    for (service, timed) in [(adopted(), true), (had, false)] {
        let stage = Stage::live(service);
        let memos = &stage.broker.lock().memos;
        let waiting = memos
            .get(&key())
            .is_some_and(|memo| memo.waiting_since.is_some());
        assert_eq!(waiting, timed);
    }
}

#[test]
fn point_31_a_change_of_a_served_service_is_told_once_the_hub_has_it() {
    let served = |ports: Value| {
        let mut change = adopted();
        change["/spec/ports"] = ports;
        change["/status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
        change
    };
    let mut stage = Stage::live(served(json!([{"port": 80, "nodePort": 30080}])));
    let answer = |stage: &Stage| {
        let generation = stage.broker.generation(&key()).unwrap();
        stage.answer(Outcome::Programmed, "192.0.2.1", generation);
    };
    answer(&stage);
    assert!(
        stage.broker.events.waiting().is_empty(),
        "a restart is no change"
    );
    stage.change(served(json!([{"port": 81, "nodePort": 30080}])));
    assert!(stage.broker.events.waiting().is_empty());
    answer(&stage);
    answer(&stage);
    assert_eq!(stage.broker.events.waiting(), ["UpdatedLoadBalancer"]);
}

/// What may pass is taken in before digests are compared: else each restart would take the annotations away and give them back.
#[test]
fn point_19_a_restarted_agent_and_a_hub_that_holds_its_annotations_move_nothing() {
    let noted = json!({"/metadata/annotations": {"example.com/owner": "a", "secret": "s"}});
    let digests = |sent: &[v1::AgentMessage]| match &sent[0].body {
        Some(v1::agent_message::Body::Hello(hello)) => hello.digests.clone(),
        other => panic!("{other:?}"),
    };
    let capabilities = v1::Capabilities {
        annotations: vec!["example.com/*".into()],
        ..Default::default()
    };
    let before = Stage::live(noted.clone());
    let bare = before.broker.generation(&key());
    before.hear(v1::hub_message::Body::Capabilities(capabilities.clone()));
    assert_ne!(before.broker.generation(&key()), bare);
    before.broker.disconnected();
    before.broker.connected(before.now);
    let held = digests(&before.sent());

    let mut after = Stage::new();
    after.read_nodes();
    let seen = after.service(noted);
    after.read_services([seen].into());
    after.broker.cluster_uid("cluster".into());
    after.broker.connected(after.now);
    assert_ne!(
        digests(&after.sent()),
        held,
        "it does not know yet what may pass"
    );
    after.hear(v1::hub_message::Body::Welcome(v1::Welcome {
        protocol: 1,
        session: 8,
        digests: held,
        capabilities: Some(capabilities),
        ..Default::default()
    }));
    assert_eq!(after.sent(), [], "there is nothing to tell");
}
