//! A Tenant that is narrowed under what exists. What does not fit any more stays, and is reported; with `spec.enforce` it goes, and
//! its tenant reads why; and when it fits again it is as it was. One tenant for each kind of thing that is narrowed, and beside
//! what does not fit always a neighbour that does.

use anyhow::{Context, Result, ensure};
use berth_lab::{Lab, Seen, Tenant, eventually};
use serde_json::{Value, json};

use crate::backends::await_backends;
use crate::quotas::set;
use crate::support::{
    SOON, await_condition, await_cut, await_managed, await_no_address, await_nothing_left,
    await_service_gone, get, service, tenant,
};

const PROGRAMMED: &str = "berth.dev/Programmed";
/// The Service that fits throughout; the elder of the two.
const NEIGHBOUR: &str = "a-neighbour";
/// The one that does not.
const TOO_MUCH: &str = "too-much";
/// In the lab's pool, and asked for by nobody else.
const ASKED: &str = "10.10.255.247";

/// What is narrowed.
struct Narrowing {
    /// The field of the Tenant's spec that the tenant reads of.
    field: &'static str,
    wide: Value,
    narrow: Value,
    reason: &'static str,
    /// The counter of what was withdrawn, and a label of it.
    counter: (&'static str, String),
    /// Which of its load balancers is one too many is nobody's to say before it goes: the quota is for all together.
    of_all: bool,
    /// `Retain`: the record stays, with the address.
    retained: bool,
}

fn narrowings() -> [Narrowing; 4] {
    let withdrawn = |reason| {
        let label = format!("reason=\"{reason}\"");
        ("berth_load_balancers_withdrawn_total", label)
    };
    let (quota, port, address) = ("QuotaExceeded", "NodePortOutOfRange", "AddressNotAllowed");
    [
        Narrowing {
            field: "quotas.ports",
            wide: json!({ "quotas": { "ports": 3 } }),
            narrow: json!({ "quotas": { "ports": 2 } }),
            reason: quota,
            counter: (
                "berth_quota_refusals_total",
                r#"quota="ports",result="withdrawn""#.into(),
            ),
            of_all: true,
            retained: false,
        },
        Narrowing {
            field: "quotas.portsPerLoadBalancer",
            wide: json!({ "quotas": { "portsPerLoadBalancer": 2 } }),
            narrow: json!({ "quotas": { "portsPerLoadBalancer": 1 } }),
            reason: quota,
            counter: withdrawn(quota),
            of_all: false,
            retained: false,
        },
        Narrowing {
            field: "nodePortRange",
            wide: json!({ "nodePortRange": "30000-32767" }),
            narrow: json!({ "nodePortRange": "31000-31001" }),
            reason: port,
            counter: withdrawn(port),
            of_all: false,
            retained: true,
        },
        Narrowing {
            field: "requestableIPs",
            wide: json!({ "requestableIPs": [format!("{ASKED}/32")] }),
            narrow: json!({ "requestableIPs": ["192.0.2.0/24"] }),
            reason: address,
            counter: withdrawn(address),
            of_all: false,
            retained: false,
        },
    ]
}

/// A tenant with the two Services.
struct Stage {
    lab: Lab,
    tenant: Tenant,
    namespace: String,
    nodes: [String; 2],
}

impl Stage {
    async fn new(name: &str) -> Result<Self> {
        let lab = Lab::start().await?;
        let (tenant, namespace) = tenant(&lab, name).await?;
        Ok(Self {
            nodes: [address(&tenant, 1).await?, address(&tenant, 2).await?],
            lab,
            tenant,
            namespace,
        })
    }

    async fn set(&self, spec: &Value) -> Result<()> {
        set(&self.lab, self.tenant.name(), spec).await
    }

    /// Waits until the Tenant says that so much serves and does not fit.
    async fn beyond(&self, load_balancers: usize, addresses: usize) -> Result<()> {
        let said = format!(
            "{load_balancers} load balancers and {addresses} addresses of nodes do not fit"
        );
        let none = load_balancers + addresses == 0;
        let what = format!("the Tenant says: {said}");
        eventually(SOON, &what, || async {
            let object = get(self.lab.management(), &["tenant", self.tenant.name()])
                .await
                .map_err(|e| Seen(e.to_string()))?;
            let status = &object["status"];
            let conditions = status["conditions"].as_array().into_iter().flatten();
            let told = conditions
                .filter(|c| c["type"] == "PolicyViolated" && c["status"] == "True")
                .find_map(|c| c["message"].as_str());
            let is_told = match told {
                None => none,
                Some(message) => message.starts_with(&said) && message.contains("spec.enforce"),
            };
            match is_told && status["beyondPolicy"] == json!(load_balancers) {
                true => Ok(()),
                false => Err(Seen(status.to_string())),
            }
        })
        .await?;
        Ok(())
    }

    /// Waits until a condition of the LoadBalancer has this status and reason, and returns its message.
    async fn record_says(
        &self,
        name: &str,
        (kind, status, reason): (&str, &str, &str),
    ) -> Result<String> {
        let what = format!("the LoadBalancer of {name} has {kind}={status} ({reason})");
        let message = eventually(SOON, &what, || async {
            let record = self.record(name).await.map_err(|e| Seen(e.to_string()))?;
            let conditions = record["status"]["conditions"].as_array();
            let found = conditions
                .into_iter()
                .flatten()
                .find(|c| c["type"] == kind && c["status"] == status && c["reason"] == reason);
            let found = found.and_then(|c| c["message"].as_str());
            found
                .map(str::to_owned)
                .ok_or_else(|| Seen(record.to_string()))
        })
        .await?;
        Ok(message)
    }

    async fn record(&self, name: &str) -> Result<Value> {
        let home = format!("berth-{}", self.tenant.name());
        let selector = format!(
            "berth.dev/service-namespace={},berth.dev/service-name={name}",
            self.namespace
        );
        let arguments = ["loadbalancers.berth.dev", "-n", &home, "-l", &selector];
        Ok(get(self.lab.management(), &arguments).await?["items"][0].clone())
    }

    /// Waits until an event about a Service says this, besides its reason.
    async fn event_says(&self, name: &str, reason: &str, words: &str) -> Result<()> {
        let what = format!("an event {reason} of {name} says {words:?}");
        eventually(SOON, &what, || async {
            let arguments = ["events.v1.events.k8s.io", "-n", &self.namespace];
            let events = get(&self.tenant, &arguments)
                .await
                .map_err(|e| Seen(e.to_string()))?;
            let mut events = events["items"].as_array().into_iter().flatten();
            let says = |event: &&Value| {
                event["regarding"]["name"] == name
                    && event["reason"] == reason
                    && event["note"].as_str().is_some_and(|it| it.contains(words))
            };
            match events.any(|event| says(&event)) {
                true => Ok(()),
                false => Err(Seen("none does".into())),
            }
        })
        .await?;
        Ok(())
    }

    async fn refused(&self, name: &str, reason: &str) -> Result<String> {
        let namespace = &self.namespace;
        await_condition(&self.tenant, namespace, name, PROGRAMMED, "False", reason).await
    }

    /// Waits until a Service is served as it was: at this address, by these nodes.
    async fn serves(&self, name: &str, ip: &str, nodes: &[&str]) -> Result<()> {
        let served = ["True", "Programmed"];
        let [status, reason] = served;
        let namespace = &self.namespace;
        await_condition(&self.tenant, namespace, name, PROGRAMMED, status, reason).await?;
        self.stands(name, ip, nodes).await
    }

    /// Waits until a Service has this address and these nodes, whatever it is told.
    async fn stands(&self, name: &str, ip: &str, nodes: &[&str]) -> Result<()> {
        let found = self.tenant.await_ip(&self.namespace, name).await?;
        ensure!(found == ip, "{name} has {found}, and had {ip}");
        self.leads_to(name, nodes).await
    }

    async fn leads_to(&self, name: &str, nodes: &[&str]) -> Result<()> {
        let service = [self.tenant.name(), &self.namespace, name];
        await_backends(&self.lab, service, nodes).await
    }

    /// The UID of the management Service, by which one that was made anew would be known.
    async fn uid(&self, name: &str) -> Result<Value> {
        let service = (self.tenant.name(), self.namespace.as_str(), name);
        let there = |it: &Value| it["metadata"]["uid"].is_string();
        let managed = await_managed(&self.lab, service, "is there", there).await?;
        Ok(managed["metadata"]["uid"].clone())
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let arguments = ["delete", "svc", name, "-n", &self.namespace, "--wait=false"];
        self.tenant.kubectl(&arguments).await?;
        await_service_gone(&self.tenant, &self.namespace, name).await?;
        await_nothing_left(&self.lab, self.tenant.name(), &self.namespace, name).await
    }
}

/// The address of one of the two nodes that the lab made.
async fn address(tenant: &Tenant, n: usize) -> Result<String> {
    let object = get(tenant, &["node", &format!("{}-{n}", tenant.name())]).await?;
    let address = object["status"]["addresses"][0]["address"].as_str();
    Ok(address.context("no address")?.to_owned())
}

/// With these ports, each as (port, node port).
fn with_ports(name: &str, spec: &str, ports: &[(u16, u16)]) -> String {
    let ports: Vec<Value> = ports
        .iter()
        .map(|(port, node)| json!({ "name": format!("p{port}"), "port": port, "nodePort": node }))
        .collect();
    let one = "ports: [{name: http, port: 80, targetPort: 8080}]";
    service(name, spec).replace(one, &format!("ports: {}", json!(ports)))
}

#[tokio::test]
async fn what_a_narrowed_policy_does_not_let_in_stays_and_with_enforce_goes_and_comes_back()
-> Result<()> {
    let stage = Stage::new("narrowed").await?;
    for narrowing in narrowings() {
        let field = narrowing.field;
        narrow(&stage, &narrowing).await.context(field)?;
        println!("{field}: stays, goes, and comes back");
    }
    Ok(())
}

async fn narrow(stage: &Stage, it: &Narrowing) -> Result<()> {
    let Narrowing { field, reason, .. } = *it;
    let nodes = stage.nodes.each_ref().map(String::as_str);
    let reclaim = if it.retained { "Retain" } else { "Delete" };
    // Parked addresses stay for longer than the test takes.
    let rest = json!({
        "quotas": null, "nodePortRange": null, "requestableIPs": null,
        "enforce": false, "reclaimPolicy": reclaim, "releaseAfterSeconds": 3600,
    });
    stage.set(&rest).await?;
    stage.set(&it.wide).await?;
    let neighbour = with_ports(NEIGHBOUR, "", &[(80, 31_000)]);
    let asks = format!("loadBalancerIP: {ASKED}");
    let asks = if field == "requestableIPs" { &asks } else { "" };
    let too_much = with_ports(TOO_MUCH, asks, &[(80, 31_001), (443, 31_002)]);
    let mut ips = Vec::new();
    for (name, object) in [(NEIGHBOUR, neighbour), (TOO_MUCH, too_much)] {
        stage.tenant.apply_in(&stage.namespace, &object).await?;
        ips.push(stage.tenant.await_ip(&stage.namespace, name).await?);
        stage.serves(name, &ips[ips.len() - 1], &nodes).await?;
    }
    let uid = stage.uid(TOO_MUCH).await?;
    let labels: Vec<&str> = it.counter.1.split(',').collect();
    let counted = || async { stage.lab.hub().metric(it.counter.0, &labels).await };
    let before = counted().await?;
    stage.beyond(0, 0).await?;

    // Narrowed: all stays as it is, and is reported.
    stage.set(&it.narrow).await?;
    stage.beyond(1, 0).await?;
    let (accepted, programmed) = match it.of_all {
        true => (("True", "Accepted"), "Programmed"),
        false => (("False", reason), "PolicyViolated"),
    };
    let (status, said) = accepted;
    let said = (stage
        .record_says(TOO_MUCH, ("Accepted", status, said))
        .await?)
        + &stage
            .record_says(TOO_MUCH, ("Programmed", "True", programmed))
            .await?;
    if !it.of_all {
        ensure!(said.contains(field) && said.contains("enforce"), "{said}");
        let message = stage.refused(TOO_MUCH, reason).await?;
        ensure!(message.contains(field), "{message}");
        stage
            .event_says(TOO_MUCH, "UpdateLoadBalancerFailed", field)
            .await?;
    }
    stage.stands(TOO_MUCH, &ips[1], &nodes).await?;
    ensure!(stage.uid(TOO_MUCH).await? == uid, "it was made anew");
    ensure!(
        (counted().await? - before).abs() < 0.5,
        "counted as withdrawn"
    );

    // Enforced: it goes, and its tenant reads why.
    stage.set(&json!({ "enforce": true })).await?;
    await_no_address(&stage.tenant, &stage.namespace, TOO_MUCH).await?;
    let message = stage.refused(TOO_MUCH, reason).await?;
    ensure!(message.contains(field), "{message}");
    stage
        .event_says(TOO_MUCH, "SyncLoadBalancerFailed", field)
        .await?;
    stage.leads_to(TOO_MUCH, &[]).await?;
    if it.retained {
        let said = stage
            .record_says(TOO_MUCH, ("Accepted", "False", reason))
            .await?;
        ensure!(said.contains(field), "{said}");
        let said = stage
            .record_says(TOO_MUCH, ("Programmed", "False", "Reserved"))
            .await?;
        ensure!(
            said.contains(field) && said.contains("kubectl delete"),
            "{said}"
        );
    } else {
        let name = stage.tenant.name();
        await_cut(&stage.lab, name, &stage.namespace, TOO_MUCH).await?;
    }
    stage.beyond(0, 0).await?;
    let counted = counted().await?;
    ensure!(
        (counted - before - 1.0).abs() < 0.5,
        "{before}, then {counted}"
    );
    stage.serves(NEIGHBOUR, &ips[0], &nodes).await?;

    // It fits again: as it was, but that nothing is kept parked beyond a quota.
    stage.set(&it.wide).await?;
    if it.of_all {
        let ip = stage.tenant.await_ip(&stage.namespace, TOO_MUCH).await?;
        stage.serves(TOO_MUCH, &ip, &nodes).await?;
    } else {
        stage.serves(TOO_MUCH, &ips[1], &nodes).await?;
        ensure!(stage.uid(TOO_MUCH).await? == uid, "it was made anew");
    }
    stage
        .record_says(TOO_MUCH, ("Programmed", "True", "Programmed"))
        .await?;
    stage.serves(NEIGHBOUR, &ips[0], &nodes).await?;

    let at_once = json!({ "reclaimPolicy": "Delete", "releaseAfterSeconds": 0 });
    stage.set(&at_once).await?;
    stage.delete(TOO_MUCH).await?;
    stage.delete(NEIGHBOUR).await
}

#[tokio::test]
async fn nodes_that_a_narrowed_policy_does_not_let_in_stay_and_with_enforce_go_and_come_back()
-> Result<()> {
    let stage = Stage::new("fenced").await?;
    let [one, two] = stage.nodes.each_ref().map(String::as_str);
    let (three, metadata) = ("10.206.0.3", "169.254.169.254");
    let web = "web";
    stage
        .tenant
        .apply_in(&stage.namespace, &service(web, ""))
        .await?;
    let ip = stage.tenant.await_ip(&stage.namespace, web).await?;
    stage.serves(web, &ip, &[one, two]).await?;
    let refused = async |reason: &str| {
        let label = format!("reason=\"{reason}\"");
        let name = "berth_node_addresses_refused_total";
        stage.lab.hub().metric(name, &[&label]).await
    };
    let healthy = ("BackendsHealthy", "True", "AddressNotAllowed");

    // Narrowed: who serves goes on, and who comes does not begin.
    stage
        .set(&json!({ "nodeCIDRs": [format!("{one}/32")] }))
        .await?;
    stage.beyond(0, 1).await?;
    stage
        .tenant
        .hand_made_node("third", three.parse()?, "10.46.0.0/24")
        .await?;
    stage
        .record_names(web, healthy, &[three, "nodeCIDRs"])
        .await?;
    stage.serves(web, &ip, &[one, two]).await?;

    // Enforced: it goes, and the other goes on.
    let before = refused("outside").await?;
    stage.set(&json!({ "enforce": true })).await?;
    stage.serves(web, &ip, &[one]).await?;
    stage
        .record_names(web, healthy, &[two, "nodeCIDRs"])
        .await?;
    stage.beyond(0, 0).await?;
    ensure!(refused("outside").await? > before + 0.5);

    // None is left: the address stays, and the Service says why nobody answers there.
    stage.set(&json!({ "nodeCIDRs": ["192.0.2.0/24"] })).await?;
    let message = stage.refused(web, "AddressNotAllowed").await?;
    ensure!(message.contains("nodeCIDRs"), "{message}");
    stage
        .event_says(web, "SyncLoadBalancerFailed", "nodeCIDRs")
        .await?;
    let said = stage
        .record_says(web, ("Programmed", "False", "AddressNotAllowed"))
        .await?;
    ensure!(said.contains("nodeCIDRs"), "{said}");
    stage.stands(web, &ip, &[]).await?;

    // Wide open: all are back, but for what no Tenant opens.
    let before = refused("never").await?;
    stage
        .tenant
        .hand_made_node("metadata", metadata.parse()?, "10.47.0.0/24")
        .await?;
    stage
        .tenant
        .hand_made_node("round", ip.parse()?, "10.48.0.0/24")
        .await?;
    stage.set(&json!({ "nodeCIDRs": ["0.0.0.0/0"] })).await?;
    stage.serves(web, &ip, &[one, two, three]).await?;
    stage
        .record_names(web, healthy, &["2 of 5 nodes", metadata])
        .await?;
    ensure!(refused("never").await? > before + 0.5);
    for node in ["metadata", "round"] {
        stage.tenant.kubectl(&["delete", "node", node]).await?;
    }

    // How many of them may: the same.
    stage
        .set(&json!({ "enforce": false, "quotas": { "nodes": 2 } }))
        .await?;
    stage.beyond(0, 1).await?;
    stage.serves(web, &ip, &[one, two, three]).await?;
    let before = refused("quota").await?;
    stage.set(&json!({ "enforce": true })).await?;
    stage.serves(web, &ip, &[one, two]).await?;
    stage
        .record_names(
            web,
            ("BackendsHealthy", "True", "QuotaExceeded"),
            &[three, "quotas.nodes"],
        )
        .await?;
    stage.beyond(0, 0).await?;
    ensure!(refused("quota").await? > before + 0.5);
    stage.set(&json!({ "quotas": { "nodes": 3 } })).await?;
    stage.serves(web, &ip, &[one, two, three]).await?;
    crate::quiet::after(&stage.lab, &stage.tenant).await?;
    stage.set(&json!({ "releaseAfterSeconds": 0 })).await?;
    stage.delete(web).await
}

impl Stage {
    /// Waits until a condition of the LoadBalancer has all these words.
    async fn record_names(
        &self,
        name: &str,
        condition: (&str, &str, &str),
        words: &[&str],
    ) -> Result<()> {
        let what = format!("the LoadBalancer's {condition:?} says {words:?}");
        eventually(SOON, &what, || async {
            let said = self.record_says(name, condition).await;
            let said = said.map_err(|e| Seen(e.to_string()))?;
            match words.iter().all(|word| said.contains(word)) {
                true => Ok(()),
                false => Err(Seen(said)),
            }
        })
        .await?;
        Ok(())
    }
}
