//! Annotations: the operator's list says which pass from a tenant's Service to the management Service, the operator's own come
//! with them, and what would steer an allocator or a cloud is stripped and told. One tenant serves all tests here.

use anyhow::Result;
use berth_lab::{Lab, Tenant};
use serde_json::{Value, json};

use crate::support::{
    await_condition, await_event, await_managed, get, managed, patch, service, tenant,
};

const NAME: &str = "notes";

/// The tenant, and what its operator lets pass: domains that are too broad as well.
async fn admitted(lab: &Lab) -> Result<(Tenant, String)> {
    let (tenant, namespace) = tenant(lab, NAME).await?;
    let allowed = r#"{"spec":{"annotations":{"allowed":["example.com/*","metallb.io/*","metallb.io/allow-shared-ip",
                      "service.beta.kubernetes.io/*","kubernetes.io/*"]}}}"#;
    patch(lab.management(), &["tenant", NAME], allowed).await?;
    Ok((tenant, namespace))
}

/// A Service with these annotations.
fn annotated(name: &str, annotations: &Value) -> String {
    service(name, "").replace(
        &format!("metadata: {{name: {name}}}"),
        &format!("metadata: {{name: {name}, annotations: {annotations}}}"),
    )
}

async fn annotate(tenant: &Tenant, namespace: &str, words: &[&str]) -> Result<()> {
    let mut argv = vec!["annotate", "svc", "web", "-n", namespace, "--overwrite"];
    argv.extend(words);
    tenant.kubectl(&argv).await?;
    Ok(())
}

#[tokio::test]
async fn point_19_allowed_annotations_pass_and_changes_are_followed_with_the_address_kept()
-> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = admitted(&lab).await?;
    let web = (NAME, namespace.as_str(), "web");
    let annotations = json!({"example.com/owner": "a", "other.example/secret": "s"});
    tenant
        .apply_in(&namespace, &annotated("web", &annotations))
        .await?;
    let ip = tenant.await_ip(&namespace, "web").await?;
    let owner = |value: Value| {
        move |object: &Value| object["metadata"]["annotations"]["example.com/owner"] == value
    };
    let first = await_managed(&lab, web, "it has the tenant's word", owner(json!("a"))).await?;
    let text = first.to_string();
    assert!(!text.contains("secret"), "nothing else passes: {text}");

    annotate(&tenant, &namespace, &["example.com/owner=b"]).await?;
    await_managed(&lab, web, "it has the new word", owner(json!("b"))).await?;
    let tenants = ["tenant", NAME];
    let inject = r#"{"spec":{"annotations":{"injected":{"cloud.example/kind":"internal"}}}}"#;
    patch(lab.management(), &tenants, inject).await?;
    let kind = |object: &Value| object["metadata"]["annotations"]["cloud.example/kind"].clone();
    let injected = |object: &Value| kind(object) == "internal";
    await_managed(&lab, web, "it has the operator's word", injected).await?;
    let none = r#"{"spec":{"annotations":{"injected":null}}}"#;
    patch(lab.management(), &tenants, none).await?;
    await_managed(&lab, web, "the operator took it back", |it| {
        kind(it).is_null()
    })
    .await?;
    annotate(&tenant, &namespace, &["example.com/owner-"]).await?;
    let last = await_managed(&lab, web, "the tenant took it back", owner(Value::Null)).await?;
    assert_eq!(last["metadata"]["uid"], first["metadata"]["uid"]);
    assert_eq!(
        last["status"]["loadBalancer"]["ingress"][0]["ip"],
        json!(ip)
    );
    let annotations = &last["metadata"]["annotations"];
    assert_eq!(annotations["metallb.io/loadBalancerIPs"], json!(ip));
    assert!(
        !annotations["metallb.io/ip-allocated-from-pool"].is_null(),
        "MetalLB's own is MetalLB's: {annotations}"
    );
    Ok(())
}

#[tokio::test]
async fn point_19_what_does_not_pass_and_restarts_cost_no_write() -> Result<()> {
    let lab = Lab::builder().start_own().await?;
    let tenant = lab.tenant("acme").await?;
    let namespace = tenant.namespace().await?;
    let web = ("acme", namespace.as_str(), "web");
    let allowed = r#"{"spec":{"annotations":{"allowed":["example.com/*"]}}}"#;
    patch(lab.management(), &["tenant", "acme"], allowed).await?;
    let annotations = json!({"example.com/owner": "a", "metallb.io/address-pool": "mine"});
    tenant
        .apply_in(&namespace, &annotated("web", &annotations))
        .await?;
    tenant.await_ip(&namespace, "web").await?;
    let owned = |it: &Value| it["metadata"]["annotations"]["example.com/owner"] == "a";
    await_managed(&lab, web, "it has the tenant's word", owned).await?;
    await_event(&tenant, &namespace, "web", "AnnotationsIgnored").await?;
    let programmed = ("berth.dev/Programmed", "True", "Programmed");
    let (kind, status, reason) = programmed;
    await_condition(&tenant, &namespace, "web", kind, status, reason).await?;
    // Once the next one is served, whatever was still to be written of the first stands before it.
    let barrier = async |name: &str| -> Result<()> {
        tenant.apply_in(&namespace, &service(name, "")).await?;
        tenant.await_ip(&namespace, name).await?;
        await_condition(&tenant, &namespace, name, kind, status, reason).await?;
        await_event(&tenant, &namespace, name, "EnsuredLoadBalancer").await?;
        Ok(())
    };
    barrier("before").await?;
    let by_hub = lab.management().audit().await?.by(":berth-hub").0.len();
    let by_agent = tenant.audit().await?.by(":berth-agent").0.len();

    annotate(&tenant, &namespace, &["other.example/secret=s"]).await?;
    barrier("between").await?;
    tenant.agent().restart().await?;
    barrier("after-agent").await?;
    lab.hub().restart().await?;
    barrier("after-hub").await?;
    let hub = lab
        .management()
        .audit()
        .await?
        .by(":berth-hub")
        .since(by_hub);
    let agent = tenant.audit().await?.by(":berth-agent").since(by_agent);
    assert!(
        !hub.0.is_empty() && !agent.0.is_empty(),
        "the audit is read"
    );
    for write in hub.0.iter().chain(&agent.0) {
        let about = &write.object;
        // How many load balancers there are stands in the Tenant's status, and that changes with each.
        let counted = about == "acme" && write.resource == "tenants/status";
        assert!(
            counted
                || ["between", "after-agent", "after-hub"]
                    .iter()
                    .any(|name| about.contains(name)),
            "{write:?}"
        );
    }
    lab.stop().await?;
    Ok(())
}

#[tokio::test]
async fn hostile_57_metallbs_annotations_are_stripped_and_the_service_says_so() -> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = admitted(&lab).await?;
    let annotations = json!({
        "metallb.io/loadBalancerIPs": "10.10.255.249",
        "metallb.io/address-pool": "somebody-elses",
        "metallb.universe.tf/allow-shared-ip": "theirs",
        "metallb.io/allow-shared-ip": "ours",
    });
    tenant
        .apply_in(&namespace, &annotated("web", &annotations))
        .await?;
    let ip = tenant.await_ip(&namespace, "web").await?;
    assert_ne!(ip, "10.10.255.249");
    let pinned =
        |it: &Value| it["metadata"]["annotations"]["metallb.io/loadBalancerIPs"] == json!(ip);
    let web = (NAME, namespace.as_str(), "web");
    let object = await_managed(&lab, web, "it is pinned by the hub", pinned).await?;
    let there = &object["metadata"]["annotations"];
    assert!(there["metallb.io/address-pool"].is_null(), "{there}");
    assert!(
        there["metallb.universe.tf/allow-shared-ip"].is_null(),
        "{there}"
    );
    // The one that the operator named in full: a key of the tenant's own.
    assert_eq!(there["metallb.io/allow-shared-ip"], "notes/ours");

    let note = await_event(&tenant, &namespace, "web", "AnnotationsIgnored").await?;
    let message = await_condition(
        &tenant,
        &namespace,
        "web",
        "berth.dev/Programmed",
        "True",
        "Programmed",
    )
    .await?;
    for text in [&note, &message] {
        for key in [
            "metallb.io/loadBalancerIPs",
            "metallb.io/address-pool",
            "metallb.universe.tf/allow-shared-ip",
            "only the operator",
        ] {
            assert!(text.contains(key), "{key} in {text}");
        }
        assert!(!text.contains("metallb.io/allow-shared-ip"), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn hostile_59_cloud_annotations_finalizers_owners_and_labels_never_pass() -> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = admitted(&lab).await?;
    let owner = get(
        &tenant,
        &["configmap", "kube-root-ca.crt", "-n", &namespace],
    )
    .await?;
    let metadata = json!({
        "name": "web",
        "annotations": {
            "service.beta.kubernetes.io/aws-load-balancer-type": "external",
            "kubernetes.io/description": "mine",
        },
        "labels": {
            "kubernetes.io/cluster-service": "true",
            "app.kubernetes.io/managed-by": "tenant",
            "berth.dev/tenant": "somebody-else",
            "team": "a",
        },
        "finalizers": ["example.com/keep"],
        "ownerReferences": [{
            "apiVersion": "v1", "kind": "ConfigMap", "name": "kube-root-ca.crt", "uid": owner["metadata"]["uid"],
        }],
    });
    let web = service("web", "").replace("metadata: {name: web}", &format!("metadata: {metadata}"));
    tenant.apply_in(&namespace, &web).await?;
    tenant.await_ip(&namespace, "web").await?;
    let note = await_event(&tenant, &namespace, "web", "AnnotationsIgnored").await?;
    assert!(note.contains("aws-load-balancer-type"), "{note}");
    assert!(
        !note.contains("description"),
        "no warning of what steers nothing: {note}"
    );

    let object = managed(&lab, NAME, &namespace, "web").await?;
    let there = &object["metadata"];
    assert_eq!(
        there["labels"],
        json!({
            "app.kubernetes.io/managed-by": "berth-hub",
            "berth.dev/tenant": NAME,
            "berth.dev/service-namespace": namespace,
            "berth.dev/service-name": "web",
        })
    );
    assert!(there["finalizers"].is_null(), "{there}");
    assert!(there["ownerReferences"].is_null(), "{there}");
    let annotations = there["annotations"].as_object();
    let foreign: Vec<_> = annotations
        .into_iter()
        .flatten()
        .filter(|(key, _)| !key.starts_with("metallb.io/"))
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    // Or the Service would outlive the test's cluster.
    patch(
        &tenant,
        &["svc", "web", "-n", &namespace],
        r#"{"metadata":{"finalizers":null}}"#,
    )
    .await
}
