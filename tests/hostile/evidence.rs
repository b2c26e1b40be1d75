//! What a hub has to show for an attack: a metric that counted it, and a line of the audit log that tells of it, of whom it was
//! about and of where it came from.

use berth_lab::{Lab, Seen, eventually};
use serde_json::Value;

use crate::ground::{Attack, SOON};

/// Whether the planner's refusals, which no session makes, have lines of the audit log.
const PLANS_ARE_AUDITED: bool = false;

/// A metric that counts it, and the word of the audit log for it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Evidence {
    metric: Option<(&'static str, &'static str)>,
    line: Option<Line>,
}

/// A line of the audit log.
#[derive(Clone, Copy, Debug)]
struct Line {
    event: &'static str,
    reason: &'static str,
    /// Whether it says where the peer comes from. What is refused by the planner is the tenant's, whoever told it.
    of_peer: bool,
}

impl Evidence {
    const fn of(
        metric: &'static str,
        label: &'static str,
        event: &'static str,
        reason: &'static str,
    ) -> Self {
        Self {
            metric: Some((metric, label)),
            line: Some(Line {
                event,
                reason,
                of_peer: true,
            }),
        }
    }

    const fn refusal(metric: &'static str, label: &'static str, reason: &'static str) -> Self {
        Self::of(metric, label, "refusal", reason)
    }

    /// What nobody has to notice, for nothing comes of it.
    pub(crate) const fn none() -> Self {
        Self {
            metric: None,
            line: None,
        }
    }

    /// Refused before the gRPC layer.
    pub(crate) const fn door(reason: &'static str) -> Self {
        Self::refusal("berth_refused_connections_total", reason, reason)
    }

    /// A connection that was ended by GOAWAY.
    pub(crate) const fn goaway(code: &'static str) -> Self {
        Self::refusal("berth_http2_refusals_total", "frame=\"goaway\"", code)
    }

    /// A stream that was reset.
    pub(crate) const fn reset(code: &'static str) -> Self {
        Self::refusal("berth_http2_refusals_total", "frame=\"rst-stream\"", code)
    }

    /// A session that was refused, or ended for this.
    pub(crate) const fn session(reason: &'static str) -> Self {
        Self::refusal("berth_sessions_refused_total", reason, reason)
    }

    /// A session that ended with this code.
    pub(crate) const fn ended(code: &'static str, reason: &'static str) -> Self {
        Self::refusal("berth_sessions_ended_total", code, reason)
    }

    /// A call that nobody serves, or not so.
    pub(crate) const fn call(code: &'static str) -> Self {
        Self::refusal("berth_calls_refused_total", code, code)
    }

    /// A message that was not taken, or not as it was.
    pub(crate) const fn message() -> Self {
        Self::refusal("berth_messages_discarded_total", "", "message")
    }

    /// A resource that was not taken.
    pub(crate) const fn resource() -> Self {
        Self::refusal("berth_resources_unreadable_total", "", "resource")
    }

    /// Load balancers that are absent and are not let go.
    pub(crate) const fn held() -> Self {
        Self::refusal("berth_load_balancers_held", "mallory-", "held")
    }

    /// A certificate that counts no more, under a session that lived by it.
    pub(crate) const fn revoked() -> Self {
        Self::of(
            "berth_sessions_ended_total",
            "Unauthenticated",
            "revocation",
            "revoked",
        )
    }

    /// A session that lost its place to a newer one of the same identity.
    pub(crate) const fn taken_over() -> Self {
        Self::ended("Aborted", "fenced")
    }

    /// A certificate that was issued for another.
    pub(crate) const fn renewed() -> Self {
        Self::of("berth_renewals_total", "issued", "certificate", "renewed")
    }

    /// A Service that can be read, and that the planner does not grant.
    pub(crate) const fn planned(reason: &'static str) -> Self {
        Self {
            metric: None,
            line: by_plan(reason),
        }
    }

    /// The same, found out by a write that the API server did not take.
    pub(crate) const fn rejected(result: &'static str, reason: &'static str) -> Self {
        Self {
            metric: Some(("berth_management_writes_total", result)),
            line: by_plan(reason),
        }
    }

    /// The address of a node that may receive no traffic.
    pub(crate) const fn node(label: &'static str) -> Self {
        Self {
            metric: Some(("berth_node_addresses_refused_total", label)),
            line: by_plan("AddressNotAllowed"),
        }
    }

    pub(crate) async fn counted(self, lab: &Lab) -> berth_lab::Result<f64> {
        match self.metric {
            Some((metric, label)) => lab.hub().metric(metric, &[label]).await,
            None => Ok(0.0),
        }
    }

    /// Waits until a metric has counted more than so many of it, and the audit log tells of it.
    pub(crate) async fn is_there(self, attack: &Attack, before: f64) -> berth_lab::Result<()> {
        let lab = &attack.ground.lab;
        if let Some(metric) = self.metric {
            eventually(SOON, &format!("{metric:?} has counted"), || async {
                match self.counted(lab).await? {
                    counted if counted > before => Ok(()),
                    counted => Err(Seen(format!("still {counted}"))),
                }
            })
            .await?;
        }
        let Some(Line {
            event,
            reason,
            of_peer,
        }) = self.line
        else {
            return Ok(());
        };
        let of = match of_peer {
            true => format!("\"{}:", attack.source),
            false => format!("\"tenant\":\"{}\"", attack.tenant),
        };
        let what = format!("the audit log tells of a {event} for {reason} of {of}");
        eventually(SOON, &what, || async {
            let lines = audit_lines(&lab.hub().log().await?, &of);
            let tells = |line: &&Value| line["event"] == event && line["reason"] == reason;
            match lines.iter().find(tells) {
                Some(_) => Ok(()),
                None => Err(Seen(format!("{lines:?}"))),
            }
        })
        .await
    }
}

const fn by_plan(reason: &'static str) -> Option<Line> {
    let line = Line {
        event: "refusal",
        reason,
        of_peer: false,
    };
    if PLANS_ARE_AUDITED { Some(line) } else { None }
}

/// The lines of the audit log with this text. All of them are JSON, though the log is text.
pub(crate) fn audit_lines(log: &str, of: &str) -> Vec<Value> {
    log.lines()
        .filter(|line| line.contains(of))
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["target"] == "audit")
        .collect()
}
