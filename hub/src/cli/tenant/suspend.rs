//! `tenant suspend` and `tenant resume`: a tenant is shut out as it is, and let in again.

use std::process::ExitCode;

use berth_common::identity::TenantName;
use clap::Args;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::{CliError, Console, audited, cluster, find};
use crate::cli::KubeArgs;

/// Arguments of `tenant suspend` and `tenant resume`.
#[derive(Debug, Args)]
pub struct SuspendArgs {
    /// The tenant
    name: TenantName,
    #[command(flatten)]
    kube: KubeArgs,
}

pub(super) async fn run(
    arguments: SuspendArgs,
    suspend: bool,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    let name = &arguments.name;
    let (api, tenant) = find(arguments.kube.client().await?, name).await?;
    if tenant.spec.suspended != suspend {
        let patch = Patch::Merge(json!({ "spec": { "suspended": suspend } }));
        api.patch(name.as_str(), &PatchParams::default(), &patch)
            .await
            .map_err(|error| cluster("write the Tenant", error))?;
        let reason = if suspend {
            "tenant_suspend"
        } else {
            "tenant_resume"
        };
        audited(console, name, reason, "")?;
    }
    let said = match (suspend, tenant.spec.suspended) {
        (true, false) => {
            "is suspended: its session ends now and it gets no other; what it has keeps working, as it is"
        }
        (true, true) => "was suspended already",
        (false, true) => "is resumed: its agent is let in when it next tries, within 10 minutes",
        (false, false) => "is not suspended",
    };
    writeln!(console.out, "{name} {said}")?;
    Ok(ExitCode::SUCCESS)
}
