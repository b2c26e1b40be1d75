//! `tenant check`: what a changed Tenant would refuse of what exists, before it is applied. Nothing is written: the API server is asked
//! whether it would take the Tenant, and the rest is the planner's own judgement about what stands there.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use berth_common::{identity::TenantName, model::ServiceKey, wire::Refusal};
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, ListParams, PostParams},
    core::NamespaceResourceScope,
};
use serde::{Deserialize as _, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{CliError, Console, cluster};
use crate::{
    api::{LoadBalancer, Tenant},
    cli::KubeArgs,
    objects::{FIELD_MANAGER, Id, MANAGED_BY, MANAGER, TENANT},
    observe::{Cache, Project, TenantFacts},
    plan::{Allocator, Effect, Foreseen, preview, preview_all},
    policy::{Limits, QUOTA_EXCEEDED, Usage, Verdict},
};

/// Objects in one reply of the API server.
const PAGE: u32 = 500;

/// Arguments of `tenant check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// A file with the Tenant as it is to be, or `-` for the standard input; other objects in it are passed over
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    file: PathBuf,
    /// How to show the result
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    kube: KubeArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Table,
    Json,
    Yaml,
}

/// One line of the result.
#[derive(Debug)]
struct Row {
    tenant: TenantName,
    /// Empty: of all of the tenant's together.
    load_balancer: String,
    found: Foreseen,
}

pub(super) async fn run(
    arguments: CheckArgs,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    let tenants = read(&arguments.file)?;
    let client = arguments.kube.client().await?;
    let (mut rows, mut looked_at) = (Vec::new(), 0);
    for wanted in tenants {
        let (count, found) = check(client.clone(), wanted).await?;
        looked_at += count;
        rows.extend(found);
    }
    let news = rows.iter().filter(|row| !row.found.already).count();
    match arguments.output {
        Format::Json => writeln!(console.out, "{}", told(&rows, looked_at))?,
        Format::Yaml => serde_yaml::to_writer(&mut *console.out, &told(&rows, looked_at))?,
        Format::Table => {
            console.out.write_all(table(&rows).as_bytes())?;
            writeln!(console.out, "{}", summary(&rows, looked_at))?;
        }
    }
    Ok(ExitCode::from(u8::from(news > 0)))
}

/// The Tenants of a file.
fn read(file: &PathBuf) -> Result<Vec<DynamicObject>, CliError> {
    let (name, text) = match file.as_os_str() == "-" {
        true => (
            "the standard input".into(),
            std::io::read_to_string(std::io::stdin()),
        ),
        false => (file.clone(), std::fs::read_to_string(file)),
    };
    let failed = |why: String| CliError::File(name.clone(), why);
    let text = text.map_err(|error| failed(error.to_string()))?;
    let tenants = tenants(&text).map_err(failed)?;
    match tenants.is_empty() {
        true => Err(failed("there is no Tenant in it".into())),
        false => Ok(tenants),
    }
}

fn tenants(text: &str) -> Result<Vec<DynamicObject>, String> {
    let mut found = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = Value::deserialize(document).map_err(|error| error.to_string())?;
        let items = match value["items"].as_array() {
            Some(items) => items.clone(),
            None => vec![value],
        };
        for item in items {
            let group = item["apiVersion"].as_str().unwrap_or_default();
            if item["kind"] == "Tenant" && group.starts_with("berth.dev/") {
                let tenant = serde_json::from_value(item).map_err(|error| error.to_string())?;
                found.push(tenant);
            }
        }
    }
    Ok(found)
}

/// How many load balancers were looked at, and what was found.
async fn check(client: Client, wanted: DynamicObject) -> Result<(usize, Vec<Row>), CliError> {
    let name = wanted.metadata.name.clone().unwrap_or_default();
    let name: TenantName = name
        .parse()
        .map_err(|_| CliError::Refused(format!("{name:?} is no tenant's name")))?;
    let api: Api<Tenant> = Api::all(client.clone());
    let today = api
        .get_opt(name.as_str())
        .await
        .map_err(|error| cluster("read Tenants", error))?;
    let after = would_be(client.clone(), &name, wanted, today.as_ref()).await?;
    let Some(before) = today else {
        // What has no Tenant yet has nothing that could be refused.
        return Ok((0, Vec::new()));
    };
    let read = |tenant: Tenant| {
        // The management cluster's own addresses are the hub's to know; no Tenant opens them, before or after.
        let management: Arc<[IpNet]> = Arc::default();
        TenantFacts::read(tenant, &management).map(|(_, facts)| facts)
    };
    let (Some(before), Some(after)) = (read(before), read(after)) else {
        return Err(CliError::Refused(format!(
            "the Tenant {name} cannot be read"
        )));
    };

    // One for each policy: who asks a ledger for a place has it.
    let (there, then) = (Cache::default(), Cache::default());
    put::<Service>(&client, &name, [&there, &then]).await?;
    put::<EndpointSlice>(&client, &name, [&there, &then]).await?;
    put::<LoadBalancer>(&client, &name, [&there, &then]).await?;
    let mut keys = there.keys_of(&name);
    keys.sort();
    let ids: Vec<Id> = keys
        .iter()
        .map(|key| Id::new(name.clone(), key.clone()))
        .collect();
    let observed: Vec<_> = ids.iter().map(|id| there.observed(id)).collect();
    let mut short_today = short(&there, &ids, before.places);
    let mut short_then = short(&then, &ids, after.places);
    let row = |load_balancer: String, found: Foreseen| Row {
        tenant: name.clone(),
        load_balancer,
        found,
    };
    let (limits, before) = (
        (before.places, after.places),
        before.policy(Allocator::MetalLb),
    );
    let after = after.policy(Allocator::MetalLb);
    let mut rows = Vec::new();
    for (key, observed) in keys.iter().zip(&observed) {
        let mut found = preview(observed, &before, &after);
        found.extend(short_then.remove(key).map(|refusal| Foreseen {
            effect: Effect::Withdrawn,
            reason: refusal.reason.into(),
            why: refusal.message,
            already: short_today.remove(key).is_some(),
        }));
        rows.extend(found.into_iter().map(|it| row(key.to_string(), it)));
    }
    let mut together = preview_all(&observed, &before, &after);
    together.extend(used_up(there.usage(&name), limits.0, limits.1));
    rows.extend(together.into_iter().map(|it| row(String::new(), it)));
    Ok((keys.len(), rows))
}

/// Of what is there, what has no place in these quotas and would go, and why: the hub's own ledger is asked.
fn short(there: &Cache, ids: &[Id], limits: Limits) -> BTreeMap<ServiceKey, Refusal> {
    let mut short = BTreeMap::new();
    let ports = |id: &Id| Some(there.observed(id).service?.object.shape.ports.len());
    // The newest go: who is asked first must not have what is another's.
    if let Some(id) = ids.first() {
        there.limit(&id.tenant, (1, limits));
    }
    for id in ids.iter().filter(|id| !there.rests(id)) {
        let said = there.ask(id, ports(id), (1, limits), Instant::now());
        if let Verdict::Withdrawn(shortage) = said.verdict {
            short.insert(id.key.clone(), shortage.refusal());
        }
    }
    short
}

/// More is there than a quota that is not enforced has room for: it stays, and nothing more is let in.
fn used_up(usage: Usage, before: Limits, after: Limits) -> Vec<Foreseen> {
    let quotas = |limits: Limits| {
        [
            (
                "load balancers",
                "loadBalancers",
                usage.load_balancers,
                limits.load_balancers,
            ),
            ("ports", "ports", usage.ports, limits.ports),
        ]
    };
    let (was, is) = (quotas(before), quotas(after));
    let over = |it: &(&str, &str, usize, Option<usize>)| it.3.is_some_and(|most| it.2 > most);
    let found = is
        .iter()
        .zip(&was)
        .filter(|(is, _)| over(is) && !after.enforce);
    found
        .map(|(is, was)| Foreseen {
            effect: Effect::Refused,
            reason: QUOTA_EXCEEDED.into(),
            why: format!(
                "{} {} are there, and {} may be (quotas.{}): they stay, and no other is let in",
                is.2,
                is.0,
                is.3.unwrap_or_default(),
                is.1
            ),
            already: over(was),
        })
        .collect()
}

/// The Tenant as the API server would store it.
async fn would_be(
    client: Client,
    name: &TenantName,
    mut wanted: DynamicObject,
    today: Option<&Tenant>,
) -> Result<Tenant, CliError> {
    let api: Api<DynamicObject> = Api::all_with(client, &ApiResource::erase::<Tenant>(&()));
    let asked = wanted.data["spec"].clone();
    let dry = PostParams {
        dry_run: true,
        field_manager: Some(FIELD_MANAGER.into()),
    };
    wanted.metadata = kube::core::ObjectMeta {
        name: Some(name.to_string()),
        annotations: wanted.metadata.annotations,
        resource_version: today.and_then(|it| it.metadata.resource_version.clone()),
        ..kube::core::ObjectMeta::default()
    };
    let answer = match today {
        Some(_) => api.replace(name.as_str(), &dry, &wanted).await,
        None => api.create(&dry, &wanted).await,
    };
    let stored = match answer {
        Ok(stored) => stored,
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => {
            return Err(CliError::Refused(status.message));
        }
        Err(error) => return Err(cluster("have the Tenant tried", error)),
    };
    if let Some(field) = dropped(&asked, &stored.data["spec"], "spec") {
        return Err(CliError::Refused(format!(
            "{field} is no field of a Tenant, and would be dropped without a word"
        )));
    }
    stored
        .try_parse()
        .map_err(|error| CliError::Refused(error.to_string()))
}

/// The first field of what was asked that the API server does not keep.
fn dropped(asked: &Value, stored: &Value, path: &str) -> Option<String> {
    let fields = asked.as_object()?;
    fields.iter().find_map(|(name, value)| {
        let path = format!("{path}.{name}");
        match stored.get(name) {
            None if value.is_null() => None,
            None => Some(path),
            Some(kept) => dropped(value, kept, &path),
        }
    })
}

async fn put<K>(client: &Client, name: &TenantName, into: [&Cache; 2]) -> Result<(), CliError>
where
    K: Project
        + Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &name.namespace());
    let mut page = ListParams::default()
        .labels(&format!("{MANAGED_BY}={MANAGER},{TENANT}={name}"))
        .limit(PAGE);
    let (started, mut all) = (Instant::now(), Vec::new());
    loop {
        let list = api
            .list(&page)
            .await
            .map_err(|error| cluster("list what the tenant has", error))?;
        all.extend(list.items.iter().filter_map(|it| it.project(started)));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    for cache in into {
        cache.listed(K::KIND, all.clone(), started);
    }
    Ok(())
}

fn what(row: &Row) -> String {
    match row.found.already {
        true => format!("{} already", row.found.effect.word()),
        false => row.found.effect.word().to_owned(),
    }
}

fn whose(row: &Row) -> String {
    match row.load_balancer.is_empty() {
        true => format!("{} (all)", row.tenant),
        false => format!("{} {}", row.tenant, row.load_balancer),
    }
}

/// Nothing where nothing was found.
fn table(rows: &[Row]) -> String {
    let head = ["LOAD BALANCER", "WHAT", "REASON", "WHY"].map(str::to_owned);
    let cells = rows.iter().map(|row| {
        [
            whose(row),
            what(row),
            row.found.reason.clone(),
            row.found.why.clone(),
        ]
    });
    let lines: Vec<[String; 4]> = match rows.is_empty() {
        true => Vec::new(),
        false => std::iter::once(head).chain(cells).collect(),
    };
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths = [0, 1, 2].map(|column| width(column).unwrap_or_default());
    lines
        .iter()
        .map(|[one, two, three, four]| {
            let [a, b, c] = widths;
            format!("{one:a$}   {two:b$}   {three:c$}   {four}\n")
        })
        .collect()
}

fn summary(rows: &[Row], looked_at: usize) -> String {
    let new = |effect: Effect| {
        let of = |row: &&Row| row.found.effect == effect && !row.found.already;
        rows.iter().filter(of).count()
    };
    let touched: BTreeSet<String> = rows
        .iter()
        .filter(|row| !row.found.already && !row.load_balancer.is_empty())
        .map(whose)
        .collect();
    let already = rows.iter().filter(|row| row.found.already).count();
    format!(
        "{looked_at} load balancers looked at, {} of them touched: {} refused, {} withdrawn, {} nodes left out, {} annotations dropped; {already} are so \
         already",
        touched.len(),
        new(Effect::Refused),
        new(Effect::Withdrawn),
        new(Effect::NodeLeftOut),
        new(Effect::AnnotationDropped),
    )
}

fn told(rows: &[Row], looked_at: usize) -> Value {
    let findings: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "tenant": row.tenant.as_str(),
                "loadBalancer": row.load_balancer,
                "effect": row.found.effect.word(),
                "reason": row.found.reason,
                "message": row.found.why,
                "already": row.found.already,
            })
        })
        .collect();
    json!({ "loadBalancers": looked_at, "findings": findings })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_are_found_among_other_documents_and_in_lists() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n---\napiVersion: berth.dev/v1alpha1\nkind: Tenant\nmetadata: \
                    {name: a}\nspec: {suspended: true}\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: berth.dev/v1alpha1\n  kind: \
                    Tenant\n  metadata: {name: b}\n---\n";
        let found = tenants(text).unwrap();
        let names: Vec<_> = found
            .iter()
            .filter_map(|it| it.metadata.name.clone())
            .collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(found[0].data["spec"]["suspended"], true);
        assert!(tenants("a: [").is_err());
    }

    #[test]
    fn a_field_that_is_dropped_is_found_wherever_it_is() {
        let asked = json!({ "quotas": { "nodes": 1, "nods": 2 }, "gone": null });
        let stored = json!({ "quotas": { "nodes": 1, "enforce": false }, "suspended": false });
        assert_eq!(
            dropped(&asked, &stored, "spec").as_deref(),
            Some("spec.quotas.nods")
        );
        assert_eq!(dropped(&stored, &stored, "spec"), None);
    }

    #[test]
    fn quotas_that_are_used_up_are_told_and_enforced_ones_take_the_newest() {
        let used = Usage {
            load_balancers: 3,
            ports: 3,
            ..Usage::default()
        };
        let most = |load_balancers, enforce| Limits {
            load_balancers: Some(load_balancers),
            ports: None,
            enforce,
        };
        let found = used_up(used, Limits::default(), most(2, false));
        assert_eq!((found.len(), found[0].already), (1, false));
        assert!(
            found[0]
                .why
                .contains("3 load balancers are there, and 2 may be")
        );
        assert!(used_up(used, most(1, false), most(2, false))[0].already);
        assert_eq!(used_up(used, Limits::default(), most(3, false)), []);
        assert_eq!(used_up(used, Limits::default(), most(2, true)), []);
    }

    #[test]
    fn the_result_reads_well_for_people_and_machines() {
        let row = |load_balancer: &str, effect, already| Row {
            tenant: TenantName::parse("acme").unwrap(),
            load_balancer: load_balancer.into(),
            found: Foreseen {
                effect,
                reason: "QuotaExceeded".into(),
                why: "because".into(),
                already,
            },
        };
        let rows = [
            row("default/web", Effect::Refused, false),
            row("default/web", Effect::AnnotationDropped, true),
            row("", Effect::NodeLeftOut, false),
        ];
        let text = format!("{}{}\n", table(&rows), summary(&rows, 7));
        let expected = "\
LOAD BALANCER      WHAT                         REASON          WHY
acme default/web   refused                      QuotaExceeded   because
acme default/web   annotation dropped already   QuotaExceeded   because
acme (all)         node left out                QuotaExceeded   because
7 load balancers looked at, 1 of them touched: 1 refused, 0 withdrawn, 1 nodes left out, 0 annotations dropped; 1 are so already
";
        assert_eq!(text, expected);
        assert_eq!(table(&[]), "");
        assert_eq!(told(&rows, 7)["findings"][1]["already"], true);
        assert_eq!(told(&rows, 7)["loadBalancers"], 7);
    }
}
