use super::*;

fn tenant(name: &str, change: impl FnOnce(&mut Tenant)) -> Tenant {
    let mut tenant = Tenant::new(name, TenantSpec::default());
    tenant.metadata.uid = Some("u".into());
    change(&mut tenant);
    tenant
}

fn name(name: &str) -> TenantName {
    TenantName::parse(name).unwrap()
}

#[tokio::test]
async fn a_list_replaces_and_tells_whom_to_plan_again() {
    let directory = Directory::default();
    assert!(!directory.is_synced());
    let both = vec![tenant("a", |_| ()), tenant("b", |_| ())];
    assert_eq!(directory.listed(both), [name("a"), name("b")]);
    directory.synced().await;
    let changed = directory.changed();
    let suspended = tenant("b", |tenant| tenant.spec.suspended = true);
    assert_eq!(directory.listed(vec![suspended]), [name("b")]);
    changed.await;
    assert!(directory.get(&name("a")).is_none());
    assert!(directory.get(&name("b")).unwrap().suspended);
}

#[test]
fn a_written_status_is_no_reason_to_plan() {
    let directory = Directory::default();
    directory.listed(vec![tenant("a", |_| ())]);
    let with_status = tenant("a", |tenant| {
        tenant.status = Some(TenantStatus {
            agent_version: Some("1".into()),
            ..TenantStatus::default()
        });
    });
    assert_eq!(directory.reported(with_status), None);
    assert_eq!(
        directory.statuses()[&name("a")].0.agent_version.as_deref(),
        Some("1")
    );
    let released = tenant("a", |tenant| {
        tenant.metadata.annotations = Some([(RELEASE_HELD.into(), "true".into())].into());
    });
    assert_eq!(directory.reported(released), None, "nor is a release");
    assert_eq!(directory.to_release().len(), 1);
    assert_eq!(directory.to_release()[0].0, name("a"));
}

#[test]
fn an_operators_changes_are_told_by_what_they_mean() {
    let read = |change: fn(&mut Tenant)| {
        let (_, facts) = TenantFacts::read(tenant("a", change), &Arc::default()).unwrap();
        facts
    };
    let words = |before: Option<&TenantFacts>, after: &TenantFacts| -> Vec<_> {
        news::of(before, after).into_iter().map(|it| it.0).collect()
    };
    let plain = read(|_| ());
    assert_eq!(words(None, &plain), ["created"]);
    assert_eq!(words(Some(&plain), &plain), Vec::<&str>::new());
    let changed = read(|tenant| {
        tenant.metadata.annotations = Some([(CONFIRM_DELETION.into(), "true".into())].into());
        tenant.spec.suspended = true;
        tenant.spec.credentials = Some(api::Credentials {
            not_before: None,
            revoked_serials: vec!["3F:09".into()],
        });
        tenant.spec.address_pool = Some("other".into());
        tenant.spec.reclaim_policy = ReclaimPolicy::Retain;
        tenant.status = Some(TenantStatus {
            cluster_uid: Some("c".into()),
            ..TenantStatus::default()
        });
    });
    let told = news::of(Some(&plain), &changed);
    let told: Vec<(&str, &str)> = told.iter().map(|(word, it)| (*word, &**it)).collect();
    let expected = [
        ("suspended", ""),
        ("credentials", "3f09 is revoked"),
        ("deletion_confirmed", ""),
        ("binding", "from cluster none to c"),
        ("policy", "addressPool, reclaimPolicy"),
    ];
    assert_eq!(told, expected);
    assert_eq!(
        words(Some(&changed), &plain)[..2],
        ["resumed", "credentials"]
    );
    let other = read(|tenant| tenant.metadata.uid = Some("other".into()));
    assert_eq!(words(Some(&plain), &other), ["created"]);
}

#[test]
fn a_deletion_is_planned_and_a_finalizer_is_not() {
    let directory = Directory::default();
    directory.listed(vec![tenant("a", |_| ())]);
    let guarded = tenant("a", |tenant| {
        tenant.metadata.finalizers = Some(vec![FINALIZER.into()]);
    });
    assert_eq!(directory.reported(guarded.clone()), None);
    assert!(directory.get(&name("a")).unwrap().is_guarded());
    let mut deleted = guarded;
    let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
    deleted.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
    assert_eq!(directory.reported(deleted), Some(name("a")));
    let facts = directory.get(&name("a")).unwrap();
    assert!(facts.deleting && facts.is_shut());
}

#[test]
fn parking_addresses_are_kept_as_the_tenant_says_and_a_change_of_it_is_planned() {
    let directory = Directory::default();
    let kept = |change: fn(&mut TenantSpec)| {
        let replan = directory.reported(tenant("a", |tenant| change(&mut tenant.spec)));
        assert_eq!(replan, Some(name("a")));
        let policy = directory
            .get(&name("a"))
            .unwrap()
            .policy(Allocator::MetalLb);
        (policy.release_after.as_secs(), policy.retain)
    };
    assert_eq!(kept(|_| ()), (30, false));
    assert_eq!(
        kept(|spec| spec.release_after_seconds = Some(0)),
        (0, false)
    );
    let retain = kept(|spec| spec.reclaim_policy = ReclaimPolicy::Retain);
    assert_eq!(retain, (30, true));
}

#[test]
fn point_19_a_tenants_annotations_are_read_and_a_change_of_them_is_planned() {
    let directory = Directory::default();
    directory.listed(vec![tenant("a", |_| ())]);
    let spec = api::Annotations {
        allowed: vec!["example.com/*".into(), "not a key".into()],
        injected: [
            ("cloud.example/kind", "internal"),
            ("metallb.io/loadBalancerIPs", "192.0.2.1"),
            ("not a key", ""),
        ]
        .map(|(key, value)| (key.into(), value.into()))
        .into(),
    };
    let changed = tenant("a", |tenant| tenant.spec.annotations = Some(spec));
    assert_eq!(directory.reported(changed), Some(name("a")));
    let facts = directory.get(&name("a")).unwrap();
    assert_eq!(facts.annotations.allowed.patterns(), ["example.com/*"]);
    let injected: Vec<_> = facts.annotations.injected.keys().collect();
    assert_eq!(injected, ["cloud.example/kind"], "the pin is the hub's own");
}

#[test]
fn a_tenants_node_rules_are_read_and_what_cannot_be_read_allows_nothing() {
    let directory = Directory::new(vec!["10.0.0.0/16".parse().unwrap()]);
    let rules = |cidrs: &[&str], ports: Option<&str>| {
        let changed = tenant("a", |tenant| {
            tenant.spec.node_cidrs = cidrs.iter().map(|cidr| (*cidr).to_owned()).collect();
            tenant.spec.node_port_range = ports.map(str::to_owned);
        });
        assert_eq!(directory.reported(changed), Some(name("a")), "planned anew");
        directory.get(&name("a")).unwrap().nodes.clone()
    };
    let ip = "10.10.2.1".parse().unwrap();
    let open = rules(&[], None);
    assert_eq!(open.judge(&ip), None);
    assert!(open.judge(&"10.0.0.1".parse().unwrap()).is_some());
    let bound = rules(&["10.10.0.0/16"], Some("30000-30010"));
    assert_eq!(bound.judge(&ip), None);
    assert!(bound.has_port(30_010) && !bound.has_port(30_011));
    assert_eq!(bound.quotas, Quotas::default());
    let bounded = tenant("a", |tenant| {
        tenant.spec.quotas = Some(api::Quotas {
            nodes: Some(3),
            ..api::Quotas::default()
        });
    });
    assert_eq!(directory.reported(bounded), Some(name("a")));
    let facts = directory.get(&name("a")).unwrap();
    assert_eq!(facts.nodes.quotas.nodes, Some(3));
    let broken = rules(&["10.10.0.0"], Some("all"));
    assert!(broken.judge(&ip).is_some());
    assert!(!broken.has_port(30_000));
}

#[test]
fn who_follows_is_told_who_has_changed_and_a_status_is_no_policy() {
    let directory = Directory::default();
    let mut mark = 0;
    directory.listed(vec![tenant("a", |_| ()), tenant("b", |_| ())]);
    let both = [(name("a"), true), (name("b"), true)].into();
    assert_eq!(directory.changes(&mut mark), Changes::Of(both));
    assert_eq!(directory.changes(&mut mark), Changes::Of([].into()));
    let status = |version: &str| {
        let version = version.to_owned();
        tenant("a", |tenant| {
            tenant.status = Some(TenantStatus {
                agent_version: Some(version),
                ..TenantStatus::default()
            });
        })
    };
    directory.reported(status("1"));
    directory.reported_gone(&tenant("b", |_| ()));
    let changed = [(name("a"), false), (name("b"), false)].into();
    assert_eq!(directory.changes(&mut mark), Changes::Of(changed));
    assert!(directory.get(&name("b")).is_none());
    for n in 0..=CHANGES {
        directory.reported(status(&format!("{n}.0")));
    }
    assert_eq!(directory.changes(&mut mark), Changes::Many);
}

#[test]
fn an_older_version_of_a_tenant_unsays_nothing() {
    let directory = Directory::default();
    let bound = |version: &str, uid: Option<&str>| {
        tenant("a", |tenant| {
            tenant.metadata.resource_version = Some(version.into());
            tenant.status = Some(TenantStatus {
                cluster_uid: uid.map(str::to_owned),
                ..TenantStatus::default()
            });
        })
    };
    let cluster = || directory.statuses()[&name("a")].0.cluster_uid.clone();
    directory.listed(vec![bound("10", Some("c"))]);
    directory.listed(vec![bound("9", None)]);
    assert_eq!(cluster().as_deref(), Some("c"));
    directory.reported(bound("11", None));
    assert_eq!(cluster(), None);
}
