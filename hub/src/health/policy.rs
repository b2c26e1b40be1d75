//! How a tenant's nodes are probed, as its operator wants it. Pure.

use std::time::Duration;

use crate::api::{HealthCheck, HealthMode};

/// The port of kube-proxy's healthz server.
pub const KUBE_PROXY_PORT: u16 = 10_256;

/// What a probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// kube-proxy's `/healthz`, and node ports where that is not to be heard.
    KubeProxy,
    /// Node ports only.
    NodePort,
    /// Nothing: all nodes count as healthy.
    None,
}

/// How nodes are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What is asked.
    pub mode: Mode,
    /// Where kube-proxy's healthz is.
    pub port: u16,
    /// Between the beginnings of two probes of one address.
    pub interval: Duration,
    /// After which a probe counts as unanswered.
    pub timeout: Duration,
    /// So many failures in a row make an address fail.
    pub failures: u32,
    /// So many good probes in a row make it healthy again.
    pub successes: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::KubeProxy,
            port: KUBE_PROXY_PORT,
            // With the timeout, such that a node whose link is cut is told in less than the two seconds that kube-proxy, which may
            // take one more, leaves of three.
            interval: Duration::from_millis(750),
            timeout: Duration::from_millis(500),
            failures: 2,
            successes: 2,
        }
    }
}

impl From<&HealthCheck> for Policy {
    /// The schema bounds the values; an object older than the schema is bounded here.
    fn from(check: &HealthCheck) -> Self {
        let own = Self::default();
        let time = |given: Option<u32>, default: Duration, least: u64, most: u64| {
            given.map_or(default, |ms| {
                Duration::from_millis(u64::from(ms).clamp(least, most))
            })
        };
        let interval = time(check.interval_milliseconds, own.interval, 250, 60_000);
        Self {
            mode: match check.mode {
                HealthMode::KubeProxy => Mode::KubeProxy,
                HealthMode::NodePort => Mode::NodePort,
                HealthMode::None => Mode::None,
            },
            port: check.port.filter(|port| *port != 0).unwrap_or(own.port),
            interval,
            timeout: time(check.timeout_milliseconds, own.timeout, 50, 10_000).min(interval),
            failures: check.failure_threshold.unwrap_or(own.failures).clamp(1, 10),
            successes: check
                .success_threshold
                .unwrap_or(own.successes)
                .clamp(1, 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_as_in_a_cluster_with_kube_proxy() {
        assert_eq!(Policy::from(&HealthCheck::default()), Policy::default());
    }

    #[test]
    fn what_got_past_the_schema_is_bounded_all_the_same() {
        let wild = HealthCheck {
            mode: HealthMode::NodePort,
            port: Some(0),
            interval_milliseconds: Some(0),
            timeout_milliseconds: Some(u32::MAX),
            failure_threshold: Some(0),
            success_threshold: Some(u32::MAX),
        };
        let bounded = Policy {
            mode: Mode::NodePort,
            port: KUBE_PROXY_PORT,
            interval: Duration::from_millis(250),
            timeout: Duration::from_millis(250),
            failures: 1,
            successes: 10,
        };
        assert_eq!(Policy::from(&wild), bounded);
    }
}
