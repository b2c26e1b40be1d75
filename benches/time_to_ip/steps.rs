//! Where the time through Berth goes: the same Services seen in both clusters at once. Knows two watches; must not know how hub
//! and agent work.

use std::time::{Duration, Instant};

use crate::ground::Berth;
use crate::numbers::text;
use crate::sightings::Moments;

/// The means of the three steps of these Services, in a line. Unlike medians they add up.
pub(crate) fn of(berth: &Berth, names: &[String]) -> String {
    let steps = all(berth, names);
    let count = u32::try_from(steps.len().max(1)).unwrap_or(u32::MAX);
    let step = |n: usize| {
        let times = steps
            .iter()
            .map(|at| at[n + 1].saturating_duration_since(at[n]));
        text(times.sum::<Duration>() / count)
    };
    format!(
        "mean of its steps: the hub's Service is created {}, MetalLB's address {}, the tenant's status {}",
        step(0),
        step(1),
        step(2)
    )
}

/// The steps of the one of these Services that waited for the longest, in a line: a mean says nothing about it.
pub(crate) fn of_slowest(berth: &Berth, names: &[String]) -> Option<String> {
    let steps = all(berth, names).into_iter();
    let [began, created, given, told] =
        steps.max_by_key(|at| at[3].saturating_duration_since(at[0]))?;
    Some(format!(
        "steps of the slowest: {}, {}, {}",
        text(created.saturating_duration_since(began)),
        text(given.saturating_duration_since(created)),
        text(told.saturating_duration_since(given))
    ))
}

fn all(berth: &Berth, names: &[String]) -> Vec<[Instant; 4]> {
    let steps = names.iter().filter_map(|name| {
        let tenant = berth.side.sightings().of(name)?;
        let managed = berth.managed.of(name)?;
        between(tenant, managed)
    });
    steps.collect()
}

/// The four moments that bound the steps.
fn between(tenant: Moments, managed: Moments) -> Option<[Instant; 4]> {
    Some([
        tenant.added,
        managed.added,
        managed.addressed?,
        tenant.addressed?,
    ])
}
