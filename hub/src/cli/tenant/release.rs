//! `tenant release-held`: lets the brake go, once.

use std::{process::ExitCode, time::Duration};

use berth_common::identity::TenantName;
use clap::Args;
use kube::{Api, runtime::wait::await_condition};
use serde_json::json;

use super::{
    CliError, Console, audited,
    change::{Part, change},
};
use crate::{api::Tenant, cli::KubeArgs, objects::RELEASE_HELD};

/// How long the hub is waited for. It takes milliseconds, if it is there.
const HUB: Duration = Duration::from_secs(10);

/// Arguments of `tenant release-held`.
#[derive(Debug, Args)]
pub struct ReleaseArgs {
    /// The tenant
    name: TenantName,
    #[command(flatten)]
    kube: KubeArgs,
}

pub(super) async fn run(
    arguments: ReleaseArgs,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    let name = &arguments.name;
    let client = arguments.kube.client().await?;
    let done = change(client.clone(), name, Part::Decisions, |tenant| {
        let status = tenant.status.as_ref();
        let held = status.map_or(0, |status| status.held_load_balancers);
        let patch = json!({ "metadata": { "annotations": { RELEASE_HELD: "true" } } });
        Ok(((held > 0).then_some(patch), held))
    })
    .await?;
    let held = done.said;
    if !done.written {
        writeln!(console.out, "nothing of {name} is held")?;
        return Ok(ExitCode::SUCCESS);
    }
    let what = format!("{held} load balancers");
    audited(console, name, "tenant_release_held", &what)?;
    let api: Api<Tenant> = Api::all(client);
    let taken = await_condition(api, name.as_str(), is_taken);
    match tokio::time::timeout(HUB, taken).await {
        Ok(Ok(_)) => {
            let plural = if held == 1 {
                "load balancer goes"
            } else {
                "load balancers go"
            };
            writeln!(
                console.out,
                "{held} {plural}: those that are absent from {name}'s cluster. What is absent later is held again"
            )?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(Err(_)) | Err(_) => {
            writeln!(
                console.notes,
                "asked for, but the hub has not taken it yet: it does as soon as it runs and {name}'s agent has told it what \
                 there is. To take it back: kubectl annotate tenant {name} {RELEASE_HELD}-"
            )?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The annotation is gone; or the Tenant is, and then there is nobody to wait for.
fn is_taken(tenant: Option<&Tenant>) -> bool {
    tenant.is_none_or(|tenant| {
        let annotations = tenant.metadata.annotations.as_ref();
        annotations.is_none_or(|annotations| !annotations.contains_key(RELEASE_HELD))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::TenantSpec;

    #[test]
    fn a_request_is_taken_when_its_annotation_is_gone() {
        let mut tenant = Tenant::new("acme", TenantSpec::default());
        assert!(is_taken(Some(&tenant)));
        let others = [("note".to_owned(), "x".to_owned())];
        tenant.metadata.annotations = Some(others.into());
        assert!(is_taken(Some(&tenant)));
        let asked = [(RELEASE_HELD.to_owned(), "true".to_owned())];
        tenant.metadata.annotations = Some(asked.into());
        assert!(!is_taken(Some(&tenant)));
        assert!(is_taken(None));
    }
}
