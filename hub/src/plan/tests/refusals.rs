//! What is refused, by the planner or by the API server, and that the last good state survives it.

use super::*;

#[test]
fn point_12_sctp_is_refused_and_nothing_is_created() {
    let mut model = Model::new(id(), policy());
    let mut sctp = service();
    sctp.ports[0].protocol = Protocol::Sctp;
    assert_eq!(model.settle(&want(1, sctp, two_nodes())), 0);
    assert_eq!(reason(&model), "UnsupportedProtocol");
    let Outcome::Refused { field, .. } = outcome(&model) else {
        panic!()
    };
    assert_eq!(field, "spec.ports[0].protocol");
}

#[test]
fn point_13_a_missing_node_port_is_refused_and_later_works_with_the_same_address() {
    let (mut model, _) = served();
    let mut without = service();
    without.ports[0].node_port = None;
    model.settle(&want(2, without, two_nodes()));
    assert_eq!(reason(&model), "NodePortMissing");
    assert_eq!(
        model.answer.as_ref().unwrap().ingress,
        [ip("10.10.255.200")]
    );
    model.settle(&want(3, service(), two_nodes()));
    assert_eq!(outcome(&model), &Outcome::Programmed);
    assert_eq!(model.ingress(), [ip("10.10.255.200")]);
}

#[test]
fn hostile_49_node_ports_of_the_nodes_own_are_refused() {
    for number in [22, 1023, 6443, 10250, 10256, 2379] {
        let mut model = Model::new(id(), policy());
        let mut bad = service();
        bad.ports[0].node_port = Some(number);
        assert_eq!(model.settle(&want(1, bad, two_nodes())), 0);
        assert_eq!(reason(&model), "NodePortOutOfRange", "{number}");
    }
}

#[test]
fn an_unreadable_version_leaves_the_last_good_one_alive_also_after_a_restart() {
    let (mut model, _) = served();
    for (generation, last) in [(2, Some(Arc::new(service()))), (3, None)] {
        let moved = nodes(&[("a3", &format!("10.10.2.{generation}"))]);
        let bad = unreadable(generation, last, moved);
        model.settle(&bad);
        let answer = model.answer.clone().unwrap();
        assert_eq!(
            (answer.generation, answer.ingress),
            (Generation(generation), vec![ip("10.10.255.200")])
        );
        assert_eq!(reason(&model), "Invalid");
        let slice = model.observed.slices.values().next().unwrap();
        let moved: IpAddr = format!("10.10.2.{generation}").parse().unwrap();
        assert_eq!(slice.object.shape.addresses, [moved]);
    }
}

#[test]
fn where_the_endpoints_are_not_known_the_backends_stay() {
    let mut model = Model::new(id(), policy());
    let local = Service {
        traffic_policy: TrafficPolicy::Local,
        local_nodes: BTreeSet::from([NodeName("a1".into())]),
        ..service()
    };
    model.settle(&want(1, local, two_nodes()));
    let slices = model.observed.slices.clone();
    assert_eq!(slices.len(), 1);
    model.settle(&unreadable(2, None, two_nodes()));
    assert_eq!(model.observed.slices, slices);
}

#[test]
fn a_version_that_was_never_readable_creates_nothing_and_says_why() {
    let mut model = Model::new(id(), policy());
    assert_eq!(model.settle(&unreadable(1, None, two_nodes())), 0);
    assert_eq!(reason(&model), "Invalid");
}

#[test]
fn a_refused_version_leaves_the_last_good_one_alive() {
    let (mut model, _) = served();
    let mut bad = service();
    bad.ports[0].node_port = Some(22);
    let bad = want(2, bad, nodes(&[("a3", "10.10.2.3")]));
    assert_eq!(
        model.settle(&bad),
        2,
        "the slice follows the nodes; the status says why"
    );
    let answer = model.answer.clone().unwrap();
    assert_eq!(
        (answer.generation, answer.ingress),
        (Generation(2), vec![ip("10.10.255.200")])
    );
    let slice = model.observed.slices.values().next().unwrap();
    assert_eq!(
        slice.object.shape.addresses,
        ["10.10.2.3".parse::<IpAddr>().unwrap()]
    );
    let status = model
        .observed
        .record
        .as_ref()
        .unwrap()
        .object
        .status
        .clone()
        .unwrap();
    let status = status.shape.unwrap();
    assert!(!status.accepted.status && status.programmed.status);
    assert_eq!(status.programmed.reason, "LastGoodVersion");
}

#[test]
fn point_17_a_requested_address_is_the_policys_to_give() {
    let asking = |text: &str| Service {
        requested_ips: vec![text.parse().unwrap()],
        ..service()
    };
    let mut model = Model::new(id(), policy());
    assert_eq!(
        model.settle(&want(1, asking("10.10.255.200"), two_nodes())),
        0
    );
    assert_eq!(reason(&model), "AddressNotAllowed");
    let allowed = want(2, asking("10.10.255.241"), two_nodes());
    model.settle(&allowed);
    model.allocate(1);
    model.settle(&allowed);
    assert_eq!(model.ingress(), [ip("10.10.255.241")]);
    model.settle(&want(3, asking("10.10.255.242"), two_nodes()));
    assert_eq!(reason(&model), "AddressFixed");
    assert_eq!(model.ingress(), [ip("10.10.255.241")]);
    let v6 = Service {
        requested_ips: vec!["2001:db8::1".parse().unwrap()],
        ..service()
    };
    model.settle(&want(4, v6, two_nodes()));
    assert_eq!(reason(&model), "AddressOfWrongFamily");
}

#[test]
fn hostile_58_another_tenants_address_is_refused_until_it_is_free_and_nobody_is_named() {
    let mut model = Model::new(id(), policy());
    let asked: IpAddr = "10.10.255.241".parse().unwrap();
    let asking = Service {
        requested_ips: vec![asked],
        ..service()
    };
    let wanted = want(1, asking, two_nodes());
    model.observed.taken = [asked].into();
    assert_eq!(model.settle(&wanted), 0);
    assert_eq!(reason(&model), "AddressInUse");
    let again = model.plan(&wanted).revisit;
    assert_eq!(again, Some(model.now.instant + REJECTION_STANDS));
    // Who has it already has it.
    model.observed.taken.clear();
    model.settle(&wanted);
    model.allocate(1);
    model.settle(&wanted);
    model.observed.taken = [asked].into();
    model.settle(&wanted);
    assert_eq!(outcome(&model), &Outcome::Programmed);

    let mut model = Model::new(id(), policy());
    let wanted = want(1, service(), two_nodes());
    model.settle(&wanted);
    let words = "Failed to allocate IP for \"berth-acme/web-x\": address also in use by berth-evil/shop-y of 10.0.0.0/24";
    model.observed.allocator_says = Some(words.into());
    model.settle(&wanted);
    let Outcome::Pending(why) = outcome(&model) else {
        panic!()
    };
    let told =
        "Failed to allocate IP for \"a Service\": address also in use by a Service of 10.0.0.0/24";
    assert_eq!(why.message, told);
}

#[test]
fn hostile_46_a_foreign_object_in_the_place_is_left_alone() {
    let mut model = Model::new(id(), policy());
    let until = model.now.instant + REJECTION_STANDS;
    model.observed.rejection = Some(Arc::new(Rejection {
        generation: Generation(1),
        field: "metadata.name".into(),
        why: Reason::new("AlreadyExists", "in the way"),
        until,
    }));
    let wanted = want(1, service(), two_nodes());
    assert_eq!(model.settle(&wanted), 0);
    assert_eq!(reason(&model), "AlreadyExists");
    assert_eq!(model.plan(&wanted).revisit, Some(until));
    after(&mut model, REJECTION_STANDS);
    assert!(model.settle(&wanted) > 0, "tried again");
}

#[test]
fn a_rejected_change_leaves_what_was_accepted() {
    let (mut model, _) = served();
    model.observed.rejection = Some(Arc::new(Rejection {
        generation: Generation(2),
        field: "spec".into(),
        why: Reason::new("Rejected", "the API server says no"),
        until: model.now.instant + REJECTION_STANDS,
    }));
    let mut changed = service();
    changed.ports[0].port = 4000;
    let changed = want(2, changed, two_nodes());
    assert_eq!(model.settle(&changed), 1, "the status");
    assert_eq!(reason(&model), "Rejected");
    assert_eq!(
        model.answer.as_ref().unwrap().ingress,
        [ip("10.10.255.200")]
    );
}

#[test]
fn hostile_63_an_impossible_address_is_not_relayed_as_served() {
    let mut model = Model::new(id(), policy());
    let want = want(1, service(), two_nodes());
    model.settle(&want);
    for impossible in ["127.0.0.1", "2001:db8::1", "0.0.0.0", "224.0.0.1"] {
        model.change_service(|service| service.ingress = vec![ip(impossible)]);
        model.settle(&want);
        assert_eq!(reason(&model), "Internal", "{impossible}");
        assert!(
            model.answer.as_ref().unwrap().ingress.is_empty(),
            "{impossible}"
        );
    }
    // MetalLB gives no host names: whoever writes one is not MetalLB.
    model.change_service(|service| service.ingress = vec![Ingress::Hostname("lb.example".into())]);
    model.settle(&want);
    assert_eq!(reason(&model), "Internal");
}
