//! What an agent has to be told to join, and how that is written for a person. Pure.

use std::fmt::Write as _;

use berth_common::tls::Pin;
use k8s_openapi::api::core::v1::Service;
use sha2::{Digest as _, Sha256};

/// On the Service that agents dial: the name that the hub's certificate has, where it is not the address.
pub(super) const SERVER_NAME: &str = "berth.dev/server-name";

/// Where agents find the hub.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Way {
    /// `HOST:PORT` of the sessions.
    pub(super) hub: Option<String>,
    /// `HOST:PORT` of enrollment.
    pub(super) enrollment: Option<String>,
    /// The name in the hub's certificate.
    pub(super) server_name: Option<String>,
}

impl Way {
    /// What the hub's Service says, as far as it says it.
    pub(super) fn of(service: &Service) -> Self {
        let annotations = service.metadata.annotations.as_ref();
        let status = service.status.as_ref();
        let ingress = status
            .and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref()?.first())
            .and_then(|ingress| ingress.ip.clone().or_else(|| ingress.hostname.clone()));
        let address = |port: &str| {
            let ports = service.spec.as_ref()?.ports.as_ref()?;
            let port = ports.iter().find(|it| it.name.as_deref() == Some(port))?;
            Some(join(ingress.as_deref()?, port.port))
        };
        Self {
            hub: address("grpc"),
            enrollment: address("enroll"),
            server_name: annotations.and_then(|all| all.get(SERVER_NAME).cloned()),
        }
    }
}

fn join(host: &str, port: i32) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// All that an agent has to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Join {
    pub(super) hub: String,
    pub(super) enrollment: String,
    pub(super) server_name: Option<String>,
    pub(super) pin: Pin,
    pub(super) token: String,
    pub(super) image: Option<String>,
}

impl Join {
    /// The chart's values that say it.
    pub(super) fn values(&self) -> Vec<(&'static str, String)> {
        let mut values = vec![("hub.address", self.hub.clone())];
        values.extend(
            self.server_name
                .clone()
                .map(|name| ("hub.serverName", name)),
        );
        values.push(("enroll.address", self.enrollment.clone()));
        values.push(("enroll.caHash", self.pin.to_string()));
        values.push(("enroll.token", self.token.clone()));
        values.extend(self.image.clone().map(|image| ("image.repository", image)));
        values
    }

    /// The command that installs the agent.
    pub(super) fn helm(&self, chart: &str, namespace: &str) -> String {
        let mut text = format!(
            "helm install berth-agent {} --namespace {namespace} --create-namespace",
            quoted(chart)
        );
        for (key, value) in self.values() {
            // A text stays a text, whatever it looks like: a port is no number, and a name no `true`.
            let _ = write!(
                text,
                " \\\n  --set-string {}",
                quoted(&format!("{key}={value}"))
            );
        }
        text
    }
}

/// The agent's chart as helm renders it, with words in the place of what is not known yet. A test of the charts writes it.
const MANIFEST: &str = include_str!("agent.yaml");

impl Join {
    /// The same as objects for `kubectl apply -f -`.
    pub(super) fn manifest(&self, namespace: &str) -> String {
        let values = self.values();
        let all: String = values
            .iter()
            .map(|(key, value)| format!("{key}={value}\n"))
            .collect();
        let checksum: String = Sha256::digest(&all)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let image = self.image.as_deref().unwrap_or("berth-agent");
        MANIFEST
            .replace("namespace.placeholder", namespace)
            .replace("hub.placeholder:1", &self.hub)
            .replace("enroll.placeholder:1", &self.enrollment)
            .replace(
                "server.placeholder",
                self.server_name.as_deref().unwrap_or(""),
            )
            .replace(&format!("sha256:{}", "0".repeat(64)), &self.pin.to_string())
            .replace(&format!("berth-join-{}", "a".repeat(52)), &self.token)
            .replace("image.placeholder", image)
            .replace("checksum.placeholder", &checksum)
    }
}

/// For a shell, where it is needed.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(status: &str) -> Service {
        let yaml = format!(
            "metadata: {{annotations: {{berth.dev/server-name: berth-hub.berth-system.svc}}}}\nspec: {{ports: [{{name: grpc, port: 443}}, \
             {{name: enroll, port: 8444}}]}}\nstatus: {{loadBalancer: {status}}}\n"
        );
        serde_yaml::from_str(&yaml).unwrap()
    }

    #[test]
    fn the_hubs_service_says_where_it_is() {
        let way = Way::of(&service("{ingress: [{ip: 10.0.0.1}]}"));
        assert_eq!(way.hub.as_deref(), Some("10.0.0.1:443"));
        assert_eq!(way.enrollment.as_deref(), Some("10.0.0.1:8444"));
        assert_eq!(
            way.server_name.as_deref(),
            Some("berth-hub.berth-system.svc")
        );
        let way = Way::of(&service("{ingress: [{ip: 'fd00::1'}]}"));
        assert_eq!(way.hub.as_deref(), Some("[fd00::1]:443"));
        let way = Way::of(&service("{ingress: [{hostname: hub.example}]}"));
        assert_eq!(way.hub.as_deref(), Some("hub.example:443"));
        assert_eq!(Way::of(&service("{}")).hub, None);
        assert_eq!(Way::of(&Service::default()), Way::default());
    }

    fn example() -> Join {
        Join {
            hub: "[fd00::1]:8443".into(),
            enrollment: "[fd00::1]:8444".into(),
            server_name: Some("berth-hub.berth-system.svc".into()),
            pin: format!("sha256:{}", "0f".repeat(32)).parse().unwrap(),
            token: "berth-join-aaaa".into(),
            image: None,
        }
    }

    #[test]
    fn the_manifest_has_everything_in_its_place() {
        use serde::Deserialize as _;
        let text = example().manifest("edge");
        assert!(!text.contains("placeholder"), "{text}");
        let documents = serde_yaml::Deserializer::from_str(&text);
        let objects: Vec<serde_json::Value> = documents
            .map(|document| serde_json::Value::deserialize(document).unwrap())
            .collect();
        let only = |kind: &str| {
            objects
                .iter()
                .find(|object| object["kind"] == kind)
                .unwrap()
        };
        assert_eq!(only("Secret")["stringData"]["token"], "berth-join-aaaa");
        assert_eq!(only("Secret")["metadata"]["namespace"], "edge");
        assert_eq!(only("Namespace")["metadata"]["name"], "edge");
        let settings = only("ConfigMap")["data"]["agent.yaml"].as_str().unwrap();
        let settings: serde_json::Value = serde_yaml::from_str(settings).unwrap();
        assert_eq!(settings["hub"]["address"], "[fd00::1]:8443");
        assert_eq!(settings["hub"]["serverName"], "berth-hub.berth-system.svc");
        assert_eq!(settings["enroll"]["address"], "[fd00::1]:8444");
        assert_eq!(settings["enroll"]["caHash"], example().pin.to_string());
    }

    #[test]
    fn the_command_reads_well() {
        let join = example();
        insta::assert_snapshot!(join.helm("deploy/charts/berth-agent", "berth-system"), @r"
        helm install berth-agent deploy/charts/berth-agent --namespace berth-system --create-namespace \
          --set-string 'hub.address=[fd00::1]:8443' \
          --set-string hub.serverName=berth-hub.berth-system.svc \
          --set-string 'enroll.address=[fd00::1]:8444' \
          --set-string enroll.caHash=sha256:0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f \
          --set-string enroll.token=berth-join-aaaa
        ");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
