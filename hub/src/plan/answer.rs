//! What a tenant is told, and what the record's status says of the same.

use berth_common::model::{Ingress, Outcome, Reason};

use crate::objects::record::{ConditionShape, ObservedRecord, StatusShape};

/// The reason of a load balancer that serves, and would not be let in as it is.
pub(crate) const POLICY_VIOLATED: &str = "PolicyViolated";

/// What the version on record is to the one that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// The same: it was let in, and policy has changed since.
    Same,
    /// An earlier one.
    Former,
}

/// The status that says what the outcome says. `known` are the addresses that belong to the load balancer; `serving` is the
/// version for which traffic flows, if it does, `backends_healthy` what there is to say of its nodes.
pub(super) fn status(
    outcome: &Outcome,
    known: &[Ingress],
    serving: Option<Last>,
    backends_healthy: ConditionShape,
    record: &ObservedRecord,
) -> StatusShape {
    let yes = |reason: &str| ConditionShape {
        status: true,
        reason: reason.into(),
        message: String::new(),
    };
    let no = |why: &Reason, message: String| ConditionShape {
        status: false,
        reason: why.reason.clone(),
        message,
    };
    let (accepted, programmed) = match outcome {
        Outcome::Programmed => (yes("Accepted"), yes("Programmed")),
        Outcome::Pending(why) => (yes("Accepted"), no(why, why.message.clone())),
        Outcome::Refused { field, why } => {
            let refused = no(why, format!("{field}: {}", why.message));
            let stays = |reason: &str, message: &str| ConditionShape {
                status: true,
                reason: reason.into(),
                message: format!("{message}: {}", refused.message),
            };
            let programmed = match serving {
                Some(Last::Former) => stays(
                    "LastGoodVersion",
                    "the version before is still served, for the present one is refused",
                ),
                Some(Last::Same) => stays(
                    POLICY_VIOLATED,
                    "it is still served, for policy has changed since, and the Tenant's enforce is off",
                ),
                None => refused.clone(),
            };
            (refused, programmed)
        }
        Outcome::Deleted => (
            yes("Accepted"),
            no(&Reason::new("Deleted", ""), String::new()),
        ),
    };
    StatusShape {
        // What was once given stays on record while the allocator is away.
        addresses: if known.is_empty() {
            record.addresses()
        } else {
            known
        }
        .to_vec(),
        accepted,
        programmed,
        backends_healthy,
        observed_generation: record.generation,
    }
}
