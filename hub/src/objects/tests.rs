//! What is written, and that what is written is recognised again.

use std::collections::{BTreeMap, BTreeSet};

use berth_common::{
    identity::TenantName,
    model::{Generation, Ingress, IpFamily, Port, Protocol, Service, ServiceKey, TrafficPolicy},
};
use k8s_openapi::{api::core::v1 as core, api::discovery::v1::EndpointSlice, jiff::Timestamp};
use serde_json::{Value, json};

use super::{
    backend_slice::{self, MAX_ENDPOINTS, ObservedSlice, Place, SliceShape, arrange},
    record::{self, ConditionShape, ObservedRecord, StatusShape},
    service::{FamilyPolicy, ObservedService, ServiceShape, Steering},
    *,
};
use crate::api::LoadBalancer;

fn id() -> Id {
    Id::new(
        TenantName::parse("acme").unwrap(),
        ServiceKey::new("default", "backend"),
    )
}

fn tenant_service() -> Service {
    let port = |name: &str, protocol, port, node_port| Port {
        name: name.into(),
        protocol,
        port,
        node_port: Some(node_port),
        app_protocol: None,
    };
    Service {
        uid: "7f1c".into(),
        ports: vec![
            port("http", Protocol::Tcp, 3000, 31000),
            port("dns", Protocol::Udp, 3000, 31001),
        ],
        families: vec![IpFamily::V4],
        require_dual_stack: false,
        affinity_seconds: Some(600),
        source_ranges: BTreeSet::from(["10.0.0.0/8".parse().unwrap()]),
        traffic_policy: TrafficPolicy::Cluster,
        local_nodes: BTreeSet::new(),
        health_check_node_port: None,
        requested_ips: Vec::new(),
        annotations: BTreeMap::new(),
    }
}

fn shape() -> ServiceShape {
    let steering = Steering {
        pin: BTreeSet::from(["10.10.255.200".parse().unwrap()]),
        pool: None,
    };
    ServiceShape::new(
        &tenant_service(),
        (IpFamily::V4, FamilyPolicy::Single),
        Some("example.com/metal".into()),
        steering,
        BTreeMap::from([("example.com/owner".into(), "team a".into())]),
    )
}

/// What the API server makes of an apply: it notes which annotations are whose.
fn as_service(mut manifest: Value) -> core::Service {
    let annotations = manifest["metadata"]["annotations"].as_object().cloned();
    let owned = annotations.unwrap_or_default().into_iter();
    let owned: serde_json::Map<_, _> = owned.map(|(k, _)| (format!("f:{k}"), json!({}))).collect();
    manifest["metadata"]["managedFields"] = json!([{
        "manager": FIELD_MANAGER, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": { "f:metadata": { "f:annotations": owned } },
    }]);
    serde_json::from_value(manifest).unwrap()
}

#[test]
fn point_19_annotations_that_others_put_beside_the_hubs_are_theirs() {
    let mut object = as_service(shape().manifest(&id()));
    let annotations = object.metadata.annotations.as_mut().unwrap();
    annotations.insert("metallb.io/ip-allocated-from-pool".into(), "p".into());
    assert_eq!(ObservedService::from_object(&id(), &object).shape, shape());
    // Whoever else writes one of the hub's has it from then on: it is to be applied anew.
    object.metadata.managed_fields.as_mut().unwrap()[0].manager = Some("kubectl".into());
    let seen = ObservedService::from_object(&id(), &object).shape;
    assert_eq!(seen.annotations, BTreeMap::new());
    assert_eq!(
        seen.steering,
        shape().steering,
        "the pin counts whoever wrote it"
    );
}

#[test]
fn manifests() {
    let slice = SliceShape {
        addresses: vec!["10.10.2.1".parse().unwrap(), "10.10.2.2".parse().unwrap()],
        ports: backend_slice::ports(&tenant_service()),
    };
    let place = Place {
        family: IpFamily::V4,
        index: 0,
    };
    let status = StatusShape {
        addresses: vec![Ingress::Ip("10.10.255.200".parse().unwrap())],
        accepted: ConditionShape {
            status: true,
            reason: "Accepted".into(),
            message: String::new(),
        },
        programmed: ConditionShape {
            status: true,
            reason: "Programmed".into(),
            message: String::new(),
        },
        backends_healthy: ConditionShape {
            status: true,
            reason: "Healthy".into(),
            message: String::new(),
        },
        observed_generation: 1,
    };
    let spec = record::spec(&id(), Generation(0x2a), &tenant_service());
    let now = Timestamp::from_second(1_790_000_000).unwrap();
    insta::assert_yaml_snapshot!("namespace", namespace::manifest(&id().tenant));
    insta::assert_yaml_snapshot!("service", shape().manifest(&id()));
    insta::assert_yaml_snapshot!("slice", slice.manifest(&id(), place));
    insta::assert_yaml_snapshot!("record", record::manifest(&id(), &spec));
    insta::assert_yaml_snapshot!("status", status.manifest(&id(), None, now));
}

/// Where the target port is the node port, as an earlier release wrote it: it is nothing that traffic goes by, so that it stays
/// until something else is to be written.
#[test]
fn point_10_what_an_earlier_release_wrote_is_not_written_anew() {
    let mut manifest = shape().manifest(&id());
    for port in manifest["spec"]["ports"].as_array_mut().unwrap() {
        assert!(port["targetPort"].is_null());
        port["targetPort"] = json!(31_000);
    }
    let seen = ObservedService::from_object(&id(), &as_service(manifest));
    assert!(seen.sound);
    assert_eq!(seen.shape, shape());
}

#[test]
fn a_written_service_is_recognised() {
    for policy in [
        FamilyPolicy::Single,
        FamilyPolicy::Prefer,
        FamilyPolicy::Require,
    ] {
        let written = ServiceShape {
            family_policy: policy,
            ..shape()
        };
        let observed = ObservedService::from_object(&id(), &as_service(written.manifest(&id())));
        assert_eq!(observed.shape, written);
        assert!(observed.sound && !observed.foreign_fields);
    }
}

#[test]
fn drift_of_a_service_is_seen() {
    let changes: [(&str, Value); 6] = [
        ("/spec/type", json!("ClusterIP")),
        ("/spec/allocateLoadBalancerNodePorts", json!(true)),
        ("/spec/externalTrafficPolicy", json!("Local")),
        ("/metadata/labels/berth.dev~1service-name", json!("other")),
        (
            "/metadata/annotations/metallb.io~1loadBalancerIPs",
            json!("10.10.255.201"),
        ),
        (
            "/metadata/annotations/metallb.io~1loadBalancerIPs",
            json!("anything"),
        ),
    ];
    for (path, value) in changes {
        let mut manifest = shape().manifest(&id());
        *manifest.pointer_mut(path).unwrap() = value.clone();
        let observed = ObservedService::from_object(&id(), &as_service(manifest));
        assert!(
            observed.shape != shape() || !observed.sound,
            "{path} {value}"
        );
    }
    let mut manifest = shape().manifest(&id());
    manifest["spec"]["externalIPs"] = json!(["203.0.113.1"]);
    assert!(ObservedService::from_object(&id(), &as_service(manifest)).foreign_fields);
}

#[test]
fn a_written_slice_is_recognised_and_its_drift_seen() {
    let place = Place {
        family: IpFamily::V6,
        index: 3,
    };
    let written = SliceShape {
        addresses: vec![
            "2001:db8::1".parse().unwrap(),
            "2001:db8::2".parse().unwrap(),
        ],
        ports: backend_slice::ports(&tenant_service()),
    };
    let read = |manifest: &Value| {
        let object: EndpointSlice = serde_json::from_value(manifest.clone()).unwrap();
        ObservedSlice::from_object(&id(), &object)
    };
    let manifest = written.manifest(&id(), place);
    let observed = ObservedSlice {
        shape: written.clone(),
        sound: true,
    };
    assert_eq!(read(&manifest), Some((place, observed)));
    let changes: [fn(&mut Value); 5] = [
        |m| m["endpoints"][0]["conditions"]["ready"] = json!(false),
        |m| m["endpoints"][0]["nodeName"] = json!("m1"),
        |m| m["endpoints"][1]["addresses"][0] = json!("2001:db8::1"),
        |m| m["ports"][0]["port"] = json!(1),
        |m| m["metadata"]["labels"]["kubernetes.io/service-name"] = json!("other"),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut manifest = manifest.clone();
        change(&mut manifest);
        let (_, observed) = read(&manifest).unwrap();
        assert!(
            !observed.sound || observed.shape != written,
            "change {index}"
        );
    }
}

#[test]
fn a_record_reads_back_as_the_service_that_it_records() {
    let service = tenant_service();
    let spec = record::spec(&id(), Generation(1), &service);
    assert_eq!(
        record::service(&spec, BTreeSet::new()),
        Some(service.clone())
    );
    let object: LoadBalancer = serde_json::from_value(record::manifest(&id(), &spec)).unwrap();
    let observed = ObservedRecord::from_object(&id(), &object);
    assert!(observed.sound);
    assert_eq!(observed.spec, spec);
    let later = record::spec(&id(), Generation(2), &service);
    assert!(record::same_request(&spec, &later));
    let renamed = Service {
        uid: "new".into(),
        ..service
    };
    assert!(!record::same_request(
        &spec,
        &record::spec(&id(), Generation(2), &renamed)
    ));
}

#[test]
fn an_unchanged_condition_keeps_its_time() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let condition = |status| ConditionShape {
        status,
        reason: "R".into(),
        message: "m".into(),
    };
    let before = StatusShape {
        addresses: Vec::new(),
        accepted: condition(true),
        programmed: condition(false),
        backends_healthy: condition(true),
        observed_generation: 1,
    };
    let mut object = record::manifest(
        &id(),
        &record::spec(&id(), Generation(1), &tenant_service()),
    );
    object["status"] = before.manifest(&id(), None, at(1_000))["status"].clone();
    let object: LoadBalancer = serde_json::from_value(object).unwrap();
    let observed = ObservedRecord::from_object(&id(), &object).status.unwrap();
    assert_eq!(observed.shape.as_ref(), Some(&before));
    let after = StatusShape {
        programmed: condition(true),
        ..before
    };
    let manifest = after.manifest(&id(), Some(&observed), at(2_000));
    let time = |index: usize| manifest["status"]["conditions"][index]["lastTransitionTime"].clone();
    assert_eq!(time(0), json!("1970-01-01T00:16:40Z"));
    assert_eq!(time(1), json!("1970-01-01T00:33:20Z"));
}

#[test]
fn hostile_46_an_object_without_our_labels_has_no_owner() {
    let ours = as_service(shape().manifest(&id())).metadata;
    assert_eq!(owner(&ours), Some(id()));
    let without = |label: &str| {
        let mut meta = ours.clone();
        meta.labels.as_mut().unwrap().remove(label);
        meta
    };
    for label in [MANAGED_BY, TENANT, SERVICE_NAMESPACE, SERVICE_NAME] {
        assert_eq!(owner(&without(label)), None, "{label}");
    }
    let copied = ObjectMeta {
        name: Some("backend".into()),
        ..ours.clone()
    };
    assert_eq!(owner(&copied), None);
    let moved = ObjectMeta {
        namespace: Some("berth-other".into()),
        ..ours
    };
    assert_eq!(owner(&moved), None);
}

fn addresses(range: std::ops::Range<u32>) -> BTreeSet<std::net::IpAddr> {
    range
        .map(|n| std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into())
        .collect()
}

#[test]
fn hostile_56_ten_thousand_nodes_are_split_at_a_thousand() {
    let slices = arrange(&addresses(0..10_000), []);
    assert_eq!(slices.len(), 10);
    assert!(slices.values().all(|slice| slice.len() == MAX_ENDPOINTS));
}

#[test]
fn point_27_a_node_that_comes_or_goes_changes_one_slice() {
    let before = arrange(&addresses(0..2_500), []);
    let mut wanted = addresses(0..2_500);
    wanted.remove(&"10.0.0.7".parse().unwrap());
    let step = |before: &std::collections::BTreeMap<u32, Vec<std::net::IpAddr>>,
                wanted: &BTreeSet<_>| {
        let observed = before.iter().map(|(index, ips)| (*index, ips.as_slice()));
        let after = arrange(wanted, observed);
        let changed = after
            .iter()
            .filter(|(index, ips)| before.get(index) != Some(ips))
            .count();
        (after, changed)
    };
    let (after, changed) = step(&before, &wanted);
    assert_eq!(changed, 1);
    wanted.insert("10.9.9.9".parse().unwrap());
    let (after, changed) = step(&after, &wanted);
    assert_eq!(changed, 1);
    assert_eq!(step(&after, &wanted).1, 0);
}

#[test]
fn an_emptied_first_slice_stays_and_none_is_made_for_nothing() {
    let ip: std::net::IpAddr = "10.0.0.1".parse().unwrap();
    assert!(arrange(&BTreeSet::new(), []).is_empty());
    let emptied = arrange(
        &BTreeSet::new(),
        [(0, [ip].as_slice()), (1, [ip].as_slice())],
    );
    assert_eq!(emptied, [(0, Vec::new())].into());
}
