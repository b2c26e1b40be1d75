//! Lines 44 to 49, 60 and 62: Services that are none. Each is told in one snapshot with others that are in order, under a name that
//! is served already, and under a new one: it is answered by what is wrong with it, what was served stands as it stood, what
//! is new is not made, and the others are taken.

use anyhow::{Result, ensure};
use berth_hub::api::LoadBalancer;
use berth_lab::{Seen, eventually};
use berth_wire::v1;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::api::{DeleteParams, Patch, PatchParams};
use prost::Message as _;
use serde_json::{Value, json};
use tonic::Code;

use crate::{
    attacker::{
        messages::{self, body_of, field, node, service, snapshot, upsert_of_bytes},
        session::Session,
    },
    evidence::Evidence,
    ground::{Attack, SOON, programmed},
    management::object_name,
};

/// What is wrong with a Service, and the field and the reason that are answered.
type Case = (
    &'static str,
    fn(&mut v1::Service),
    &'static str,
    &'static str,
);

/// See the module.
async fn each_is_refused(name: &str, evidence: Evidence, cases: &[Case]) -> Result<()> {
    let attack = Attack::begin(name, evidence).await?;
    let n1 = node("n1");
    let served: Vec<String> = (0..cases.len()).map(|i| format!("served-{i}")).collect();
    let mut told = vec![n1.clone()];
    told.extend(served.iter().map(|name| service(name, 1, 80)));
    let mut session = attack.session(&told).await?;
    for name in &served {
        programmed(&mut session, name, 1).await?;
    }
    let before = attack.standing().await?;
    assert_eq!(before.len(), 3 * cases.len(), "{before:?}");

    let mut told = vec![n1];
    for (index, (_, spoil, ..)) in cases.iter().enumerate() {
        for (name, generation) in [("served", 2), ("new", 1)] {
            let mut resource = service(&format!("{name}-{index}"), generation, 81);
            spoil(body_of(&mut resource));
            told.push(resource);
        }
    }
    told.push(service("rest", 1, 80));
    for body in snapshot(2, &told) {
        session.say(body).await;
    }
    for (index, (what, _, field, reason)) in cases.iter().enumerate() {
        for (name, generation) in [("served", 2), ("new", 1)] {
            let answer = session
                .answer(&format!("{name}-{index}"), generation)
                .await?;
            assert_eq!(answer.outcome(), v1::Outcome::Refused, "{what}: {answer:?}");
            let said = (answer.field.as_str(), answer.reason.as_str());
            assert_eq!(said, (*field, *reason), "{what}: {answer:?}");
            // The address of the version that is served.
            assert_eq!(
                answer.ingress.is_empty(),
                name == "new",
                "{what}: {answer:?}"
            );
        }
    }
    programmed(&mut session, "rest", 1).await?;
    let new = attack.added(&before).await?;
    assert_eq!(new.len(), 3, "{new:?}");
    assert!(new.iter().all(|it| it.contains("default-rest-")), "{new:?}");
    attack.answered().await
}

/// A key is what an answer goes by: such a name is answered under itself, as it came.
#[tokio::test]
async fn hostile_44_names_that_no_service_has_are_refused_and_the_rest_is_taken() -> Result<()> {
    let attack = Attack::begin("44", Evidence::resource()).await?;
    let n1 = node("n1");
    let mut session = attack.session(&[n1.clone(), service("web", 1, 80)]).await?;
    programmed(&mut session, "web", 1).await?;
    let before = attack.standing().await?;
    let long = "a".repeat(64);
    let bad = [
        "", &long, "Upper", "..", "a/b", "a\nb", "-a", "a-", "a\0", "ä",
    ];
    let mut told = vec![n1, service("web", 1, 80), service("rest", 1, 80)];
    let mut wrong = Vec::new();
    for (index, name) in bad.iter().enumerate() {
        let generation = 100 + 2 * index as u64;
        wrong.push((name.to_string(), generation, "metadata.name"));
        told.push(service(name, generation, 80));
        let mut elsewhere = service("web", generation + 1, 80);
        elsewhere.key.as_mut().unwrap().namespace = name.to_string();
        wrong.push(("web".into(), generation + 1, "metadata.namespace"));
        told.push(elsewhere);
    }
    // Such a name is not kept to be answered: a page of them could not be sent.
    told.push(service(&"a".repeat(100_000), 1, 80));
    for body in snapshot(2, &told) {
        session.say(body).await;
    }
    for (name, generation, field) in wrong {
        let answer = session.answer(&name, generation).await?;
        assert_eq!(
            answer.outcome(),
            v1::Outcome::Refused,
            "{name:?}: {answer:?}"
        );
        assert_eq!(answer.field, field, "{name:?}: {answer:?}");
    }
    programmed(&mut session, "rest", 1).await?;
    let new = attack.added(&before).await?;
    assert_eq!(new.len(), 3, "{new:?}");
    attack.answered().await
}

/// Before Kubernetes 1.34 a Service's name began with a letter.
#[tokio::test]
async fn hostile_45_a_leading_digit_is_no_leading_digit_in_management() -> Result<()> {
    let attack = Attack::begin("45", Evidence::none()).await?;
    let mut session = attack
        .session(&[node("n1"), service("9lives", 1, 80)])
        .await?;
    programmed(&mut session, "9lives", 1).await?;
    let mut other = service("7", 1, 80);
    other.key.as_mut().unwrap().namespace = "0".into();
    session.say(messages::upsert(1, other)).await;
    programmed(&mut session, "7", 1).await?;
    let standing = attack.standing().await?;
    assert_eq!(standing.len(), 6);
    for name in standing.keys().filter(|name| !name.starts_with("Endpoint")) {
        let name = name.split(' ').nth(1).unwrap();
        assert!(name.starts_with(|c: char| c.is_ascii_lowercase()), "{name}");
        assert!(name.len() <= 63, "{name}");
    }
    attack.answered().await
}

#[tokio::test]
async fn hostile_46_names_that_join_alike_are_two_load_balancers() -> Result<()> {
    let attack = Attack::begin("46a", Evidence::none()).await?;
    let of = |namespace: &str, name: &str, port| {
        let mut resource = service(name, 1, port);
        resource.key.as_mut().unwrap().namespace = namespace.into();
        resource
    };
    let told = [node("n1"), of("a-b", "c", 80), of("a", "b-c", 81)];
    let mut session = attack.session(&told).await?;
    let one = programmed(&mut session, "c", 1).await?;
    let other = programmed(&mut session, "b-c", 1).await?;
    assert_ne!(one.ingress, other.ingress);
    let mut ports: Vec<u16> = attack
        .ground
        .load_balancers(&attack.tenant)
        .await?
        .iter()
        .map(|lb| lb.spec.ports[0].port)
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, [80, 81]);
    assert_eq!(attack.standing().await?.len(), 6);
    attack.answered().await
}

/// Somebody's object of the very name, of each kind, and of the sort that the hub would make itself.
#[tokio::test]
async fn hostile_46_a_foreign_object_in_the_place_is_not_touched() -> Result<()> {
    let attack = Attack::begin("46b", Evidence::rejected("in_the_way", "AlreadyExists")).await?;
    let mut session = attack.session(&[node("n1"), service("web", 1, 80)]).await?;
    programmed(&mut session, "web", 1).await?;
    let (ground, tenant) = (attack.ground, attack.tenant.as_str());
    let home = format!("berth-{tenant}");
    let labels = json!({ "team": "somebody-elses" });
    let metadata = |name: String| json!({ "name": name, "namespace": home, "labels": labels });
    let name = |service: &str| object_name(tenant, "default", service);
    let spec = |kind: &str| {
        json!({
            "type": kind,
            "ports": [{ "port": 4711, "protocol": "TCP" }],
        })
    };
    let mut bare = spec("LoadBalancer");
    bare["allocateLoadBalancerNodePorts"] = false.into();
    bare["ports"][0]["port"] = 80.into();
    bare["loadBalancerClass"] = "example.com/theirs".into();
    let theirs = [
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata(name("internal")), "spec": spec("ClusterIP") }),
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata(name("public")), "spec": spec("LoadBalancer") }),
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata(name("alike")), "spec": bare }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": metadata(format!("{}-v4-0", name("slice"))),
            "addressType": "IPv4", "endpoints": [{ "addresses": ["10.77.0.1"] }], "ports": [{ "port": 1 }],
        }),
        json!({
            "apiVersion": "berth.dev/v1alpha1", "kind": "LoadBalancer", "metadata": metadata(name("record")),
            "spec": {
                "source": { "service": "default/record", "uid": "theirs", "generation": "0" },
                "ports": [{ "name": "", "protocol": "TCP", "port": 1, "nodePort": 2, "appProtocol": "" }],
                "portSummary": "1/TCP", "families": ["IPv4"], "requireDualStack": false, "affinitySeconds": 0,
                "sourceRanges": [], "trafficPolicy": "Cluster", "requestedIPs": [],
            },
        }),
    ];
    for object in &theirs {
        ground.lab.management().apply(&object.to_string()).await?;
    }
    let before = theirs_in(&attack).await?;
    assert_eq!(before.len(), theirs.len());

    let in_the_way = ["internal", "public", "alike", "slice", "record"];
    let changes = in_the_way.map(|name| v1::change::Change::Upsert(service(name, 1, 80)));
    session.say(messages::delta(1, changes.to_vec())).await;
    for name in in_the_way {
        let answer = refused(&mut session, name, 1).await?;
        assert_eq!(answer.reason, "AlreadyExists", "{name}: {answer:?}");
        assert_eq!(answer.field, "metadata.name", "{name}: {answer:?}");
    }
    // Neither does the end of the Service that they are in the way of touch them.
    let changes = in_the_way.map(|name| messages::deletion(name, 2));
    session.say(messages::delta(2, changes.to_vec())).await;
    for name in in_the_way {
        while session.answer(name, 2).await?.outcome() != v1::Outcome::Deleted {}
    }
    assert_eq!(theirs_in(&attack).await?, before);
    session
        .say(messages::upsert(3, service("rest", 1, 80)))
        .await;
    programmed(&mut session, "rest", 1).await?;
    // The allocator gives addresses to Services, and theirs are such: it would have them when the pool is counted.
    for name in ["public", "alike"] {
        let services = ground.home::<Service>(tenant).await?;
        let name = object_name(tenant, "default", name);
        services.delete(&name, &DeleteParams::default()).await?;
    }
    attack.answered().await
}

/// Objects of somebody else's in the tenant's namespace. MetalLB, which serves any Service, may have written a status.
async fn theirs_in(attack: &Attack) -> Result<Vec<Value>> {
    let (ground, tenant) = (attack.ground, &attack.tenant);
    let mut all = ground.all::<Service>(tenant).await?;
    all.extend(ground.all::<EndpointSlice>(tenant).await?);
    all.extend(ground.all::<LoadBalancer>(tenant).await?);
    all.retain(|object| object["metadata"]["labels"]["team"] == "somebody-elses");
    for object in &mut all {
        let status = object.as_object_mut().unwrap().remove("status");
        let metadata = object["metadata"].as_object_mut().unwrap();
        if status.is_some() {
            metadata.remove("resourceVersion");
            metadata.remove("annotations");
        }
        let managers = metadata.remove("managedFields").unwrap_or_default();
        let hub = managers.as_array().into_iter().flatten();
        assert!(
            !hub.into_iter().any(|it| it["manager"] == "berth-hub"),
            "{managers}"
        );
    }
    Ok(all)
}

/// The refusal of a version, which may have been thought possible before.
async fn refused(session: &mut Session, name: &str, generation: u64) -> Result<v1::Answer> {
    loop {
        let answer = session.answer(name, generation).await?;
        if answer.outcome() == v1::Outcome::Refused {
            return Ok(answer);
        }
    }
}

#[tokio::test]
async fn hostile_47_no_port_a_port_twice_and_ten_thousand_are_refused() -> Result<()> {
    let cases: [Case; 4] = [
        ("none", |it| it.ports.clear(), "spec.ports", "Invalid"),
        (
            "one number twice",
            |it| {
                it.ports.push(it.ports[0].clone());
                it.ports[0].name = "a".into();
                it.ports[1].name = "b".into();
            },
            "spec.ports[1].port",
            "Invalid",
        ),
        (
            "one name twice",
            |it| {
                it.ports[0].name = "a".into();
                it.ports.push(it.ports[0].clone());
                it.ports[1].port += 1;
            },
            "spec.ports[1].name",
            "Invalid",
        ),
        (
            "10,000",
            |it| {
                let port = it.ports[0].clone();
                let numbered = |number| v1::Port {
                    name: format!("p-{number}"),
                    port: number,
                    ..port.clone()
                };
                it.ports = (1..=10_000).map(numbered).collect();
            },
            "spec.ports",
            "Invalid",
        ),
    ];
    each_is_refused("47", Evidence::resource(), &cases).await
}

#[tokio::test]
async fn hostile_48_numbers_that_no_port_has_and_protocols_that_are_none_are_refused() -> Result<()>
{
    const PORT: &str = "spec.ports[0].port";
    const PROTOCOL: &str = "spec.ports[0].protocol";
    let cases: [Case; 6] = [
        ("0", |it| it.ports[0].port = 0, PORT, "Invalid"),
        ("65536", |it| it.ports[0].port = 65_536, PORT, "Invalid"),
        (
            "2^32 - 1",
            |it| it.ports[0].port = u32::MAX,
            PORT,
            "Invalid",
        ),
        (
            "node port 65536",
            |it| it.ports[0].node_port = 65_536,
            "spec.ports[0].nodePort",
            "Invalid",
        ),
        (
            "FOO",
            |it| it.ports[0].protocol = 4_711,
            PROTOCOL,
            "UnknownValue",
        ),
        (
            "unspecified",
            |it| it.ports[0].protocol = 0,
            PROTOCOL,
            "UnknownValue",
        ),
    ];
    each_is_refused("48", Evidence::resource(), &cases).await
}

/// 0 is the wire's word for none.
#[tokio::test]
async fn hostile_49_node_ports_that_are_none_or_the_nodes_own_are_refused() -> Result<()> {
    const FIELD: &str = "spec.ports[0].nodePort";
    const RANGE: &str = "NodePortOutOfRange";
    let cases: [Case; 6] = [
        (
            "0",
            |it| it.ports[0].node_port = 0,
            FIELD,
            "NodePortMissing",
        ),
        ("1", |it| it.ports[0].node_port = 1, FIELD, RANGE),
        ("22", |it| it.ports[0].node_port = 22, FIELD, RANGE),
        ("6443", |it| it.ports[0].node_port = 6_443, FIELD, RANGE),
        ("10250", |it| it.ports[0].node_port = 10_250, FIELD, RANGE),
        ("2379", |it| it.ports[0].node_port = 2_379, FIELD, RANGE),
    ];
    each_is_refused("49", Evidence::planned(RANGE), &cases).await
}

fn annotation(key: impl Into<String>, value: impl Into<String>) -> v1::Annotation {
    v1::Annotation {
        key: key.into(),
        value: value.into(),
    }
}

#[tokio::test]
async fn hostile_60_bombs_of_annotations_are_refused() -> Result<()> {
    const FIELD: &str = "metadata.annotations";
    let cases: [Case; 4] = [
        (
            "many",
            |it| {
                it.annotations = (0..10_000)
                    .map(|n| annotation(format!("k-{n}"), "v"))
                    .collect()
            },
            FIELD,
            "Invalid",
        ),
        (
            "long",
            |it| it.annotations = vec![annotation("example.com/k", "v".repeat(300_000))],
            FIELD,
            "Invalid",
        ),
        (
            "a key with an escape",
            |it| it.annotations = vec![annotation("example.com/\u{1b}[2J", "v")],
            FIELD,
            "Invalid",
        ),
        (
            "one key twice",
            |it| it.annotations = vec![annotation("k", "v"), annotation("k", "w")],
            FIELD,
            "Invalid",
        ),
    ];
    each_is_refused("60a", Evidence::resource(), &cases).await
}

/// Whatever a terminal would do something about, in every place that text can stand in: the log has it escaped.
#[tokio::test]
async fn hostile_60_what_would_escape_into_the_log_stands_in_it_escaped() -> Result<()> {
    const NASTY: &str = "\u{1b}[2J\u{7}\r\nevent=admission tenant=root\u{9b}31m\u{202e}";
    let attack = Attack::begin("60b", Evidence::resource()).await?;
    let mut session = attack.session(&[node("n1")]).await?;
    let mut resource = service("web", 1, 80);
    let body = body_of(&mut resource);
    body.uid = NASTY.into();
    body.source_ranges = vec![NASTY.into()];
    session.say(messages::upsert(1, resource)).await;
    session
        .say(messages::upsert(2, service(NASTY, 1, 80)))
        .await;
    session.answer(NASTY, 1).await?;
    let lost = v1::SourceState {
        synced: false,
        reason: NASTY.into(),
    };
    session.say(v1::agent_message::Body::Source(lost)).await;
    // A Hello that is as bad, on a stream of its own.
    for spoil in [
        (|hello, nasty| hello.agent_version = nasty) as fn(&mut v1::Hello, String),
        |hello, nasty| hello.instance_id = nasty,
        |hello, nasty| hello.cluster_uid = nasty,
    ] {
        let mut calls = attack.calls(&attack.credential()).await;
        let mut other = calls.call(crate::attacker::frames::SYNC, &[]).await?;
        let mut hello = messages::hello_of(1, 1, "its-own");
        spoil(&mut hello, NASTY.into());
        other.say(v1::agent_message::Body::Hello(hello)).await;
        let status = other.ended().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let log = attack.ground.lab.hub();
    eventually(SOON, "all of it was logged", || async {
        let log = log.log().await?;
        let own = log.lines().filter(|line| line.contains(&attack.tenant));
        let nasty: Vec<&str> = own.filter(|line| line.contains("[2J")).collect();
        match nasty.len() {
            // The lost source, and the name, which the audit log has.
            2.. => Ok(()),
            _ => Err(Seen(format!("{nasty:#?}"))),
        }
    })
    .await?;
    let log = log.log().await?;
    let raw = |c: &char| c.is_control() && *c != '\n' || matches!(c, '\u{202a}'..='\u{202e}');
    let found: Vec<&str> = log
        .lines()
        .filter(|line| line.chars().any(|c| raw(&c)))
        .collect();
    assert!(found.is_empty(), "{found:?}");
    assert!(!log.lines().any(|line| line.starts_with("event=")));
    attack.answered().await
}

/// A string that is no UTF-8 is no protobuf: nothing of the message can be believed, so that nothing of it is taken.
#[tokio::test]
async fn hostile_60_a_string_that_is_no_utf_8_ends_the_stream_and_the_state_stays() -> Result<()> {
    let attack = Attack::begin("60c", Evidence::ended("InvalidArgument", "unreadable")).await?;
    let n1 = node("n1");
    let mut session = attack.session(&[n1.clone(), service("web", 1, 80)]).await?;
    programmed(&mut session, "web", 1).await?;
    let before = attack.standing().await?;
    // Resource { Key { kind, namespace, name }, generation }, with a name of no characters.
    let mut key = vec![0x08, 1];
    key.extend(field(2, b"default"));
    key.extend(field(3, b"\xff\xfe\xc0\x80"));
    let mut keyless = service("web", 2, 81);
    keyless.key = None;
    let resource = [field(1, &key), keyless.encode_to_vec()].concat();
    session.say_bytes(&upsert_of_bytes(1, &resource)).await;
    let status = session.ended().await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert_eq!(attack.standing().await?, before);
    // And its tenant is not shut out.
    let mut session = attack.session(&[n1, service("web", 3, 82)]).await?;
    programmed(&mut session, "web", 3).await?;
    attack.answered().await
}

#[tokio::test]
async fn hostile_62_ranges_and_timeouts_that_are_none_are_refused() -> Result<()> {
    const FIELD: &str = "spec.loadBalancerSourceRanges[0]";
    let cases: [Case; 6] = [
        (
            "0.0.0.0/0x",
            |it| it.source_ranges = vec!["0.0.0.0/0x".into()],
            FIELD,
            "Invalid",
        ),
        (
            "/33",
            |it| it.source_ranges = vec!["10.0.0.0/33".into()],
            FIELD,
            "Invalid",
        ),
        (
            "/-1",
            |it| it.source_ranges = vec!["10.0.0.0/-1".into()],
            FIELD,
            "Invalid",
        ),
        (
            "empty",
            |it| it.source_ranges = vec![String::new()],
            FIELD,
            "Invalid",
        ),
        (
            "2,000",
            |it| it.source_ranges = vec!["10.0.0.0/8".into(); 2_000],
            "spec.loadBalancerSourceRanges",
            "Invalid",
        ),
        (
            "a timeout of 136 years",
            |it| it.affinity_seconds = u32::MAX,
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            "Invalid",
        ),
    ];
    each_is_refused("62a", Evidence::resource(), &cases).await
}

/// Kubernetes allows no change of a Service's class. The wire has no field for one; the operator's class is for new ones.
#[tokio::test]
async fn hostile_62_a_change_of_class_changes_no_service_that_is_there() -> Result<()> {
    let attack = Attack::begin("62b", Evidence::none()).await?;
    let mut session = attack.session(&[node("n1"), service("web", 1, 80)]).await?;
    programmed(&mut session, "web", 1).await?;
    let before = attack.ground.service(&attack.tenant, "web").await?;
    assert!(before["spec"]["loadBalancerClass"].is_null());
    let other = ", loadBalancerClass: example.com/other";
    attack.ground.admit(&attack.tenant, other).await?;
    // The hub has the operator's word when a new Service follows it. One that came before it does not.
    let mut told = 0;
    loop {
        told += 1;
        let name = format!("new-{told}");
        session
            .say(messages::upsert(told, service(&name, 1, 80)))
            .await;
        let new = eventually(SOON, "the new Service is there", || async {
            let new = attack.ground.service(&attack.tenant, &name).await;
            new.map_err(|error| Seen(format!("{error:#}")))
        });
        if new.await?["spec"]["loadBalancerClass"] == "example.com/other" {
            break;
        }
        ensure!(told < 50, "no new Service has the class");
    }
    let next = told + 1;
    session
        .say(messages::upsert(next, service("web", 2, 81)))
        .await;
    programmed(&mut session, "web", 2).await?;
    let after = attack.ground.service(&attack.tenant, "web").await?;
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert!(after["spec"]["loadBalancerClass"].is_null());
    assert_eq!(after["spec"]["ports"][0]["port"], 81);

    // Somebody with every right tries it on the Service itself: the API server says no.
    let services = attack.ground.home::<Service>(&attack.tenant).await?;
    let name = object_name(&attack.tenant, "default", "web");
    let patch = Patch::Merge(json!({ "spec": { "loadBalancerClass": "example.com/other" } }));
    let tried = services.patch(&name, &PatchParams::default(), &patch).await;
    assert!(matches!(tried, Err(kube::Error::Api(status)) if status.code == 422));
    attack.answered().await
}
