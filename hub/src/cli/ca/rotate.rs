//! `ca rotate` and `ca status`: the shell around the state machine of a rotation. It reads the authority's place and the Tenants, does the
//! step that is due, and says what it waits for. All state is in the place: it may be ended at any moment, and run again from anywhere.

use std::{
    collections::BTreeSet,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use berth_common::identity::{KeyId, TenantName};
use clap::Args;
use kube::Client;

use super::{PlaceArgs, place, progress};
use crate::{
    api::Tenant,
    ca::{
        CaError, DEFAULT_AUTHORITY_LIFETIME, Kept, Lifetime, Stage,
        rotation::{Keys, Report, Shown, Step, Wishes, remaining, step},
        store::{Place, Version},
    },
    cli::{
        CliError, Console, KubeArgs, tenant,
        trail::{self, Trail},
    },
};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// Arguments of `ca rotate`.
#[derive(Debug, Args)]
pub struct RotateArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// How long the new authority lives (m, h, d, y)
    #[arg(long, value_name = "TIME", default_value_t = DEFAULT_AUTHORITY_LIFETIME)]
    valid_for: Lifetime,
    /// Do what can be done now, say what is waited for, and end
    #[arg(long, conflicts_with = "timeout")]
    no_wait: bool,
    /// Wait for no longer than this (s, m, h, d), and end with 1 if it is not finished then [default: until it is]
    #[arg(long, value_name = "TIME")]
    timeout: Option<Lifetime>,
    /// Wait for no tenant: whoever has no certificate of the new authority when the former one is dropped is cut off, and is named
    #[arg(long)]
    finish: bool,
    /// Begin another rotation, although the last one has ended less than an hour ago
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    kube: KubeArgs,
}

/// Arguments of `ca status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    kube: KubeArgs,
}

/// What was read at one moment.
struct Look {
    kept: Kept,
    version: Version,
    stage: Stage,
    keys: Keys,
    reports: Vec<Report>,
    now: SystemTime,
}

impl Look {
    async fn take(place: &Place, client: &Client) -> Result<Self, CliError> {
        let text = place.to_string();
        let (kept, version) = place.kept().await?;
        let authority = kept.authority(None, &text).or_else(|error| match error {
            // Somebody else's names none, and it is of no interest here.
            CaError::NoTrustDomain { .. } => kept.authority(Some(&Default::default()), &text),
            error => Err(error),
        })?;
        let tenants = tenant::all(client.clone()).await?;
        Ok(Self {
            stage: kept.stage(&text)?,
            keys: Keys {
                signer: authority.facts().key_id,
                previous: kept.previous_key(&text)?,
            },
            reports: tenants.iter().filter_map(report).collect(),
            kept,
            version,
            now: SystemTime::now(),
        })
    }

    fn view<'a>(&self, place: &'a str) -> progress::View<'a> {
        progress::View {
            place,
            stage: self.stage,
            keys: self.keys,
        }
    }
}

/// What a Tenant's status says of its agent's certificate.
fn report(tenant: &Tenant) -> Option<Report> {
    let name = TenantName::parse(tenant.metadata.name.as_deref()?).ok()?;
    let status = tenant.status.clone().unwrap_or_default();
    let connected = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
        c.type_ == "Connected" && c.status == "True"
    };
    let key = |text: &String| text.parse::<KeyId>().ok();
    Some(Report {
        tenant: name,
        connected: status.conditions.iter().any(connected),
        known: status.agent_version.is_some(),
        certificate: status.certificate.map(|it| Shown {
            authority: it.authority.as_ref().and_then(key),
            trusts: it.trusts.iter().filter_map(key).collect::<BTreeSet<_>>(),
            ends: it.not_after.0.into(),
            renews: it.renews,
        }),
    })
}

pub(super) async fn status(
    arguments: StatusArgs,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    let place = of(arguments.place, &arguments.kube).await?;
    let client = arguments.kube.client().await?;
    let look = Look::take(&place, &client).await?;
    let wishes = Wishes::default();
    let due = step(look.stage, look.keys, &look.reports, wishes, look.now);
    let wait = match &due {
        Step::Wait(wait) => Some(wait),
        _ => None,
    };
    let text = place.to_string();
    let told = look.view(&text).tell(&look.reports, wait, look.now);
    console.out.write_all(told.as_bytes())?;
    if !matches!(look.stage, Stage::Rest(_)) {
        writeln!(console.notes, "`berth-hub ca rotate` goes on from here")?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn run(
    arguments: RotateArgs,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    let place = of(arguments.place, &arguments.kube).await?;
    let client = arguments.kube.client().await?;
    let text = place.to_string();
    let end = arguments
        .timeout
        .and_then(|timeout| SystemTime::now().checked_add(timeout.duration()));
    let mut wishes = Wishes {
        finish: arguments.finish,
        again: arguments.again,
    };
    let mut said = String::new();
    loop {
        let look = Look::take(&place, &client).await?;
        if let (false, Place::Secret(_, secret)) = (Place::is_ours(&look.version), &place) {
            let place = secret.to_string();
            return Err(CaError::ForeignAuthority { place }.into());
        }
        let wait = match step(look.stage, look.keys, &look.reports, wishes, look.now) {
            Step::Done(_) => {
                let told = look.view(&text).tell(&look.reports, None, look.now);
                console.out.write_all(told.as_bytes())?;
                writeln!(
                    console.notes,
                    "the rotation is at its end; --again begins another one"
                )?;
                return Ok(ExitCode::SUCCESS);
            }
            Step::Wait(wait) => wait,
            due => {
                act(due, &look, &place, arguments.valid_for, console).await?;
                // Another one is not begun with what was asked for this one.
                wishes.again = false;
                continue;
            }
        };
        let told = look.view(&text).tell(&look.reports, Some(&wait), look.now);
        if told != said {
            console.out.write_all(told.as_bytes())?;
            console.out.flush()?;
            said = told;
        }
        if arguments.no_wait {
            writeln!(
                console.notes,
                "run the same command again, at any time, to go on"
            )?;
            return Ok(ExitCode::SUCCESS);
        }
        if end.is_some_and(|end| SystemTime::now() >= end) {
            writeln!(
                console.notes,
                "not finished in this time: run the same command again to go on, or with --finish to wait for nobody"
            )?;
            return Ok(ExitCode::FAILURE);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Writes one step.
async fn act(
    due: Step,
    look: &Look,
    place: &Place,
    lifetime: Lifetime,
    console: &mut Console<'_>,
) -> Result<(), CliError> {
    let (text, now) = (place.to_string(), look.now);
    let (next, done) = match due {
        Step::Publish => {
            let authority = look.kept.authority(None, &text)?;
            let (next, cross) = authority.succeed(lifetime, now)?;
            let key = next.facts().key_id;
            let done = format!(
                "made the authority {}: it is made known, and signs nothing yet",
                key.map(|key| key.to_string()).unwrap_or_default()
            );
            (look.kept.publish(&next, cross, now), done)
        }
        Step::Switch => {
            let done = "the new authority signs from now on; the key of the former one is deleted";
            let switched = look.kept.switch(now).ok_or(CaError::Changed {
                place: text.clone(),
            })?;
            (switched, done.to_owned())
        }
        Step::Drop => {
            let left = remaining(&look.reports, look.keys.previous, now);
            if !left.is_empty() {
                writeln!(
                    console.notes,
                    "cut off, until each has a new certificate (`berth-hub token create NAME`):"
                )?;
                let told = progress::tenants(&left);
                console.notes.write_all(told.as_bytes())?;
            }
            let done = "the former authority is trusted no more; certificates that admins have of it are to be issued anew";
            (look.kept.drop_previous(now), done.to_owned())
        }
        Step::Wait(_) | Step::Done(_) => return Ok(()),
    };
    place.replace(&next, &look.version).await?;
    console.now = now;
    let detail = format!("{text}: {done}");
    trail::write(console, &Trail::new("ca_rotate", &detail))?;
    writeln!(console.out, "{done}")?;
    console.out.flush()?;
    Ok(())
}

async fn of(arguments: PlaceArgs, kube: &KubeArgs) -> Result<Place, CliError> {
    let (place, _) = place(arguments.dir, arguments.secret, kube, "ca").await?;
    // What a directory lacks is said before anybody looks for a cluster.
    if let Place::Directory(_) = place {
        place.kept().await?;
    }
    Ok(place)
}
