//! `tenant delete`: shows what goes with a Tenant, and deletes it.

use std::{process::ExitCode, time::Duration};

use berth_common::identity::TenantName;
use clap::Args;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Preconditions},
    runtime::{conditions::is_deleted, wait::await_condition},
};
use serde_json::json;

use super::{
    CliError, Console, audited,
    change::{Part, change},
    cluster, find,
};
use crate::{
    api::{LoadBalancer, ReclaimPolicy, Tenant},
    cli::KubeArgs,
    objects::{CONFIRM_DELETION, MANAGED_BY, MANAGER},
};

/// How long the hub is waited for.
const HUB: Duration = Duration::from_secs(60);

/// Arguments of `tenant delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The tenant
    name: TenantName,
    /// Do it; without this only what would go is shown
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    kube: KubeArgs,
}

pub(super) async fn run(
    arguments: DeleteArgs,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    let name = &arguments.name;
    let client = arguments.kube.client().await?;
    let (api, tenant) = find(client.clone(), name).await?;
    let has = load_balancers(client.clone(), name).await?;
    for line in shown(name, &tenant, &has) {
        writeln!(console.out, "{line}")?;
    }
    if !arguments.yes {
        writeln!(console.notes, "nothing was done: to delete it, add --yes")?;
        return Ok(ExitCode::FAILURE);
    }
    let uid = tenant.metadata.uid.unwrap_or_default();
    confirm(client, name, &uid).await?;
    let this = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid.clone()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(name.as_str(), &this).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(cluster("delete the Tenant", error)),
    }
    audited(
        console,
        name,
        "tenant_delete",
        &format!("{} load balancers", has.len()),
    )?;
    let gone = await_condition(api.clone(), name.as_str(), is_deleted(&uid));
    if let Ok(Ok(_)) = tokio::time::timeout(HUB, gone).await {
        writeln!(
            console.out,
            "{name} is deleted; the namespace {} stays: it remembers that certificates of this {name} are none of a later one's",
            name.namespace()
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let waits = api.get_opt(name.as_str()).await.ok().flatten();
    let conditions = waits
        .and_then(|it| it.status)
        .unwrap_or_default()
        .conditions;
    let told = conditions.iter().find(|it| it.type_ == "Deleting");
    writeln!(
        console.notes,
        "deleted, but not gone yet: {}",
        told.map_or(
            "the hub has not taken it up; it does as soon as it runs",
            |it| &it.message
        )
    )?;
    Ok(ExitCode::FAILURE)
}

/// Also where many are being deleted at once: this one is meant, and no other of that name.
async fn confirm(client: Client, name: &TenantName, uid: &str) -> Result<(), CliError> {
    change(client, name, Part::Decisions, |tenant| {
        if tenant.metadata.uid.as_deref() != Some(uid) {
            let said = format!("the Tenant {name} has just been made anew");
            return Err(CliError::Meanwhile(said));
        }
        let patch = json!({ "metadata": { "annotations": { CONFIRM_DELETION: "true" } } });
        Ok((Some(patch), ()))
    })
    .await?;
    Ok(())
}

/// The Service of each load balancer, with its address.
async fn load_balancers(
    client: Client,
    name: &TenantName,
) -> Result<Vec<(String, String)>, CliError> {
    let api: Api<LoadBalancer> = Api::namespaced(client, &name.namespace());
    let ours = ListParams::default().labels(&format!("{MANAGED_BY}={MANAGER}"));
    let list = api
        .list(&ours)
        .await
        .map_err(|error| cluster("list LoadBalancers", error))?;
    let row = |it: LoadBalancer| {
        let addresses = it.status.unwrap_or_default().addresses;
        let addresses = match addresses.is_empty() {
            true => "no address".into(),
            false => addresses.join(" and "),
        };
        (it.spec.source.service, addresses)
    };
    Ok(list.items.into_iter().map(row).collect())
}

fn shown(name: &TenantName, tenant: &Tenant, has: &[(String, String)]) -> Vec<String> {
    let mut lines: Vec<String> = has
        .iter()
        .map(|(service, addresses)| format!("  {service}   {addresses}"))
        .collect();
    let plural = if has.len() == 1 { "" } else { "s" };
    let fate = match (has.is_empty(), tenant.spec.reclaim_policy) {
        (true, _) => "nothing else goes",
        (false, ReclaimPolicy::Delete) => {
            "their traffic stops, and their addresses are given back (reclaimPolicy Delete)"
        }
        (false, ReclaimPolicy::Retain) => {
            "their traffic stops, and their addresses are kept until each LoadBalancer is deleted (reclaimPolicy Retain)"
        }
    };
    let already = match tenant.metadata.deletion_timestamp {
        Some(_) => "is being deleted already",
        None => "goes",
    };
    lines.insert(
        0,
        format!(
            "the Tenant {name} {already}, with its session, its join tokens and {} load balancer{plural}; {fate}",
            has.len()
        ),
    );
    lines
}

#[cfg(test)]
mod tests {
    use super::{
        super::change::tests::{Server, acme, hub},
        *,
    };
    use crate::api::TenantSpec;

    #[tokio::test]
    async fn only_the_one_that_was_shown_is_confirmed() {
        let server = Server::new(json!({}), [hub()]);
        confirm(server.client(), &acme(), "first").await.unwrap();
        let annotations = server.state().tenant["metadata"]["annotations"].clone();
        assert_eq!(annotations[CONFIRM_DELETION], "true");
        let anew = json!({ "metadata": { "uid": "second" } });
        let server = Server::new(json!({}), [anew]);
        let error = confirm(server.client(), &acme(), "first").await;
        assert!(matches!(error, Err(CliError::Meanwhile(_))), "{error:?}");
        assert!(server.state().taken.is_empty());
    }

    #[test]
    fn what_goes_is_shown_and_what_becomes_of_the_addresses() {
        let name = acme();
        let mut tenant = Tenant::new("acme", TenantSpec::default());
        let has = [("default/web".to_owned(), "192.0.2.1".to_owned())];
        let lines = shown(&name, &tenant, &has);
        assert!(lines[0].starts_with("the Tenant acme goes"), "{lines:?}");
        assert!(
            lines[0].contains(
                "1 load balancer; their traffic stops, and their addresses are given back"
            )
        );
        assert_eq!(lines[1], "  default/web   192.0.2.1");
        tenant.spec.reclaim_policy = ReclaimPolicy::Retain;
        assert!(shown(&name, &tenant, &has)[0].contains("are kept until"));
        assert!(shown(&name, &tenant, &[])[0].contains("nothing else goes"));
    }
}
