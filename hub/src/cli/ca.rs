//! `berth-hub ca`: makes the authority that every certificate comes from, once, and puts another one in its place.

mod progress;
mod rotate;

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
    /// Put a new authority in the place of the one there is, without cutting anybody off
    ///
    /// In three steps: 1. A new authority is made, and every agent is told over its session to trust it beside the present one. 2. It signs
    /// from then on: every agent that is connected gets a new certificate, and the key of the former authority is deleted. 3. When the
    /// last certificate of the former one has gone or has ended, it is trusted no more.
    ///
    /// No session ends, and no load balancer changes. The command shows how far it is and waits. It may be ended at any moment: all
    /// state is in the Secret or directory, and the same command goes on from there, here or elsewhere.
    ///
    /// A tenant that is not connected is waited for in step 2 until its certificate ends; one whose certificate comes from files, until
    /// somebody has brought it another. --finish waits for nobody, and names those that need a new token or certificate.
    Rotate(rotate::RotateArgs),
    /// Show which authority signs, which are trusted, and how far a rotation is
    Status(rotate::StatusArgs),
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
    /// The directory that it is kept in, as ca.crt and ca.key
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The Secret of the management cluster that it is kept in, as tls.crt and tls.key
    #[arg(long, value_name = "NAMESPACE/NAME")]
    secret: Option<SecretRef>,
}

pub(super) async fn run(
    command: CaCommand,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    match command {
        CaCommand::Init(arguments) => init(arguments, console).await,
        CaCommand::Rotate(arguments) => rotate::run(arguments, console).await,
        CaCommand::Status(arguments) => rotate::status(arguments, console).await,
    }
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
