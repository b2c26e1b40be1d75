//! Unchanged input writes nothing (point 33), looked at wherever a test leaves Services standing: the agent dies and comes back, and
//! the audit logs of both clusters show no write of Berth's about this tenant. Only the agent: in a lab that tests share, the
//! hub is everybody's. With a hub that restarts, Services of all kinds are looked at in `kinds`.

use anyhow::{Result, ensure};
use berth_lab::{Lab, Seen, Tenant, Write, eventually};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;

use crate::support::{SOON, get};

/// Where the Services are that show that everything before them is done: behind all others, in the order of names.
const LAST: &str = "zz-last";
/// How often Berth may still be busy, where it is asked to come to rest.
const ROUNDS: usize = 20;

/// What Berth wrote about a tenant so far, in both clusters.
pub(crate) struct Written {
    lab: Lab,
    tenant: Tenant,
    services: Api<Service>,
    hub: usize,
    agent: usize,
}

impl Written {
    /// Begins to count when nothing more is written.
    pub(crate) async fn at_rest(lab: &Lab, tenant: &Tenant) -> Result<Self> {
        let namespace = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {LAST}}}\n");
        tenant.apply(&namespace).await?;
        let mut written = Self {
            lab: lab.clone(),
            tenant: tenant.clone(),
            services: Api::namespaced(tenant.client().await?, LAST),
            hub: 0,
            agent: 0,
        };
        let mut equal = 0;
        for _ in 0..ROUNDS {
            come_round(&written.services).await?;
            // How much the tenant has is written when that has not changed for a moment: looked at before the writes are counted.
            let told = is_told(lab, tenant).await?;
            let (hub, agent) = (
                by_hub(lab, tenant).await?.len(),
                by_agent(tenant).await?.len(),
            );
            equal = if told && (written.hub, written.agent) == (hub, agent) {
                equal + 1
            } else {
                0
            };
            (written.hub, written.agent) = (hub, agent);
            if equal == 2 {
                return Ok(written);
            }
        }
        anyhow::bail!(
            "Berth does not come to rest: {} and {} writes",
            written.hub,
            written.agent
        )
    }

    /// Fails where anything was written since, by the hub or by the agent. Whatever they have in hand is done before.
    pub(crate) async fn nothing_since(&self, what: &str) -> Result<()> {
        // Twice: the second comes when all that was begun before the first is long over.
        come_round(&self.services).await?;
        come_round(&self.services).await?;
        let by_hub = by_hub(&self.lab, &self.tenant).await?.split_off(self.hub);
        let by_agent = by_agent(&self.tenant).await?.split_off(self.agent);
        ensure!(by_hub.is_empty(), "{what}, and the hub wrote {by_hub:#?}");
        ensure!(
            by_agent.is_empty(),
            "{what}, and the agent wrote {by_agent:#?}"
        );
        Ok(())
    }
}

/// At the end of a test: the tenant's agent is killed and started, and nothing is written.
pub(crate) async fn after(lab: &Lab, tenant: &Tenant) -> Result<()> {
    let written = Written::at_rest(lab, tenant).await?;
    tenant.agent().kill().await?;
    tenant.agent().start().await?;
    written.nothing_since("the agent came back").await
}

/// Whether the Tenant says how many load balancers there are.
async fn is_told(lab: &Lab, tenant: &Tenant) -> Result<bool> {
    let object = get(lab.management(), &["tenant", tenant.name()]).await?;
    let home = format!("berth-{}", tenant.name());
    let records = get(lab.management(), &["loadbalancers.berth.dev", "-n", &home]).await?;
    let count = records["items"].as_array().map_or(0, Vec::len);
    Ok(object["status"]["loadBalancers"] == json!(count))
}

/// What the hub wrote about this tenant: in its namespace, and its Tenant.
async fn by_hub(lab: &Lab, tenant: &Tenant) -> Result<Vec<Write>> {
    let name = tenant.name();
    let home = format!("berth-{name}/");
    let audit = lab.management().audit_by(":berth-hub").await?;
    let about = |write: &Write| write.object == name || write.object.starts_with(&home);
    Ok(audit.only(about).0)
}

/// What the agent wrote, but for the Services that are made only to look.
async fn by_agent(tenant: &Tenant) -> Result<Vec<Write>> {
    let audit = tenant.audit_by(":berth-agent").await?;
    Ok(audit.only(|write| !write.object.starts_with(LAST)).0)
}

/// Makes a Service that cannot be served, waits until the hub has said so, and takes it away. It goes through everything that
/// comes before it: the agent's index, the stream, the tenant's line in the hub, the planner, and back.
async fn come_round(services: &Api<Service>) -> Result<()> {
    let object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": "last" },
        "spec": {
            "type": "LoadBalancer",
            "allocateLoadBalancerNodePorts": false,
            "ports": [{ "port": 80 }],
        },
    });
    let object = serde_json::from_value(object)?;
    services.create(&PostParams::default(), &object).await?;
    eventually(SOON, "the last Service is refused", || async {
        let status = services.get("last").await?.status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        match conditions.iter().any(|c| c.reason == "NodePortMissing") {
            true => Ok(()),
            false => Err(Seen(format!("{conditions:?}"))),
        }
    })
    .await?;
    services.delete("last", &DeleteParams::default()).await?;
    eventually(SOON, "the last Service is gone", || async {
        match services.get_opt("last").await? {
            None => Ok(()),
            Some(object) => Err(Seen(format!("{:?}", object.metadata.finalizers))),
        }
    })
    .await?;
    Ok(())
}
