//! `tenant suspend` and `tenant resume`: a tenant is shut out as it is, and let in again.

use std::process::ExitCode;

use berth_common::identity::TenantName;
use clap::Args;
use serde_json::json;

use super::{
    CliError, Console, audited,
    change::{Part, change},
};
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
    let client = arguments.kube.client().await?;
    let done = change(client, name, Part::Decisions, |tenant| {
        let differs = tenant.spec.suspended != suspend;
        let patch = json!({ "spec": { "suspended": suspend } });
        Ok((differs.then_some(patch), ()))
    })
    .await?;
    if done.written {
        let reason = if suspend {
            "tenant_suspend"
        } else {
            "tenant_resume"
        };
        audited(console, name, reason, "")?;
    }
    let said = match (suspend, done.written) {
        (true, true) => {
            "is suspended: its session ends now and it gets no other; what it has keeps working, as it is"
        }
        (true, false) => "was suspended already",
        (false, true) => "is resumed: its agent is let in when it next tries, within 10 minutes",
        (false, false) => "is not suspended",
    };
    writeln!(console.out, "{name} {said}")?;
    Ok(ExitCode::SUCCESS)
}
