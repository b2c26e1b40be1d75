//! What the charts run: pods without power over their node, one after the other, and no field that Kubernetes does not know.

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::{ConfigMap, Secret, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::helm::{ADDRESS, AGENT, AGENT_ALL, HUB, HUB_ALL, chart, kind, only, render, workload};

const EVERY: [(&str, &[&str]); 5] = [
    (HUB, &[]),
    (HUB, HUB_ALL),
    (AGENT, &[ADDRESS]),
    (AGENT, &[ADDRESS, "kind=DaemonSet"]),
    (AGENT, AGENT_ALL),
];

#[test]
fn pods_have_no_power_over_their_node() {
    for (chart, sets) in EVERY {
        let rendered = render(chart, sets).unwrap();
        let pod = &workload(&rendered).unwrap()["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{chart}");
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
            "{chart}"
        );
        let container = &pod["containers"][0]["securityContext"];
        assert_eq!(container["allowPrivilegeEscalation"], false, "{chart}");
        assert_eq!(container["readOnlyRootFilesystem"], true, "{chart}");
        assert_eq!(
            container["capabilities"],
            json!({"drop": ["ALL"]}),
            "{chart}"
        );
        for host in ["hostNetwork", "hostPID", "hostIPC"] {
            assert_eq!(pod[host], Value::Null, "{chart}");
        }
    }
}

/// Service links are variables named after Services, such as `BERTH_HUB_PORT`: they would pass for settings.
#[test]
fn no_service_becomes_a_setting() {
    for (chart, sets) in EVERY {
        let rendered = render(chart, sets).unwrap();
        let pod = &workload(&rendered).unwrap()["spec"]["template"]["spec"];
        assert_eq!(pod["enableServiceLinks"], false, "{chart}");
    }
}

#[test]
fn keys_are_for_the_program_alone() {
    for (chart, sets) in EVERY {
        let rendered = render(chart, sets).unwrap();
        let pod = &workload(&rendered).unwrap()["spec"]["template"]["spec"];
        let group = &pod["securityContext"]["fsGroup"];
        assert_eq!(group, &pod["securityContext"]["runAsGroup"], "{chart}");
        let volumes = pod["volumes"].as_array().unwrap();
        let secrets: Vec<_> = volumes
            .iter()
            .filter(|volume| volume["secret"].is_object())
            .collect();
        for volume in secrets {
            assert_eq!(volume["secret"]["defaultMode"], 0o440, "{chart}");
        }
    }
}

/// A Secret with an authority may hold its key, which is not for the hub.
#[test]
fn of_the_clients_authority_only_the_certificate_is_mounted() {
    let rendered = render(
        HUB,
        &[
            "tls.secretName=berth-hub-tls",
            "tls.clientCA.secretName=berth-ca",
            "tls.clientCA.key=tls.crt",
        ],
    )
    .unwrap();
    let pod = &workload(&rendered).unwrap()["spec"]["template"]["spec"];
    let volumes = pod["volumes"].as_array().unwrap();
    let volume = volumes
        .iter()
        .find(|volume| volume["name"] == "client-ca")
        .unwrap();
    assert_eq!(
        volume["secret"]["items"],
        json!([{"key": "tls.crt", "path": "tls.crt"}])
    );
}

/// Where the chart puts the token, the agent looks for it; and the token is in nothing that others read.
#[test]
fn a_join_token_is_in_a_secret_of_its_own_and_nowhere_else() {
    let token = format!("berth-join-{}", "q".repeat(52));
    let set = format!("enroll.token={token}");
    let rendered = render(AGENT, &[ADDRESS, &set]).unwrap();
    let secret = only(&rendered, "Secret").unwrap();
    assert_eq!(secret["stringData"]["token"], *token);
    let volumes = &workload(&rendered).unwrap()["spec"]["template"]["spec"]["volumes"];
    let volume = volumes
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["name"] == "join");
    assert_eq!(
        volume.unwrap()["secret"]["secretName"],
        secret["metadata"]["name"]
    );
    let others = rendered.iter().filter(|object| kind(object) != "Secret");
    for object in others {
        assert!(!object.to_string().contains(&token), "{}", kind(object));
    }
    let rendered = render(AGENT, &[ADDRESS, &set, "tlsSecretName=own"]).unwrap();
    assert!(only(&rendered, "Secret").is_err());
}

#[test]
fn one_agent_after_the_other_in_either_kind() {
    let rendered = render(AGENT, &[ADDRESS]).unwrap();
    let deployment = only(&rendered, "Deployment").unwrap();
    assert_eq!(deployment["spec"]["replicas"], 1);
    assert_eq!(deployment["spec"]["strategy"], json!({"type": "Recreate"}));
    let rendered = render(AGENT, &[ADDRESS, "kind=DaemonSet"]).unwrap();
    let daemons = only(&rendered, "DaemonSet").unwrap();
    assert_eq!(daemons["spec"]["replicas"], Value::Null);
    assert_eq!(
        daemons["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"],
        0
    );
    assert_eq!(deployment["spec"]["template"], daemons["spec"]["template"]);
}

/// What carries that label is the hub's to delete.
#[test]
fn nothing_that_helm_installs_passes_for_the_hubs_own() {
    for (chart, sets) in EVERY {
        for object in render(chart, sets).unwrap() {
            let by = &object["metadata"]["labels"]["app.kubernetes.io/managed-by"];
            assert_eq!(by, "Helm", "{chart}: {}", kind(&object));
        }
    }
}

#[test]
fn the_admin_port_is_not_on_the_agents_service() {
    let rendered = render(HUB, &[]).unwrap();
    let service = only(&rendered, "Service").unwrap();
    let ports = service["spec"]["ports"].as_array().unwrap();
    let targets: Vec<_> = ports.iter().map(|port| &port["targetPort"]).collect();
    assert_eq!(targets, ["grpc", "enroll"]);
}

/// `token create` reads it there, and the hub's certificate has it.
#[test]
fn the_agents_service_says_the_name_in_the_hubs_own_certificate() {
    let rendered = render(HUB, &["ca.serverNames={hub.example,10.0.0.1}"]).unwrap();
    let service = only(&rendered, "Service").unwrap();
    let name = service["metadata"]["annotations"]["berth.dev/server-name"].as_str();
    let name = name.unwrap();
    let pod = &workload(&rendered).unwrap()["spec"]["template"]["spec"];
    let variables = pod["containers"][0]["env"].as_array().unwrap();
    let names = variables
        .iter()
        .find(|variable| variable["name"] == "BERTH_CA_SERVER_NAMES");
    assert_eq!(
        names.unwrap()["value"],
        format!("{name},hub.example,10.0.0.1")
    );
    // With a certificate from elsewhere nobody knows its names.
    let rendered = render(HUB, &["tls.secretName=berth-hub-tls"]).unwrap();
    let service = only(&rendered, "Service").unwrap();
    assert_eq!(service["metadata"]["annotations"], Value::Null);
}

#[test]
fn ports_follow_the_settings() {
    let sets = [
        "config.listen=[::]:9443",
        "config.enroll.listen=[::]:9444",
        "config.adminListen=[::]:9999",
    ];
    let rendered = render(HUB, &sets).unwrap();
    let pod = &workload(&rendered).unwrap()["spec"]["template"]["spec"];
    let ports = &pod["containers"][0]["ports"];
    let numbers = [0, 1, 2].map(|n| ports[n]["containerPort"].clone());
    assert_eq!(numbers, [9443, 9444, 9999].map(|port| json!(port)));
}

#[test]
fn no_field_is_misspelt() {
    for (chart, sets) in EVERY {
        for object in render(chart, sets).unwrap() {
            known(&object).unwrap();
        }
    }
}

/// Kubernetes ignores fields it does not know; so do its types, and then they are missing afterwards.
fn known(object: &Value) -> Result<()> {
    let back = match kind(object) {
        "ClusterRole" => through::<ClusterRole>(object),
        "ClusterRoleBinding" => through::<ClusterRoleBinding>(object),
        "ConfigMap" => through::<ConfigMap>(object),
        "DaemonSet" => through::<DaemonSet>(object),
        "Deployment" => through::<Deployment>(object),
        "NetworkPolicy" => through::<NetworkPolicy>(object),
        "PodDisruptionBudget" => through::<PodDisruptionBudget>(object),
        "Role" => through::<Role>(object),
        "RoleBinding" => through::<RoleBinding>(object),
        "Secret" => through::<Secret>(object),
        "Service" => through::<Service>(object),
        "ServiceAccount" => through::<ServiceAccount>(object),
        // The Prometheus operator's; their types are not here.
        "PodMonitor" | "ServiceMonitor" => return Ok(()),
        other => bail!("{other} is not expected from a chart"),
    }
    .with_context(|| format!("{}", object["metadata"]["name"]))?;
    ensure!(back == *object, "{object:#} became {back:#}");
    Ok(())
}

fn through<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value> {
    Ok(serde_json::to_value(serde_json::from_value::<T>(
        object.clone(),
    )?)?)
}

#[test]
fn charts_are_of_this_release() {
    for name in [HUB, AGENT] {
        let about = std::fs::read_to_string(chart(name).join("Chart.yaml")).unwrap();
        let about: Value = serde_yaml::from_str(&about).unwrap();
        assert_eq!(about["appVersion"], env!("CARGO_PKG_VERSION"), "{name}");
        assert_eq!(about["version"], env!("CARGO_PKG_VERSION"), "{name}");
    }
}
