//! The main job: a tenant's Service gets its address, packets arrive, and its end leaves nothing behind.

use anyhow::Result;
use berth_lab::Lab;

use crate::support::{SOON, await_cut, await_event, await_service_gone, get, service, tenant};

#[tokio::test]
async fn the_tutorials_service_gets_an_address_and_packets_arrive() -> Result<()> {
    let lab = Lab::start().await?;
    let (acme, namespace) = tenant(&lab, "acme").await?;
    acme.apply_in(&namespace, include_str!("../../docs/tutorial/backend.yaml"))
        .await?;

    let ip = acme.await_ip(&namespace, "backend").await?;
    assert!(ip.starts_with("10.10.255."), "{ip} is of management-pool");
    let answer = lab
        .client()
        .await_get(&format!("http://{ip}:3000/"), SOON)
        .await?;
    assert!(
        answer.contains("backend-"),
        "the pod's name is in {answer:?}"
    );

    let table = acme
        .kubectl(&["get", "svc", "backend", "-n", &namespace])
        .await?;
    assert!(table.contains(&ip), "EXTERNAL-IP in\n{table}");
    let table = lab
        .management()
        .kubectl(&["get", "loadbalancers", "-A"])
        .await?;
    let line = table
        .lines()
        .find(|line| line.contains(&format!("{namespace}/backend")))
        .unwrap_or_else(|| panic!("no line of the Service in\n{table}"));
    for word in [ip.as_str(), "3000/TCP", "True", "berth-acme"] {
        assert!(line.contains(word), "{word} in {line}");
    }
    let event = await_event(&acme, &namespace, "backend", "EnsuredLoadBalancer").await?;
    assert!(event.contains(&ip), "{event}");

    acme.kubectl(&["delete", "svc", "backend", "-n", &namespace, "--wait=false"])
        .await?;
    await_service_gone(&acme, &namespace, "backend").await?;
    await_cut(&lab, "acme", &namespace, "backend").await
}

#[tokio::test]
async fn point_29_the_status_says_that_traffic_comes_through_a_proxy() -> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, "status").await?;
    tenant.apply_in(&namespace, &service("web", "")).await?;
    tenant.await_ip(&namespace, "web").await?;
    let object = get(&tenant, &["service", "web", "-n", &namespace]).await?;
    assert_eq!(
        object["status"]["loadBalancer"]["ingress"][0]["ipMode"],
        "Proxy"
    );
    crate::quiet::after(&lab, &tenant).await
}

#[tokio::test]
async fn point_03_the_finalizer_is_upstreams_without_a_class_and_berths_with_one() -> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, "finalizer").await?;
    tenant.apply_in(&namespace, &service("plain", "")).await?;
    tenant
        .apply_in(
            &namespace,
            &service("classy", "loadBalancerClass: berth.dev/berth"),
        )
        .await?;
    for (name, finalizer) in [
        ("plain", "service.kubernetes.io/load-balancer-cleanup"),
        ("classy", "berth.dev/load-balancer"),
    ] {
        tenant.await_ip(&namespace, name).await?;
        let object = get(&tenant, &["service", name, "-n", &namespace]).await?;
        assert_eq!(
            object["metadata"]["finalizers"],
            serde_json::json!([finalizer]),
            "{name}"
        );
    }
    crate::quiet::after(&lab, &tenant).await
}

#[tokio::test]
async fn point_01_another_class_is_never_touched() -> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, "classes").await?;
    tenant
        .apply_in(
            &namespace,
            &service("foreign", "loadBalancerClass: example.com/other"),
        )
        .await?;
    tenant.apply_in(&namespace, &service("ours", "")).await?;
    tenant.await_ip(&namespace, "ours").await?;
    let object = get(&tenant, &["service", "foreign", "-n", &namespace]).await?;
    assert!(object["metadata"]["finalizers"].is_null(), "{object}");
    assert_eq!(object["status"]["loadBalancer"], serde_json::json!({}));
    crate::quiet::after(&lab, &tenant).await
}

#[tokio::test]
async fn point_04_a_type_that_changes_releases_the_load_balancer_and_comes_back() -> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, "types").await?;
    tenant.apply_in(&namespace, &service("web", "")).await?;
    tenant.await_ip(&namespace, "web").await?;
    let patch = |kind: &str| format!(r#"{{"spec":{{"type":"{kind}"}}}}"#);
    let retype = async |kind: &str| {
        let patch = patch(kind);
        tenant
            .kubectl(&["patch", "svc", "web", "-n", &namespace, "-p", &patch])
            .await
    };
    retype("ClusterIP").await?;
    await_cut(&lab, "types", &namespace, "web").await?;
    let what = "status and finalizer are gone";
    berth_lab::eventually(SOON, what, || async {
        let object = get(&tenant, &["service", "web", "-n", &namespace])
            .await
            .map_err(|e| berth_lab::Seen(e.to_string()))?;
        let clean = object["metadata"]["finalizers"].is_null()
            && object["status"]["loadBalancer"]["ingress"].is_null();
        clean
            .then_some(())
            .ok_or_else(|| berth_lab::Seen(object.to_string()))
    })
    .await?;
    retype("LoadBalancer").await?;
    tenant.await_ip(&namespace, "web").await?;
    crate::quiet::after(&lab, &tenant).await
}

#[tokio::test]
async fn point_10_the_address_survives_changes_of_ports() -> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, "ports").await?;
    tenant.apply_in(&namespace, &service("web", "")).await?;
    let ip = tenant.await_ip(&namespace, "web").await?;
    let patch = r#"[{"op":"replace","path":"/spec/ports/0/port","value":8081}]"#;
    tenant
        .kubectl(&[
            "patch",
            "svc",
            "web",
            "-n",
            &namespace,
            "--type=json",
            "-p",
            patch,
        ])
        .await?;
    berth_lab::eventually(
        SOON,
        "the new port is in the management cluster",
        || async {
            let table = lab
                .management()
                .kubectl(&["get", "svc", "-n", "berth-ports"])
                .await?;
            match table
                .lines()
                .any(|l| l.contains(&ip) && l.contains("8081/TCP"))
            {
                true => Ok(()),
                false => Err(berth_lab::Seen(table)),
            }
        },
    )
    .await?;
    assert_eq!(tenant.await_ip(&namespace, "web").await?, ip);
    crate::quiet::after(&lab, &tenant).await
}
