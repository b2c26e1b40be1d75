//! The commands of `berth-hub`: what they are called, what they take, and how they end. Each command is a function of
//! its arguments that writes to what it is given; this module knows their errors and exit codes, and nothing else.

mod ca;
mod cert;
mod crds;
mod error;
mod kube;
mod service;
mod tenant;
#[cfg(test)]
mod tests;
mod token;
mod trail;

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use berth_common::settings::SettingsArgs;
use clap::{Parser, Subcommand, error::ErrorKind};

use crate::settings::HubSettings;

pub use error::CliError;
pub use kube::KubeArgs;

/// The hub: gives every tenant cluster its load balancers from this management cluster.
#[derive(Debug, Parser)]
#[command(name = "berth-hub", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `berth-hub` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve tenants: what the Deployment runs
    Run(SettingsArgs<HubSettings>),
    /// Check the management cluster, the rights and the certificates, and say what to do
    Doctor(SettingsArgs<HubSettings>),
    /// The certificate authority that all certificates come from
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Certificates for tenants, admins and the hub itself
    #[command(subcommand)]
    Cert(cert::CertCommand),
    /// Tenants: see how they stand, move an identity to another cluster, let go what is held
    #[command(subcommand)]
    Tenant(tenant::TenantCommand),
    /// Join tokens: admit a cluster with one command, see what became of it, take it back
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Print the CustomResourceDefinitions of this release, for `kubectl apply --server-side -f -`
    Crds(crds::CrdsArgs),
}

/// Where a command writes, and what time it is.
pub struct Console<'a> {
    /// What was asked for; may be a pipe to another command.
    pub out: &'a mut dyn Write,
    /// What a person should know besides.
    pub notes: &'a mut dyn Write,
    /// The time of the command, in whole seconds.
    pub now: SystemTime,
}

/// The whole program: parses the arguments, runs the command, and says what went wrong in one line. Exit codes: 0 done,
/// 1 failed, 2 bad usage or configuration.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    // Not locked: a command that runs for long has other threads that write.
    let (mut out, mut notes) = (io::stdout(), io::stderr());
    let outcome = match Cli::try_parse_from(arguments) {
        Ok(cli) => run(
            cli,
            &mut Console {
                out: &mut out,
                notes: &mut notes,
                now: now(),
            },
        ),
        Err(error) => Err(CliError::Usage(error)),
    };
    match outcome {
        Ok(code) => code,
        // `berth-hub --help | head` is not a failure, and nobody is left to be told.
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(CliError::Usage(error)) if is_help(&error) => {
            // Where it cannot be printed, the exit code has to do.
            let _ = error.print();
            ExitCode::from(u8::from(error.use_stderr()) * 2)
        }
        Err(error) => {
            // Where stderr itself is gone, the exit code has to do.
            let _ = writeln!(notes, "berth-hub: {}", error.one_line());
            ExitCode::from(error.exit_code())
        }
    }
}

/// The time as certificates know it: with fractions of a second, what was just issued for a day would be shown as having
/// 23 hours and 59 minutes left.
fn now() -> SystemTime {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// Help and version, asked for (exit code 0) or shown because there was no command at all (2).
fn is_help(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

/// Runs one parsed command.
fn run(cli: Cli, console: &mut Console<'_>) -> Result<ExitCode, CliError> {
    match cli.command {
        Command::Run(args) => service::run(&args, console),
        Command::Doctor(args) => service::doctor(&args, console),
        Command::Crds(args) => crds::run(&args, console),
        Command::Ca(command) => block_on(ca::run(command, console)),
        Command::Cert(command) => block_on(cert::run(command, console)),
        Command::Tenant(command) => block_on(tenant::run(command, console)),
        Command::Token(command) => block_on(token::run(command, console)),
    }
}

/// A short command needs no more than the thread it is on.
fn block_on(
    command: impl Future<Output = Result<ExitCode, CliError>>,
) -> Result<ExitCode, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Output)?
        .block_on(command)
}
