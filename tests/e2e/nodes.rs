//! Which of a tenant's nodes receive traffic, as their objects change in a real API server: labels, taints, deletion, readiness,
//! addresses, and a herd of them that flaps. The nodes are objects without machines, so nobody probes them, and what they have
//! to say of their pods is said by hand-made EndpointSlices.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Result, ensure};
use berth_lab::{Lab, Tenant};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Node, Service};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use crate::backends::{await_backends, backends, slice_writes};
use crate::quiet;
use crate::support::{await_service_gone, get, service};

const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The size of the herd that flaps.
const HERD: u8 = 100;

/// Tests of one tenant take turns: its nodes are everybody's.
static TURNS: [Mutex<()>; 2] = [Mutex::const_new(()), Mutex::const_new(())];
const TENANTS: [&str; 2] = ["field", "herd"];

/// A tenant with two nodes of its own, the lab's, and those of the test.
struct Field {
    lab: Lab,
    tenant: Tenant,
    namespace: String,
    nodes: Api<Node>,
    services: Api<Service>,
    _turn: MutexGuard<'static, ()>,
}

impl Field {
    /// A tenant with a Service `web`, which has its address and leads to both nodes.
    async fn new(tenant: usize, spec: &str) -> Result<Self> {
        let turn = TURNS[tenant].lock().await;
        let lab = Lab::start().await?;
        let (tenant, namespace) = crate::support::tenant(&lab, TENANTS[tenant]).await?;
        let client = tenant.client().await?;
        // What a test leaves parked would be released while the next one counts writes.
        let at_once = r#"{"spec":{"releaseAfterSeconds":0}}"#;
        let patch = [
            "patch",
            "tenant",
            tenant.name(),
            "--type=merge",
            "-p",
            at_once,
        ];
        lab.management().kubectl(&patch).await?;
        tenant.apply_in(&namespace, &service("web", spec)).await?;
        tenant.await_ip(&namespace, "web").await?;
        Ok(Self {
            nodes: Api::all(client.clone()),
            services: Api::namespaced(client, &namespace),
            lab,
            tenant,
            namespace,
            _turn: turn,
        })
    }

    /// At the end: what stands costs no write, and then the next test finds the nodes and the pool as this one did.
    async fn leave(self, nodes: &[&str]) -> Result<()> {
        quiet::after(&self.lab, &self.tenant).await?;
        for node in nodes {
            self.nodes.delete(node, &Default::default()).await?;
        }
        for service in self.services.list(&Default::default()).await? {
            let name = service.metadata.name.unwrap_or_default();
            self.services.delete(&name, &Default::default()).await?;
            await_service_gone(&self.tenant, &self.namespace, &name).await?;
        }
        Ok(())
    }

    /// The name and the address of one of the two nodes that the lab made.
    async fn own(&self, n: usize) -> Result<(String, String)> {
        let name = format!("{}-{n}", self.tenant.name());
        let object = get(&self.tenant, &["node", &name]).await?;
        let address = object["status"]["addresses"][0]["address"].as_str();
        Ok((name, address.unwrap_or_default().to_owned()))
    }

    async fn add(&self, name: &str, address: Ipv4Addr) -> Result<()> {
        Ok(self
            .tenant
            .hand_made_node(name, address, "10.45.0.0/24")
            .await?)
    }

    async fn patch(&self, node: &str, patch: Value) -> Result<()> {
        let parameters = PatchParams::default();
        self.nodes
            .patch(node, &parameters, &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    async fn status(&self, node: &str, status: Value) -> Result<()> {
        let parameters = PatchParams::default();
        let patch = Patch::Merge(json!({ "status": status }));
        self.nodes.patch_status(node, &parameters, &patch).await?;
        Ok(())
    }

    async fn ready(&self, node: &str, ready: bool) -> Result<()> {
        let status = if ready { "True" } else { "False" };
        let condition = json!({ "type": "Ready", "status": status, "reason": "Test" });
        self.status(node, json!({ "conditions": [condition] }))
            .await
    }

    /// Asks for a node's deletion, which somebody's finalizer holds up, as a cloud's controllers do.
    async fn delete(&self, node: &str) -> Result<()> {
        let held = json!({ "metadata": { "finalizers": ["example.com/machine"] } });
        self.patch(node, held).await?;
        self.nodes.delete(node, &Default::default()).await?;
        Ok(())
    }

    async fn finish(&self, node: &str) -> Result<()> {
        self.patch(node, json!({ "metadata": { "finalizers": null } }))
            .await
    }

    async fn doom(&self, node: &str) -> Result<()> {
        let taint = json!({ "key": "ToBeDeletedByClusterAutoscaler", "value": "1", "effect": "NoSchedule" });
        self.patch(node, json!({ "spec": { "taints": [taint] } }))
            .await
    }

    async fn spare(&self, node: &str) -> Result<()> {
        self.patch(node, json!({ "spec": { "taints": null } }))
            .await
    }

    async fn leads_to(&self, wanted: &[&str]) -> Result<()> {
        let service = [self.tenant.name(), &self.namespace, "web"];
        await_backends(&self.lab, service, wanted).await
    }

    async fn backends(&self) -> Result<Vec<String>> {
        backends(&self.lab, [self.tenant.name(), &self.namespace, "web"]).await
    }

    async fn slice_writes(&self) -> Result<usize> {
        Ok(slice_writes(&self.lab, self.tenant.name()).await?.len())
    }

    /// Says where pods of `web` are: (node, ready, serving).
    async fn pods(&self, pods: &[(&str, bool, bool)]) -> Result<()> {
        let endpoints: Vec<Value> = pods
            .iter()
            .enumerate()
            .map(|(n, (node, ready, serving))| {
                json!({
                    "addresses": [format!("10.45.0.{}", n + 10)],
                    "nodeName": node,
                    "conditions": { "ready": ready, "serving": serving, "terminating": !ready },
                })
            })
            .collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "web-by-hand",
                "labels": {
                    "kubernetes.io/service-name": "web",
                    "endpointslice.kubernetes.io/managed-by": "test.example.com",
                },
            },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        });
        let namespace = &self.namespace;
        Ok(self.tenant.apply_in(namespace, &slice.to_string()).await?)
    }
}

#[tokio::test]
async fn point_20_the_label_excludes_unless_it_says_false() -> Result<()> {
    let field = Field::new(0, "").await?;
    let ((first, one), (_, two)) = (field.own(1).await?, field.own(2).await?);
    field.leads_to(&[&one, &two]).await?;
    for (value, included) in [
        (json!("true"), false),
        (json!("false"), true),
        (json!("perhaps"), false),
        (Value::Null, true),
        (json!(""), false),
        (Value::Null, true),
    ] {
        let labels = json!({ "metadata": { "labels": { EXCLUDE: value } } });
        field.patch(&first, labels).await?;
        match included {
            true => field.leads_to(&[&one, &two]).await?,
            false => field.leads_to(&[&two]).await?,
        }
    }
    field.leave(&[]).await
}

#[tokio::test]
async fn point_21_a_node_leaves_with_its_deletion_and_the_autoscalers_taint_alone_writes_nothing()
-> Result<()> {
    let field = Field::new(1, "").await?;
    let ((first, one), (_, two)) = (field.own(1).await?, field.own(2).await?);
    field.add("third", Ipv4Addr::new(10, 201, 0, 3)).await?;
    field.add("fourth", Ipv4Addr::new(10, 201, 0, 4)).await?;
    field
        .leads_to(&[&one, &two, "10.201.0.3", "10.201.0.4"])
        .await?;

    // Before the machine is gone for good: its deletion is enough.
    field.delete("third").await?;
    field.leads_to(&[&one, &two, "10.201.0.4"]).await?;

    let written = quiet::Written::at_rest(&field.lab, &field.tenant).await?;
    let before = field.slice_writes().await?;
    field.finish("third").await?;
    field.doom(&first).await?;
    written
        .nothing_since("a node got the autoscaler's taint")
        .await?;
    let still = field.backends().await?;
    ensure!(still.contains(&one) && still.len() == 3, "{still:?}");

    // With the next change of any node it goes along, in the same write.
    field.ready("fourth", false).await?;
    field.leads_to(&[&two]).await?;
    let written = field.slice_writes().await? - before;
    ensure!(written == 1, "{written} writes");
    // A node that is spared comes back by itself.
    field.spare(&first).await?;
    field.leads_to(&[&one, &two]).await?;
    field.ready("fourth", true).await?;
    field.leads_to(&[&one, &two, "10.201.0.4"]).await?;
    field.leave(&["fourth"]).await
}

#[tokio::test]
async fn point_21_and_24_under_local_a_doomed_node_drains_and_a_deleted_one_leaves() -> Result<()> {
    let field = Field::new(1, "externalTrafficPolicy: Local").await?;
    let ((first, one), (second, two)) = (field.own(1).await?, field.own(2).await?);
    field.add("third", Ipv4Addr::new(10, 202, 0, 3)).await?;
    let (on_first, on_second) = ((first.as_str(), true, true), (second.as_str(), true, true));
    field.pods(&[on_first, on_second]).await?;
    field.leads_to(&[&one, &two]).await?;

    // The taint alone: the node's own health check drains it, and nothing is written here.
    let written = quiet::Written::at_rest(&field.lab, &field.tenant).await?;
    field.doom(&first).await?;
    written
        .nothing_since("a node got the autoscaler's taint")
        .await?;
    let still = field.backends().await?;
    ensure!(still == [one.clone(), two.clone()], "{still:?}");

    // Its pod is told to go: new connections go where one is ready.
    let (first_ends, second_ends) = (
        (first.as_str(), false, true),
        (second.as_str(), false, true),
    );
    field.pods(&[first_ends, on_second]).await?;
    field.leads_to(&[&two]).await?;
    // All are told to go, and serve as yet: better they than nobody.
    field.pods(&[first_ends, second_ends]).await?;
    field.leads_to(&[&one, &two]).await?;
    field.pods(&[on_second, ("third", true, true)]).await?;
    field.leads_to(&[&two, "10.202.0.3"]).await?;

    // A node that is being deleted leaves, with ready pods or without.
    field.delete("third").await?;
    field.leads_to(&[&two]).await?;
    field.finish("third").await?;
    field.spare(&first).await?;
    field.pods(&[on_first, on_second]).await?;
    field.leads_to(&[&one, &two]).await?;
    field.leave(&[]).await
}

#[tokio::test]
async fn point_22_unready_nodes_leave_while_any_is_ready_and_without_any_all_stay() -> Result<()> {
    let field = Field::new(0, "").await?;
    let ((first, one), (second, two)) = (field.own(1).await?, field.own(2).await?);
    field.leads_to(&[&one, &two]).await?;
    field.ready(&first, false).await?;
    field.leads_to(&[&two]).await?;
    // The last one goes too: nobody is known to work, so that all are tried, but for one that is on its way out.
    field.add("third", Ipv4Addr::new(10, 203, 0, 3)).await?;
    field.leads_to(&[&two, "10.203.0.3"]).await?;
    field.delete("third").await?;
    field.ready(&second, false).await?;
    field.leads_to(&[&one, &two]).await?;
    field.ready(&second, true).await?;
    field.leads_to(&[&two]).await?;
    field.ready(&first, true).await?;
    field.leads_to(&[&one, &two]).await?;
    field.finish("third").await?;
    field.leave(&[]).await
}

#[tokio::test]
async fn point_23_each_node_is_reached_by_its_best_address_and_a_change_of_it_is_followed()
-> Result<()> {
    let field = Field::new(0, "").await?;
    let ((first, one), (_, two)) = (field.own(1).await?, field.own(2).await?);
    field.leads_to(&[&one, &two]).await?;
    let preferring = ["--node-address-type=ExternalIP,InternalIP"];
    let agent = field.tenant.agent_with(&preferring).await?;
    agent.start().await?;
    let addresses = |external: &str| {
        json!({ "addresses": [
            { "type": "Hostname", "address": "first.example.com" },
            { "type": "InternalIP", "address": one },
            { "type": "ExternalIP", "address": external },
        ] })
    };
    field.status(&first, addresses("10.204.0.1")).await?;
    field.leads_to(&["10.204.0.1", &two]).await?;
    field.status(&first, addresses("10.204.0.2")).await?;
    field.leads_to(&["10.204.0.2", &two]).await?;
    // The preference is the agent's: without it the same nodes are reached as before.
    agent.stop().await?;
    field.tenant.agent().start().await?;
    field.leads_to(&[&one, &two]).await?;
    field.leave(&[]).await
}

/// What a kubelet and others write into a Node all the time.
fn noise(round: u32) -> Value {
    let time = format!("2026-11-25T00:00:{:02}Z", round % 60);
    json!({
        "conditions": [
            { "type": "MemoryPressure", "status": if round.is_multiple_of(2) { "True" } else { "False" },
              "lastHeartbeatTime": time },
            { "type": "Ready", "status": "True", "lastHeartbeatTime": time, "message": format!("round {round}") },
        ],
        "images": [{ "names": [format!("example.com/image:{round}")], "sizeBytes": 1 }],
        "allocatable": { "cpu": format!("{}m", 4_000 + round) },
    })
}

#[tokio::test]
async fn point_27_a_hundred_flapping_nodes_cost_one_write_a_slice_and_second_and_noise_costs_none()
-> Result<()> {
    let field = Field::new(1, "").await?;
    let ((_, one), (_, two)) = (field.own(1).await?, field.own(2).await?);
    let second = service("api", "");
    field.tenant.apply_in(&field.namespace, &second).await?;
    field.tenant.await_ip(&field.namespace, "api").await?;
    let herd: Vec<(String, Ipv4Addr)> = (1..=HERD)
        .map(|n| (format!("flapping-{n}"), Ipv4Addr::new(10, 205, 0, n)))
        .collect();
    for some in herd.chunks(10) {
        try_join_all(some.iter().map(|(name, address)| field.add(name, *address))).await?;
    }
    let addresses: Vec<String> = herd
        .iter()
        .map(|(_, address)| address.to_string())
        .collect();
    let mut all: Vec<&str> = addresses.iter().map(String::as_str).collect();
    all.extend([one.as_str(), two.as_str()]);
    let everywhere = async || -> Result<()> {
        await_backends(&field.lab, ["herd", &field.namespace, "web"], &all).await?;
        await_backends(&field.lab, ["herd", &field.namespace, "api"], &all).await
    };
    everywhere().await?;

    // Noise.
    let written = quiet::Written::at_rest(&field.lab, &field.tenant).await?;
    for round in 1..=3 {
        for some in herd.chunks(10) {
            try_join_all(
                some.iter()
                    .map(|(name, _)| field.status(name, noise(round))),
            )
            .await?;
        }
    }
    written
        .nothing_since("nodes told of heartbeats, images and pressure")
        .await?;

    // Each in turn not ready, and ready again: at any time half of them are, and every patch is news.
    let before = field.slice_writes().await?;
    let began = Instant::now();
    let mut changes = 0;
    for round in 0..10 {
        for some in herd.chunks(10) {
            let flap = |n: usize, name: &str| {
                let (name, ready) = (name.to_owned(), (n + round) % 2 == 1);
                let field = &field;
                async move { field.ready(&name, ready).await }
            };
            let flaps = some.iter().enumerate().map(|(n, (name, _))| flap(n, name));
            changes += try_join_all(flaps).await?.len();
        }
    }
    for some in herd.chunks(10) {
        changes += try_join_all(some.iter().map(|(name, _)| field.ready(name, true)))
            .await?
            .len();
    }
    everywhere().await?;
    let took = began.elapsed();
    let mut slices: BTreeMap<String, u64> = BTreeMap::new();
    for write in slice_writes(&field.lab, "herd").await?.split_off(before) {
        *slices.entry(write.object).or_default() += 1;
    }
    println!("{changes} changes of {HERD} nodes in {took:.1?}: writes by slice {slices:?}");
    ensure!(slices.len() == 2, "each Service has one slice: {slices:?}");
    // What comes after a quiet time is told at once, and twice more in a row.
    let most = took.as_secs() + 1 + 3;
    ensure!(
        slices.values().all(|writes| (2..=most).contains(writes)),
        "at most {most}: {slices:?}"
    );
    let names: Vec<&str> = herd.iter().map(|(name, _)| name.as_str()).collect();
    field.leave(&names).await
}
