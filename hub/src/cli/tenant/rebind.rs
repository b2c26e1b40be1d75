//! `tenant rebind`: another cluster takes the place of the one that an identity belongs to.

use std::process::ExitCode;

use berth_common::identity::TenantName;
use clap::Args;
use kube::Client;
use serde_json::{Value, json};

use super::{
    CliError, Console, audited,
    change::{Changed, Part, change},
};
use crate::{api::TenantStatus, cli::KubeArgs};

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
    let client = arguments.kube.client().await?;
    let Changed { written, said, .. } = rebind(client, name, arguments.to.as_deref()).await?;
    if written {
        let what = said.first().map(String::as_str).unwrap_or_default();
        audited(console, name, "tenant_rebind", what)?;
    }
    for line in said {
        writeln!(console.out, "{line}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The identity is taken from the cluster that has it when the command is given, and from no other: one that comes in that moment is the
/// one that was meant to have it.
async fn rebind(
    client: Client,
    name: &TenantName,
    to: Option<&str>,
) -> Result<Changed<Vec<String>>, CliError> {
    let mut from = None;
    change(client, name, Part::Status, |tenant| {
        let status = tenant.status.clone().unwrap_or_default();
        let bound = status.cluster_uid.clone();
        let from = from.get_or_insert_with(|| bound.clone());
        if to.is_none() && *from != bound {
            let said = match &bound {
                Some(bound) => format!("{name} has just been taken by the cluster {bound}"),
                None => format!("somebody else has just rebound {name}"),
            };
            return Err(CliError::Meanwhile(said));
        }
        let (change, said) = decide(name, &status, to);
        Ok((change.map(|status| json!({ "status": status })), said))
    })
    .await
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
    use super::{
        super::change::tests::{Server, acme, hub},
        *,
    };

    #[tokio::test]
    async fn a_status_that_the_hub_writes_meanwhile_does_not_stop_it() {
        let bound = json!({ "status": { "clusterUID": "one" } });
        let server = Server::new(bound, [hub(), hub()]);
        let done = rebind(server.client(), &acme(), None).await.unwrap();
        assert!(done.written);
        let state = server.state();
        assert_eq!(state.taken.len(), 1);
        assert!(state.taken[0].0.ends_with("/status"), "{:?}", state.taken);
        let status = json!({ "formerClusterUID": "one", "heldLoadBalancers": 3 });
        assert_eq!(state.tenant["status"], status);
    }

    #[tokio::test]
    async fn the_identity_is_not_taken_from_a_cluster_that_has_just_got_it() {
        let bound = json!({ "status": { "clusterUID": "one" } });
        let other = json!({ "status": { "clusterUID": "two" } });
        let server = Server::new(bound.clone(), [other.clone()]);
        let error = rebind(server.client(), &acme(), None).await.unwrap_err();
        assert!(error.one_line().contains("cluster two"), "{error}");
        assert!(server.state().taken.is_empty());
        // Who names the cluster means it whoever has it.
        let server = Server::new(bound, [other]);
        let done = rebind(server.client(), &acme(), Some("three")).await;
        assert!(done.unwrap().said[0].contains("and not to two any more"));
    }

    fn bound(uid: Option<&str>) -> TenantStatus {
        TenantStatus {
            cluster_uid: uid.map(str::to_owned),
            ..TenantStatus::default()
        }
    }

    fn decided(uid: Option<&str>, to: Option<&str>) -> (Option<Value>, Vec<String>) {
        decide(&acme(), &bound(uid), to)
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
