//! Plans, step by step. A step is carried out on a pretended object, so that each test also shows that the next plan is
//! empty: no write is ever made twice.

use std::collections::{BTreeMap, BTreeSet};

use berth_common::model::{
    Answer, Generation, Ingress, IpFamily, Outcome, Reason, Service, TrafficPolicy,
};
use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::{
    claims::{OWN_FINALIZER, STANDARD_FINALIZER},
    project::{PORTS_ERROR, SeenService, SeenStatus, Wish},
};

struct Case {
    claims: Claims,
    entry: Entry,
    problem: Option<Reason>,
    note: Option<String>,
    answer: Option<Answer>,
    released: bool,
}

impl Case {
    fn new(class: Option<&str>) -> Self {
        Self {
            claims: Claims {
                classless: true,
                classes: BTreeSet::from(["berth.dev/berth".to_owned()]),
            },
            entry: Entry {
                seen: SeenService {
                    uid: "u".into(),
                    version: ResourceVersion("1".into()),
                    generation: None,
                    deleting: false,
                    finalizers: vec!["theirs".into()],
                    wish: Some(wish(class)),
                    status: SeenStatus::default(),
                },
                standing: Standing::Wanted,
                rebound: false,
            },
            problem: None,
            note: None,
            answer: None,
            released: false,
        }
    }

    /// Adopted, and served under an address.
    fn served() -> Self {
        let mut case = Self::new(None);
        case.answer = programmed("192.0.2.1");
        assert_eq!(case.run(), ["EnsuringLoadBalancer", "EnsuredLoadBalancer"]);
        case
    }

    fn plan(&self) -> Option<Plan> {
        let view = View {
            claims: &self.claims,
            entry: &self.entry,
            problem: self.problem.clone(),
            note: self.note.clone(),
            answer: self.answer.as_ref(),
            released: self.released,
        };
        plan(&view, "2026-11-01T10:00:00Z".parse::<Timestamp>().unwrap())
    }

    /// Carries out what is planned until nothing is; gives the words of the events.
    fn run(&mut self) -> Vec<&'static str> {
        let mut words = Vec::new();
        for _ in 0..4 {
            let Some(plan) = self.plan() else {
                return words;
            };
            words.extend(plan.notices.iter().map(|notice| notice.reason));
            match plan.step {
                Step::Finalizers { finalizers, .. } => self.entry.seen.finalizers = finalizers,
                Step::Status {
                    ingress,
                    conditions,
                } => {
                    self.entry.seen.status.ours = !(ingress.is_empty() && conditions.is_empty());
                    self.entry.seen.status.ingress = ingress;
                    self.entry.seen.status.conditions = conditions;
                }
            }
        }
        panic!("a plan that never ends: {:?}", self.plan());
    }

    fn ips(&self) -> Vec<&str> {
        let ingress = &self.entry.seen.status.ingress;
        ingress.iter().filter_map(|i| i.ip.as_deref()).collect()
    }

    fn programmed(&self) -> &SeenCondition {
        self.entry.seen.condition(PROGRAMMED).unwrap()
    }
}

fn wish(class: Option<&str>) -> Wish {
    Wish {
        class: class.map(str::to_owned),
        service: Some(Service {
            uid: "u".into(),
            ports: Vec::new(),
            families: vec![IpFamily::V4],
            require_dual_stack: false,
            affinity_seconds: None,
            source_ranges: BTreeSet::new(),
            traffic_policy: TrafficPolicy::Cluster,
            local_nodes: BTreeSet::new(),
            health_check_node_port: None,
            requested_ips: Vec::new(),
            annotations: BTreeMap::new(),
        }),
        ..Wish::default()
    }
}

fn answer(outcome: Outcome, ips: &[&str]) -> Option<Answer> {
    Some(Answer {
        generation: Generation(1),
        outcome,
        ingress: ips
            .iter()
            .map(|ip| Ingress::Ip(ip.parse().unwrap()))
            .collect(),
    })
}

fn programmed(ip: &str) -> Option<Answer> {
    answer(Outcome::Programmed, &[ip])
}

fn refused(field: &str, reason: &str, message: &str) -> Option<Answer> {
    let field = field.to_owned();
    answer(
        Outcome::Refused {
            field,
            why: Reason::new(reason, message),
        },
        &[],
    )
}

fn pending(reason: &str, message: &str, ips: &[&str]) -> Option<Answer> {
    answer(Outcome::Pending(Reason::new(reason, message)), ips)
}

#[test]
fn point_03_the_finalizer_comes_first_and_depends_on_the_class() {
    for (class, finalizer) in [
        (None, STANDARD_FINALIZER),
        (Some("berth.dev/berth"), OWN_FINALIZER),
    ] {
        let mut case = Case::new(class);
        let step = case.plan().unwrap().step;
        assert!(matches!(step, Step::Finalizers { version, .. } if version.0 == "1"));
        assert_eq!(case.run(), ["EnsuringLoadBalancer"]);
        assert_eq!(case.entry.seen.finalizers, ["theirs", finalizer]);
    }
}

#[test]
fn point_04_a_type_that_left_clears_the_status_then_drops_the_finalizer() {
    let mut case = Case::served();
    case.entry.seen.wish = None;
    case.entry.standing = Standing::Leaving;
    assert_eq!(case.plan(), None, "not before the hub has confirmed");
    case.released = true;
    assert!(
        matches!(case.plan().unwrap().step, Step::Status { conditions, .. } if conditions.is_empty())
    );
    assert_eq!(case.run(), ["DeletedLoadBalancer"]);
    assert_eq!(case.entry.seen.finalizers, ["theirs"]);
    assert!(case.entry.seen.status.ingress.is_empty());
}

#[test]
fn point_02_where_a_class_became_demanded_neither_finalizer_nor_status_stays() {
    let mut case = Case::served();
    case.claims.classless = false;
    case.entry.standing = case.claims.standing(&case.entry.seen);
    assert_eq!(case.entry.standing, Standing::Leaving);
    case.released = true;
    assert_eq!(case.run(), ["DeletedLoadBalancer"]);
    assert_eq!(case.entry.seen.finalizers, ["theirs"]);
    assert!(!case.entry.seen.status.ours && case.ips().is_empty());
    assert_eq!(case.claims.standing(&case.entry.seen), Standing::Foreign);
}

#[test]
fn point_04_a_status_that_we_did_not_write_is_not_cleared() {
    let mut case = Case::new(Some("berth.dev/berth"));
    case.run();
    case.entry.seen.status.ingress = vec![SeenIngress {
        ip: Some("198.51.100.1".into()),
        hostname: None,
        ip_mode: None,
    }];
    case.entry.standing = Standing::Leaving;
    case.released = true;
    case.run();
    assert_eq!(case.ips(), ["198.51.100.1"]);
}

#[test]
fn point_07_a_deletion_is_one_write_after_the_confirmation() {
    let mut case = Case::served();
    case.entry.seen.deleting = true;
    case.entry.standing = Standing::Leaving;
    assert_eq!(case.plan(), None);
    case.released = true;
    assert!(
        matches!(case.plan().unwrap().step, Step::Finalizers { finalizers, .. } if finalizers == ["theirs"])
    );
    assert_eq!(case.run(), ["DeletedLoadBalancer"]);
}

#[test]
fn point_12_an_unsupported_protocol_sets_upstreams_condition_and_clears_when_mended() {
    let mut case = Case::new(None);
    case.answer = refused(
        "spec.ports[0].protocol",
        "UnsupportedProtocol",
        "SCTP is not supported.",
    );
    assert_eq!(
        case.run(),
        ["EnsuringLoadBalancer", "SyncLoadBalancerFailed"]
    );
    let error = case.entry.seen.condition(PORTS_ERROR).unwrap();
    assert_eq!(
        (error.status, error.reason.as_str()),
        (true, "UnsupportedProtocol")
    );
    assert_eq!(
        case.programmed().message,
        "spec.ports[0].protocol: SCTP is not supported."
    );
    case.answer = programmed("192.0.2.1");
    assert_eq!(case.run(), ["EnsuredLoadBalancer"]);
    assert!(case.entry.seen.condition(PORTS_ERROR).is_none());
}

#[test]
fn point_23_trouble_of_our_own_is_told_and_the_address_stays() {
    let mut case = Case::served();
    case.problem = Some(Reason::new("NoNodeAddress", "No node has an address."));
    assert_eq!(case.run(), ["UnAvailableLoadBalancer"]);
    assert_eq!(case.ips(), ["192.0.2.1"]);
    case.answer = None;
    assert_eq!(case.plan(), None, "also while the hub says nothing");
    case.problem = None;
    assert_eq!(case.plan(), None);
    case.answer = programmed("192.0.2.1");
    assert_eq!(case.run(), ["EnsuredLoadBalancer"]);
}

#[test]
fn point_29_addresses_are_proxied_and_names_have_no_mode() {
    let mut case = Case::new(None);
    case.answer = Some(Answer {
        generation: Generation(1),
        outcome: Outcome::Programmed,
        ingress: vec![
            Ingress::Ip("192.0.2.1".parse().unwrap()),
            Ingress::Hostname("lb.example".into()),
        ],
    });
    case.run();
    let modes: Vec<_> = case
        .entry
        .seen
        .status
        .ingress
        .iter()
        .map(|i| i.ip_mode.as_deref())
        .collect();
    assert_eq!(modes, [Some("Proxy"), None]);
    // An API server that does not know the mode drops it: that is no reason to write for ever.
    case.entry.seen.status.ingress[0].ip_mode = None;
    assert_eq!(case.plan(), None);
}

#[test]
fn point_30_a_change_of_the_address_is_followed_and_its_end_too() {
    let mut case = Case::served();
    case.answer = programmed("192.0.2.2");
    let note = case.plan().unwrap().notices.remove(0).note;
    assert_eq!(note, "Updated load balancer: 192.0.2.2 (it was 192.0.2.1)");
    assert_eq!(case.run(), ["UpdatedLoadBalancer"]);
    case.answer = pending("AddressLost", "The address is gone.", &[]);
    assert_eq!(case.run(), ["SyncLoadBalancerFailed"]);
    assert!(case.ips().is_empty());
}

#[test]
fn point_31_the_reason_for_pending_reaches_the_service_once() {
    let mut case = Case::new(None);
    case.answer = pending("PoolExhausted", "No address is left in pool p.", &[]);
    assert_eq!(
        case.run(),
        ["EnsuringLoadBalancer", "SyncLoadBalancerFailed"]
    );
    assert_eq!(
        (case.programmed().status, case.programmed().reason.as_str()),
        (false, "PoolExhausted")
    );
    case.answer = pending("NoBackends", "No node can be reached.", &["192.0.2.1"]);
    assert_eq!(case.run(), ["UnAvailableLoadBalancer"]);
    assert_eq!(
        case.ips(),
        ["192.0.2.1"],
        "point 25: the status keeps its address"
    );
}

#[test]
fn a_pending_answer_without_a_message_writes_nothing() {
    let mut case = Case::served();
    case.answer = pending("", "", &[]);
    assert_eq!(case.plan(), None);
}

#[test]
fn point_31_and_32_a_refusal_keeps_what_is_still_served_and_is_a_failed_update() {
    let mut case = Case::served();
    case.answer = answer(
        Outcome::Refused {
            field: String::new(),
            why: Reason::new("QuotaExceeded", "Ask for more."),
        },
        &["192.0.2.1"],
    );
    assert_eq!(case.run(), ["UpdateLoadBalancerFailed"]);
    assert_eq!(case.ips(), ["192.0.2.1"]);
    assert!(!case.programmed().status);
}

#[test]
fn point_32_what_stayed_under_a_refusal_and_goes_for_the_same_reason_is_told_again_and_once() {
    let mut case = Case::served();
    let refused = |ingress: &[&str]| {
        let field = "spec.ports".into();
        let why = Reason::new("QuotaExceeded", "Ask for more.");
        answer(Outcome::Refused { field, why }, ingress)
    };
    case.answer = refused(&["192.0.2.1"]);
    assert_eq!(case.run(), ["UpdateLoadBalancerFailed"]);
    case.answer = refused(&[]);
    assert_eq!(case.run(), ["SyncLoadBalancerFailed"]);
    assert!(case.ips().is_empty());
    assert_eq!(case.plan(), None);
}

#[test]
fn point_33_the_time_of_a_condition_changes_only_with_its_status() {
    let mut case = Case::served();
    let since = "2020-01-01T00:00:00Z".parse().unwrap();
    case.entry.seen.status.conditions[0].since = since;
    assert_eq!(case.plan(), None);
    case.answer = programmed("192.0.2.2");
    case.run();
    assert_eq!(case.programmed().since, since);
    case.answer = pending("Why", "Because.", &[]);
    case.run();
    assert_ne!(case.programmed().since, since);
}

#[test]
fn an_address_that_another_product_left_is_taken_over() {
    let mut case = Case::new(None);
    case.entry.seen.status.ingress = vec![SeenIngress {
        ip: Some("192.0.2.1".into()),
        hostname: None,
        ip_mode: None,
    }];
    case.answer = programmed("192.0.2.1");
    assert_eq!(case.run(), ["EnsuringLoadBalancer", "EnsuredLoadBalancer"]);
    assert!(case.entry.seen.status.ours);
}

#[test]
fn what_the_hub_says_cannot_break_the_apis_rules() {
    let mut case = Case::new(None);
    case.answer = pending("9 odd-Reason\n", &"x".repeat(5_000), &[]);
    case.run();
    assert_eq!(case.programmed().reason, "oddReason");
    assert_eq!(case.programmed().message.len(), 1_024);
}

#[test]
fn the_patches_name_exactly_what_is_ours() {
    let mut case = Case::new(None);
    case.answer = programmed("192.0.2.1");
    case.run();
    let status = &case.entry.seen.status;
    let key = berth_common::model::ServiceKey::new("ns", "web");
    let full = status_patch(&key, "u", &status.ingress, &status.conditions);
    insta::assert_json_snapshot!(full, @r#"
    {
      "apiVersion": "v1",
      "kind": "Service",
      "metadata": {
        "name": "web",
        "namespace": "ns",
        "uid": "u"
      },
      "status": {
        "conditions": [
          {
            "lastTransitionTime": "2026-11-01T10:00:00Z",
            "message": "The load balancer serves this Service.",
            "reason": "Programmed",
            "status": "True",
            "type": "berth.dev/Programmed"
          }
        ],
        "loadBalancer": {
          "ingress": [
            {
              "ip": "192.0.2.1",
              "ipMode": "Proxy"
            }
          ]
        }
      }
    }
    "#);
    let empty = status_patch(&key, "u", &[], &[]);
    assert!(empty.get("status").is_none());
    let finalizers = finalizers_patch("u", &ResourceVersion("7".into()), &["theirs".into()]);
    insta::assert_json_snapshot!(finalizers, @r#"
    {
      "metadata": {
        "finalizers": [
          "theirs"
        ],
        "resourceVersion": "7",
        "uid": "u"
      }
    }
    "#);
}

#[test]
fn point_19_what_is_not_passed_on_is_said_once_and_taken_back() {
    let note = "Not passed on: annotation metallb.io/address-pool.";
    let mut case = Case::new(None);
    case.answer = programmed("192.0.2.1");
    case.note = Some(note.into());
    assert_eq!(
        case.run(),
        [
            "EnsuringLoadBalancer",
            "EnsuredLoadBalancer",
            "AnnotationsIgnored"
        ]
    );
    assert!(case.programmed().status && case.programmed().message.ends_with(note));
    assert!(case.plan().is_none(), "nothing more to write");
    case.note = None;
    assert!(case.run().is_empty(), "an end of it is no news");
    assert!(!case.programmed().message.contains(note));

    let why = Reason::new("AllocationFailed", "no address is left.");
    case.note = Some(note.into());
    case.answer = answer(Outcome::Pending(why), &["192.0.2.1"]);
    let plan = case.plan().unwrap();
    assert_eq!(plan.notices[0].note, format!("no address is left. {note}"));
    assert_eq!(case.run(), ["SyncLoadBalancerFailed"]);
}
