//! Who wins where watches and replies cross, and what a release is worth.

use std::time::Duration;

use berth_common::model::Ingress;

use super::*;
use crate::{
    objects::service::{FamilyPolicy, ObservedService, ServiceShape, Steering},
    policy::{Limits, Verdict},
};

fn id(name: &str) -> Id {
    Id::new(
        TenantName::parse("acme").unwrap(),
        ServiceKey::new("default", name),
    )
}

fn service(uid: &str, version: u64, ingress: &[&str]) -> Object {
    let object = ObservedService {
        shape: ServiceShape {
            ports: BTreeMap::new(),
            primary: berth_common::model::IpFamily::V4,
            family_policy: FamilyPolicy::Single,
            affinity_seconds: None,
            source_ranges: Default::default(),
            class: None,
            steering: Steering::default(),
            annotations: BTreeMap::new(),
        },
        sound: true,
        foreign_fields: false,
        created: 0,
        ingress: ingress
            .iter()
            .map(|ip| Ingress::Ip(ip.parse().unwrap()))
            .collect(),
    };
    Object::Service(Seen {
        uid: uid.into(),
        version,
        deleting: false,
        since: Instant::now(),
        object,
    })
}

fn version(cache: &Cache, id: &Id) -> Option<u64> {
    cache.observed(id).service.map(|seen| seen.version)
}

#[test]
fn what_was_written_is_not_undone_by_an_older_report() {
    let cache = Cache::default();
    let a = id("a");
    cache.wrote(&a, service("u", 10, &["10.0.0.1"]), Instant::now());
    assert!(!cache.reported(&a, service("u", 9, &[])));
    assert_eq!(version(&cache, &a), Some(10));
    assert!(
        !cache.reported(&a, service("u", 10, &["10.0.0.1"])),
        "no news"
    );
    assert!(cache.reported(&a, service("u", 11, &[])));
}

#[test]
fn a_deletion_is_not_undone_by_an_older_report() {
    let cache = Cache::default();
    let a = id("a");
    cache.reported(&a, service("u", 1, &[]));
    cache.deleted(&a, Slot::Service, "u", Instant::now());
    assert!(!cache.reported(&a, service("u", 2, &[])));
    assert!(cache.keys_of(&a.tenant).is_empty());
    assert!(!cache.reported_gone(&a, Slot::Service, "u", 3));
    assert!(
        cache.reported(&a, service("v", 4, &[])),
        "another of the same name"
    );
    assert!(cache.write().buried.is_empty());
}

#[test]
fn a_late_report_of_an_earlier_objects_end_does_not_take_the_new_one() {
    let cache = Cache::default();
    let a = id("a");
    cache.reported(&a, service("new", 5, &[]));
    assert!(!cache.reported_gone(&a, Slot::Service, "old", 4));
    assert_eq!(version(&cache, &a), Some(5));
}

#[test]
fn a_late_reply_does_not_bring_back_what_the_watch_knows_to_be_gone() {
    let cache = Cache::default();
    let (a, sent) = (id("a"), Instant::now());
    cache.reported(&a, service("u", 5, &[]));
    cache.reported_gone(&a, Slot::Service, "u", 7);
    cache.wrote(&a, service("u", 6, &[]), sent);
    assert_eq!(version(&cache, &a), None);
    cache.wrote(&a, service("v", 8, &[]), sent);
    assert_eq!(version(&cache, &a), Some(8), "made after that");
}

#[test]
fn a_late_reply_does_not_bring_back_what_a_later_list_has_not() {
    let cache = Cache::default();
    let (a, sent) = (id("a"), Instant::now());
    let later = sent + Duration::from_secs(1);
    for reply_first in [true, false] {
        if reply_first {
            cache.wrote(&a, service("u", 5, &[]), sent);
        }
        cache.listed(Kind::Service, Vec::new(), later);
        if !reply_first {
            cache.wrote(&a, service("u", 5, &[]), sent);
        }
        assert_eq!(version(&cache, &a), None, "{reply_first}");
    }
    assert!(cache.reported(&a, service("u", 5, &[])), "it was there");
}

#[test]
fn a_list_replaces_all_but_what_was_written_since_it_began() {
    let cache = Cache::default();
    let before = Instant::now();
    let started = before + Duration::from_secs(1);
    let after = before + Duration::from_secs(2);
    cache.reported(&id("gone"), service("g", 1, &[]));
    cache.reported(&id("kept"), service("k", 2, &[]));
    cache.wrote(&id("old"), service("o", 3, &[]), before);
    cache.wrote(&id("new"), service("n", 4, &[]), after);
    let listed = vec![
        (id("kept"), service("k", 2, &[])),
        (id("late"), service("l", 5, &[])),
    ];
    let mut changed = cache.listed(Kind::Service, listed, started);
    changed.sort();
    assert_eq!(changed, [id("gone"), id("late"), id("old")]);
    let keys: Vec<String> = cache
        .keys_of(&id("").tenant)
        .into_iter()
        .map(|key| key.name)
        .collect();
    assert_eq!(keys, ["kept", "late", "new"]);
}

#[test]
fn quota_a_list_that_may_be_older_than_a_write_gives_nobodys_place_away() {
    let cache = Cache::default();
    let sent = Instant::now();
    let (started, later) = (
        sent + Duration::from_secs(1),
        sent + Duration::from_secs(120),
    );
    let most = Limits {
        load_balancers: Some(1),
        ..Limits::default()
    };
    let granted = |name: &str, at: Instant| {
        let said = cache.ask(&id(name), Some(0), (1, most), at);
        said.verdict == Verdict::Granted
    };
    assert!(granted("a", sent));
    cache.wrote(&id("a"), service("u", 5, &[]), sent);
    cache.listed(Kind::Service, Vec::new(), started);
    assert!(!granted("b", started), "the watch may bring it");
    cache.reported(&id("a"), service("u", 5, &[]));
    assert!(!granted("b", started));
    // What the watch has brought, and a list has not, is gone.
    cache.ask(&id("a"), None, (1, most), later);
    cache.listed(Kind::Service, Vec::new(), later);
    assert!(granted("b", later));
}

#[test]
fn parking_a_release_counts_until_the_service_is_gone_or_wanted() {
    let cache = Cache::default();
    let a = id("a");
    let released = || cache.observed(&a).released;
    cache.release(&a);
    assert!(cache.keys_of(&a.tenant).is_empty(), "nothing is there");
    cache.reported(&a, service("u", 1, &["10.0.0.1"]));
    cache.release(&a);
    assert!(released());
    cache.reported(&a, service("u", 2, &["10.0.0.1"]));
    assert!(released(), "the same Service still");
    cache.keep(&a);
    assert!(!released());
    cache.release(&a);
    cache.deleted(&a, Slot::Service, "u", Instant::now());
    cache.reported(&a, service("v", 4, &["10.0.0.1"]));
    assert!(!released(), "another one");
}

#[test]
fn parking_a_service_alone_serves_nobody_and_counts_for_the_allocator() {
    let cache = Cache::default();
    let a = id("a");
    assert!(cache.rests(&a), "nothing is there");
    cache.reported(&a, service("u", 1, &["10.0.0.1"]));
    assert!(cache.rests(&a));
    assert_eq!(cache.serving_keys_of(&a.tenant), []);
    assert_eq!(cache.keys_of(&a.tenant), std::slice::from_ref(&a.key));
    assert_eq!(cache.services(), 1);
    assert!(cache.allocator_gave().is_some());
}

#[test]
fn synced_is_when_each_kind_was_listed() {
    let cache = Cache::default();
    for kind in [Kind::Service, Kind::EndpointSlice, Kind::LoadBalancer] {
        assert!(!cache.is_synced());
        cache.listed(kind, Vec::new(), Instant::now());
    }
    assert!(cache.is_synced());
}

#[test]
fn the_allocators_words_stand_until_there_is_an_address() {
    let cache = Cache::default();
    let a = id("a");
    let object = name::object(&a);
    assert_eq!(cache.complained(&object, "u", "none"), None, "not known");
    cache.reported(&a, service("u", 1, &[]));
    let said = || cache.observed(&a).allocator_says;
    assert_eq!(
        said().as_deref(),
        Some("none"),
        "it came before its Service"
    );
    assert_eq!(
        cache.complained(&object, "v", "no"),
        None,
        "of an earlier Service"
    );
    assert_eq!(cache.complained(&object, "u", "no"), Some(a.clone()));
    assert_eq!(cache.complained(&object, "u", "no"), None, "said before");
    assert_eq!(cache.observed(&a).allocator_says.as_deref(), Some("no"));
    cache.reported(&a, service("u", 2, &["10.0.0.1"]));
    assert_eq!(cache.observed(&a).allocator_says, None);
    assert_eq!(cache.complained(&object, "u", "no"), None, "late");
}

#[test]
fn hostile_55_whose_an_address_is_follows_from_what_is_observed() {
    use crate::{
        objects::backend_slice::{Place, SliceShape},
        policy::Unfit,
    };
    use berth_common::model::{IpFamily, Node, NodeName};
    let tenant = |name: &str| TenantName::parse(name).unwrap();
    let (cache, a, now) = (Cache::default(), id("a"), Instant::now());
    let place = Place {
        family: IpFamily::V4,
        index: 0,
    };
    let slice = |version, addresses: &[&str]| {
        let object = ObservedSlice {
            shape: SliceShape {
                addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
                ports: BTreeMap::new(),
            },
            sound: true,
        };
        let seen = Seen {
            uid: "s".into(),
            version,
            deleting: false,
            since: now,
            object,
        };
        Object::Slice(place, seen)
    };
    let addresses = ["10.1.0.1", "10.1.0.2", "192.0.2.1"].map(|ip| ip.parse().unwrap());
    let node = Node {
        addresses: addresses.into(),
    };
    let nodes = Arc::new(Nodes::from([(NodeName("n".into()), node)]));
    let barred = || {
        let judged = cache.judge(&tenant("evil"), &nodes, &Rules::default());
        judged.barred.values().copied().collect::<Vec<_>>()
    };
    cache.listed(
        Kind::EndpointSlice,
        vec![(a.clone(), slice(1, &["10.1.0.1"]))],
        now,
    );
    cache.listed(
        Kind::Service,
        vec![(a.clone(), service("u", 1, &["192.0.2.1"]))],
        now,
    );
    assert_eq!(barred(), [Unfit::OtherTenant, Unfit::LoadBalancer]);
    assert!(cache.take_disputed().is_empty());
    cache.reported(&a, slice(2, &["10.1.0.3"]));
    assert_eq!(cache.take_disputed(), [tenant("evil")].into());
    assert_eq!(barred(), [Unfit::LoadBalancer]);
    cache.reported_gone(&a, Slot::Service, "u", 3);
    assert_eq!(cache.take_disputed(), [tenant("evil")].into());
    assert_eq!(barred(), []);
}
