//! The condition that stands while agents throw each other out under one identity. A hub that has just started knows nothing of it, and
//! takes nothing back before it would.

use std::time::Instant;

use berth_common::identity::TenantName;
use k8s_openapi::jiff::Timestamp;

use super::stand;
use crate::{api::TenantStatus, tenants::CONTEST_ENDS_AFTER};

const CONTESTED: &str = "SessionContested";

/// Puts the condition into a status or takes it away, and says when to look again. `ends` is when the contest will be over, if there is one.
pub(super) fn tell(
    ends: Option<Instant>,
    status: &mut TenantStatus,
    name: &TenantName,
    (started, now, wall): (Instant, Instant, Timestamp),
) -> Option<Instant> {
    let known = started + CONTEST_ENDS_AFTER;
    if ends.is_none() && now < known {
        let told = status.conditions.iter().any(|it| it.type_ == CONTESTED);
        return told.then_some(known);
    }
    let message = ends.map(|_| {
        format!(
            "two agents or more throw each other out under this identity: only one may run with it, so end the other \
             (one release of the agent in the cluster, with one replica). If there is no other, the key may be stolen: \
             `berth-hub tenant revoke {name}`, and admit the cluster anew with `berth-hub token create {name}`"
        )
    });
    stand(
        &mut status.conditions,
        CONTESTED,
        "AgentsTakeTurns",
        message,
        wall,
    );
    ends
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_stands_while_it_lasts_and_a_restarted_hub_does_not_take_it_back_at_once() {
        let (name, started) = (TenantName::parse("acme").unwrap(), Instant::now());
        let mut status = TenantStatus::default();
        let mut told = |after: u64, ends: Option<u64>| {
            let at = |seconds| started + Duration::from_secs(seconds);
            let times = (started, at(after), Timestamp::UNIX_EPOCH);
            let look = tell(ends.map(at), &mut status, &name, times);
            let look = look.map(|look| look.saturating_duration_since(started).as_secs());
            let message = status.conditions.first().map(|it| it.message.clone());
            (
                message.is_some_and(|it| it.contains("tenant revoke acme")),
                look,
            )
        };
        assert_eq!(told(0, None), (false, None));
        assert_eq!(told(1, Some(121)), (true, Some(121)));
        // As if it had just started.
        assert_eq!(told(2, None), (true, Some(120)));
        assert_eq!(told(120, None), (false, None));
        assert_eq!(told(500, Some(600)), (true, Some(600)));
        assert_eq!(told(600, None), (false, None));
    }
}
