//! What values the charts take: all settings, none misspelt, and only such as the programs accept too.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, Result};
use berth_agent::settings::AgentSettings;
use berth_common::settings::{Inputs, Settings, resolve};
use berth_hub::settings::{Allocator, HubSettings};
use serde_json::Value;

use crate::helm::{
    ADDRESS, AGENT, AGENT_ALL, HUB, HUB_ALL, chart, helm, only, refusal, render, workload,
};

#[test]
fn helm_finds_nothing_to_complain_about() {
    for (chart, sets) in [
        (HUB, &[][..]),
        (HUB, HUB_ALL),
        (AGENT, &[ADDRESS]),
        (AGENT, AGENT_ALL),
    ] {
        let output = helm(&["lint", "--strict", "--quiet"], chart, sets).unwrap();
        let complaint = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{chart}: {complaint}");
    }
}

#[test]
fn a_value_that_cannot_be_is_refused_in_plain_words() {
    for (chart, sets, complaint) in [
        (
            HUB,
            &["servicemonitor.enabled=true"][..],
            "at '': additional properties 'servicemonitor' not allowed",
        ),
        (
            HUB,
            &["config.alocator=other"],
            "at '/config': additional properties 'alocator' not allowed",
        ),
        (
            HUB,
            &["config.tls.cert=/x"],
            "at '/config': additional properties 'tls' not allowed",
        ),
        (
            HUB,
            &["ca.secretName="],
            "the hub needs a certificate: set ca.secretName, or tls.secretName",
        ),
        (
            HUB,
            &["replicas=2"],
            "at '/replicas': maximum: got 2, want 1",
        ),
        (
            HUB,
            &["service.type=ExternalName"],
            "at '/service/type': value must be one of",
        ),
        (
            AGENT,
            &[ADDRESS, "kind=StatefulSet"],
            "at '/kind': value must be one of 'Deployment', 'DaemonSet'",
        ),
        (
            AGENT,
            &[ADDRESS, "nodeAddressType={Hostname}"],
            "at '/nodeAddressType/0': value must be one of",
        ),
        (
            AGENT,
            &["hub.address=https://hub:8443"],
            "at '/hub/address': 'https://hub:8443' does not match pattern",
        ),
        (
            AGENT,
            &[ADDRESS, "enroll.token=berth-join-short"],
            "at '/enroll/token': 'berth-join-short' does not match pattern",
        ),
        (
            AGENT,
            &[],
            "hub.address is not set: say where the hub is, with --set hub.address=HOST:PORT",
        ),
    ] {
        let complaints = refusal(chart, sets).unwrap();
        assert!(
            complaints.contains(complaint),
            "{chart} {sets:?}: {complaints}"
        );
    }
}

/// The settings as the program would read them in the pod: from the mounted file and the container's environment.
fn settings<S: Settings>(name: &str, sets: &[&str]) -> Result<S> {
    let rendered = render(name, sets)?;
    let container = &workload(&rendered)?["spec"]["template"]["spec"]["containers"][0];
    let environment: BTreeMap<&str, &str> = container["env"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|variable| Some((variable["name"].as_str()?, variable["value"].as_str()?)))
        .collect();
    let file = environment.get("BERTH_CONFIG").context("no BERTH_CONFIG")?;
    let key = Path::new(file).strip_prefix("/etc/berth/config")?;
    let files = &only(&rendered, "ConfigMap")?["data"];
    let text = files[key.to_str().context("the file's name")?].as_str();
    let inputs = Inputs {
        file: Some((file.into(), text.context("no such file")?.to_owned())),
        environment: environment
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        ..Inputs::default()
    };
    Ok(resolve::<S>(&inputs)?.parse()?)
}

#[test]
fn the_hub_accepts_the_settings_that_its_chart_gives_it() {
    // The chart's defaults are the hub's own, but for the CA, which only a chart can name.
    let own: HubSettings = resolve(&Inputs::default()).unwrap().parse().unwrap();
    let without = ["ca.secretName=", "tls.secretName=berth-hub-tls"];
    assert_eq!(settings::<HubSettings>(HUB, &without).unwrap(), own);
    let given = settings::<HubSettings>(HUB, &[]).unwrap();
    assert_eq!(
        given.ca.secret.unwrap().to_string(),
        "berth-system/berth-ca"
    );
    assert_eq!(given.ca.server_names, ["berth-hub.berth-system.svc"]);
    assert_eq!(
        given.enroll.tokens.to_string(),
        "berth-system/berth-join-tokens"
    );
    let sets = [
        "tls.secretName=berth-hub-tls",
        "config.allocator=other",
        "config.log.format=json",
        "config.trustDomain=example.com",
        "tls.clientCA.secretName=berth-ca",
        "tls.clientCA.key=tls.crt",
    ];
    let given = settings::<HubSettings>(HUB, &sets).unwrap();
    assert_eq!(
        given.tls.client_ca,
        Path::new("/etc/berth/client-ca/tls.crt")
    );
    assert_eq!(given.allocator, Allocator::Other);
    let sets = ["tls.secretName=own", "tls.clientCA.key=clients.crt"];
    let given = settings::<HubSettings>(HUB, &sets).unwrap();
    assert_eq!(given.ca.server_names, [""; 0]);
    assert_eq!(given.tls.client_ca, Path::new("/etc/berth/tls/clients.crt"));
}

#[test]
fn the_agent_accepts_the_settings_that_its_chart_gives_it() {
    // The chart's defaults are the agent's own, but for its Secret, which only a chart can name.
    let flags = BTreeMap::from([("hub.address", "hub.example.com:8443".to_owned())]);
    let inputs = Inputs {
        flags,
        ..Inputs::default()
    };
    let own: AgentSettings = resolve(&inputs).unwrap().parse().unwrap();
    let files = [ADDRESS, "tlsSecretName=berth-agent-tls"];
    assert_eq!(settings::<AgentSettings>(AGENT, &files).unwrap(), own);
    let sets = [
        "enroll.address=hub.example.com:8444",
        "enroll.caHash=sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
        "hub.address=[2001:db8::1]:8443",
        "hub.serverName=hub.example.com",
        "useLoadBalancerClass=true",
        "loadBalancerClasses={berth.dev/berth,kubelb}",
        "nodeAddressType={ExternalIP,InternalIP}",
    ];
    let given = settings::<AgentSettings>(AGENT, &sets).unwrap();
    let secret = given.enroll.secret.unwrap().to_string();
    assert_eq!(secret, "berth-system/berth-agent-identity");
    assert!(given.enroll.address.is_some() && given.enroll.ca_hash.is_some());
    assert_eq!(given.hub.address.to_string(), "[2001:db8::1]:8443");
    assert_eq!(given.hub.server_name().as_str(), "hub.example.com");
    assert!(given.use_load_balancer_class);
    assert_eq!(
        (
            given.load_balancer_classes.len(),
            given.node_address_type.len()
        ),
        (2, 2)
    );
}

fn schema(name: &str) -> Result<Value> {
    let text = std::fs::read_to_string(chart(name).join("values.schema.json"))?;
    Ok(serde_json::from_str(&text)?)
}

/// Whether a schema, or a part of it, has a property at a path such as `log.format`.
fn has(part: &Value, schema: &Value, path: &str) -> bool {
    let part = match part["$ref"].as_str() {
        Some(reference) => match schema.pointer(reference.trim_start_matches('#')) {
            Some(definition) => definition,
            None => return false,
        },
        None => part,
    };
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    match &part["properties"][first] {
        Value::Null => false,
        _ if rest.is_empty() => true,
        property => has(property, schema, rest),
    }
}

#[test]
fn every_setting_is_a_value_but_those_that_the_chart_decides() {
    // The chart mounts the files, and the cluster is the one that the pod is in.
    let decided = [
        "kubeconfig",
        "ca.secret",
        "ca.dir",
        "ca.serverNames",
        "enroll.tokens",
        "enroll.secret",
        "enroll.tokenFile",
    ];
    let fixed = |key: &str| key.starts_with("tls.") || decided.contains(&key);
    let hub = schema(HUB).unwrap();
    for setting in HubSettings::TABLE {
        let found = has(&hub["properties"]["config"], &hub, setting.key);
        assert_eq!(found, !fixed(setting.key), "{}", setting.key);
    }
    let agent = schema(AGENT).unwrap();
    for setting in AgentSettings::TABLE {
        assert_eq!(
            has(&agent, &agent, setting.key),
            !fixed(setting.key),
            "{}",
            setting.key
        );
    }
}

#[test]
fn values_and_schema_name_the_same() {
    for name in [HUB, AGENT] {
        let values = std::fs::read_to_string(chart(name).join("values.yaml")).unwrap();
        let values: BTreeMap<String, Value> = serde_yaml::from_str(&values).unwrap();
        let schema = schema(name).unwrap();
        let mut described: BTreeSet<&str> = schema["properties"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        // Helm's own.
        described.remove("global");
        let given: BTreeSet<&str> = values.keys().map(String::as_str).collect();
        assert_eq!(described, given, "{name}");
    }
}
