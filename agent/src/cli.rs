//! The commands of `berth-agent`: what they are called, what they take, and how they end. Exit codes: 0 done, 1 failed,
//! 2 bad usage or configuration, always with one clear line on stderr.

#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    process::ExitCode,
};

use berth_common::settings::{SettingsArgs, SettingsError};
use clap::{Parser, Subcommand, error::ErrorKind};

use crate::{app, doctor, release, settings::AgentSettings, simulate};

/// The agent: gives this cluster's Services of type LoadBalancer their addresses from a berth-hub.
#[derive(Debug, Parser)]
#[command(name = "berth-agent", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `berth-agent` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent
    Run(SettingsArgs<AgentSettings>),
    /// Check what the agent needs, from where it would run; exit 1 if something is missing
    Doctor(SettingsArgs<AgentSettings>),
    /// Let go of every Service: remove Berth's finalizers and the status it wrote. Run this after the agent was stopped for
    /// good, before it is uninstalled. The addresses are freed in the management cluster: `kubectl delete tenant NAME`,
    /// then `kubectl delete namespace berth-NAME`
    Release(SettingsArgs<AgentSettings>),
    /// Pretend to be many agents, to see what a hub does with them: for tests and benchmarks
    Simulate(Box<simulate::Options>),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// The whole program.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(
                io::stderr(),
                "berth-agent: {}",
                one_line(&error.to_string())
            );
            match error {
                CliError::Settings(_) => ExitCode::from(2),
                CliError::Failed(_) => ExitCode::FAILURE,
            }
        }
    }
}

fn run(command: Command) -> Result<ExitCode, CliError> {
    match command {
        Command::Run(arguments) => on_one_thread(&arguments, async |settings| {
            app::run(settings).await?;
            Ok(true)
        }),
        Command::Doctor(arguments) => on_one_thread(&arguments, async |settings| {
            let report = doctor::examine(&settings).await;
            // A closed pipe is no failure.
            let _ = write!(io::stdout(), "{report}");
            Ok(report.is_healthy())
        }),
        Command::Release(arguments) => on_one_thread(&arguments, async |settings| {
            release::run(&settings, &mut io::stdout()).await
        }),
        Command::Simulate(options) => simulate(*options),
    }
}

/// One thread carries a whole tenant, and is the smallest thing that does.
fn on_one_thread(
    arguments: &SettingsArgs<AgentSettings>,
    work: impl AsyncFnOnce(AgentSettings) -> anyhow::Result<bool>,
) -> Result<ExitCode, CliError> {
    let resolved = arguments.resolve()?;
    if arguments.print_config() {
        let _ = write!(io::stdout(), "{resolved}");
        return Ok(ExitCode::SUCCESS);
    }
    let settings = resolved.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    let good = runtime.block_on(work(settings))?;
    // Blocking threads (a name that is being resolved) are not waited for.
    runtime.shutdown_background();
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A fleet takes every core there is: it is many agents.
fn simulate(options: simulate::Options) -> Result<ExitCode, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    runtime.block_on(simulate::run(options, &mut io::stdout()))?;
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// Help and version as they are; a mistake in one line. Where nobody reads, the exit code has to do.
fn misused(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(2)
        }
        _ => {
            let _ = writeln!(io::stderr(), "berth-agent: {}", usage(&error.to_string()));
            ExitCode::from(2)
        }
    }
}

/// Without the paragraphs that `--help` shows too.
fn usage(text: &str) -> String {
    let said = text.split("\n\nUsage:").next().unwrap_or(text);
    let said = one_line(said.trim_start_matches("error: "));
    format!("{said} (see --help)")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
