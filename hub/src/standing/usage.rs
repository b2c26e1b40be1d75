//! What a tenant uses of its quotas, as its status has it. A burst of Services is one write and not one for each: what is written
//! has not changed for a while, or has been changing for long. Right after a start nothing is known of who waits, and by the
//! same rule nothing is said of it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use berth_common::identity::TenantName;
use k8s_openapi::jiff::Timestamp;

use super::{PATIENCE, stand};
use crate::{api::TenantStatus, policy::Usage};

const VIOLATED: &str = "PolicyViolated";

/// What has not changed for so long is written.
const REST: Duration = Duration::from_millis(800);
/// And what keeps changing, so often.
const LONGEST: Duration = Duration::from_secs(5);

/// What there is to say of a tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// What it uses.
    pub(super) usage: Usage,
    /// How many addresses of its nodes serve although the Tenant's list does not have them any more, or its quota no room. None: nobody
    /// knows yet.
    pub(super) tolerated: Option<usize>,
}

/// What was seen of each tenant that is not written yet.
#[derive(Debug, Default)]
pub(super) struct Usages(BTreeMap<TenantName, Unwritten>);

#[derive(Debug)]
struct Unwritten {
    found: Found,
    /// It has been so since, and other than what is written since.
    since: Instant,
    first: Instant,
}

impl Usages {
    /// Puts into a status what is to be written now, or says when to look again.
    pub(super) fn put(
        &mut self,
        name: &TenantName,
        found: Found,
        status: &mut TenantStatus,
        (now, wall): (Instant, Timestamp),
    ) -> Option<Instant> {
        if found.is_in(status) {
            self.0.remove(name);
            return None;
        }
        let entry = self.0.entry(name.clone()).or_insert(Unwritten {
            found,
            since: now,
            first: now,
        });
        if entry.found != found {
            (entry.found, entry.since) = (found, now);
        }
        let due = (entry.since + REST).min(entry.first + LONGEST);
        if now < due {
            return Some(due);
        }
        self.0.remove(name);
        [
            status.load_balancers,
            status.ports,
            status.waiting,
            status.beyond_policy,
        ] = found.figures();
        if let Some(message) = found.violated() {
            stand(
                &mut status.conditions,
                VIOLATED,
                "DoesNotFit",
                message,
                wall,
            );
        }
        None
    }
}

/// What the condition says while a tenant has been using up its changes, or has changed the same Services again and again, for a
/// while, and when to look again.
pub(super) fn throttled(
    spent: Option<Instant>,
    restless: Option<Instant>,
    now: Instant,
) -> (Option<String>, Option<Instant>) {
    let lasts = |since: Option<Instant>| since.is_some_and(|since| now >= since + PATIENCE);
    let message = if lasts(spent) {
        "the tenant changes more than it may (quotas.changesPerSecond): what is more waits, and nobody else does"
    } else if lasts(restless) {
        "the tenant changes the same Services again and again: a twentieth of quotas.changesPerSecond is carried out of that, each \
         Service as it is when its turn comes"
    } else {
        let since = [spent, restless].into_iter().flatten().min();
        return (None, since.map(|since| since + PATIENCE));
    };
    (Some(message.into()), Some(now + LONGEST))
}

impl Found {
    fn figures(&self) -> [u32; 4] {
        let figure = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let usage = self.usage;
        [
            usage.load_balancers,
            usage.ports,
            usage.waiting,
            usage.beyond,
        ]
        .map(figure)
    }

    /// What the condition says while anything does not fit policy, if that is known.
    fn violated(&self) -> Option<Option<String>> {
        let (addresses, load_balancers) = (self.tolerated?, self.usage.beyond);
        Some((load_balancers > 0 || addresses > 0).then(|| {
            format!(
                "{load_balancers} load balancers and {addresses} addresses of nodes do not fit the Tenant any more: they stay as they \
                 are, and with spec.enforce they are withdrawn"
            )
        }))
    }

    fn is_in(&self, status: &TenantStatus) -> bool {
        let told = status.conditions.iter().find(|c| c.type_ == VIOLATED);
        let same = |message: Option<String>| message.as_deref() == told.map(|c| c.message.as_str());
        self.figures()
            == [
                status.load_balancers,
                status.ports,
                status.waiting,
                status.beyond_policy,
            ]
            && self.violated().is_none_or(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(load_balancers: usize) -> Found {
        Found {
            usage: Usage {
                load_balancers,
                ports: 2 * load_balancers,
                ..Usage::default()
            },
            tolerated: Some(0),
        }
    }

    #[test]
    fn what_does_not_fit_policy_is_a_condition_and_what_is_not_known_changes_none() {
        let acme = TenantName::parse("acme").unwrap();
        let (mut usages, mut status) = (Usages::default(), TenantStatus::default());
        let start = Instant::now();
        let mut put = |beyond, tolerated, status: &mut TenantStatus| {
            let usage = Usage {
                beyond,
                ..Usage::default()
            };
            let found = Found { usage, tolerated };
            usages.put(&acme, found, status, (start, Timestamp::UNIX_EPOCH));
            usages.put(&acme, found, status, (start + REST, Timestamp::UNIX_EPOCH))
        };
        assert_eq!(put(2, Some(3), &mut status), None);
        assert_eq!(status.beyond_policy, 2);
        let message = status.conditions[0].message.clone();
        assert!(
            message.starts_with("2 load balancers and 3 addresses"),
            "{message}"
        );
        put(1, None, &mut status);
        assert_eq!(
            (status.beyond_policy, &status.conditions[0].message),
            (1, &message)
        );
        put(0, Some(0), &mut status);
        assert_eq!(status, TenantStatus::default());
    }

    #[test]
    fn who_is_slowed_down_is_told_when_it_lasts() {
        let start = Instant::now();
        assert_eq!(throttled(None, None, start), (None, None));
        let due = start + PATIENCE;
        for (spent, restless, says) in [
            (Some(start), None, "changes more than it may"),
            (None, Some(start), "again and again"),
            (Some(start), Some(start), "changes more than it may"),
        ] {
            assert_eq!(throttled(spent, restless, start), (None, Some(due)));
            let (message, again) = throttled(spent, restless, due);
            assert!(message.unwrap().contains(says));
            assert_eq!(again, Some(due + LONGEST));
        }
    }

    #[test]
    fn usage_of_a_burst_is_written_once_and_of_lasting_changes_now_and_then() {
        let acme = TenantName::parse("acme").unwrap();
        let (mut usages, mut status) = (Usages::default(), TenantStatus::default());
        let (start, wall) = (Instant::now(), Timestamp::UNIX_EPOCH);
        assert_eq!(usages.put(&acme, used(0), &mut status, (start, wall)), None);
        assert_eq!(status, TenantStatus::default(), "nothing to write");
        for n in 1..=10 {
            let now = start + Duration::from_millis(10) * n;
            let due = usages.put(&acme, used(n as usize), &mut status, (now, wall));
            assert_eq!(due, Some(now + REST));
        }
        let done = start + Duration::from_millis(100) + REST;
        assert_eq!(usages.put(&acme, used(10), &mut status, (done, wall)), None);
        assert_eq!((status.load_balancers, status.ports), (10, 20));
        assert!(usages.0.is_empty());

        let mut writes = 0;
        for n in 0..100 {
            let before = status.load_balancers;
            let now = done + Duration::from_millis(300) * n;
            usages.put(&acme, used(11 + n as usize), &mut status, (now, wall));
            writes += usize::from(status.load_balancers != before);
        }
        assert!((5..=6).contains(&writes), "{writes} in 30 s");
    }
}
