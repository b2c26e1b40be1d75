//! `tenant list`: one line for each tenant.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::Args;
use kube::{Api, Client, api::ListParams};

use super::{CliError, Console, cluster};
use crate::{
    api::{LoadBalancer, Tenant},
    cli::KubeArgs,
    objects::{MANAGED_BY, MANAGER, TENANT},
};

/// Objects in one reply of the API server.
const PAGE: u32 = 500;

const HEAD: [&str; 7] = [
    "NAME",
    "CONNECTED",
    "CLUSTER",
    "LOADBALANCERS",
    "HELD",
    "AGENT",
    "AGE",
];

/// Arguments of `tenant list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    kube: KubeArgs,
}

pub(super) async fn run(
    arguments: ListArgs,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    let client = arguments.kube.client().await?;
    let tenants = tenants(client.clone()).await?;
    if tenants.is_empty() {
        writeln!(
            console.notes,
            "there are no tenants yet: create a Tenant object for each cluster"
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let counts = load_balancers(client).await?;
    let rows: Vec<[String; 7]> = tenants
        .iter()
        .map(|tenant| row(tenant, &counts, console.now))
        .collect();
    console.out.write_all(table(&rows).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn tenants(client: Client) -> Result<Vec<Tenant>, CliError> {
    let api: Api<Tenant> = Api::all(client);
    let mut page = ListParams::default().limit(PAGE);
    let mut all = Vec::new();
    loop {
        let list = api
            .list(&page)
            .await
            .map_err(|error| cluster("list Tenants", error))?;
        all.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(all),
        }
    }
}

/// How many each tenant has.
async fn load_balancers(client: Client) -> Result<BTreeMap<String, usize>, CliError> {
    let api: Api<LoadBalancer> = Api::all(client);
    let mut page = ListParams::default()
        .labels(&format!("{MANAGED_BY}={MANAGER}"))
        .limit(PAGE);
    let mut counts = BTreeMap::new();
    loop {
        let list = api
            .list_metadata(&page)
            .await
            .map_err(|error| cluster("list LoadBalancers", error))?;
        let labels = list.items.into_iter().filter_map(|it| it.metadata.labels);
        for tenant in labels.filter_map(|mut labels| labels.remove(TENANT)) {
            *counts.entry(tenant).or_default() += 1;
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(counts),
        }
    }
}

fn row(tenant: &Tenant, counts: &BTreeMap<String, usize>, now: SystemTime) -> [String; 7] {
    let name = tenant.metadata.name.clone().unwrap_or_default();
    let status = tenant.status.clone().unwrap_or_default();
    let session = status.conditions.iter().find(|c| c.type_ == "Connected");
    let connected = match session {
        _ if tenant.spec.suspended => "suspended",
        None => "never",
        Some(c) if c.reason == "Unsynced" => "unsynced",
        Some(c) if c.status == "True" => "yes",
        Some(_) => "no",
    };
    let cluster = match (status.cluster_uid, status.former_cluster_uid) {
        (Some(uid), _) => uid,
        (None, Some(former)) => format!("none (was {former})"),
        (None, None) => "none".into(),
    };
    let created = tenant.metadata.creation_timestamp.as_ref();
    let age = created.and_then(|time| now.duration_since(SystemTime::from(time.0)).ok());
    [
        name.clone(),
        connected.into(),
        cluster,
        counts.get(&name).copied().unwrap_or_default().to_string(),
        status.held_load_balancers.to_string(),
        status.agent_version.unwrap_or_else(|| "none".into()),
        age.map_or_else(|| "0s".into(), short),
    ]
}

/// An age as kubectl shows it: one unit, and two where the first is small.
fn short(age: Duration) -> String {
    let seconds = age.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (3.., ..) => format!("{days}d"),
        (1..=2, ..) => format!("{days}d{}h", hours % 24),
        (0, 3.., _) => format!("{hours}h"),
        (0, 1..=2, _) => format!("{hours}h{}m", minutes % 60),
        (0, 0, 3..) => format!("{minutes}m"),
        _ => format!("{seconds}s"),
    }
}

/// Columns as wide as what is in them; no space at the end of a line.
fn table(rows: &[[String; 7]]) -> String {
    let head = HEAD.map(str::to_owned);
    let lines = || std::iter::once(&head).chain(rows);
    let width = |column: usize| lines().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    lines()
        .map(|line| {
            let cells: Vec<String> = line
                .iter()
                .zip(&widths)
                .map(|(cell, &width)| format!("{cell:width$}"))
                .collect();
            format!("{}\n", cells.join("   ").trim_end())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        apimachinery::pkg::apis::meta::v1::{Condition, Time},
        jiff::Timestamp,
    };

    use super::*;
    use crate::api::{TenantSpec, TenantStatus};

    fn at(seconds: i64) -> Time {
        Time(Timestamp::from_second(seconds).unwrap())
    }

    fn tenant(name: &str, session: Option<(&str, &str)>, status: TenantStatus) -> Tenant {
        let mut tenant = Tenant::new(name, TenantSpec::default());
        tenant.metadata.creation_timestamp = Some(at(1_000_000));
        let condition = session.map(|(status, reason)| Condition {
            type_: "Connected".into(),
            status: status.into(),
            reason: reason.into(),
            message: String::new(),
            last_transition_time: at(1_000_000),
            observed_generation: None,
        });
        tenant.status = Some(TenantStatus {
            conditions: condition.into_iter().collect(),
            ..status
        });
        tenant
    }

    #[test]
    fn the_table_reads_well() {
        let acme = TenantStatus {
            cluster_uid: Some("0b9cf6d1-5d0a-4f6e-a9ab-2f3c1d7d3a10".into()),
            agent_version: Some("0.1.0".into()),
            held_load_balancers: 6,
            ..TenantStatus::default()
        };
        let rebound = TenantStatus {
            former_cluster_uid: Some("77".into()),
            ..TenantStatus::default()
        };
        let mut suspended = tenant("shut", Some(("True", "SessionOpen")), acme.clone());
        suspended.spec.suspended = true;
        let tenants = [
            tenant("acme", Some(("True", "SessionOpen")), acme.clone()),
            tenant("blind", Some(("True", "Unsynced")), acme),
            tenant("lost", Some(("False", "NoSession")), rebound),
            tenant("new", None, TenantStatus::default()),
            suspended,
        ];
        let counts = BTreeMap::from([("acme".to_owned(), 31)]);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + 7_500);
        let rows: Vec<_> = tenants.iter().map(|t| row(t, &counts, now)).collect();
        insta::assert_snapshot!(table(&rows));
    }

    #[test]
    fn ages_are_short() {
        for (seconds, text) in [
            (0, "0s"),
            (179, "179s"),
            (180, "3m"),
            (7_500, "2h5m"),
            (10_800, "3h"),
            (90_000, "1d1h"),
            (864_000, "10d"),
        ] {
            assert_eq!(short(Duration::from_secs(seconds)), text);
        }
    }
}
