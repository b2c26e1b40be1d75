//! `tenant rebind`: another cluster takes the place of the one that an identity belongs to.

use std::process::ExitCode;

use berth_common::identity::TenantName;
use clap::Args;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{CliError, Console, audited, cluster, find};
use crate::{
    api::{Tenant, TenantStatus},
    cli::KubeArgs,
};

/// Arguments of `tenant rebind`.
#[derive(Debug, Args)]
pub struct RebindArgs {
    /// The tenant
    name: TenantName,
    /// The UID of the cluster that the identity is to belong to, instead of the next one that connects
    #[arg(long, value_name = "UID", value_parser = uid)]
    to: Option<String>,
    #[command(flatten)]
    kube: KubeArgs,
}

/// As the hub takes it from agents.
fn uid(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 128 || text.chars().any(|c| !c.is_ascii_graphic()) {
        return Err(
            "a cluster's UID is one word, such as 0b9cf6d1-5d0a-4f6e-a9ab-2f3c1d7d3a10".into(),
        );
    }
    Ok(text.to_owned())
}

pub(super) async fn run(
    arguments: RebindArgs,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    let name = &arguments.name;
    let (api, tenant) = find(arguments.kube.client().await?, name).await?;
    let status = tenant.status.clone().unwrap_or_default();
    let (change, said) = decide(name, &status, arguments.to.as_deref());
    if let Some(change) = change {
        let patch = Patch::Merge(at_this_version(&tenant, change));
        api.patch_status(name.as_str(), &PatchParams::default(), &patch)
            .await
            .map_err(|error| cluster("write the Tenant's status", error))?;
        let what = said.first().map(String::as_str).unwrap_or_default();
        audited(console, name, "tenant_rebind", what)?;
    }
    for line in said {
        writeln!(console.out, "{line}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The hub may be writing a binding right now: then this one fails, and the operator looks again.
fn at_this_version(tenant: &Tenant, status: Value) -> Value {
    json!({
        "metadata": { "resourceVersion": tenant.metadata.resource_version },
        "status": status,
    })
}

/// What to write into the status, if anything, and what to say.
fn decide(
    name: &TenantName,
    status: &TenantStatus,
    to: Option<&str>,
) -> (Option<Value>, Vec<String>) {
    let next =
        format!("the next other cluster that connects with {name}'s certificate owns the identity");
    let addresses = "its load balancers keep their addresses; those that the new cluster has no Service for go a minute after \
                     it has connected, or are held where they are many";
    match (to, status.cluster_uid.as_deref()) {
        (Some(to), Some(bound)) if to == bound => (
            None,
            vec![format!(
                "{name} belongs to the cluster {to} already: nothing changes"
            )],
        ),
        (Some(to), bound) => (
            Some(json!({ "clusterUID": to, "formerClusterUID": null })),
            vec![
                match bound {
                    Some(bound) => format!(
                        "{name} belongs to the cluster {to} now, and not to {bound} any more"
                    ),
                    None => format!("{name} belongs to the cluster {to} now"),
                },
                "a session of any other cluster ends now, and is refused from now on".into(),
                addresses.into(),
            ],
        ),
        (None, Some(bound)) => (
            Some(json!({ "clusterUID": null, "formerClusterUID": bound })),
            vec![
                format!("{name} does not belong to the cluster {bound} any more"),
                next,
                "until then the former one may go on; then its session ends, and it is refused"
                    .into(),
                addresses.into(),
            ],
        ),
        (None, None) => (None, vec![format!("{name} belongs to no cluster: {next}")]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(uid: Option<&str>) -> TenantStatus {
        TenantStatus {
            cluster_uid: uid.map(str::to_owned),
            ..TenantStatus::default()
        }
    }

    fn decided(uid: Option<&str>, to: Option<&str>) -> (Option<Value>, Vec<String>) {
        decide(&TenantName::parse("acme").unwrap(), &bound(uid), to)
    }

    #[test]
    fn only_what_differs_is_written_and_what_follows_is_said() {
        let cleared = json!({ "clusterUID": null, "formerClusterUID": "one" });
        assert_eq!(decided(Some("one"), None).0, Some(cleared));
        let moved = json!({ "clusterUID": "two", "formerClusterUID": null });
        assert_eq!(decided(Some("one"), Some("two")).0, Some(moved.clone()));
        assert_eq!(decided(None, Some("two")).0, Some(moved));
        assert_eq!(decided(Some("one"), Some("one")).0, None);
        assert_eq!(decided(None, None).0, None);
        insta::assert_snapshot!(
            [
                decided(Some("one"), None),
                decided(Some("one"), Some("two")),
                decided(None, None),
                decided(Some("one"), Some("one"))
            ]
            .map(|(_, said)| said.join("\n"))
            .join("\n\n")
        );
    }

    #[test]
    fn a_uid_is_one_word() {
        assert!(uid("0b9cf6d1-5d0a").is_ok());
        for wrong in ["", "two words", &"x".repeat(129)] {
            assert!(uid(wrong).is_err(), "{wrong}");
        }
    }
}
