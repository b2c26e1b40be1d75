//! Lines 57 to 59, 61 and 63: whoever would choose an address, a class, an owner or a way for traffic that is not his to choose; and
//! an allocator that gives what can be no address.

use anyhow::Result;
use berth_lab::{Seen, eventually};
use berth_wire::v1;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use prost::Message as _;
use serde_json::{Value, json};

use crate::{
    attacker::{
        messages::{self, body_of, field, node, service, upsert_of_bytes},
        session::Session,
    },
    evidence::Evidence,
    ground::{Attack, Ground, SOON, programmed},
    management::object_name,
};

/// Of a Service in `default`.
async fn annotated(
    session: &mut Session,
    sequence: u64,
    annotations: &[(&str, &str)],
) -> Result<()> {
    let mut resource = service("web", sequence, 80);
    let all = annotations.iter().map(|&(key, value)| v1::Annotation {
        key: key.into(),
        value: value.into(),
    });
    body_of(&mut resource).annotations = all.collect();
    session.say(messages::upsert(sequence, resource)).await;
    programmed(session, "web", sequence).await?;
    Ok(())
}

/// The operator lets pass what should not: not even then.
const OPEN: &str = ", annotations: {allowed: [\"metallb.io/*\", \"metallb.universe.tf/*\", \"service.beta.kubernetes.io/*\", \
                    \"kubernetes.io/*\", \"berth.dev/*\", \"example.com/*\"]}";

#[tokio::test]
async fn hostile_57_annotations_that_steer_metallb_are_stripped_and_what_is_served_stays()
-> Result<()> {
    let attack = Attack::begin("57", Evidence::message()).await?;
    attack.ground.admit(&attack.tenant, OPEN).await?;
    let (_, theirs, _) = attack.neighbour();
    let mut session = attack.session(&[node("n1")]).await?;
    annotated(&mut session, 1, &[("example.com/owner", "me")]).await?;
    let before = attack.ground.service(&attack.tenant, "web").await?;
    let steering = [
        ("example.com/owner", "me"),
        ("metallb.io/loadBalancerIPs", theirs.as_str()),
        ("metallb.universe.tf/loadBalancerIPs", theirs.as_str()),
        ("metallb.io/address-pool", "hostile"),
        ("metallb.io/allow-shared-ip", "neighbour"),
        ("metallb.universe.tf/allow-shared-ip", "neighbour"),
        ("metallb.io/ip-allocated-from-pool", "hostile"),
    ];
    annotated(&mut session, 2, &steering).await?;
    // A port that a later version has shows that the version in between was written, too.
    let mut later = service("web", 3, 81);
    body_of(&mut later).annotations = vec![];
    session.say(messages::upsert(3, later)).await;
    annotated(&mut session, 4, &steering).await?;
    let after = attack.ground.service(&attack.tenant, "web").await?;
    assert_eq!(
        after["metadata"]["annotations"],
        before["metadata"]["annotations"]
    );
    assert_eq!(
        after["status"]["loadBalancer"],
        before["status"]["loadBalancer"]
    );
    attack.answered().await
}

#[tokio::test]
async fn hostile_59_what_is_a_clouds_or_kubernetes_own_is_stripped() -> Result<()> {
    let attack = Attack::begin("59a", Evidence::message()).await?;
    attack.ground.admit(&attack.tenant, OPEN).await?;
    let mut session = attack.session(&[node("n1")]).await?;
    let never = [
        (
            "service.beta.kubernetes.io/aws-load-balancer-type",
            "external",
        ),
        (
            "service.beta.kubernetes.io/azure-load-balancer-resource-group",
            "theirs",
        ),
        ("cloud.google.com/load-balancer-type", "Internal"),
        ("kubernetes.io/description", "mine"),
        ("endpoints.kubernetes.io/over-capacity", "truncated"),
        ("service.kubernetes.io/topology-mode", "Auto"),
        ("kubectl.kubernetes.io/last-applied-configuration", "{}"),
        ("berth.dev/load-balancer-ips", "10.66.0.1"),
        ("lbipam.cilium.io/ips", "10.66.0.1"),
        ("kube-vip.io/loadbalancerIPs", "10.66.0.1"),
    ];
    annotated(
        &mut session,
        1,
        &[&never[..], &[("example.com/owner", "me")]].concat(),
    )
    .await?;
    let object = attack.ground.service(&attack.tenant, "web").await?;
    let annotations = object["metadata"]["annotations"].as_object().unwrap();
    assert_eq!(annotations["example.com/owner"], "me");
    for (key, _) in never {
        assert!(!annotations.contains_key(key), "{key} in {annotations:?}");
    }
    attack.answered().await
}

/// The wire has a field for none of these. Whoever makes up some says them to nobody.
#[tokio::test]
async fn hostile_59_finalizers_owners_and_labels_have_no_field_and_are_not_heard() -> Result<()> {
    let attack = Attack::begin("59b", Evidence::none()).await?;
    let metadata = json!({
        "finalizers": ["example.com/keep"],
        "ownerReferences": [{ "apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x" }],
        "labels": { "kubernetes.io/cluster-service": "true", "berth.dev/tenant": "neighbour-59b" },
    });
    let object = smuggled(&attack, &metadata).await?;
    let there = &object["metadata"];
    assert!(there["finalizers"].is_null(), "{there}");
    assert!(there["ownerReferences"].is_null(), "{there}");
    assert_eq!(
        there["labels"],
        json!({
            "app.kubernetes.io/managed-by": "berth-hub",
            "berth.dev/tenant": attack.tenant,
            "berth.dev/service-namespace": "default",
            "berth.dev/service-name": "web",
        })
    );
    attack.answered().await
}

#[tokio::test]
async fn hostile_61_external_ips_external_name_and_selector_have_no_field_and_are_not_heard()
-> Result<()> {
    let attack = Attack::begin("61", Evidence::none()).await?;
    let spec = json!({
        "externalIPs": ["198.51.100.7"],
        "externalName": "metadata.google.internal",
        "selector": { "app": "theirs" },
        "type": "ExternalName",
        "clusterIP": "10.96.0.1",
        "loadBalancerClass": "example.com/theirs",
        "publishNotReadyAddresses": true,
    });
    let object = smuggled(&attack, &spec).await?;
    let there = &object["spec"];
    assert_eq!(there["type"], "LoadBalancer");
    assert_ne!(there["clusterIP"], "10.96.0.1");
    for field in [
        "externalIPs",
        "externalName",
        "selector",
        "loadBalancerClass",
        "publishNotReadyAddresses",
    ] {
        assert!(there[field].is_null(), "{field} in {there}");
    }
    attack.answered().await
}

/// The agent has nothing to say them with: of a Service in a real cluster, by the real agent.
#[tokio::test]
async fn hostile_61_external_ips_and_selector_of_a_real_service_stay_in_its_cluster() -> Result<()>
{
    let lab = &Ground::get().await?.lab;
    let tenant = lab.tenant("honest").await?;
    let namespace = tenant.namespace().await?;
    let attack = Attack::begin("61b", Evidence::none()).await?;
    let spec = json!({
        "type": "LoadBalancer",
        "selector": { "app": "web" },
        "ports": [{ "port": 80 }],
        "externalIPs": ["198.51.100.7"],
        "publishNotReadyAddresses": true,
    });
    let web = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" }, "spec": spec });
    tenant.apply_in(&namespace, &web.to_string()).await?;
    tenant.await_ip(&namespace, "web").await?;
    let object = attack.ground.service("honest", "web").await?;
    let there = &object["spec"];
    assert_eq!(there["ports"][0]["port"], 80, "{there}");
    for field in ["externalIPs", "selector", "publishNotReadyAddresses"] {
        assert!(there[field].is_null(), "{field} in {there}");
    }
    assert!(!object.to_string().contains("198.51.100.7"), "{object}");
    let records = attack.ground.load_balancers("honest").await?;
    assert_eq!(records.len(), 1);
    let record = serde_json::to_string(&records)?;
    assert!(!record.contains("198.51.100.7"), "{record}");

    // As ExternalName it is no load balancer any more, and its name goes nowhere.
    let name =
        json!({ "spec": { "type": "ExternalName", "externalName": "metadata.google.internal" } });
    let services: Api<Service> = Api::namespaced(tenant.client().await?, &namespace);
    let patch = Patch::Merge(name);
    services
        .patch("web", &PatchParams::default(), &patch)
        .await?;
    let let_go = || async {
        let left = attack.ground.load_balancers("honest").await;
        match left.map_err(|error| Seen(format!("{error:#}")))?.len() {
            0 => Ok(()),
            left => Err(Seen(format!("{left} load balancers"))),
        }
    };
    eventually(SOON, "it is let go", let_go).await?;
    for object in attack.ground.all::<Service>("honest").await? {
        assert_eq!(
            object["spec"]["type"], "LoadBalancer",
            "parked at most: {object}"
        );
        assert!(object["spec"]["externalName"].is_null(), "{object}");
    }
    attack.answered().await
}

/// The management Service of one that is told with fields of nobody's making, at every level, with names and values of these.
async fn smuggled(attack: &Attack, what: &Value) -> Result<Value> {
    let mut session = attack.session(&[node("n1")]).await?;
    let mut resource = service("web", 1, 80);
    let mut body = body_of(&mut resource).encode_to_vec();
    let mut number = 12;
    let mut unknown = Vec::new();
    for (key, value) in what.as_object().unwrap() {
        for text in [key.clone(), value.to_string(), format!("{key}: {value}")] {
            unknown.extend(field(number, text.as_bytes()));
            number += 1;
        }
    }
    // Numbers that every release will have for something else.
    for number in [100, 1_000, 536_870_911] {
        unknown.extend(field(number, what.to_string().as_bytes()));
    }
    body.extend(&unknown);
    resource.body = None;
    let mut bytes = resource.encode_to_vec();
    bytes.extend(field(3, &body));
    bytes.extend(&unknown);
    session.say_bytes(&upsert_of_bytes(1, &bytes)).await;
    programmed(&mut session, "web", 1).await?;
    attack.ground.service(&attack.tenant, "web").await
}

/// Both may ask for any address of the pool.
#[tokio::test]
async fn hostile_58_an_address_that_another_tenant_has_is_refused_and_stays_with_it() -> Result<()>
{
    let attack = Attack::begin("58a", Evidence::planned("AddressInUse")).await?;
    attack
        .ground
        .admit(&attack.tenant, ", requestableIPs: [\"10.66.0.0/22\"]")
        .await?;
    let (tenant, theirs, _) = attack.neighbour();
    let theirs_before = attack.ground.standing(&tenant).await?;
    let mut session = attack.session(&[node("n1")]).await?;
    session
        .say(messages::upsert(1, asking("web", 1, &theirs)))
        .await;
    let answer = session.answer("web", 1).await?;
    assert_eq!(answer.outcome(), v1::Outcome::Refused, "{answer:?}");
    assert_eq!(answer.field, "spec.loadBalancerIP");
    assert_eq!(answer.reason, "AddressInUse");
    assert!(answer.ingress.is_empty(), "{answer:?}");
    // Not who has it.
    assert!(!answer.message.contains("neighbour"), "{answer:?}");
    assert!(attack.standing().await?.is_empty());
    assert_eq!(attack.ground.standing(&tenant).await?, theirs_before);
    // It may ask for one that is free.
    session
        .say(messages::upsert(2, asking("web", 2, "10.66.3.200")))
        .await;
    let answer = programmed(&mut session, "web", 2).await?;
    assert_eq!(answer.ingress[0].ip, "10.66.3.200");
    // And for the other's no more than before: it keeps what it has.
    session
        .say(messages::upsert(3, asking("web", 3, &theirs)))
        .await;
    let answer = session.answer("web", 3).await?;
    assert_eq!(answer.outcome(), v1::Outcome::Refused, "{answer:?}");
    assert_eq!(answer.ingress[0].ip, "10.66.3.200");
    attack.answered().await
}

#[tokio::test]
async fn hostile_58_an_address_that_the_operator_lets_nobody_ask_for_is_refused() -> Result<()> {
    let attack = Attack::begin("58b", Evidence::planned("AddressNotAllowed")).await?;
    attack
        .ground
        .admit(&attack.tenant, ", requestableIPs: [\"10.66.3.0/24\"]")
        .await?;
    let mut session = attack.session(&[node("n1"), service("web", 1, 80)]).await?;
    programmed(&mut session, "web", 1).await?;
    let before = attack.standing().await?;
    let (_, theirs, _) = attack.neighbour();
    let beyond = [
        theirs.as_str(),
        "10.66.2.1",
        "127.0.0.1",
        "0.0.0.0",
        "8.8.8.8",
    ];
    let mut sequence = 0;
    for (n, address) in beyond.iter().enumerate() {
        for (name, generation) in [("web".to_owned(), 2 + n as u64), (format!("new-{n}"), 1)] {
            sequence += 1;
            session
                .say(messages::upsert(
                    sequence,
                    asking(&name, generation, address),
                ))
                .await;
            let answer = session.answer(&name, generation).await?;
            assert_eq!(
                answer.outcome(),
                v1::Outcome::Refused,
                "{address}: {answer:?}"
            );
            assert_eq!(answer.field, "spec.loadBalancerIP", "{address}: {answer:?}");
            assert_eq!(answer.reason, "AddressNotAllowed", "{address}: {answer:?}");
            assert_eq!(
                answer.ingress.is_empty(),
                generation == 1,
                "{address}: {answer:?}"
            );
        }
    }
    assert_eq!(attack.standing().await?, before);
    attack.answered().await
}

fn asking(name: &str, generation: u64, address: &str) -> v1::Resource {
    let mut resource = service(name, generation, 80);
    body_of(&mut resource).requested_ips = vec![address.into()];
    resource
}

/// Its Services are of a class that no allocator serves, but for this test.
#[tokio::test]
async fn hostile_63_what_can_be_no_address_is_not_relayed_and_the_rest_is() -> Result<()> {
    let attack = Attack::begin("63", Evidence::planned("Internal")).await?;
    let (ground, tenant) = (attack.ground, attack.tenant.as_str());
    ground
        .admit(tenant, ", loadBalancerClass: example.com/mad")
        .await?;
    let mut session = attack.session(&[node("n1"), service("web", 1, 80)]).await?;
    let made = || async {
        let found = ground.service(tenant, "web").await;
        found.map(drop).map_err(|error| Seen(format!("{error:#}")))
    };
    eventually(SOON, "the Service is made", made).await?;
    let impossible = [
        json!([{ "ip": "0.0.0.0" }]),
        json!([{ "ip": "127.0.0.1" }]),
        json!([{ "ip": "169.254.169.254" }]),
        json!([{ "ip": "224.0.0.1" }]),
        json!([{ "ip": "2001:db8::1" }]),
        json!([{ "hostname": "lb.example.com" }]),
    ];
    let mut generation = 1;
    for ingress in impossible {
        ground.allocate(tenant, "web", ingress.clone()).await?;
        let answer = loop {
            // A new version, for an answer that was given is not given again.
            generation += 1;
            session
                .say(messages::upsert(
                    generation - 1,
                    service("web", generation, 80),
                ))
                .await;
            let answer = session.answer("web", generation).await?;
            assert!(answer.ingress.is_empty(), "{ingress}: {answer:?}");
            if answer.outcome() == v1::Outcome::Refused {
                break answer;
            }
            assert_eq!(
                answer.outcome(),
                v1::Outcome::Pending,
                "{ingress}: {answer:?}"
            );
        };
        assert_eq!(answer.reason, "Internal", "{ingress}: {answer:?}");
        assert_eq!(answer.field, "status.loadBalancer", "{ingress}: {answer:?}");
        assert!(answer.message.contains("operator"), "{ingress}: {answer:?}");
        let lbs = ground.load_balancers(tenant).await?;
        let addresses = lbs
            .iter()
            .filter_map(|lb| Some(&lb.status.as_ref()?.addresses));
        assert!(addresses.flatten().next().is_none(), "{ingress}: {lbs:?}");
        ground.allocate(tenant, "web", Value::Null).await?;
    }
    // The API server itself lets no host name in that is none.
    let services = ground.home::<Service>(tenant).await?;
    for hostname in ["..", "a/b", "a b"] {
        let status =
            json!({ "status": { "loadBalancer": { "ingress": [{ "hostname": hostname }] } } });
        let name = object_name(tenant, "default", "web");
        let tried = services
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
            .await;
        assert!(
            matches!(tried, Err(kube::Error::Api(status)) if status.code == 422),
            "{hostname}"
        );
    }
    // What is an address of its family is relayed.
    ground
        .allocate(tenant, "web", json!([{ "ip": "10.66.9.9" }]))
        .await?;
    generation += 1;
    session
        .say(messages::upsert(
            generation - 1,
            service("web", generation, 80),
        ))
        .await;
    let answer = programmed(&mut session, "web", generation).await?;
    assert_eq!(answer.ingress[0].ip, "10.66.9.9");
    attack.answered().await
}
