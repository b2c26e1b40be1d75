//! The status of a record as the API server keeps it.

use berth_hub::{
    api::{LoadBalancer, LoadBalancerStatus},
    objects::{
        Id,
        record::{
            ACCEPTED, BACKENDS_HEALTHY, ConditionShape, ObservedRecord, ObservedStatus, PROGRAMMED,
            StatusShape,
        },
    },
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// A status, by way of the object that it stands in.
pub(crate) fn told(
    id: &Id,
    record: &ObservedRecord,
    shape: &StatusShape,
    now: Timestamp,
) -> Option<ObservedStatus> {
    let condition = |kind: &str, shape: &ConditionShape| Condition {
        type_: kind.into(),
        status: if shape.status { "True" } else { "False" }.into(),
        reason: shape.reason.clone(),
        message: shape.message.clone(),
        last_transition_time: Time(now),
        observed_generation: None,
    };
    let mut object = LoadBalancer::new("", record.spec.clone());
    object.status = Some(LoadBalancerStatus {
        addresses: shape.addresses.iter().map(ToString::to_string).collect(),
        conditions: vec![
            condition(ACCEPTED, &shape.accepted),
            condition(PROGRAMMED, &shape.programmed),
            condition(BACKENDS_HEALTHY, &shape.backends_healthy),
        ],
        observed_generation: shape.observed_generation,
    });
    ObservedRecord::from_object(id, &object).status
}
