//! Counting writes to an API server: by kind of object from its own metrics, by user from its audit log. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Sub;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

/// The verbs that change something, as the metric writes them.
const MUTATING: [&str; 6] = [
    "POST",
    "PUT",
    "PATCH",
    "APPLY",
    "DELETE",
    "DELETECOLLECTION",
];

/// Numbers of write requests, by `resource/subresource` of its group and verb: `PATCH services/status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writes(BTreeMap<String, u64>);

impl Writes {
    /// From the text of the metric `apiserver_request_total`. Dry runs are not writes.
    #[must_use]
    pub fn from_metrics(text: &str) -> Self {
        let mut writes = BTreeMap::new();
        for line in text.lines() {
            let Some((labels, value)) = line
                .strip_prefix("apiserver_request_total{")
                .and_then(|rest| rest.rsplit_once("} "))
            else {
                continue;
            };
            let label = |name: &str| {
                let start = labels.find(&format!("{name}=\""))? + name.len() + 2;
                labels[start..].split('"').next()
            };
            let verb = label("verb").unwrap_or_default();
            let dry = label("dry_run").is_some_and(|dry| !dry.is_empty());
            let (Ok(count), false, true) = (value.parse::<f64>(), dry, MUTATING.contains(&verb))
            else {
                continue;
            };
            let resource = label("resource").unwrap_or_default();
            let name = match label("subresource") {
                None | Some("") => format!("{verb} {resource}"),
                Some(sub) => format!("{verb} {resource}/{sub}"),
            };
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a counter of requests is whole and not negative"
            )]
            let count = count as u64;
            *writes.entry(name).or_default() += count;
        }
        Self(writes)
    }

    /// Only those of these resources; `services` includes `services/status`.
    #[must_use]
    pub fn of(&self, resources: &[&str]) -> Self {
        let wanted = |name: &str| {
            let resource = name.split([' ', '/']).nth(1).unwrap_or_default();
            resources.contains(&resource)
        };
        let entries = self.0.iter().filter(|(name, _)| wanted(name));
        Self(
            entries
                .map(|(name, count)| (name.clone(), *count))
                .collect(),
        )
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

impl Sub for &Writes {
    type Output = Writes;

    /// What came since `earlier`. A restarted API server counts from zero again.
    fn sub(self, earlier: Self) -> Writes {
        let since = self.0.iter().map(|(name, count)| {
            let before = earlier.0.get(name).copied().unwrap_or_default();
            (name.clone(), count.saturating_sub(before))
        });
        Writes(since.filter(|(_, count)| *count > 0).collect())
    }
}

impl fmt::Display for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no writes");
        }
        let parts: Vec<String> = self
            .0
            .iter()
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        f.write_str(&parts.join(", "))
    }
}

/// One write as the audit log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Who: `system:serviceaccount:berth-system:berth-hub`.
    pub user: String,
    /// `create`, `update`, `patch`, `delete` …
    pub verb: String,
    /// `services/status`.
    pub resource: String,
    /// `namespace/name`.
    pub object: String,
    /// The HTTP status of the answer.
    pub code: u64,
    /// When it was answered, to the microsecond.
    pub at: Timestamp,
}

/// Every write of a cluster, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit(pub Vec<Write>);

impl Audit {
    /// From the log's lines; a line still being written is left for the next look.
    #[must_use]
    pub fn parse(log: &str) -> Self {
        let events = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Self(events.map(|event| write(&event)).collect())
    }

    /// What came after the first `n`.
    #[must_use]
    pub fn since(&self, n: usize) -> Self {
        Self(self.0.iter().skip(n).cloned().collect())
    }

    /// Only those of users whose name ends like this: `:berth-hub`.
    #[must_use]
    pub fn by(&self, user: &str) -> Self {
        Self(
            self.0
                .iter()
                .filter(|w| w.user.ends_with(user))
                .cloned()
                .collect(),
        )
    }

    /// Only those that the predicate takes.
    #[must_use]
    pub fn only(mut self, wanted: impl Fn(&Write) -> bool) -> Self {
        self.0.retain(wanted);
        self
    }
}

fn write(event: &Value) -> Write {
    let text = |pointer: &str| {
        event
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let joined = |first: String, second: String| match (first.is_empty(), second.is_empty()) {
        (_, true) => first,
        (true, _) => second,
        _ => format!("{first}/{second}"),
    };
    Write {
        user: text("/user/username"),
        verb: text("/verb"),
        resource: joined(text("/objectRef/resource"), text("/objectRef/subresource")),
        object: joined(text("/objectRef/namespace"), text("/objectRef/name")),
        code: event
            .pointer("/responseStatus/code")
            .and_then(Value::as_u64)
            .unwrap_or_default(),
        at: text("/stageTimestamp").parse().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = r#"# HELP apiserver_request_total Counter
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="services",scope="resource",subresource="",verb="PATCH",version="v1"} 3
apiserver_request_total{code="409",component="apiserver",dry_run="",group="",resource="services",scope="resource",subresource="",verb="PATCH",version="v1"} 1
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="services",scope="resource",subresource="status",verb="PATCH",version="v1"} 2
apiserver_request_total{code="200",component="apiserver",dry_run="All",group="",resource="services",scope="resource",subresource="",verb="PATCH",version="v1"} 7
apiserver_request_total{code="0",component="apiserver",dry_run="",group="",resource="nodes",scope="cluster",subresource="",verb="WATCH",version="v1"} 5
apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="events",scope="resource",subresource="",verb="POST",version="v1"} 1.2e+01
"#;

    #[test]
    fn reads_and_dry_runs_do_not_count() {
        let writes = Writes::from_metrics(METRICS);
        assert_eq!(
            writes.to_string(),
            "4 PATCH services, 2 PATCH services/status, 12 POST events"
        );
        assert_eq!(writes.of(&["services"]).total(), 6);
    }

    #[test]
    fn the_difference_shows_only_what_is_new() {
        let before = Writes::from_metrics(METRICS);
        let after = Writes::from_metrics(&METRICS.replace("} 2", "} 5"));
        assert_eq!((&after - &before).to_string(), "3 PATCH services/status");
        assert_eq!((&before - &before).to_string(), "no writes");
    }

    #[test]
    fn the_audit_log_names_the_writer() {
        let line = r#"{"verb":"patch","user":{"username":"system:serviceaccount:berth-system:berth-hub"},"objectRef":{"resource":"services","subresource":"status","namespace":"n","name":"s"},"responseStatus":{"code":200},"stageTimestamp":"2026-11-25T21:20:06.250000Z"}"#;
        let audit = Audit::parse(&format!("{line}\n{{\"half"));
        assert_eq!(audit.by(":berth-hub").0.len(), 1);
        assert_eq!(audit.0[0].resource, "services/status");
        assert_eq!(audit.0[0].object, "n/s");
        assert_eq!(audit.0[0].at.as_millisecond() % 1_000, 250);
        assert!(audit.by(":controller").0.is_empty());
    }
}
