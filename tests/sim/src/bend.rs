//! The bugs of `mutation` that are made by bending a plan before it is carried out.

use berth_hub::{
    objects::Kind,
    plan::{Action, Observed, Plan, Want, Write},
};

use crate::mutation::Mutation;

/// Makes of a plan what it would be with that bug.
pub(crate) fn bend(plan: &mut Plan, want: &Want, observed: &Observed, mutation: Option<Mutation>) {
    match mutation {
        Some(Mutation::ReleasedTooEarly) if plan.parked => give_back(plan, observed),
        Some(Mutation::ParkedNotTaken)
            if observed.is_cut() && is_pinned(observed) && matches!(want, Want::Present { .. }) =>
        {
            plan.actions.clear();
            give_back(plan, observed);
        }
        Some(Mutation::NotPinned) => {
            for action in &mut plan.actions {
                if let Write::Service { shape, .. } = &mut action.write {
                    shape.steering.pin.clear();
                }
            }
        }
        Some(Mutation::DyingAddressTold) => {
            if let (Some(answer), Some(dying)) = (&mut plan.answer, &observed.service)
                && dying.deleting
            {
                answer.ingress.clone_from(&dying.object.ingress);
            }
        }
        Some(Mutation::BackendsForgotten) => plan
            .actions
            .retain(|action| !matches!(action.write, Write::Slice { uid: Some(_), .. })),
        Some(Mutation::WritesRepeated) => {
            if let (Want::Present { .. }, Some(record)) = (want, &observed.record)
                && plan.actions.is_empty()
            {
                plan.actions.push(Action {
                    write: Write::Record {
                        uid: Some(record.uid.clone()),
                        spec: Box::new(record.object.spec.clone()),
                    },
                    reason: "a mutation",
                });
            }
        }
        _ => {}
    }
}

pub(crate) fn is_pinned(observed: &Observed) -> bool {
    let service = observed.service.as_ref();
    service.is_some_and(|seen| !seen.object.shape.steering.pin.is_empty())
}

fn give_back(plan: &mut Plan, observed: &Observed) {
    if let Some(service) = observed.service.as_ref().filter(|seen| !seen.deleting) {
        plan.parked = false;
        plan.actions.push(Action {
            write: Write::Delete {
                kind: Kind::Service,
                place: None,
                uid: service.uid.clone(),
            },
            reason: "a mutation",
        });
    }
}
