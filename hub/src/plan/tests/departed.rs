//! What becomes of the load balancers of a Tenant that is deleted, and of those that have none.

use super::*;
use crate::objects::KEPT;

fn is_marked(model: &Model) -> bool {
    let service = model.observed.service.as_ref().unwrap();
    service.object.shape.annotations.contains_key(KEPT)
}

/// A load balancer that was kept when its Tenant was deleted.
fn kept() -> Model {
    let (mut model, _) = served();
    model.policy.retain = true;
    assert_eq!(
        model.settle(&Want::TenantDeleted),
        3,
        "slice, status and the mark"
    );
    model
}

#[test]
fn what_a_deleted_tenant_has_goes_at_once_and_nothing_is_parked() {
    let (mut model, _) = served();
    let plan = model.plan(&Want::TenantDeleted);
    assert!(!plan.parked && !has_departed(&model.observed));
    assert_eq!(plan.answer, None, "there is nobody to tell");
    assert_eq!(model.settle(&Want::TenantDeleted), 3);
    assert!(model.gone && model.observed.is_empty() && has_departed(&model.observed));
    // Also what was parked before.
    let (mut model, _) = served();
    model.settle(&Want::Deleted);
    assert!(model.parked);
    assert_eq!(model.settle(&Want::TenantDeleted), 1);
    assert!(model.observed.is_empty());
}

#[test]
fn a_crash_at_any_step_of_it_is_gone_on_from() {
    for retain in [false, true] {
        for left in 0..8_u8 {
            let (mut model, _) = served();
            model.policy.retain = retain;
            let actions = model.plan(&Want::TenantDeleted).actions;
            for (n, action) in actions.iter().enumerate() {
                if left >> n & 1 == 0 {
                    model.write(&action.write);
                }
            }
            model.settle(&Want::TenantDeleted);
            assert!(model.gone && has_departed(&model.observed), "{left}");
            assert_eq!(model.observed.is_empty(), !retain, "{left}");
        }
    }
}

#[test]
fn what_is_retained_stays_for_as_long_as_its_record_and_says_why() {
    let mut model = kept();
    assert!(has_departed(&model.observed) && is_marked(&model));
    assert!(model.observed.slices.is_empty(), "nothing is served");
    let record = model.observed.record.as_ref().unwrap();
    let status = record.object.status.as_ref().unwrap();
    let programmed = status.shape.clone().unwrap().programmed;
    assert_eq!(programmed.reason, "Reserved");
    assert!(programmed.message.starts_with("the Tenant was deleted"));
    assert_eq!(model.settle(&Want::TenantDeleted), 0, "said once");

    assert_eq!(model.settle(&Want::NoTenant), 0);
    model.lose_record();
    assert_eq!(model.settle(&Want::NoTenant), 1);
    assert!(model.observed.is_empty());
}

#[test]
fn a_new_tenants_service_of_the_same_name_takes_over_what_was_kept() {
    let mut model = kept();
    assert_eq!(model.plan(&Want::Unknown), Plan::default());
    let want = want(2, service(), two_nodes());
    model.settle(&want);
    assert_eq!(outcome(&model), &Outcome::Programmed);
    assert_eq!(model.ingress(), [ip("10.10.255.200")]);
    assert!(
        !is_marked(&model),
        "an absent record is no operator's word any more"
    );
}

#[test]
fn what_has_no_tenant_stays_whatever_is_missing_of_it() {
    for lost in 0..8_u8 {
        let (mut model, _) = served();
        if lost & 1 == 1 {
            model.observed.slices.clear();
        }
        if lost & 2 == 2 {
            model.lose_record();
        }
        if lost & 4 == 4 {
            model.change_service(|service| service.ingress.clear());
        }
        assert_eq!(model.settle(&Want::NoTenant), 0, "{lost}");
        assert!(!has_departed(&model.observed));
    }
}

#[test]
fn what_somebodys_finalizer_holds_is_waited_for() {
    let (mut model, _) = served();
    model.observed.slices.clear();
    model.lose_record();
    let mut seen = (**model.observed.service.as_ref().unwrap()).clone();
    seen.deleting = true;
    model.observed.service = Some(Arc::new(seen));
    assert_eq!(model.settle(&Want::TenantDeleted), 0);
    assert!(!has_departed(&model.observed) && !model.gone);
}
