//! `berth-hub doctor`: looks at the management cluster as the operator would have to, and says for each thing whether it is
//! in order and what to do if not. Reads only; it needs the rights of the hub and no others.

mod allocator;
mod crds;
mod orphans;
pub mod rights;
mod traffic;

use std::time::SystemTime;

use berth_common::{
    doctor::{Finding, Report},
    identity::CertificateFacts,
    tls::{Health, ServerTls, TlsFiles, Validity},
};
use kube::Client;

use crate::{
    ca::store::Place,
    settings::{Allocator, HubSettings},
};

/// Runs every check. Without a cluster the checks of the cluster are one failure.
pub async fn examine(settings: &HubSettings, client: Result<Client, String>) -> Report {
    let now = SystemTime::now();
    let mut findings = match settings.ca.server_names.is_empty() {
        true => certificates(settings, now),
        // The hub issues its own, and only the authority can be looked at.
        false => vec![],
    };
    match client {
        Err(error) => findings.push(unreachable(&error)),
        Ok(client) => match client.apiserver_version().await {
            Err(error) => findings.push(unreachable(&error.to_string())),
            Ok(version) => {
                findings.extend(authority(settings, &client, now).await);
                findings.push(Finding::ok(
                    "management cluster",
                    format!("reached, Kubernetes {}", version.git_version),
                ));
                findings.extend(crds::check(&client).await);
                findings.extend(rights::check(&client).await);
                if settings.allocator == Allocator::MetalLb {
                    findings.extend(allocator::check(&client).await);
                }
                findings.extend(orphans::check(&client).await);
                findings.extend(traffic::check(&client).await);
            }
        },
    }
    Report(findings)
}

fn unreachable(error: &str) -> Finding {
    Finding::fail(
        "management cluster",
        format!("not reached: {error}"),
        "check the setting kubeconfig (or $KUBECONFIG), and that the API server answers from here",
    )
}

fn certificates(settings: &HubSettings, now: SystemTime) -> Vec<Finding> {
    let files = TlsFiles {
        cert: settings.tls.cert.clone(),
        key: settings.tls.key.clone(),
        ca: settings.tls.client_ca.clone(),
    };
    match ServerTls::server(files, now) {
        Err(error) => vec![Finding::fail(
            "certificates",
            error.to_string(),
            "make them with `berth-hub ca init` and `berth-hub cert issue --server --dns NAME`, \
             and check tls.cert, tls.key and tls.clientCa",
        )],
        Ok(tls) => {
            let current = tls.current();
            let mut findings = vec![age("hub certificate", &current.leaf, now)];
            for authority in &current.authorities {
                findings.push(age("CA certificate", authority, now));
            }
            findings
        }
    }
}

/// The one that the hub issues with, if it does.
async fn authority(settings: &HubSettings, client: &Client, now: SystemTime) -> Option<Finding> {
    let place = match (&settings.ca.secret, &settings.ca.dir) {
        (Some(secret), _) => Place::Secret(client.clone(), secret.clone()),
        (None, Some(dir)) => Place::Directory(dir.clone()),
        (None, None) => return None,
    };
    Some(match place.authority(Some(&settings.trust_domain)).await {
        Ok(authority) => age("the hub's CA", authority.facts(), now),
        Err(error) => Finding::fail(
            "the hub's CA",
            format!("{:#}", anyhow::Error::from(error)),
            "check ca.secret or ca.dir, and the hub's right to that Secret; a running hub makes one where there is none",
        ),
    })
}

fn age(subject: &str, facts: &CertificateFacts, now: SystemTime) -> Finding {
    let validity = Validity::from(facts);
    let found = format!("{}, {}", facts.subject, validity.health(now));
    let remedy = "issue a new one with `berth-hub cert issue` into the same files: the hub reads them again by itself";
    match validity.health(now) {
        Health::Good { .. } => Finding::ok(subject, found),
        Health::Ageing { .. } => Finding::warn(subject, found, remedy),
        Health::Expired { .. } | Health::NotYetValid { .. } => {
            Finding::fail(subject, found, remedy)
        }
    }
}
