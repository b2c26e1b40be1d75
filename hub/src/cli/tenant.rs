//! `berth-hub tenant`: what an operator sees of tenants and decides about them, with the rights of the operator's own
//! kubeconfig. It reads and writes `Tenant` objects; the hub does the rest, and each command says what that will be.

mod change;
mod check;
mod delete;
mod list;
mod rebind;
mod release;
mod revoke;
mod suspend;

use std::process::ExitCode;

use berth_common::identity::TenantName;
use clap::Subcommand;
use kube::{Api, Client};

use super::{
    CliError, Console,
    trail::{self, Trail},
};
use crate::api::Tenant;

/// What can be done with tenants.
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Show all tenants: whether they are connected, what they have, and what is held
    ///
    /// CONNECTED is `yes`; `unsynced` where the agent has a session and cannot read its own cluster; `no`; `never`; or
    /// `suspended`. CLUSTER is the UID of the kube-system namespace of the cluster that the identity belongs to. HELD counts
    /// load balancers that are absent from the tenant's cluster without having been deleted there, too many at once to let them
    /// go: see `berth-hub tenant release-held`.
    List(list::ListArgs),
    /// Take a tenant's identity from its cluster, for the one that takes its place
    ///
    /// An identity belongs to the first cluster that connects with it, by the UID of its kube-system namespace; every other one is
    /// refused. When a cluster was rebuilt, the new one is another one.
    ///
    /// Without --to, the next other cluster that connects with NAME's certificate owns the identity. The former one may go on until
    /// then, is thrown out at that moment, and is refused from then on. With --to, the identity is that cluster's at once, and a
    /// session of the former one ends. The new cluster's UID:
    ///
    ///   kubectl get namespace kube-system -o jsonpath='{.metadata.uid}'
    ///
    /// Load balancers keep their addresses, if the new cluster has Services of the same names. Those that it does not have go a
    /// minute after it has connected; if they are many, they are held: see `berth-hub tenant release-held`.
    Rebind(rebind::RebindArgs),
    /// Let the load balancers go that are absent from a tenant's cluster and held
    ///
    /// When more than a fifth of a tenant's load balancers, and at least five, are suddenly absent from its cluster without having
    /// been deleted there, somebody may have restored an old backup, or pointed the agent at another cluster. So the hub holds
    /// them: they keep working, and the condition DeletionsHeld of the Tenant says so.
    ///
    /// Look first: if the Services are to come back, let them, and nothing was lost. If the load balancers are to go, this command
    /// lets go what is held now. It is for this once: what is absent later is held again.
    ///
    /// It sets the annotation berth.dev/release-held=true on the Tenant, which the hub takes away as it takes it.
    ReleaseHeld(release::ReleaseArgs),
    /// Shut a tenant out: its session ends, and what it has stays as it is
    ///
    /// Its load balancers keep their addresses and their traffic, with the nodes as they were last known. Nothing of it changes until
    /// `berth-hub tenant resume NAME`. It sets `spec.suspended`.
    Suspend(suspend::SuspendArgs),
    /// Let a suspended tenant in again
    Resume(suspend::SuspendArgs),
    /// Make certificates of a tenant good for nothing, for example because a key was stolen
    ///
    /// Without --serial, all that the tenant has until now. A session with a revoked certificate ends within a second, on every replica of
    /// the hub, and the certificate is refused from then on. The tenant's load balancers stay as they are; its agent needs a new
    /// certificate. It writes `spec.credentials` of the Tenant.
    ///
    /// The serial number of a certificate: `berth-hub cert show FILE`. That of each session is in the hub's log.
    Revoke(revoke::RevokeArgs),
    /// Show what a changed Tenant would refuse of what exists, before it is applied
    ///
    /// The file has the whole Tenant, as `kubectl replace` would take it: what is not in it counts as not set. The API server says whether it
    /// would take it, and nothing is written. For each load balancer that does not fit: REFUSED, what is served stays and its
    /// tenant is told of the refusal; WITHDRAWN, it is taken away, for `enforce` is on; NODE LEFT OUT, it gets no traffic any more; ANNOTATION DROPPED. What is so under the policy of today
    /// is marked `already`.
    ///
    /// Not seen: which addresses the hub knows to be the management cluster's own or another tenant's, for no Tenant opens those.
    ///
    /// Exit code 0: nothing more would be refused. 1: something would, or the cluster cannot be asked. 2: the file is not to be had, or the
    /// API server would not take it.
    Check(check::CheckArgs),
    /// Delete a tenant, with its load balancers; without --yes only show what would go
    ///
    /// Its session ends at once, its certificates and join tokens are good for nothing, its traffic stops. What becomes of the addresses is
    /// `spec.reclaimPolicy`. `kubectl delete tenant NAME` does the same, a few seconds later; only where many are deleted at once the hub
    /// waits for a word for each, and this command is that word. It waits until the Tenant is gone.
    Delete(delete::DeleteArgs),
}

pub(super) async fn run(
    command: TenantCommand,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    match command {
        TenantCommand::List(arguments) => list::run(arguments, console).await,
        TenantCommand::Rebind(arguments) => rebind::run(arguments, console).await,
        TenantCommand::ReleaseHeld(arguments) => release::run(arguments, console).await,
        TenantCommand::Suspend(arguments) => suspend::run(arguments, true, console).await,
        TenantCommand::Resume(arguments) => suspend::run(arguments, false, console).await,
        TenantCommand::Revoke(arguments) => revoke::run(arguments, console).await,
        TenantCommand::Check(arguments) => check::run(arguments, console).await,
        TenantCommand::Delete(arguments) => delete::run(arguments, console).await,
    }
}

/// All of them.
pub(super) async fn all(client: Client) -> Result<Vec<Tenant>, CliError> {
    list::tenants(client).await
}

/// Leaves the operator's own line of what was done.
fn audited(
    console: &mut Console<'_>,
    name: &TenantName,
    reason: &'static str,
    detail: &str,
) -> Result<(), CliError> {
    let trail = Trail {
        tenant: Some(name),
        ..Trail::new(reason, detail)
    };
    trail::write(console, &trail)
}

/// The tenant, and where to write what is decided about it.
async fn find(client: Client, name: &TenantName) -> Result<(Api<Tenant>, Tenant), CliError> {
    let api: Api<Tenant> = Api::all(client);
    match api.get_opt(name.as_str()).await {
        Ok(Some(tenant)) => Ok((api, tenant)),
        Ok(None) => Err(CliError::NoTenant(name.clone())),
        Err(error) => Err(cluster("read Tenants", error)),
    }
}

fn cluster(action: &'static str, error: kube::Error) -> CliError {
    CliError::Cluster {
        action,
        source: Box::new(error),
    }
}
