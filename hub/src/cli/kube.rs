//! The management cluster as the commands reach it.

use std::path::PathBuf;

use clap::Args;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use super::CliError;

/// How to reach the management cluster, for commands that keep Secrets there.
#[derive(Clone, Debug, Default, Args)]
pub struct KubeArgs {
    /// Kubeconfig of the management cluster [default: $KUBECONFIG, ~/.kube/config, or the pod's ServiceAccount]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

impl KubeArgs {
    /// A client of the management cluster. It does not connect yet.
    ///
    /// # Errors
    /// When there is no kubeconfig, or one that cannot be used.
    pub async fn client(&self) -> Result<Client, CliError> {
        let config = match &self.kubeconfig {
            Some(path) => {
                let file =
                    Kubeconfig::read_from(path).map_err(|e| CliError::Kubeconfig(e.into()))?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                    .await
                    .map_err(|e| CliError::Kubeconfig(e.into()))?
            }
            None => Config::infer()
                .await
                .map_err(|e| CliError::Kubeconfig(e.into()))?,
        };
        Client::try_from(config).map_err(|e| CliError::Kubeconfig(e.into()))
    }
}
