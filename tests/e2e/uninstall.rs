//! Leaving: what Berth put into a tenant's cluster goes with one command, and nothing hangs without an agent.

use anyhow::Result;
use berth_lab::Lab;
use serde_json::Value;

use crate::support::{await_service_gone, get, service, tenant};

#[tokio::test]
async fn point_08_uninstalling_releases_every_finalizer_and_nothing_hangs() -> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, "leaver").await?;
    for name in ["one", "two"] {
        tenant.apply_in(&namespace, &service(name, "")).await?;
        tenant.await_ip(&namespace, name).await?;
    }
    let others = service("theirs", "loadBalancerClass: example.com/theirs").replace(
        "metadata: {name: theirs}",
        "metadata: {name: theirs, finalizers: [example.com/theirs]}",
    );
    tenant.apply_in(&namespace, &others).await?;

    tenant.agent().stop().await?;
    let (code, said) = tenant.agent().command("release").await?;
    assert_eq!(code, 0, "{said}");
    for line in [
        format!("released {namespace}/one"),
        format!("released {namespace}/two"),
        "2 Services released, 0 failed".to_owned(),
    ] {
        assert!(said.contains(&line), "{line:?} in\n{said}");
    }

    let two = get(&tenant, &["service", "two", "-n", &namespace]).await?;
    assert_eq!(two["metadata"]["finalizers"], Value::Null);
    assert_eq!(two["status"]["loadBalancer"], serde_json::json!({}));
    let theirs = get(&tenant, &["service", "theirs", "-n", &namespace]).await?;
    assert_eq!(theirs["metadata"]["finalizers"][0], "example.com/theirs");
    let delete = ["delete", "service", "one", "-n", &namespace, "--wait=false"];
    tenant.kubectl(&delete).await?;
    await_service_gone(&tenant, &namespace, "one").await?;

    let (code, said) = tenant.agent().command("release").await?;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("0 Services released, 0 failed"), "{said}");
    Ok(())
}
