//! `berth-hub token`: admits clusters, with the rights of the operator's own kubeconfig. A token is shown once, as a part of the command
//! to run in the tenant's cluster; what is kept of it is a digest.

mod create;
mod join;
mod list;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use kube::Client;

use super::{
    CliError, Console, KubeArgs,
    trail::{self, Trail},
};
use crate::{
    ca::store::SecretRef,
    enroll::{TokenId, Tokens},
};

/// What can be done with join tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a join token for a tenant, and print the one command that installs its agent
    ///
    /// What is printed is to be run against the tenant's cluster, by whoever may install a chart there:
    ///
    ///   berth-hub token create acme --create | ssh somewhere sh
    ///
    /// The agent makes a key, which never leaves that cluster, and trades the token for a certificate. A token is good for one
    /// cluster and for a short time, half an hour unless --ttl says otherwise and an hour at most. It is bound to the key that it
    /// is first used with: the same agent may repeat itself, for anybody else the token is used up. It is not kept, only its
    /// digest, so that it cannot be shown again; make another one if it is lost.
    ///
    /// The command has the digest of the CA's public key in it, by which the agent knows the hub before it knows anything else.
    Create(Box<create::CreateArgs>),
    /// Show the tokens there are: whom each admits, until when, and what became of it
    ///
    /// A token is `unused`, `used` (then CERTIFICATE is the serial number of the certificate that it got), `expired` or `revoked`. It goes
    /// from the list an hour after its deadline, when the next one is made.
    List(list::ListArgs),
    /// Take a token back that was not used yet
    ///
    /// ID is what `berth-hub token list` shows. A certificate that the token got already is not touched: for that, suspend the Tenant.
    Revoke(RevokeArgs),
}

/// Where tokens are.
#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    /// The hub's namespace
    #[arg(long, short, value_name = "NAMESPACE", default_value = "berth-system")]
    namespace: String,
    /// The Secret with the tokens, as the hub's enroll.tokens says [default: berth-join-tokens in the hub's namespace]
    #[arg(long, value_name = "NAMESPACE/NAME")]
    tokens: Option<SecretRef>,
    #[command(flatten)]
    kube: KubeArgs,
}

impl StoreArgs {
    fn secret(&self, given: Option<&SecretRef>, name: &str) -> SecretRef {
        given.cloned().unwrap_or_else(|| SecretRef {
            namespace: self.namespace.clone(),
            name: name.to_owned(),
        })
    }

    async fn open(&self) -> Result<(Client, Tokens), CliError> {
        let client = self.kube.client().await?;
        let secret = self.secret(self.tokens.as_ref(), "berth-join-tokens");
        Ok((client.clone(), Tokens::new(client, secret)))
    }
}

/// Arguments of `token revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// The token's id
    #[arg(value_parser = id)]
    id: TokenId,
    #[command(flatten)]
    store: StoreArgs,
}

fn id(text: &str) -> Result<TokenId, String> {
    TokenId::parse(text).ok_or_else(|| {
        "a token's id has 16 hexadecimal digits; `berth-hub token list` shows it".into()
    })
}

pub(super) async fn run(
    command: TokenCommand,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    match command {
        TokenCommand::Create(arguments) => create::run(*arguments, console).await,
        TokenCommand::List(arguments) => list::run(arguments, console).await,
        TokenCommand::Revoke(arguments) => revoke(arguments, console).await,
    }
}

async fn revoke(arguments: RevokeArgs, console: &mut Console<'_>) -> Result<ExitCode, CliError> {
    let (_, tokens) = arguments.store.open().await?;
    let was = tokens.revoke(&arguments.id).await?;
    let (id, tenant) = (&arguments.id, &was.tenant);
    let trail = Trail {
        tenant: Some(tenant),
        token: Some(id.as_str()),
        ..Trail::new("token_revoke", "")
    };
    trail::write(console, &trail)?;
    match &was.used {
        None => writeln!(console.out, "token {id} admits nobody any more")?,
        Some(bound) => writeln!(
            console.out,
            "token {id} was used already: {tenant} has the certificate {}, which is good until it ends. To shut {tenant} out: kubectl \
             patch tenant {tenant} --type merge -p '{{\"spec\":{{\"suspended\":true}}}}'",
            bound.certificate.serial
        )?,
    }
    Ok(ExitCode::SUCCESS)
}
