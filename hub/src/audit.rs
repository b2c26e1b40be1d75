//! The audit log: who was let in, who was refused and why, what was revoked, certified or overridden. One JSON line each, of the
//! tracing target `audit`, whatever form the other lines have; the names of its fields are part of what Berth promises. It
//! belongs to the process, as the log does, so there is no handle to pass. It never gets a token or a key, and what one peer can make
//! it write is bounded (`lines`): the rest is counted, and the count is told.

use std::{net::SocketAddr, sync::LazyLock, time::Duration};

use berth_common::{
    identity::{Serial, TenantName},
    telemetry::AUDIT,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    lines::{self, Unsaid, Who},
    listen::address_key,
};

/// How much of a text is written: whoever says more does so to fill the disk.
const DETAIL_BYTES: usize = 512;

/// How often it is looked whether something went unsaid.
const LOOK: Duration = Duration::from_secs(5);

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::default);

/// Whom a line is about, as far as that is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject<'a> {
    /// Where the peer comes from. Lines without one are an operator's or the hub's own doing, and are always written, but for
    /// refusals.
    pub peer: Option<SocketAddr>,
    /// The tenant that its certificate names, or that an operator named.
    pub tenant: Option<&'a TenantName>,
    /// The serial number of its certificate.
    pub serial: Option<&'a Serial>,
    /// The number of its session.
    pub session: Option<u64>,
    /// The id of the join token that was shown: never the token.
    pub token: Option<&'a str>,
    /// The serial number of the certificate that one was issued for.
    pub former: Option<&'a Serial>,
}

impl<'a> Subject<'a> {
    /// Of whom nothing is known but the address.
    pub fn peer(peer: SocketAddr) -> Self {
        Self {
            peer: Some(peer),
            ..Self::default()
        }
    }

    /// A tenant, without a peer.
    pub fn tenant(tenant: &'a TenantName) -> Self {
        Self {
            tenant: Some(tenant),
            ..Self::default()
        }
    }
}

/// A tenant's session was accepted.
pub fn admission(subject: &Subject<'_>, detail: &str) {
    write("admission", subject, "accepted", detail);
}

/// Something was refused: a connection, a session, a message, a resource.
pub fn refusal(subject: &Subject<'_>, reason: &str, detail: &str) {
    write("refusal", subject, reason, detail);
}

/// A certificate or an admission counts no more, and what lived by it was cut.
pub fn revocation(subject: &Subject<'_>, reason: &str, detail: &str) {
    write("revocation", subject, reason, detail);
}

/// A certificate was issued or renewed (`reason`).
pub fn certificate(subject: &Subject<'_>, reason: &str, detail: &str) {
    write("certificate", subject, reason, detail);
}

/// An operator has set aside what the hub would have done.
pub fn overridden(subject: &Subject<'_>, reason: &str, detail: &str) {
    write("override", subject, reason, detail);
}

/// What an operator's change of a `Tenant` object means, and what became of it.
pub fn tenant(tenant: &TenantName, reason: &str, detail: &str) {
    write("tenant", &Subject::tenant(tenant), reason, detail);
}

/// A Service of a tenant is not to be had as the tenant wants it, or a node receives no traffic. Bounded like what the tenant's
/// sessions cause.
pub fn service(tenant: &TenantName, reason: &str, detail: &str) {
    let who = Some(Who::Tenant(tenant.clone()));
    line("refusal", &Subject::tenant(tenant), who, reason, detail);
}

fn write(event: &'static str, subject: &Subject<'_>, reason: &str, detail: &str) {
    let who = match (subject.peer, subject.tenant) {
        // What the hub refuses a tenant without a word from a peer, it refuses as often as the tenant likes.
        (None, Some(tenant)) if event == "refusal" => Some(Who::Tenant(tenant.clone())),
        (None, _) => None,
        (Some(peer), tenant) => Some(payer(peer, tenant)),
    };
    line(event, subject, who, reason, detail);
}

/// Whose lines those about a peer are.
pub(crate) fn payer(peer: SocketAddr, tenant: Option<&TenantName>) -> Who {
    match tenant {
        Some(tenant) => Who::Tenant(tenant.clone()),
        None => Who::Address(address_key(peer.ip())),
    }
}

/// `who` pays for it; nobody for an operator's and the hub's own doings.
fn line(event: &'static str, subject: &Subject<'_>, who: Option<Who>, reason: &str, detail: &str) {
    METRICS.events.get_or_create(&Event { event }).inc();
    let spent = match who {
        Some(who) => lines::AUDIT.spend(who),
        None => Some(None),
    };
    let Some(suppressed) = spent else {
        METRICS.suppressed.inc();
        return;
    };
    let peer = subject.peer.map(|peer| peer.to_string());
    let serial = subject.serial.map(ToString::to_string);
    let former = subject.former.map(ToString::to_string);
    info!(
        target: AUDIT,
        event,
        tenant = subject.tenant.map(TenantName::as_str),
        peer = peer.as_deref(),
        reason,
        serial = serial.as_deref(),
        session = subject.session,
        token = subject.token,
        former = former.as_deref(),
        detail = shortened(detail),
        suppressed,
    );
}

/// Tells from time to time what went unsaid of peers that have said nothing since, in either log, until told to stop.
pub async fn keep(stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        for Unsaid { who, lines } in lines::AUDIT.overdue() {
            let (tenant, peer) = named(who);
            info!(
                target: AUDIT,
                event = "suppressed",
                tenant = tenant.as_deref(),
                peer = peer.as_deref(),
                suppressed = lines,
            );
        }
        for Unsaid { who, lines } in lines::LOG.overdue() {
            let (tenant, peer) = named(who);
            info!(
                tenant = tenant.as_deref(),
                peer = peer.as_deref(),
                suppressed = lines,
                "lines about it were left out: it had too many"
            );
        }
    }
}

fn named(who: Who) -> (Option<String>, Option<String>) {
    match who {
        Who::Tenant(tenant) => (Some(tenant.to_string()), None),
        Who::Address(address) => (None, Some(address.to_string())),
        Who::OtherAddresses => (None, None),
    }
}

/// Registers `berth_audit_events_total{event}` and `berth_audit_suppressed_total`.
pub fn register(registry: &mut Registry) {
    registry.register(
        "berth_audit_events",
        "What the audit log was told, by event, written or not",
        METRICS.events.clone(),
    );
    registry.register(
        "berth_audit_suppressed",
        "Lines of the audit log that were not written, for their tenant or address had too many; their number was",
        METRICS.suppressed.clone(),
    );
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Event {
    event: &'static str,
}

#[derive(Debug, Default)]
struct Metrics {
    events: Family<Event, Counter>,
    suppressed: Counter,
}

fn shortened(text: &str) -> &str {
    let mut ends = (0..=DETAIL_BYTES.min(text.len())).rev();
    let end = ends.find(|&end| text.is_char_boundary(end));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use berth_common::telemetry::{LogFormat, LogSettings, subscriber};
    use serde_json::{Value, json};

    use super::*;

    #[derive(Clone, Default)]
    struct Out(Arc<Mutex<Vec<u8>>>);

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that a hub writes that logs in this format and with this filter.
    fn logged(format: LogFormat, filter: &str, say: impl FnOnce()) -> Vec<Value> {
        let out = Out::default();
        let settings = LogSettings {
            format,
            filter: filter.parse().unwrap(),
        };
        let make = {
            let out = out.clone();
            move || out.clone()
        };
        tracing::subscriber::with_default(subscriber(&settings, make), || {
            let _span = tracing::info_span!("session", tenant = "of the span").entered();
            say();
        });
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).expect(line))
            .collect()
    }

    #[test]
    fn a_line_is_json_with_fixed_names_whatever_the_log_is() {
        let tenant: TenantName = "acme".parse().unwrap();
        for (format, filter) in [(LogFormat::Text, "off"), (LogFormat::Json, "info")] {
            let lines = logged(format, filter, || {
                let subject = Subject {
                    peer: Some("192.0.2.1:4711".parse().unwrap()),
                    tenant: Some(&tenant),
                    session: Some(7),
                    ..Subject::default()
                };
                refusal(&subject, "protocol", "said \"a\nb\u{1b}[2J\"");
            });
            let [line] = &lines[..] else {
                panic!("{lines:?}")
            };
            let mut line = line.as_object().unwrap().clone();
            assert!(line.remove("timestamp").is_some());
            let expected = json!({
                "level": "INFO", "target": "audit", "event": "refusal", "tenant": "acme", "peer": "192.0.2.1:4711",
                "reason": "protocol", "session": 7, "detail": "said \"a\nb\u{1b}[2J\"",
            });
            assert_eq!(Value::from(line), expected);
        }
    }

    #[test]
    fn an_operators_lines_are_never_suppressed_and_a_peers_are_told_to_have_been() {
        // What a tenant may say is counted for the whole process, and the other tests have tenants of their own.
        let tenant: TenantName = "talkative".parse().unwrap();
        let lines = logged(LogFormat::Text, "info", || {
            let peer = Subject::peer("192.0.2.77:1".parse().unwrap());
            for _ in 0..500 {
                refusal(&peer, "expired", "");
                overridden(&Subject::tenant(&tenant), "released", "");
                service(&tenant, "NodePortMissing", "");
            }
        });
        let count = |event| lines.iter().filter(|line| line["event"] == event).count();
        assert_eq!(count("override"), 500);
        // Of the peer's and of the tenant's Services.
        assert!((2..200).contains(&count("refusal")), "{}", count("refusal"));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let long = "ü".repeat(DETAIL_BYTES);
        assert_eq!(shortened(&long).len(), DETAIL_BYTES);
        assert_eq!(shortened(&format!("x{long}")).len(), DETAIL_BYTES - 1);
        assert_eq!(shortened("short"), "short");
    }
}
