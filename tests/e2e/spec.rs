//! What a Service's spec asks for, carried to the management Service and followed there; and what of it never is. One tenant
//! serves all tests here, and those of `ports`.

use anyhow::Result;
use berth_lab::Lab;
use serde_json::{Value, json};

use crate::support::{
    await_condition, await_event, await_managed, get, managed, patch, service, tenant,
};

/// The tenant of tests that need nothing but a tenant.
pub(crate) const NAME: &str = "spec";

#[tokio::test]
async fn point_14_ranges_by_field_or_annotation_with_spaces_and_of_both_families() -> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, NAME).await?;
    let web = (NAME, namespace.as_str(), "web");
    let object = ["svc", "web", "-n", &namespace];
    let ranges = |wanted: Value| move |it: &Value| it["spec"]["loadBalancerSourceRanges"] == wanted;
    let annotation = "metadata: {name: web, annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: \
                      ' 10.0.0.0/8 , 192.0.2.0/24 '}}";
    let annotated = service("web", "").replace("metadata: {name: web}", annotation);
    tenant.apply_in(&namespace, &annotated).await?;
    let ip = tenant.await_ip(&namespace, "web").await?;
    let both = ranges(json!(["10.0.0.0/8", "192.0.2.0/24"]));
    await_managed(&lab, web, "it has the ranges of the annotation", both).await?;

    let field = r#"{"spec":{"loadBalancerSourceRanges":[" 172.16.0.0/12 ","::/0"]}}"#;
    patch(&tenant, &object, field).await?;
    let field = ranges(json!(["172.16.0.0/12", "::/0"]));
    await_managed(&lab, web, "the field wins, without its spaces", field).await?;
    patch(
        &tenant,
        &object,
        r#"{"spec":{"loadBalancerSourceRanges":null}}"#,
    )
    .await?;
    let both = ranges(json!(["10.0.0.0/8", "192.0.2.0/24"]));
    await_managed(&lab, web, "without the field the annotation counts", both).await?;
    let none = r#"{"metadata":{"annotations":{"service.beta.kubernetes.io/load-balancer-source-ranges":null}}}"#;
    patch(&tenant, &object, none).await?;
    await_managed(
        &lab,
        web,
        "without either everyone may",
        ranges(Value::Null),
    )
    .await?;
    assert_eq!(tenant.await_ip(&namespace, "web").await?, ip);
    Ok(())
}

#[tokio::test]
async fn point_15_affinity_is_carried_with_its_timeout_and_its_end() -> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, NAME).await?;
    let web = (NAME, namespace.as_str(), "web");
    let object = ["svc", "web", "-n", &namespace];
    let sticky =
        "sessionAffinity: ClientIP\nsessionAffinityConfig: {clientIP: {timeoutSeconds: 1234}}";
    tenant.apply_in(&namespace, &service("web", sticky)).await?;
    let ip = tenant.await_ip(&namespace, "web").await?;
    let timeout = |seconds: Value| {
        move |it: &Value| {
            it["spec"]["sessionAffinity"] == "ClientIP"
                && it["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"] == seconds
        }
    };
    await_managed(&lab, web, "it is sticky for 1234 s", timeout(json!(1234))).await?;
    let longer = r#"{"spec":{"sessionAffinityConfig":{"clientIP":{"timeoutSeconds":4321}}}}"#;
    patch(&tenant, &object, longer).await?;
    await_managed(&lab, web, "it is sticky for 4321 s", timeout(json!(4321))).await?;
    let off = r#"{"spec":{"sessionAffinity":"None","sessionAffinityConfig":null}}"#;
    patch(&tenant, &object, off).await?;
    let is_off = |it: &Value| {
        it["spec"]["sessionAffinity"] == "None" && it["spec"]["sessionAffinityConfig"].is_null()
    };
    await_managed(&lab, web, "it is not sticky", is_off).await?;
    patch(
        &tenant,
        &object,
        r#"{"spec":{"sessionAffinity":"ClientIP"}}"#,
    )
    .await?;
    await_managed(
        &lab,
        web,
        "it is sticky by the default",
        timeout(json!(10_800)),
    )
    .await?;
    assert_eq!(tenant.await_ip(&namespace, "web").await?, ip);
    Ok(())
}

#[tokio::test]
async fn point_17_requested_addresses_are_given_where_the_policy_says_so_and_asked_for_once()
-> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, NAME).await?;
    let policy = r#"{"spec":{"requestableIPs":["10.10.255.240/29"]}}"#;
    patch(lab.management(), &["tenant", NAME], policy).await?;

    let greedy = service("greedy", "loadBalancerIP: 10.10.255.230");
    tenant.apply_in(&namespace, &greedy).await?;
    let message = await_condition(
        &tenant,
        &namespace,
        "greedy",
        "berth.dev/Programmed",
        "False",
        "AddressNotAllowed",
    )
    .await?;
    assert!(message.contains("10.10.255.230"), "{message}");
    await_event(&tenant, &namespace, "greedy", "SyncLoadBalancerFailed").await?;
    let nothing = managed(&lab, NAME, &namespace, "greedy").await?;
    assert!(nothing.is_null(), "{nothing}");

    let field = service("field", "loadBalancerIP: 10.10.255.241");
    tenant.apply_in(&namespace, &field).await?;
    let annotated = service("annotated", "").replace(
        "metadata: {name: annotated}",
        "metadata: {name: annotated, annotations: {berth.dev/load-balancer-ips: 10.10.255.242}}",
    );
    tenant.apply_in(&namespace, &annotated).await?;
    for (name, ip) in [("field", "10.10.255.241"), ("annotated", "10.10.255.242")] {
        assert_eq!(tenant.await_ip(&namespace, name).await?, ip);
        let object = managed(&lab, NAME, &namespace, name).await?;
        let asked = &object["metadata"]["annotations"]["metallb.io/loadBalancerIPs"];
        assert_eq!(*asked, json!(ip));
        assert!(
            object["spec"]["loadBalancerIP"].is_null(),
            "never both: {object}"
        );
    }

    // Mended, it is served as any other.
    let mended = r#"{"spec":{"loadBalancerIP":null}}"#;
    patch(&tenant, &["svc", "greedy", "-n", &namespace], mended).await?;
    assert_ne!(
        tenant.await_ip(&namespace, "greedy").await?,
        "10.10.255.230"
    );
    Ok(())
}

#[tokio::test]
async fn point_18_external_ips_names_and_selectors_are_never_copied() -> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, NAME).await?;
    let spec = "externalIPs: [192.0.2.66]\nexternalName: evil.example";
    tenant.apply_in(&namespace, &service("web", spec)).await?;
    tenant.await_ip(&namespace, "web").await?;
    let asked = get(&tenant, &["svc", "web", "-n", &namespace]).await?;
    assert_eq!(
        asked["spec"]["externalIPs"],
        json!(["192.0.2.66"]),
        "it is asked for"
    );
    assert_eq!(asked["spec"]["selector"], json!({"app": "web"}));

    let home = "berth-spec";
    let label = format!("berth.dev/service-namespace={namespace}");
    let kinds = "services,endpointslices,loadbalancers.berth.dev";
    let all = get(lab.management(), &[kinds, "-n", home, "-l", &label]).await?;
    let objects = all["items"].as_array().cloned().unwrap_or_default();
    assert_eq!(objects.len(), 3, "Service, slice and record: {all}");
    for object in &objects {
        for field in ["externalIPs", "externalName", "selector"] {
            assert!(object["spec"][field].is_null(), "{field} in {object}");
        }
    }
    let text = all.to_string();
    for word in ["192.0.2.66", "evil.example"] {
        assert!(!text.contains(word), "{word} in {text}");
    }
    Ok(())
}
