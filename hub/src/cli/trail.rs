//! The trail that commands leave: one JSON line on stderr for each thing that was done, under the names of the hub's audit log. What an
//! operator changes in the cluster the hub sees, and writes down too; what needs only the CA's key, nobody else sees.

use berth_common::identity::{Serial, TenantName};
use berth_common::tls::format_time;
use serde_json::{Map, Value};

use super::{CliError, Console};

/// One line.
pub(super) struct Trail<'a> {
    /// What was done, in a word.
    pub(super) reason: &'static str,
    /// Whom it is about.
    pub(super) tenant: Option<&'a TenantName>,
    /// Of a certificate: its serial number.
    pub(super) serial: Option<&'a Serial>,
    /// Of a join token: its id, never the token.
    pub(super) token: Option<&'a str>,
    /// A sentence, or less.
    pub(super) detail: &'a str,
}

impl<'a> Trail<'a> {
    pub(super) fn new(reason: &'static str, detail: &'a str) -> Self {
        Self {
            reason,
            tenant: None,
            serial: None,
            token: None,
            detail,
        }
    }
}

/// Writes it. JSON escapes what could end the line.
pub(super) fn write(console: &mut Console<'_>, trail: &Trail<'_>) -> Result<(), CliError> {
    let fields = [
        ("timestamp", Some(format_time(console.now))),
        ("target", Some("audit".into())),
        ("event", Some("operator".into())),
        ("reason", Some(trail.reason.into())),
        ("tenant", trail.tenant.map(ToString::to_string)),
        ("serial", trail.serial.map(ToString::to_string)),
        ("token", trail.token.map(str::to_owned)),
        ("detail", Some(trail.detail.to_owned())),
    ];
    let known = fields
        .into_iter()
        .filter_map(|(name, text)| Some((name.to_owned(), Value::from(text?))));
    let line = Value::from(known.collect::<Map<_, _>>());
    writeln!(console.notes, "{line}")?;
    Ok(())
}
