//! What the next step of a rotation is, or what it waits for: the state machine of `berth-hub ca rotate`. All it knows is what stands in
//! the authority's place, what the tenants' statuses say, and the time; so a command that was interrupted, wherever that was, goes on
//! from what it finds. Pure.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use berth_common::identity::{KeyId, TenantName};

use super::kept::Stage;

/// Every replica of the hub has read the authority's place in this time, and serves by it.
pub const SETTLE: Duration = Duration::from_secs(15);

/// A rotation that ended so recently is not begun anew by a command that was only to be continued.
pub const RECENT: Duration = Duration::from_secs(3_600);

/// What is known of one tenant's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whose it is.
    pub tenant: TenantName,
    /// Whether its agent has a session.
    pub connected: bool,
    /// The certificate that it was seen with last, or was given since. None: none was ever seen.
    pub certificate: Option<Shown>,
    /// Whether the tenant's agent was ever connected.
    pub known: bool,
}

/// A certificate, as a status tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Which authority signed it, where it says so.
    pub authority: Option<KeyId>,
    /// Whom its agent was told to trust.
    pub trusts: BTreeSet<KeyId>,
    /// When it ends.
    pub ends: SystemTime,
    /// Whether its agent renews it when it is asked to.
    pub renews: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a new authority, and make it known.
    Publish,
    /// Let it sign.
    Switch,
    /// Trust the former one no more.
    Drop,
    /// Nothing before something has changed.
    Wait(Wait),
    /// Nothing: the last rotation has ended at that time.
    Done(SystemTime),
}

/// What is waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// For every replica of the hub to have read the last step.
    pub settles: Option<SystemTime>,
    /// For these tenants.
    pub tenants: Vec<(TenantName, Why)>,
}

/// Why a tenant is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It is connected, and is being asked to renew.
    Asked,
    /// It is not connected, and its certificate is good until then.
    Away(SystemTime),
    /// Somebody brings it its certificate, which is good until then.
    ByHand(SystemTime),
    /// It was connected once, and nothing is known of its certificate.
    Unknown,
}

/// What the operator wants besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Wait for no tenant.
    pub finish: bool,
    /// Begin another rotation, however recent the last one is.
    pub again: bool,
}

/// How many tenants have come how far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tenants of which a certificate of either authority is known that has not ended.
    pub all: usize,
    /// Of them, those whose agents trust the new authority.
    pub trusting: usize,
    /// Those whose certificate is by the new authority.
    pub issued: usize,
}

/// Whose keys sign, and have signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// The authority that signs now.
    pub signer: Option<KeyId>,
    /// The one that has signed before, while it is trusted still.
    pub previous: Option<KeyId>,
}

/// The next step.
pub fn step(stage: Stage, keys: Keys, reports: &[Report], wishes: Wishes, now: SystemTime) -> Step {
    let (since, tenants, then) = match stage {
        Stage::Rest(Some(ended)) if !wishes.again && now < ended + RECENT => {
            return Step::Done(ended);
        }
        Stage::Rest(_) => return Step::Publish,
        Stage::Published { next, since } => {
            (since, missing(reports, keys, next, now), Step::Switch)
        }
        Stage::Switched { since } => (since, remaining(reports, keys.previous, now), Step::Drop),
    };
    let settled = since + SETTLE;
    let tenants = if wishes.finish { Vec::new() } else { tenants };
    // A clock that was set back does not hold it for longer than it would have taken.
    let settles = (since <= now && now < settled).then_some(settled);
    if settles.is_none() && tenants.is_empty() {
        return then;
    }
    Step::Wait(Wait { settles, tenants })
}

/// Before the switch: who is connected and does not trust the next authority yet. Nobody else is waited for: who is away verifies the hub by
/// the certificate that the next authority has of the present one.
fn missing(reports: &[Report], keys: Keys, next: KeyId, now: SystemTime) -> Vec<(TenantName, Why)> {
    let lacks = |report: &&Report| {
        let shown = good(report, now).filter(|it| it.authority == keys.signer);
        report.connected && shown.is_some_and(|it| it.renews && !it.trusts.contains(&next))
    };
    let tenants = reports.iter().filter(lacks);
    tenants
        .map(|report| (report.tenant.clone(), Why::Asked))
        .collect()
}

/// Before the former authority is dropped: whose certificates are by it, or may be.
pub fn remaining(
    reports: &[Report],
    former: Option<KeyId>,
    now: SystemTime,
) -> Vec<(TenantName, Why)> {
    let is_its = |shown: &Shown| shown.authority.is_none() || shown.authority == former;
    waited(reports, now, is_its, true)
}

/// Whose certificates are not by this authority.
pub fn without(
    reports: &[Report],
    authority: Option<KeyId>,
    now: SystemTime,
) -> Vec<(TenantName, Why)> {
    waited(reports, now, |shown| shown.authority != authority, false)
}

fn waited(
    reports: &[Report],
    now: SystemTime,
    counts: impl Fn(&Shown) -> bool,
    unknown: bool,
) -> Vec<(TenantName, Why)> {
    let why = |report: &Report| match &report.certificate {
        None => (report.known && unknown).then_some(Why::Unknown),
        Some(shown) if shown.ends <= now || !counts(shown) => None,
        Some(shown) if !shown.renews => Some(Why::ByHand(shown.ends)),
        Some(_) if report.connected => Some(Why::Asked),
        Some(shown) => Some(Why::Away(shown.ends)),
    };
    let tenants = reports.iter();
    tenants
        .filter_map(|report| Some((report.tenant.clone(), why(report)?)))
        .collect()
}

/// How many have come how far from the one authority to the other.
pub fn counts(
    reports: &[Report],
    former: Option<KeyId>,
    new: Option<KeyId>,
    now: SystemTime,
) -> Counts {
    let mut counts = Counts::default();
    let is_one = |shown: &&Shown| [former, new].contains(&shown.authority);
    for shown in reports
        .iter()
        .filter_map(|report| good(report, now))
        .filter(is_one)
    {
        counts.all += 1;
        counts.trusting += usize::from(new.is_some_and(|new| shown.trusts.contains(&new)));
        counts.issued += usize::from(shown.authority == new);
    }
    counts
}

fn good(report: &Report, now: SystemTime) -> Option<&Shown> {
    report.certificate.as_ref().filter(|shown| shown.ends > now)
}

#[cfg(test)]
mod tests;
