//! `berth-hub cert`: makes certificates, and tells what is in one.

mod issue;
mod show;

use std::process::ExitCode;

use clap::Subcommand;

use super::{CliError, Console};

/// What can be done with certificates.
#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// Make a key and a certificate for a tenant, an admin or the hub itself
    Issue(Box<issue::IssueArgs>),
    /// Show whose a certificate is and how long it lives; exit code 1 if it is not valid now
    Show(show::ShowArgs),
}

pub(super) async fn run(
    command: CertCommand,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    match command {
        CertCommand::Issue(arguments) => issue::run(*arguments, console).await,
        CertCommand::Show(arguments) => show::run(arguments, console).await,
    }
}
