use super::*;

fn connected() -> Standing {
    Standing {
        connected: true,
        agent_version: Some("0.1.0".into()),
        claim: Some("uid".into()),
        complete: true,
        ..Standing::default()
    }
}

fn acme() -> TenantName {
    TenantName::parse("acme").unwrap()
}

#[test]
fn an_old_certificate_is_told_by_the_hour_and_a_new_one_takes_that_back() {
    let start = SystemTime::UNIX_EPOCH + 1_000 * HOUR;
    let validity = Validity {
        not_before: start - renewal::CLOCK_SKEW,
        not_after: start + 24 * HOUR,
    };
    let minute = Duration::from_secs(60);
    let (none, again) = expiring(&validity, start + 12 * HOUR);
    assert_eq!((none, again), (None, 4 * HOUR));
    let (told, again) = expiring(&validity, start + 17 * HOUR + 10 * minute);
    assert!(told.unwrap().contains("in less than 7 hours"));
    assert_eq!(again, 50 * minute);
    let (told, _) = expiring(&validity, start + 23 * HOUR + minute);
    let told = told.unwrap();
    assert!(told.contains("in less than 1 hour,"), "{told}");
    let (over, _) = expiring(&validity, start + 25 * HOUR);
    assert!(over.unwrap().contains("has expired on"));

    let mut conditions = Vec::new();
    stand(
        &mut conditions,
        EXPIRING,
        "NotRenewed",
        Some(told.clone()),
        at(0),
    );
    stand(
        &mut conditions,
        EXPIRING,
        "NotRenewed",
        Some("later".into()),
        at(9),
    );
    assert_eq!(conditions[0].message, "later");
    assert_eq!(conditions[0].last_transition_time, Time(at(0)));
    stand(&mut conditions, EXPIRING, "NotRenewed", None, at(10));
    assert!(conditions.is_empty());
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

#[test]
fn a_first_session_is_written_at_once_and_then_nothing() {
    let start = Instant::now();
    let (first, _) = due(
        &acme(),
        &connected(),
        &TenantStatus::default(),
        start,
        start,
        at(0),
    );
    let first = first.unwrap();
    assert_eq!(first.cluster_uid.as_deref(), Some("uid"));
    assert_eq!(first.conditions[0].status, "True");
    let later = start + Duration::from_secs(500);
    assert_eq!(
        due(&acme(), &connected(), &first, start, later, at(500)),
        (None, None)
    );
}

#[test]
fn a_restart_writes_nothing_and_a_lasting_absence_is_told_once() {
    let start = Instant::now();
    let (first, _) = due(
        &acme(),
        &connected(),
        &TenantStatus::default(),
        start,
        start,
        at(0),
    );
    let known = first.unwrap();
    let gone = Standing {
        connected: false,
        ..connected()
    };
    let lost = start + Duration::from_secs(100);
    let soon = lost + Duration::from_secs(29);
    assert_eq!(
        due(&acme(), &gone, &known, lost, soon, at(129)),
        (None, Some(lost + PATIENCE))
    );
    let (told, _) = due(&acme(), &gone, &known, lost, lost + PATIENCE, at(130));
    let told = told.unwrap();
    assert_eq!(told.conditions[0].status, "False");
    assert_eq!(told.conditions[0].last_transition_time, Time(at(130)));
    assert_eq!(
        told.cluster_uid.as_deref(),
        Some("uid"),
        "the binding stays"
    );
    assert_eq!(
        due(&acme(), &gone, &told, lost, lost + 10 * PATIENCE, at(400)),
        (None, None)
    );
}

#[test]
fn a_tenant_that_never_came_is_not_reported_as_lost() {
    let start = Instant::now();
    let nobody = Standing::default();
    let later = start + 10 * PATIENCE;
    assert_eq!(
        due(
            &acme(),
            &nobody,
            &TenantStatus::default(),
            start,
            later,
            at(300)
        ),
        (None, None)
    );
}

#[test]
fn rule_5_what_the_brake_holds_is_on_the_tenant_until_it_is_over() {
    let start = Instant::now();
    let (known, _) = due(
        &acme(),
        &connected(),
        &TenantStatus::default(),
        start,
        start,
        at(0),
    );
    let missing = Standing {
        absent: 7,
        held: 6,
        services: 4,
        ..connected()
    };
    let (told, _) = due(&acme(), &missing, &known.unwrap(), start, start, at(1));
    let told = told.unwrap();
    assert_eq!(told.held_load_balancers, 6);
    let condition = told.conditions.iter().find(|c| c.type_ == HELD).unwrap();
    assert!(
        condition.message.starts_with("6 of 10 load balancers"),
        "{}",
        condition.message
    );
    assert_eq!(due(&acme(), &missing, &told, start, start, at(2)).0, None);
    let unknown = Standing {
        complete: false,
        absent: 0,
        held: 0,
        ..connected()
    };
    assert_eq!(
        due(&acme(), &unknown, &told, start, start, at(2)).0,
        None,
        "a hub that has just started knows nothing of it"
    );
    let (over, _) = due(&acme(), &connected(), &told, start, start, at(3));
    let over = over.unwrap();
    assert!(over.conditions.iter().all(|c| c.type_ != HELD));
    assert_eq!(over.held_load_balancers, 0);
}

#[test]
fn only_a_claim_is_written_and_a_binding_that_was_cleared_does_not_come_back() {
    let start = Instant::now();
    let write = |standing: &Standing, current: &TenantStatus| {
        due(&acme(), standing, current, start, start, at(0)).0
    };
    let bound = write(&connected(), &TenantStatus::default()).unwrap();
    assert_eq!(bound.cluster_uid.as_deref(), Some("uid"));
    let cleared = TenantStatus {
        cluster_uid: None,
        former_cluster_uid: Some("uid".into()),
        ..bound.clone()
    };
    let still_there = Standing {
        claim: None,
        ..connected()
    };
    assert_eq!(write(&still_there, &cleared), None);
    let newcomer = Standing {
        claim: Some("other".into()),
        ..connected()
    };
    let taken = write(&newcomer, &cleared).unwrap();
    assert_eq!(taken.cluster_uid.as_deref(), Some("other"));
    assert_eq!(taken.former_cluster_uid, None);
    assert_eq!(write(&newcomer, &bound), None, "an operator was faster");
}
