//! `token create`: the token, and the command that takes it where it is needed.

use std::{path::PathBuf, process::ExitCode, time::SystemTime};

use berth_common::{
    identity::TenantName,
    tls::{Pin, certificates_from_pem, format_time},
};
use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};

use super::{
    StoreArgs,
    join::{Join, Way},
};
use crate::{
    api::{Tenant, TenantSpec},
    ca::{
        CaError, Lifetime, fresh_secret,
        store::{Place, SecretRef, certificate_in_secret},
    },
    cli::{
        CliError, Console,
        trail::{self, Trail},
    },
    enroll::{Entry, MAX_TTL, Token},
    objects::FIELD_MANAGER,
};

/// Arguments of `token create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The tenant that the token admits
    name: TenantName,
    /// How long the token is good for (s, m, h), an hour at most
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = ttl)]
    ttl: Lifetime,
    /// Create the Tenant, if there is none: with the default policy
    #[arg(long)]
    create: bool,
    /// Where agents reach the hub [default: the address of its Service]
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    hub: Option<String>,
    /// Where agents without a certificate reach it, its setting enroll.listen [default: the address of its Service]
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    enroll: Option<String>,
    /// The name in the hub's certificate, where it is not the host of --hub [default: what its Service says]
    #[arg(long, value_name = "NAME", value_parser = word)]
    server_name: Option<String>,
    /// The Secret of the hub's CA, of which only the certificate is read [default: berth-ca in the hub's namespace]
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "ca_dir")]
    ca_secret: Option<SecretRef>,
    /// The directory of the hub's CA, where it is in none
    #[arg(long, value_name = "DIR")]
    ca_dir: Option<PathBuf>,
    /// The chart of the agent, as helm finds it where the command is run
    #[arg(
        long,
        value_name = "CHART",
        default_value = "deploy/charts/berth-agent"
    )]
    chart: String,
    /// The namespace for the agent in the tenant's cluster
    #[arg(long, value_name = "NAMESPACE", default_value = "berth-system", value_parser = word)]
    agent_namespace: String,
    /// The repository of the agent's image, where it is not the chart's
    #[arg(long, value_name = "REPOSITORY", value_parser = word)]
    image: Option<String>,
    /// Print objects to pipe into `kubectl apply -f -` instead of the command
    #[arg(long, value_name = "FORMAT", conflicts_with = "chart")]
    output: Option<Format>,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Yaml,
}

fn address(text: &str) -> Result<String, String> {
    let expected = "expected HOST:PORT, such as hub.example.com:8443 or [2001:db8::1]:8443";
    let (host, port) = text.rsplit_once(':').ok_or(expected)?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || (host.contains(':') && !bracketed) || port.parse::<u16>().is_err() {
        return Err(expected.into());
    }
    word(text)
}

/// What stands in a command and in YAML as it is.
fn word(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_./:@[]".contains(c);
    match !text.is_empty() && text.chars().all(fits) {
        true => Ok(text.to_owned()),
        false => Err("has a character that can be in no such name".into()),
    }
}

fn ttl(text: &str) -> Result<Lifetime, String> {
    let lifetime: Lifetime = text.parse().map_err(|error| format!("{error}"))?;
    match lifetime.duration() > MAX_TTL {
        true => Err("is longer than an hour; a token that lies about for long is found".into()),
        false => Ok(lifetime),
    }
}

pub(super) async fn run(
    arguments: CreateArgs,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    let (client, tokens) = arguments.store.open().await?;
    // Everything that can be missing, before anything is made.
    let (hub, enrollment, server_name) = way(&arguments, client.clone()).await?;
    let pin = pin(&arguments, &client).await?;
    let tenant = tenant(&arguments, client, console).await?;

    let token = Token::new(&fresh_secret()?);
    // The time now and not that of the start: making the rest may have taken a while.
    let now = SystemTime::now();
    let uid = tenant.metadata.uid.clone().unwrap_or_default();
    let ttl = arguments.ttl.duration();
    let entry = Entry::new(&token.digest(), arguments.name.clone(), uid, ttl, now);
    let id = token.digest().id();
    tokens.add(&id, &entry, now).await?;
    let until = format!("good until {}", format_time(now + ttl));
    let trail = Trail {
        tenant: Some(&arguments.name),
        token: Some(id.as_str()),
        ..Trail::new("token_create", &until)
    };
    trail::write(console, &trail)?;

    let join = Join {
        hub,
        enrollment,
        server_name,
        pin,
        token: token.reveal().to_owned(),
        image: arguments.image.clone(),
    };
    let name = &arguments.name;
    writeln!(
        console.notes,
        "token {id} admits {name} once, until {}. {} {name}'s cluster:\n",
        format_time(now + ttl),
        match arguments.output {
            Some(Format::Yaml) => "Apply this in",
            None => "Run this against",
        }
    )?;
    match arguments.output {
        Some(Format::Yaml) => write!(console.out, "{}", join.manifest(&arguments.agent_namespace))?,
        None => writeln!(
            console.out,
            "{}",
            join.helm(&arguments.chart, &arguments.agent_namespace)
        )?,
    }
    if tenant.spec.suspended {
        writeln!(
            console.notes,
            "\nwarning: the Tenant {name} is suspended, and its tokens are refused until it is not"
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The address of the sessions, that of enrollment, and the name to verify the hub by.
async fn way(
    arguments: &CreateArgs,
    client: Client,
) -> Result<(String, String, Option<String>), CliError> {
    let mut way = Way {
        hub: arguments.hub.clone(),
        enrollment: arguments.enroll.clone(),
        server_name: arguments.server_name.clone(),
    };
    if way.hub.is_none() || way.enrollment.is_none() {
        let services: Api<Service> = Api::namespaced(client, &arguments.store.namespace);
        let labels = "app.kubernetes.io/part-of=berth,app.kubernetes.io/name=berth-hub,app.kubernetes.io/component!=metrics";
        let found = services
            .list(&ListParams::default().labels(labels))
            .await
            .map_err(|source| CliError::Cluster {
                action: "look for the hub's Service",
                source: Box::new(source),
            })?;
        if let Some(service) = found.items.first() {
            let said = Way::of(service);
            way.hub = way.hub.or(said.hub);
            way.enrollment = way.enrollment.or(said.enrollment);
            way.server_name = way.server_name.or(said.server_name);
        }
    }
    match (way.hub, way.enrollment) {
        (Some(hub), Some(enrollment)) => Ok((hub, enrollment, way.server_name)),
        (None, _) => Err(CliError::NoAddress("--hub")),
        (Some(_), None) => Err(CliError::NoAddress("--enroll")),
    }
}

/// Of the authority that signs: the first certificate of the CA's.
async fn pin(arguments: &CreateArgs, client: &Client) -> Result<Pin, CliError> {
    let secret = arguments
        .store
        .secret(arguments.ca_secret.as_ref(), "berth-ca");
    let (place, pem) = match &arguments.ca_dir {
        Some(dir) => {
            let path = dir.join("ca.crt");
            let pem = std::fs::read_to_string(&path).map_err(|source| CaError::File {
                action: "read",
                path,
                source,
            })?;
            (Place::Directory(dir.clone()), pem)
        }
        None => (
            Place::Secret(client.clone(), secret.clone()),
            certificate_in_secret(client, &secret).await?,
        ),
    };
    let place = place.to_string();
    let certificates = certificates_from_pem(place.as_ref(), pem.as_bytes())?;
    let pin = certificates.first().and_then(|first| Pin::of(first));
    pin.ok_or(CliError::Ca(CaError::Unusable {
        place,
        problem: "it cannot be read",
    }))
}

/// The Tenant, made now if that was asked for.
async fn tenant(
    arguments: &CreateArgs,
    client: Client,
    console: &mut Console<'_>,
) -> Result<Tenant, CliError> {
    let api: Api<Tenant> = Api::all(client);
    let name = &arguments.name;
    let failed = |action| {
        move |source| CliError::Cluster {
            action,
            source: Box::new(source),
        }
    };
    let found = api.get_opt(name.as_str()).await;
    match found.map_err(failed("read Tenants"))? {
        Some(tenant) => Ok(tenant),
        None if !arguments.create => Err(CliError::NoTenantYet(name.clone())),
        None => {
            let params = PostParams {
                field_manager: Some(FIELD_MANAGER.into()),
                ..PostParams::default()
            };
            let made = api
                .create(&params, &Tenant::new(name.as_str(), TenantSpec::default()))
                .await
                .map_err(failed("create the Tenant"))?;
            let trail = Trail {
                tenant: Some(name),
                ..Trail::new("tenant_create", "with the default policy")
            };
            trail::write(console, &trail)?;
            writeln!(console.notes, "created the Tenant {name}")?;
            Ok(made)
        }
    }
}
