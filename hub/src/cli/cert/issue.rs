//! `berth-hub cert issue`: one certificate with its key, into a directory, a Secret, or a manifest to pipe on.

use std::{net::IpAddr, path::PathBuf, process::ExitCode};

use berth_common::{
    identity::{AdminName, Identity, TenantName, TrustDomain},
    tls::{Validity, format_time},
};
use clap::{Args, ValueEnum};

use crate::{
    ca::{
        CertificateRequest, DEFAULT_LIFETIME, Issued, Lifetime,
        store::{PemSet, Place, SecretRef, manifest},
    },
    cli::{
        CliError, Console, KubeArgs,
        ca::place,
        trail::{self, Trail},
    },
};

/// Arguments of `cert issue`.
#[derive(Debug, Args)]
pub struct IssueArgs {
    #[command(flatten)]
    subject: SubjectArgs,
    /// A DNS name that agents reach the hub under; may be repeated
    #[arg(long, value_name = "NAME", requires = "server")]
    dns: Vec<String>,
    /// An address that agents reach the hub under; may be repeated
    #[arg(long, value_name = "ADDRESS", requires = "server")]
    ip: Vec<IpAddr>,
    #[command(flatten)]
    authority: AuthorityArgs,
    /// The trust domain, for an authority that does not name one
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<TrustDomain>,
    #[command(flatten)]
    target: TargetArgs,
    /// The Secret in the manifest [default: berth-system/berth-agent-tls, …/berth-hub-tls or …/berth-admin-NAME]
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "output")]
    secret_name: Option<SecretRef>,
    /// How long it lives (m, h, d, y); never longer than the authority
    #[arg(long, value_name = "TIME", default_value_t = DEFAULT_LIFETIME)]
    valid_for: Lifetime,
    /// Put it in the place of the certificate that is there
    #[arg(long, conflicts_with = "output")]
    replace: bool,
    #[command(flatten)]
    kube: KubeArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct SubjectArgs {
    /// For the agent of this tenant
    #[arg(long, value_name = "NAME")]
    tenant: Option<TenantName>,
    /// For this person or tool of the operator's
    #[arg(long, value_name = "NAME")]
    admin: Option<AdminName>,
    /// For the hub itself; needs --dns or --ip
    #[arg(long)]
    server: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct AuthorityArgs {
    /// The directory of the authority (see `ca init`)
    #[arg(long, value_name = "DIR")]
    ca_dir: Option<PathBuf>,
    /// The Secret of the authority (see `ca init`)
    #[arg(long, value_name = "NAMESPACE/NAME")]
    ca_secret: Option<SecretRef>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct TargetArgs {
    /// Write tls.crt, tls.key and ca.crt into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Keep it in this Secret of the management cluster
    #[arg(long, value_name = "NAMESPACE/NAME")]
    out_secret: Option<SecretRef>,
    /// Print a Secret's manifest, to pipe into `kubectl apply -f -`
    #[arg(long, value_name = "FORMAT")]
    output: Option<Format>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Yaml,
}

impl SubjectArgs {
    /// clap's group makes exactly one of the three be there.
    fn identity(&self) -> Identity {
        match (&self.tenant, &self.admin) {
            (Some(tenant), _) => Identity::Tenant(tenant.clone()),
            (None, Some(admin)) => Identity::Admin(admin.clone()),
            (None, None) => Identity::Hub,
        }
    }
}

pub(super) async fn run(
    arguments: IssueArgs,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    let AuthorityArgs { ca_dir, ca_secret } = arguments.authority;
    let (authority, _) = place(ca_dir, ca_secret, &arguments.kube, "ca").await?;
    let authority = authority.authority(arguments.trust_domain.as_ref()).await?;
    let request = CertificateRequest {
        subject: arguments.subject.identity(),
        dns: arguments.dns,
        ips: arguments.ip,
        lifetime: arguments.valid_for,
        not_earlier: None,
    };
    let issued = authority.issue(&request, console.now)?;
    let subject = request.subject.to_string();
    let tenant = match &request.subject {
        Identity::Tenant(name) => Some(name),
        Identity::Admin(_) | Identity::Hub => None,
    };
    let trail = Trail {
        tenant,
        serial: Some(&issued.facts.serial),
        ..Trail::new("cert_issue", &subject)
    };
    let pem = PemSet::from(&issued);
    let TargetArgs {
        out,
        out_secret,
        output,
    } = arguments.target;
    if let Some(Format::Yaml) = output {
        let secret = arguments
            .secret_name
            .unwrap_or_else(|| default_secret(&request.subject));
        // Before it is handed out: what was issued is written down in any case.
        trail::write(console, &trail)?;
        serde_yaml::to_writer(&mut *console.out, &manifest(&secret, &pem))?;
        // The manifest has the standard output to itself.
        return summary(
            &mut *console.notes,
            &issued,
            &request,
            "a manifest",
            console.now,
        );
    }
    let (target, _) = place(out, out_secret, &arguments.kube, "out").await?;
    target.keep_certificate(&pem, arguments.replace).await?;
    trail::write(console, &trail)?;
    let kept = match &target {
        Place::Directory(_) => format!("{target} (tls.crt, tls.key, ca.crt)"),
        Place::Secret(..) => target.to_string(),
    };
    summary(&mut *console.out, &issued, &request, &kept, console.now)
}

/// Where the charts of hub and agent look for their certificates.
fn default_secret(subject: &Identity) -> SecretRef {
    SecretRef {
        namespace: "berth-system".to_owned(),
        name: match subject {
            Identity::Tenant(_) => "berth-agent-tls".to_owned(),
            Identity::Hub => "berth-hub-tls".to_owned(),
            Identity::Admin(name) => format!("berth-admin-{name}"),
        },
    }
}

fn summary(
    out: &mut dyn std::io::Write,
    issued: &Issued,
    request: &CertificateRequest,
    kept: &str,
    now: std::time::SystemTime,
) -> Result<ExitCode, CliError> {
    let facts = &issued.facts;
    writeln!(out, "issued a certificate for {}: {kept}", request.subject)?;
    writeln!(out, "  identity     {}", facts.uris.concat())?;
    writeln!(out, "  serial       {}", facts.serial)?;
    writeln!(
        out,
        "  valid until  {} ({})",
        format_time(facts.not_after),
        Validity::from(facts).health(now)
    )?;
    if issued.shortened {
        writeln!(
            out,
            "  note         {} was asked for, but the authority itself ends then",
            request.lifetime
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
