//! `tenant revoke`: certificates of a tenant are good no more.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime},
};

use berth_common::{
    identity::{Serial, TenantName},
    tls::format_time,
};
use clap::Args;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Client,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{CliError, Console, audited, cluster, find};
use crate::{
    api::{Credentials, Tenant},
    ca::CLOCK_SKEW,
    cli::KubeArgs,
};

/// How often the Tenant may have been changed by somebody else between reading and writing it.
const TRIES: usize = 20;

/// Arguments of `tenant revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// The tenant
    name: TenantName,
    /// Only the certificate with this serial number, in hexadecimal; may be given several times
    #[arg(long = "serial", value_name = "SERIAL")]
    serials: Vec<Serial>,
    #[command(flatten)]
    kube: KubeArgs,
}

pub(super) async fn run(
    arguments: RevokeArgs,
    console: &mut Console<'_>,
) -> Result<ExitCode, CliError> {
    let name = &arguments.name;
    let client = arguments.kube.client().await?;
    let (credentials, said, written) = write(client, name, &arguments.serials, console.now).await?;
    // Fields that a CRD does not have are dropped without a word, and this must not be believed to have happened.
    if written.spec.credentials.as_ref() != Some(&credentials) {
        return Err(CliError::OldSchema("spec.credentials"));
    }
    let what = said.first().map(String::as_str).unwrap_or_default();
    audited(console, name, "tenant_revoke", what)?;
    for line in said {
        writeln!(console.out, "{line}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes it, however often the Tenant is changed meanwhile. Returns what was written, what there is to say, and what the API server has made
/// of it.
async fn write(
    client: Client,
    name: &TenantName,
    serials: &[Serial],
    now: SystemTime,
) -> Result<(Credentials, Vec<String>, Tenant), CliError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let (api, tenant) = find(client.clone(), name).await?;
        let before = tenant.spec.credentials.clone().unwrap_or_default();
        let (credentials, said) = decide(name, before, serials, now);
        let patch = Patch::Merge(json!({
            // Two operators at once: neither forgets what the other has revoked.
            "metadata": { "resourceVersion": tenant.metadata.resource_version },
            "spec": { "credentials": credentials },
        }));
        let params = PatchParams::default();
        match api.patch(name.as_str(), &params, &patch).await {
            Ok(written) => return Ok((credentials, said, written)),
            // Or the hub, which has written the status: what is to be revoked does not wait for that.
            Err(kube::Error::Api(status)) if status.code == 409 && tries < TRIES => {}
            Err(error) => return Err(cluster("write the Tenant", error)),
        }
    }
}

/// What the Tenant says then, and what the operator is told.
fn decide(
    name: &TenantName,
    mut credentials: Credentials,
    serials: &[Serial],
    now: SystemTime,
) -> (Credentials, Vec<String>) {
    let said = if serials.is_empty() {
        // The next whole second: what was made in this one is revoked with the rest.
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        let limit =
            SystemTime::UNIX_EPOCH + Duration::from_secs(since.unwrap_or_default().as_secs() + 1);
        credentials.not_before = Timestamp::try_from(limit).ok().map(Time);
        vec![
            format!(
                "every certificate of {name} that is valid from before {} is revoked; a session with one of them ends now",
                format_time(limit)
            ),
            format!(
                "note that `berth-hub cert issue` dates certificates {} minutes back, for clocks that are behind: one of {name}'s that \
                 it makes before {} is revoked as well",
                CLOCK_SKEW.as_secs() / 60,
                format_time(limit + CLOCK_SKEW)
            ),
        ]
    } else {
        let known: Vec<Serial> = parsed(&credentials);
        let new = serials.iter().filter(|serial| !known.contains(serial));
        let new: Vec<String> = new.map(|serial| serial.as_str().to_owned()).collect();
        credentials.revoked_serials.extend(new);
        let list: Vec<&str> = serials.iter().map(Serial::as_str).collect();
        vec![format!(
            "revoked of {name}: {}; a session with it ends now",
            list.join(", ")
        )]
    };
    (credentials, said)
}

fn parsed(credentials: &Credentials) -> Vec<Serial> {
    let serials = credentials.revoked_serials.iter();
    serials.filter_map(|serial| serial.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::{Method, Request, Response};
    use kube::client::Body;
    use serde_json::Value;

    use super::*;

    fn acme() -> TenantName {
        TenantName::parse("acme").unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn serials_are_added_once_and_nothing_is_forgotten() {
        let before = Credentials {
            not_before: None,
            revoked_serials: vec!["3F:09".into()],
        };
        let serials = ["3f09".parse().unwrap(), "aa".parse().unwrap()];
        let (after, said) = decide(&acme(), before, &serials, at(7));
        assert_eq!(after.revoked_serials, ["3F:09", "aa"]);
        assert_eq!(after.not_before, None);
        assert_eq!(
            said,
            ["revoked of acme: 3f09, aa; a session with it ends now"]
        );
    }

    #[test]
    fn without_a_serial_everything_until_now_is_revoked() {
        let before = Credentials {
            not_before: None,
            revoked_serials: vec!["3f09".into()],
        };
        let now = at(1_000_000) + Duration::from_millis(1);
        let (after, said) = decide(&acme(), before, &[], now);
        assert_eq!(after.revoked_serials, ["3f09"]);
        let limit = after.not_before.unwrap().0;
        assert_eq!(limit.as_second(), 1_000_001);
        assert!(said[0].contains("is revoked"), "{said:?}");
        assert!(said[1].contains("5 minutes back"), "{said:?}");
    }

    /// The hub writes the status of a Tenant whenever it likes, and another operator its credentials.
    #[tokio::test]
    async fn a_tenant_that_changes_meanwhile_is_read_again_and_nothing_is_forgotten() {
        let tenant = |version: &str, serials: &[&str]| {
            json!({"apiVersion": "berth.dev/v1alpha1", "kind": "Tenant",
                "metadata": {"name": "acme", "resourceVersion": version},
                "spec": {"credentials": {"revokedSerials": serials}}})
        };
        let conflict = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
            "code": 409, "reason": "Conflict", "message": "the object has been modified"});
        let mut answers = vec![
            (200, tenant("3", &["aa", "3f09"])),
            (200, tenant("2", &["aa"])),
            (409, conflict),
            (200, tenant("1", &[])),
        ];
        let patches = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&patches);
        let service = tower::service_fn(move |request: Request<Body>| {
            let (status, answer) = answers.pop().unwrap();
            let seen = Arc::clone(&seen);
            async move {
                let (parts, body) = request.into_parts();
                if parts.method == Method::PATCH {
                    let body = body.collect_bytes().await?;
                    let body: Value = serde_json::from_slice(&body).unwrap();
                    seen.lock().unwrap().push(body);
                }
                let body = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok::<_, kube::Error>(Response::builder().status(status).body(body).unwrap())
            }
        });
        let client = Client::new(service, "default");
        let serials = ["3f09".parse().unwrap()];
        let written = write(client, &acme(), &serials, at(7)).await.unwrap();
        assert_eq!(written.0.revoked_serials, ["aa", "3f09"]);
        let patches = patches.lock().unwrap();
        let told = |n: usize| {
            let patch: &Value = &patches[n];
            (
                patch["metadata"]["resourceVersion"].clone(),
                patch["spec"]["credentials"]["revokedSerials"].clone(),
            )
        };
        assert_eq!(patches.len(), 2);
        assert_eq!(told(0), (json!("1"), json!(["3f09"])));
        assert_eq!(told(1), (json!("2"), json!(["aa", "3f09"])));
    }
}
