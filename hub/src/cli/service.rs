//! `run` and `doctor`: the commands that take the hub's settings.

use std::process::ExitCode;

use berth_common::settings::{Resolved, SettingsArgs};

use super::{CliError, Console, KubeArgs, block_on};
use crate::{app, doctor, settings::HubSettings};

pub(super) fn run(
    args: &SettingsArgs<HubSettings>,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    let resolved = args.resolve()?;
    if args.print_config() {
        return print(&resolved, console);
    }
    let settings = resolved.parse()?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(CliError::Output)?
        .block_on(app::run(settings))
        .map_err(CliError::Service)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn doctor(
    args: &SettingsArgs<HubSettings>,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    let resolved = args.resolve()?;
    if args.print_config() {
        return print(&resolved, console);
    }
    let settings = resolved.parse()?;
    block_on(async {
        let cluster = KubeArgs {
            kubeconfig: settings.kubeconfig.clone(),
        };
        let client = cluster.client().await.map_err(|error| error.one_line());
        let report = doctor::examine(&settings, client).await;
        writeln!(console.out, "{report}")?;
        Ok(if report.is_healthy() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    })
}

/// Also what is wrong or missing is printed, and then told.
fn print(
    resolved: &Resolved<HubSettings>,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    write!(console.out, "{resolved}")?;
    resolved.parse()?;
    Ok(ExitCode::SUCCESS)
}
