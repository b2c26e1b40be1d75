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
use kube::Client;
use serde_json::json;

use super::{
    CliError, Console, audited,
    change::{Changed, Part, change},
};
use crate::{api::Credentials, ca::CLOCK_SKEW, cli::KubeArgs};

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
    let done = revoke(client, name, &arguments.serials, console.now).await?;
    let (credentials, said) = done.said;
    // Fields that a CRD does not have are dropped without a word, and this must not be believed to have happened.
    if done.tenant.spec.credentials.as_ref() != Some(&credentials) {
        return Err(CliError::OldSchema("spec.credentials"));
    }
    let what = said.first().map(String::as_str).unwrap_or_default();
    audited(console, name, "tenant_revoke", what)?;
    for line in said {
        writeln!(console.out, "{line}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Two operators at once: neither forgets what the other has revoked.
async fn revoke(
    client: Client,
    name: &TenantName,
    serials: &[Serial],
    now: SystemTime,
) -> Result<Changed<(Credentials, Vec<String>)>, CliError> {
    change(client, name, Part::Decisions, |tenant| {
        let before = tenant.spec.credentials.clone().unwrap_or_default();
        let (credentials, said) = decide(name, before, serials, now);
        let patch = json!({ "spec": { "credentials": credentials } });
        Ok((Some(patch), (credentials, said)))
    })
    .await
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
    use super::{
        super::change::tests::{Server, acme, hub},
        *,
    };

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
        let other = json!({ "spec": { "credentials": { "revokedSerials": ["aa"] } } });
        let server = Server::new(json!({}), [hub(), other]);
        let serials = ["3f09".parse().unwrap()];
        let done = revoke(server.client(), &acme(), &serials, at(7)).await;
        assert_eq!(done.unwrap().said.0.revoked_serials, ["aa", "3f09"]);
        let state = server.state();
        assert_eq!((state.taken.len(), state.refused), (1, 2));
        let said = &state.tenant["spec"]["credentials"]["revokedSerials"];
        assert_eq!(*said, json!(["aa", "3f09"]));
    }
}
