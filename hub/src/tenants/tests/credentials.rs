//! Sessions and the certificates that they live by.

use berth_common::identity::Serial;

use super::{super::Revocations, *};

fn certificate(serial: u8) -> Credential {
    Credential {
        serial: Serial::from_bytes(&[serial]),
        ..Credential::default()
    }
}

fn revoked(serials: &[u8]) -> Admission {
    Admission {
        revoked: Arc::new(Revocations {
            serials: serials.iter().map(|s| Serial::from_bytes(&[*s])).collect(),
            ..Revocations::default()
        }),
        ..Admission::default()
    }
}

#[test]
fn hostile_09_a_revoked_certificate_loses_its_session_and_gets_no_other() {
    let (tenants, _) = hub(&[("acme", Admission::default())]);
    let now = Instant::now();
    let mut agent = agent("c");
    let seat = tenants.open(&acme(), certificate(7), now).unwrap();
    agent.connected(now);
    talk(&mut agent, &seat).unwrap();
    let waiting = tenants.open(&acme(), certificate(7), now).unwrap();

    tenants.admit([(acme(), revoked(&[8]))].into());
    assert_eq!(tenants.live(), 1, "another's");
    tenants.admit([(acme(), revoked(&[7]))].into());
    assert!(matches!(
        seat.next(now),
        Next::End(Ending::Refused(Refused::Revoked { .. }))
    ));
    assert!(matches!(
        tenants.open(&acme(), certificate(7), now),
        Err(Refused::Revoked { .. })
    ));
    agent.disconnected();
    agent.connected(now);
    assert!(
        matches!(
            talk(&mut agent, &waiting),
            Err(Rejected::Refused(Refused::Revoked { .. }))
        ),
        "a stream that was open and had not greeted"
    );
    assert!(tenants.open(&acme(), certificate(9), now).is_ok());
}

#[test]
fn hostile_09_a_session_lives_by_the_certificate_that_it_was_given_over_it_as_well() {
    let (tenants, _) = hub(&[("acme", Admission::default())]);
    let now = Instant::now();
    let live = || {
        let mut agent = agent("c");
        let seat = tenants.open(&acme(), certificate(7), now).unwrap();
        agent.connected(now);
        talk(&mut agent, &seat).unwrap();
        seat
    };
    let is_over = |seat: &Seat| {
        let next = seat.next(now);
        matches!(next, Next::End(Ending::Refused(Refused::Revoked { .. })))
    };
    for serial in [7, 8] {
        tenants.admit([(acme(), Admission::default())].into());
        let seat = live();
        tenants.renewed(&acme(), &certificate(9), certificate(6), vec![]);
        tenants.renewed(&acme(), &certificate(7), certificate(8), vec![]);
        tenants.admit([(acme(), revoked(&[6, 9]))].into());
        assert!(!is_over(&seat), "another connection's");
        tenants.admit([(acme(), revoked(&[serial]))].into());
        assert!(is_over(&seat), "{serial}");
    }
}

#[test]
fn hostile_09_who_came_with_a_certificate_of_a_former_authority_goes_unless_it_was_given_another() {
    use berth_common::identity::KeyId;
    let by = |serial, authority: u8| Credential {
        signed_by: KeyId::from_bytes(&[authority; 8]),
        ..certificate(serial)
    };
    let now = Instant::now();
    for given in [false, true] {
        let (tenants, _) = hub(&[("acme", Admission::default())]);
        let mut agent = agent("c");
        let seat = tenants.open(&acme(), by(7, 1), now).unwrap();
        agent.connected(now);
        talk(&mut agent, &seat).unwrap();
        if given {
            tenants.renewed(&acme(), &by(7, 1), by(8, 2), vec![]);
        }
        tenants.distrust(KeyId::from_bytes(&[1; 8]));
        let next = seat.next(now);
        let is_over = matches!(
            next,
            Next::End(Ending::Refused(Refused::FormerAuthority { .. }))
        );
        assert_eq!(is_over, !given);
        let again = tenants.open(&acme(), by(7, 1), now);
        assert!(matches!(again, Err(Refused::FormerAuthority { .. })));
        assert!(tenants.open(&acme(), by(8, 2), now).is_ok());
    }
}

#[test]
fn another_tenant_of_the_same_name_begins_anew_and_the_formers_certificates_are_none_of_its() {
    let of = |uid: &str| Admission {
        uid: uid.into(),
        cluster_uid: Some("c".into()),
        ..Admission::default()
    };
    let (tenants, _) = hub(&[("acme", of("first"))]);
    let now = Instant::now();
    let mut agent = agent("c");
    let key = ServiceKey::new("default", "backend");
    agent.upsert(Key::Service(key.clone()), service());
    let seat = tenants.open(&acme(), certificate(7), now).unwrap();
    agent.connected(now);
    talk(&mut agent, &seat).unwrap();
    assert!(matches!(
        tenants.wanted(&acme(), &key).0,
        Wanted::Present(..)
    ));

    let deleting = Admission {
        deleting: true,
        ..of("first")
    };
    tenants.admit([(acme(), deleting)].into());
    let Next::End(Ending::Refused(refused)) = seat.next(now) else {
        panic!("its session ends");
    };
    assert_eq!(refused, Refused::Deleting(acme()));
    assert!(refused.to_string().contains("is being deleted"));

    // Deleted and made anew between two looks.
    let until = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(9);
    let next = Admission {
        cluster_uid: None,
        revoked: Arc::new(Revocations {
            former_until: Some(until),
            ..Revocations::default()
        }),
        ..of("second")
    };
    tenants.admit([(acme(), next)].into());
    assert!(matches!(tenants.wanted(&acme(), &key).0, Wanted::Unknown));
    let refused = tenants.open(&acme(), certificate(7), now).map(drop);
    assert!(
        matches!(refused, Err(Refused::Revoked { .. })),
        "{refused:?}"
    );
    assert_eq!(tenants.not_earlier(&acme()), Some(until));
    let later = Credential {
        not_before: until,
        ..certificate(7)
    };
    let seat = tenants.open(&acme(), later, now).unwrap();
    agent.disconnected();
    let mut other = self::agent("another-cluster");
    other.connected(now);
    talk(&mut other, &seat).unwrap();
}

#[test]
fn a_hello_that_comes_when_its_tenant_was_made_anew_is_refused_and_told_to_nobody() {
    let of = |uid: &str| Admission {
        uid: uid.into(),
        ..Admission::default()
    };
    let (tenants, _) = hub(&[("acme", of("first"))]);
    let now = Instant::now();
    let mut agent = agent("c");
    let seat = tenants.open(&acme(), certificate(7), now).unwrap();
    agent.connected(now);
    tenants.admit_one(&acme(), None);
    tenants.admit_one(&acme(), Some(of("second")));
    assert!(tenants.is_admitted(&acme(), "second") && !tenants.is_admitted(&acme(), "first"));
    let hello = agent.next_message(now).unwrap();
    let refused = seat.receive(hello, now).map(drop);
    assert!(
        matches!(refused, Err(Rejected::Refused(Refused::Unknown(_)))),
        "{refused:?}"
    );
    let seat = connect(&tenants, &mut agent);
    talk(&mut agent, &seat).unwrap();
    assert!(tenants.standings()[&acme()].connected);
}
