//! What a tenant is told, and what the record's status says of the same.

use berth_common::model::{Ingress, Outcome, Reason};

use crate::objects::record::{ConditionShape, ObservedRecord, StatusShape};

/// The status that says what the outcome says. `known` are the addresses that belong to the load balancer; `serving` is
/// whether traffic flows for the version on record, `backends_healthy` what there is to say of its nodes.
pub(super) fn status(
    outcome: &Outcome,
    known: &[Ingress],
    serving: bool,
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
            let programmed = if serving {
                ConditionShape {
                    status: true,
                    reason: "LastGoodVersion".into(),
                    message: format!(
                        "the version before is still served, for the present one is refused: {}",
                        refused.message
                    ),
                }
            } else {
                refused.clone()
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
