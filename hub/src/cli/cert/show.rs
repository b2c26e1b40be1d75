//! `berth-hub cert show`: what a certificate says, and whether it is good now.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use berth_common::{
    identity::{CertificateFacts, TrustDomain, identity_of},
    tls::{Health, TlsError, Validity, certificates_from_pem, format_time},
};
use clap::Args;

use crate::{
    ca::{
        CaError,
        store::{SecretRef, certificate_in_secret},
    },
    cli::{CliError, Console, KubeArgs},
};

/// Arguments of `cert show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    kube: KubeArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct SourceArgs {
    /// A PEM file: a certificate, a chain or a bundle
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// A Secret of the management cluster (its tls.crt)
    #[arg(long, value_name = "NAMESPACE/NAME")]
    secret: Option<SecretRef>,
}

pub(super) async fn run(
    arguments: ShowArgs,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    let (path, text) = match (arguments.source.secret, arguments.source.file) {
        (Some(secret), _) => {
            let client = arguments.kube.client().await?;
            let text = certificate_in_secret(&client, &secret).await?;
            (PathBuf::from(secret.to_string()), text.into_bytes())
        }
        // clap's group makes the file be there where the Secret is not.
        (None, file) => {
            let path = file.unwrap_or_default();
            let text = std::fs::read(&path).map_err(|source| match source.kind() {
                std::io::ErrorKind::NotFound => TlsError::Missing { path: path.clone() },
                _ => TlsError::Unreadable {
                    path: path.clone(),
                    source,
                },
            })?;
            (path, text)
        }
    };
    show_all(&path, &text, console)
}

/// Every certificate of a PEM text; the exit code is the first one's, which is the one presented.
fn show_all(path: &Path, text: &[u8], console: &mut Console<'_>) -> Result<ExitCode, CliError> {
    let mut code = ExitCode::SUCCESS;
    for (index, der) in certificates_from_pem(path, text)?.iter().enumerate() {
        let facts = CertificateFacts::from_der(der).map_err(CaError::from)?;
        let health = Validity::from(&facts).health(console.now);
        if index > 0 {
            writeln!(console.out)?;
        } else if !health.is_valid() {
            code = ExitCode::FAILURE;
        }
        show(console.out, der, &facts, health)?;
        if !matches!(health, Health::Good { .. }) {
            let name = path.display();
            writeln!(
                console.notes,
                "warning: certificate {} in {name}: {health}",
                index + 1
            )?;
        }
    }
    Ok(code)
}

fn show(
    out: &mut dyn Write,
    der: &[u8],
    facts: &CertificateFacts,
    health: Health,
) -> Result<(), CliError> {
    let mut line = |name: &str, value: &str| writeln!(out, "{name:<12} {}", printable(value));
    line("subject", &facts.subject)?;
    line("identity", &identity(der, facts))?;
    line("purpose", purpose(facts))?;
    let names: Vec<String> = facts
        .dns
        .iter()
        .cloned()
        .chain(facts.ips.iter().map(ToString::to_string))
        .collect();
    if !names.is_empty() {
        line("names", &names.join(", "))?;
    }
    line("issuer", &facts.issuer)?;
    line("serial", facts.serial.as_str())?;
    line("valid from", &format_time(facts.not_before))?;
    line(
        "valid until",
        &format!("{} ({health})", format_time(facts.not_after)),
    )?;
    Ok(())
}

/// In the trust domain that the certificate itself names: this shows, it does not decide.
fn identity(der: &[u8], facts: &CertificateFacts) -> String {
    let Some(trust_domain) = facts.uris.iter().find_map(|uri| TrustDomain::of_uri(uri)) else {
        return "none (no spiffe:// URI)".to_owned();
    };
    if facts.is_authority {
        return format!("certificate authority of the trust domain {trust_domain}");
    }
    match identity_of(der, &trust_domain) {
        Ok(peer) => format!("{} in the trust domain {trust_domain}", peer.identity),
        Err(problem) => format!("none ({problem})"),
    }
}

fn purpose(facts: &CertificateFacts) -> &'static str {
    match (facts.is_authority, facts.for_servers, facts.for_clients) {
        (true, ..) => "signing certificates",
        (false, true, true) => "server and client",
        (false, true, false) => "server",
        (false, false, true) => "client",
        (false, false, false) => "none that Berth uses",
    }
}

/// A foreign certificate may contain anything; a terminal must not obey it.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|character| {
            let escape = character.is_control();
            let escaped = escape.then(|| character.escape_default());
            escaped
                .into_iter()
                .flatten()
                .chain((!escape).then_some(character))
        })
        .collect()
}
