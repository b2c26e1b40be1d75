//! What a tenant's people read on their Service: one writer owns the addresses, whatever the management side gives is followed, and
//! why there is none is told as soon as the allocator tells it.

use anyhow::{Context, Result, ensure};
use berth_lab::{Cluster, Lab, Seen, Tenant, Write, eventually};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::quiet;
use crate::support::{SOON, await_condition, await_event, get, service, tenant};

const PROGRAMMED: &str = "berth.dev/Programmed";

async fn ingress(tenant: &Tenant, namespace: &str, service: &str) -> Result<Value> {
    let object = get(tenant, &["service", service, "-n", namespace]).await?;
    Ok(object["status"]["loadBalancer"]["ingress"].clone())
}

async fn await_ingress(
    tenant: &Tenant,
    namespace: &str,
    service: &str,
    wanted: &Value,
) -> Result<()> {
    eventually(SOON, &format!("{service} says {wanted}"), || async {
        match ingress(tenant, namespace, service).await? {
            found if found == *wanted => Ok(()),
            found => Err(Seen(found.to_string())),
        }
    })
    .await?;
    Ok(())
}

/// Writes into a Service's status by a merge patch, as somebody else would.
async fn meddle(cluster: &Cluster, namespace: &str, service: &str, status: &Value) -> Result<()> {
    let patch = json!({ "status": status }).to_string();
    let argv = [
        "patch",
        "service",
        service,
        "-n",
        namespace,
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ];
    cluster.kubectl(&argv).await?;
    Ok(())
}

/// Who owns a part of the addresses.
async fn owners(tenant: &Tenant, namespace: &str, service: &str) -> Result<Vec<String>> {
    let shown = ["service", service, "-n", namespace, "--show-managed-fields"];
    let object = get(tenant, &shown).await?;
    let entries = object["metadata"]["managedFields"].as_array().cloned();
    let owns = |entry: &Value| {
        let fields = &entry["fieldsV1"]["f:status"]["f:loadBalancer"]["f:ingress"];
        let manager = entry["manager"].as_str()?.to_owned();
        (!fields.is_null()).then_some(manager)
    };
    Ok(entries
        .unwrap_or_default()
        .iter()
        .filter_map(owns)
        .collect())
}

#[tokio::test]
async fn point_28_the_addresses_have_one_owner_and_what_another_writes_is_put_right() -> Result<()>
{
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, "owner").await?;
    tenant.apply_in(&namespace, &service("web", "")).await?;
    let ip = tenant.await_ip(&namespace, "web").await?;
    await_event(&tenant, &namespace, "web", "EnsuredLoadBalancer").await?;
    let right = json!([{ "ip": ip, "ipMode": "Proxy" }]);
    for (what, wrong) in [
        (
            "another address",
            json!([{ "ip": "192.0.2.1", "ipMode": "VIP" }]),
        ),
        (
            "one more",
            json!([{ "ip": ip, "ipMode": "Proxy" }, { "ip": "192.0.2.1" }]),
        ),
        ("a name", json!([{ "hostname": "elsewhere.example.com" }])),
        ("another mode", json!([{ "ip": ip, "ipMode": "VIP" }])),
        ("none", Value::Null),
    ] {
        let before = status_writes(&tenant, &namespace).await?;
        let wrong = json!({ "loadBalancer": { "ingress": wrong } });
        meddle(&tenant, &namespace, "web", &wrong).await?;
        await_ingress(&tenant, &namespace, "web", &right).await?;
        let owners = owners(&tenant, &namespace, "web").await?;
        ensure!(owners == ["berth-agent"], "after {what}: {owners:?}");
        let writes = status_writes(&tenant, &namespace).await? - before;
        ensure!(writes == 1, "{what} is put right by {writes} writes");
    }

    // A condition that is not ours is not touched.
    let theirs = json!({ "type": "example.com/Checked", "status": "True", "reason": "Checked", "message": "",
                         "lastTransitionTime": "2026-11-25T00:00:00Z" });
    let object = get(&tenant, &["service", "web", "-n", &namespace]).await?;
    let mut conditions = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    conditions.push(theirs.clone());
    let both = json!({ "conditions": conditions, "loadBalancer": {} });
    meddle(&tenant, &namespace, "web", &both).await?;
    await_ingress(&tenant, &namespace, "web", &right).await?;
    let object = get(&tenant, &["service", "web", "-n", &namespace]).await?;
    let conditions = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    ensure!(conditions.contains(&theirs), "{conditions:?}");
    quiet::after(&lab, &tenant).await
}

async fn status_writes(tenant: &Tenant, namespace: &str) -> Result<usize> {
    let web = format!("{namespace}/web");
    let audit = tenant.audit_by(":berth-agent").await?;
    let of_status = |write: &Write| write.resource == "services/status" && write.object == web;
    Ok(audit.only(of_status).0.len())
}

/// The name of the management Service for one of acme's.
async fn managed(lab: &Lab, service: &str) -> Result<String> {
    let selector = format!("berth.dev/service-name={service}");
    let what = format!("acme's {service} has a management Service");
    let name = eventually(SOON, &what, || async {
        let found = get(
            lab.management(),
            &["services", "-n", "berth-acme", "-l", &selector],
        )
        .await?;
        let name = found["items"][0]["metadata"]["name"].as_str();
        name.map(str::to_owned)
            .ok_or_else(|| Seen(found.to_string()))
    })
    .await?;
    Ok(name)
}

#[tokio::test]
async fn point_30_what_the_allocator_gives_is_followed_as_address_or_name_and_its_end_too()
-> Result<()> {
    let lab = Lab::builder().start_own().await?;
    let acme = lab.tenant("acme").await?;
    let namespace = acme.namespace().await?;
    // The test is the allocator: one that is not MetalLB, and gives what it wants.
    lab.metallb().controller.kill().await?;
    lab.hub().stop().await?;
    let hub = lab.hub().process().clone().arg("--allocator=other");
    hub.start().await?;
    lab.hub().ready().await?;
    acme.apply_in(&namespace, &service("web", "")).await?;
    let name = managed(&lab, "web").await?;
    let gives = async |ingress: Value| {
        let status = json!({ "loadBalancer": { "ingress": ingress } });
        meddle(lab.management(), "berth-acme", &name, &status).await
    };
    let says = async |ingress: Value| await_ingress(&acme, &namespace, "web", &ingress).await;

    gives(json!([{ "ip": "203.0.113.7" }])).await?;
    says(json!([{ "ip": "203.0.113.7", "ipMode": "Proxy" }])).await?;
    await_condition(&acme, &namespace, "web", PROGRAMMED, "True", "Programmed").await?;
    gives(json!([{ "ip": "203.0.113.8" }])).await?;
    says(json!([{ "ip": "203.0.113.8", "ipMode": "Proxy" }])).await?;
    let note = await_event(&acme, &namespace, "web", "UpdatedLoadBalancer").await?;
    ensure!(note.contains("203.0.113.8 (it was 203.0.113.7)"), "{note}");
    // As the management side gave it: a name stays one, and has no mode.
    gives(json!([{ "hostname": "lb.example.com" }])).await?;
    says(json!([{ "hostname": "lb.example.com" }])).await?;
    gives(Value::Null).await?;
    says(Value::Null).await?;
    await_condition(
        &acme,
        &namespace,
        "web",
        PROGRAMMED,
        "False",
        "AwaitingAddress",
    )
    .await?;
    gives(json!([{ "ip": "203.0.113.9" }])).await?;
    says(json!([{ "ip": "203.0.113.9", "ipMode": "Proxy" }])).await?;
    quiet::after(&lab, &acme).await?;
    lab.stop().await?;
    Ok(())
}

/// A pool with this one address, which is only given to who asks for the pool.
fn pool(name: &str, address: &str) -> String {
    format!(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: {name}}}\n\
         spec: {{addresses: [{address}/32], autoAssign: false}}\n"
    )
}

/// The lab with acme, and why its Services wait.
struct Waiting {
    lab: Lab,
    acme: Tenant,
    namespace: String,
}

impl Waiting {
    async fn policy(&self, spec: Value) -> Result<()> {
        let patch = json!({ "spec": spec }).to_string();
        let argv = ["patch", "tenant", "acme", "--type=merge", "-p", &patch];
        self.lab.management().kubectl(&argv).await?;
        Ok(())
    }

    async fn pool(&self, name: &str, address: &str) -> Result<()> {
        let pool = pool(name, address);
        Ok(self
            .lab
            .management()
            .apply_in("metallb-system", &pool)
            .await?)
    }

    /// Waits until a Service says, as condition and as event, what the allocator says of it since that time, and tells how long
    /// it took.
    async fn reason(&self, name: &str, words: &str, since: Timestamp) -> Result<()> {
        let (acme, namespace) = (&self.acme, &self.namespace);
        let what = format!("{name} says that {words}");
        eventually(SOON, &what, || async {
            let object = get(acme, &["service", name, "-n", namespace]).await?;
            let conditions = object["status"]["conditions"].to_string();
            let events = get(acme, &["events.v1.events.k8s.io", "-n", namespace])
                .await?
                .to_string();
            let told = conditions.contains(words) && conditions.contains("AllocationFailed");
            match told && events.contains(words) {
                true => Ok(()),
                false => Err(Seen(conditions)),
            }
        })
        .await?;
        ensure!(ingress(acme, namespace, name).await?.is_null());

        let about = format!("berth-acme/{}.", managed(&self.lab, name).await?);
        let management = self
            .lab
            .management()
            .audit_by("metallb-system:controller")
            .await?;
        let of_this =
            |w: &Write| w.resource == "events" && w.object.starts_with(&about) && w.at >= since;
        let source = management
            .only(of_this)
            .0
            .first()
            .context("no event of the allocator")?
            .at;
        let tenant = acme.audit_by(":berth-agent").await?;
        let told = |resource: &str, object: &str| {
            let is_it = |w: &&Write| {
                w.resource == resource && w.object.starts_with(object) && w.at >= source
            };
            let found = tenant
                .0
                .iter()
                .find(is_it)
                .map(|w| w.at.duration_since(source));
            found.with_context(|| format!("no {resource} of {object} after {source}"))
        };
        let condition = told("services/status", &format!("{namespace}/{name}"))?;
        let event = told("events", &format!("{namespace}/{name}."))?;
        println!(
            "{name} ({words}): condition {} ms, event {} ms after the allocator's event",
            condition.as_millis(),
            event.as_millis()
        );
        Ok(())
    }

    async fn mended(&self, name: &str, ip: &str) -> Result<()> {
        let (acme, namespace) = (&self.acme, &self.namespace);
        let found = acme.await_ip(namespace, name).await?;
        ensure!(found == ip, "{name} has {found}, not {ip}");
        await_condition(acme, namespace, name, PROGRAMMED, "True", "Programmed").await?;
        await_event(acme, namespace, name, "EnsuredLoadBalancer").await?;
        Ok(())
    }
}

#[tokio::test]
async fn point_31_and_32_why_an_address_is_pending_is_told_with_the_allocators_words_and_clears()
-> Result<()> {
    let lab = Lab::builder().start_own().await?;
    let acme = lab.tenant("acme").await?;
    let namespace = acme.namespace().await?;
    let it = Waiting {
        lab,
        acme,
        namespace,
    };
    // Since then.
    let apply = async |name: &str, spec: &str| -> Result<Timestamp> {
        let since = Timestamp::now();
        let yaml = service(name, spec);
        it.acme.apply_in(&it.namespace, &yaml).await?;
        Ok(since)
    };

    // No such pool, until the operator makes it.
    it.policy(json!({ "addressPool": "tiny" })).await?;
    let since = apply("first", "").await?;
    it.reason("first", "tiny", since).await?;
    it.pool("tiny", "10.10.254.1").await?;
    it.mended("first", "10.10.254.1").await?;

    // The pool is exhausted, until somebody leaves.
    let since = apply("second", "").await?;
    it.reason("second", "Failed to allocate IP", since).await?;
    let delete = [
        "delete",
        "service",
        "first",
        "-n",
        &it.namespace,
        "--wait=false",
    ];
    it.acme.kubectl(&delete).await?;
    it.mended("second", "10.10.254.1").await?;

    // The address asked for is taken, until its owner leaves.
    it.policy(json!({ "requestableIPs": ["10.10.254.0/24"], "releaseAfterSeconds": 0 }))
        .await?;
    let (taken, nobodys) = (
        "loadBalancerIP: 10.10.254.1",
        "loadBalancerIP: 10.10.254.77",
    );
    let since = apply("third", nobodys).await?;
    it.reason("third", "is not allowed in config", since)
        .await?;
    let since = apply("third", taken).await?;
    it.reason("third", "in use by", since).await?;
    // MetalLB says the first again, by counting on in the event that it has of it.
    let since = apply("third", nobodys).await?;
    it.reason("third", "is not allowed in config", since)
        .await?;
    // The hub, started anew, says the same: it is on record with the Service, and read again.
    let written = quiet::Written::at_rest(&it.lab, &it.acme).await?;
    it.lab.hub().kill().await?;
    it.lab.hub().start().await?;
    written.nothing_since("the hub came back").await?;
    let since = apply("third", taken).await?;
    it.reason("third", "in use by", since).await?;
    let delete = [
        "delete",
        "service",
        "second",
        "-n",
        &it.namespace,
        "--wait=false",
    ];
    it.acme.kubectl(&delete).await?;
    it.mended("third", "10.10.254.1").await?;
    quiet::after(&it.lab, &it.acme).await?;
    it.lab.stop().await?;
    Ok(())
}
