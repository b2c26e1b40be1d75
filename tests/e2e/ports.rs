//! Ports: every part of one is followed, each by the write that it takes and no other.

use anyhow::Result;
use berth_lab::{Lab, Seen, Tenant, eventually};
use serde_json::{Value, json};

use crate::{
    spec::NAME,
    support::{SOON, await_managed, get, managed, patch, service, tenant},
};

/// The ports of the only slice of a Service.
async fn slice_ports(lab: &Lab, namespace: &str) -> Result<Value> {
    let selector = format!("berth.dev/service-namespace={namespace},berth.dev/service-name=web");
    let arguments = ["endpointslices", "-n", "berth-spec", "-l", &selector];
    let slices = get(lab.management(), &arguments).await?;
    Ok(slices["items"][0]["ports"].clone())
}

async fn await_slice_ports(lab: &Lab, namespace: &str, wanted: &Value) -> Result<()> {
    let what = format!("the slice has the ports {wanted}");
    eventually(SOON, &what, || async {
        let found = slice_ports(lab, namespace)
            .await
            .map_err(|e| Seen(e.to_string()))?;
        match found == *wanted {
            true => Ok(()),
            false => Err(Seen(found.to_string())),
        }
    })
    .await?;
    Ok(())
}

/// Sets the only port of the tenant's Service, and returns it as the API server has it.
async fn set(tenant: &Tenant, namespace: &str, port: Value) -> Result<Value> {
    let object = ["svc", "web", "-n", namespace];
    let spec = json!({"spec": {"ports": [port]}}).to_string();
    patch(tenant, &object, &spec).await?;
    Ok(get(tenant, &object).await?["spec"]["ports"][0].clone())
}

fn slice_of(port: &Value) -> Value {
    json!([{"name": port["name"], "port": port["nodePort"], "protocol": port["protocol"]}])
}

#[tokio::test]
async fn point_09_every_part_of_a_port_is_followed_a_name_alone_too() -> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, NAME).await?;
    let web = (NAME, namespace.as_str(), "web");
    tenant.apply_in(&namespace, &service("web", "")).await?;
    let ip = tenant.await_ip(&namespace, "web").await?;
    let mut port =
        get(&tenant, &["svc", "web", "-n", &namespace]).await?["spec"]["ports"][0].clone();
    for (field, value) in [
        ("name", json!("renamed")),
        ("appProtocol", json!("example.com/own")),
        ("port", json!(8443)),
        ("protocol", json!("UDP")),
    ] {
        port[field] = value.clone();
        port = set(&tenant, &namespace, port).await?;
        assert_eq!(port[field], value);
        let followed = |it: &Value| {
            let ports = &it["spec"]["ports"];
            ports.as_array().is_some_and(|all| all.len() == 1) && ports[0][field] == value
        };
        await_managed(&lab, web, &format!("{field} is followed"), followed).await?;
        await_slice_ports(&lab, &namespace, &slice_of(&port)).await?;
    }
    assert_eq!(tenant.await_ip(&namespace, "web").await?, ip);
    Ok(())
}

/// What kube-proxy has to take in for it is the slice alone.
#[tokio::test]
async fn point_09_a_node_port_alone_is_the_slices_and_the_management_service_is_not_written()
-> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, NAME).await?;
    tenant.apply_in(&namespace, &service("web", "")).await?;
    let ip = tenant.await_ip(&namespace, "web").await?;
    let pinned =
        |it: &Value| it["metadata"]["annotations"]["metallb.io/loadBalancerIPs"] == json!(ip);
    let web = (NAME, namespace.as_str(), "web");
    let object = await_managed(&lab, web, "it is pinned", pinned).await?;
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let target = object["spec"]["ports"][0]["targetPort"].clone();
    assert_eq!(
        target, object["spec"]["ports"][0]["port"],
        "it says nothing of node ports"
    );
    let writes = async || -> Result<usize> {
        let audit = lab.management().audit().await?.by(":berth-hub");
        let of_it = audit
            .0
            .iter()
            .filter(|write| write.resource == "services" && write.object.ends_with(&name));
        Ok(of_it.count())
    };
    let before = writes().await?;
    assert!(before >= 2, "created and pinned: {before}");

    let mut port =
        get(&tenant, &["svc", "web", "-n", &namespace]).await?["spec"]["ports"][0].clone();
    let old = port["nodePort"].as_i64().unwrap_or_default();
    port["nodePort"] = json!(if old == 30_999 { 31_000 } else { 30_999 });
    let port = set(&tenant, &namespace, port).await?;
    assert_ne!(port["nodePort"], json!(old));
    await_slice_ports(&lab, &namespace, &slice_of(&port)).await?;
    let selector = format!("berth.dev/service-namespace={namespace}");
    let arguments = [
        "loadbalancers.berth.dev",
        "-n",
        "berth-spec",
        "-l",
        &selector,
    ];
    let what = "the record has the node port";
    eventually(SOON, what, || async {
        let records = get(lab.management(), &arguments)
            .await
            .map_err(|e| Seen(e.to_string()))?;
        let ports = &records["items"][0]["spec"]["ports"];
        match ports[0]["nodePort"] == port["nodePort"] {
            true => Ok(()),
            false => Err(Seen(ports.to_string())),
        }
    })
    .await?;
    // A change that the management Service does take comes after all that this one could have caused.
    let mut renamed = port.clone();
    renamed["name"] = json!("renamed");
    set(&tenant, &namespace, renamed).await?;
    let followed = |it: &Value| it["spec"]["ports"][0]["name"] == "renamed";
    await_managed(&lab, web, "the new name is followed", followed).await?;
    assert_eq!(writes().await?, before + 1, "the rename's and no other");
    let now = managed(&lab, NAME, &namespace, "web").await?;
    assert_eq!(now["metadata"]["uid"], object["metadata"]["uid"]);
    Ok(())
}
