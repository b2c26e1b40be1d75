//! How a command fails: one line that says what to do, and an exit code.

use std::{error::Error, io, path::PathBuf};

use berth_common::{identity::TenantName, settings::SettingsError, tls::TlsError};

use crate::{ca::CaError, enroll::StoreError};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The arguments are not what the command takes; or help was asked for.
    #[error(transparent)]
    Usage(clap::Error),
    /// The kubeconfig cannot be used.
    #[error(
        "no usable kubeconfig: give --kubeconfig FILE, set KUBECONFIG, or run inside the cluster"
    )]
    Kubeconfig(#[source] Box<dyn Error + Send + Sync>),
    /// Something about the authority or a certificate.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// A certificate to look at cannot be read.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A setting is wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// There is no such tenant.
    #[error("there is no Tenant {0}; `berth-hub tenant list` shows those there are")]
    NoTenant(TenantName),
    /// The same, where it could be made.
    #[error("there is no Tenant {0}; add --create to create it with the default policy")]
    NoTenantYet(TenantName),
    /// Somebody was faster, and what was asked for may not be what is meant now.
    #[error("{0}: nothing was changed; look again (`berth-hub tenant list`)")]
    Meanwhile(String),
    /// The hub's Service does not say where agents reach it.
    #[error(
        "where do agents reach the hub? give {0} HOST:PORT; its Service has no address, has no such port, or is in another namespace          (--namespace)"
    )]
    NoAddress(&'static str),
    /// The tokens cannot be read or written.
    #[error(transparent)]
    Tokens(#[from] StoreError),
    /// The management cluster's API server refused, or could not be reached.
    #[error("cannot {action} in the management cluster")]
    Cluster {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// The API server dropped what it was told: its schema does not have it.
    #[error(
        "nothing was done: the cluster's Tenant CRD is of an earlier release and does not know {0}; \
         first run: berth-hub crds | kubectl apply --server-side -f -"
    )]
    OldSchema(&'static str),
    /// A file cannot be used.
    #[error("{path}: {why}", path = .0.display(), why = .1)]
    File(PathBuf, String),
    /// What is in it would not be taken.
    #[error("the Tenant would not be taken: {0}")]
    Refused(String),
    /// The hub could not start, or could not go on.
    #[error("{0:#}")]
    Service(anyhow::Error),
    /// The result cannot be written.
    #[error("cannot write the result")]
    Output(#[from] io::Error),
    /// The result cannot be put into YAML.
    #[error("cannot write the result as YAML")]
    Yaml(#[from] serde_yaml::Error),
}

impl CliError {
    /// 2 where the arguments are to be changed, else 1.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_)
            | Self::Kubeconfig(_)
            | Self::Settings(_)
            | Self::File(..)
            | Self::Refused(_)
            | Self::Ca(CaError::Policy(_)) => 2,
            Self::Ca(_)
            | Self::NoTenant(_)
            | Self::Meanwhile(_)
            | Self::OldSchema(_)
            | Self::NoTenantYet(_)
            | Self::NoAddress(_)
            | Self::Tokens(_)
            | Self::Cluster { .. }
            | Self::Service(_)
            | Self::Tls(_)
            | Self::Output(_)
            | Self::Yaml(_) => 1,
        }
    }

    /// Whether the reader of our output went away.
    pub(super) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The error and its sources in one line.
    pub(super) fn one_line(&self) -> String {
        if let Self::Usage(error) = self {
            return usage(error);
        }
        let mut line = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Some libraries repeat their sources.
            if !line.contains(&text) {
                line = format!("{line}: {text}");
            }
            source = cause.source();
        }
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// What clap says in paragraphs, without the usage that `--help` shows.
fn usage(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let said = text
        .split("\n\n")
        .map(str::trim_start)
        .filter(|part| !part.starts_with("For more information"))
        .take_while(|part| !part.starts_with("Usage:"))
        .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("; ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    format!("{said} (see --help)")
}
