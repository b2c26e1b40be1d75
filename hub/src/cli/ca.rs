//! `berth-hub ca`: makes the authority that every certificate comes from. Once.

use std::{path::PathBuf, process::ExitCode};

use berth_common::{
    identity::TrustDomain,
    tls::{Validity, format_time},
};
use clap::{Args, Subcommand};

use super::{
    CliError, Console, KubeArgs,
    trail::{self, Trail},
};
use crate::ca::{
    Authority, DEFAULT_AUTHORITY_LIFETIME, Lifetime,
    store::{Place, SecretRef},
};

/// What can be done with the authority.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Make a new certificate authority; an existing one is never overwritten
    Init(InitArgs),
}

/// Arguments of `ca init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// The trust domain of all certificates: a name of this installation, for ever
    #[arg(long, value_name = "NAME", default_value_t)]
    trust_domain: TrustDomain,
    /// How long the authority lives (m, h, d, y)
    #[arg(long, value_name = "TIME", default_value_t = DEFAULT_AUTHORITY_LIFETIME)]
    valid_for: Lifetime,
    #[command(flatten)]
    kube: KubeArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct PlaceArgs {
    /// Keep it in this directory, as ca.crt and ca.key
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Keep it in this Secret of the management cluster, as tls.crt and tls.key
    #[arg(long, value_name = "NAMESPACE/NAME")]
    secret: Option<SecretRef>,
}

pub(super) async fn run(
    command: CaCommand,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    let CaCommand::Init(arguments) = command;
    init(arguments, console).await
}

async fn init(arguments: InitArgs, console: &mut Console<'_>) -> Result<ExitCode, CliError> {
    let (place, option) = place(
        arguments.place.dir,
        arguments.place.secret,
        &arguments.kube,
        "ca",
    )
    .await?;
    let authority = Authority::create(arguments.trust_domain, arguments.valid_for, console.now)?;
    place.keep_authority(&authority).await?;
    let what = format!("{} in {place}", authority.trust_domain());
    trail::write(console, &Trail::new("ca_init", &what))?;
    let facts = authority.facts();
    let out = &mut *console.out;
    writeln!(
        out,
        "made a certificate authority in {place}: keep its key secret, and a copy safe"
    )?;
    writeln!(out, "  trust domain  {}", authority.trust_domain())?;
    writeln!(
        out,
        "  valid until   {} ({})",
        format_time(facts.not_after),
        Validity::from(facts).health(console.now)
    )?;
    writeln!(
        console.notes,
        "next: berth-hub cert issue --server --dns HUB-NAME {option} --out DIR"
    )?;
    Ok(ExitCode::SUCCESS)
}

/// The place that two exclusive options name, and the option of `cert issue` that names the same.
pub(super) async fn place(
    directory: Option<PathBuf>,
    secret: Option<SecretRef>,
    kube: &KubeArgs,
    prefix: &str,
) -> Result<(Place, String), CliError> {
    match (directory, secret) {
        (_, Some(secret)) => {
            let option = format!("--{prefix}-secret {secret}");
            Ok((Place::Secret(kube.client().await?, secret), option))
        }
        (directory, None) => {
            // clap's group makes one of the two be there; the current directory is what "" would mean anyway.
            let directory = directory.unwrap_or_default();
            let option = format!("--{prefix}-dir {}", directory.display());
            Ok((Place::Directory(directory), option))
        }
    }
}
