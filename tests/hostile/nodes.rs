//! Lines 50 to 56: nodes at addresses that are none of a tenant's machines. Each is told in one snapshot with a node that is in
//! order: no slice has it, and what the good node serves goes on. Where it is the only node left, nothing new is made, and the
//! Service says which node is left out and why.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use anyhow::Result;
use berth_lab::{Seen, eventually};
use berth_wire::v1::{self, change::Change};
use k8s_openapi::api::core::v1::{Node, Service};
use kube::{Api, api::ListParams};

use crate::{
    attacker::{
        messages::{self, address_of, node, node_at, node_deletion, service, snapshot},
        session::Session,
    },
    evidence::Evidence,
    ground::{Attack, SOON, programmed},
};

/// What is told as a node's address, and a word of what is said of it.
type Case<'a> = (&'a str, &'a str);

/// See the module. Of addresses that can be read.
async fn each_is_left_out(attack: Attack, cases: &[Case<'_>]) -> Result<()> {
    let n1 = node("n1");
    let good = address_of(&n1);
    let mut session = attack.session(&[n1.clone(), service("web", 1, 80)]).await?;
    programmed(&mut session, "web", 1).await?;
    let before = attack.standing().await?;

    let mut told = vec![n1, service("web", 1, 80), service("rest", 1, 80)];
    let bad = |index: usize| format!("bad-{index}");
    told.extend(
        (0..)
            .zip(cases)
            .map(|(index, (address, _))| node_at(&bad(index), 1, address)),
    );
    for body in snapshot(2, &told) {
        session.say(body).await;
    }
    programmed(&mut session, "rest", 1).await?;
    let (backends, _) = attack.ground.backends(&attack.tenant, "rest").await?;
    assert_eq!(backends, std::slice::from_ref(&good));
    // Nodes that keep changing reach the slices once a second: a later version of the Service shows that they have.
    let mut sequence = 0;
    let mut say = async |session: &mut Session, changes: Vec<Change>| {
        sequence += 1;
        session.say(messages::delta(sequence, changes)).await;
    };
    say(&mut session, vec![Change::Upsert(service("rest", 2, 81))]).await;
    programmed(&mut session, "rest", 2).await?;
    assert_eq!(attack.added(&before).await?.len(), 3);

    // One by one, each alone.
    let others = (0..cases.len()).map(|index| node_deletion(&bad(index)));
    say(&mut session, others.chain([node_deletion("n1")]).collect()).await;
    while session.answer("web", 1).await?.outcome() != v1::Outcome::Pending {}
    for (index, (address, words)) in cases.iter().enumerate() {
        let alone = node_at("alone", index as u64 + 1, address);
        let probe = format!("probe-{index}");
        let changes = [alone, service(&probe, 1, 80)].map(Change::Upsert);
        say(&mut session, changes.to_vec()).await;
        let canonical = address.parse::<IpAddr>()?.to_canonical().to_string();
        let answer = loop {
            let answer = session.answer(&probe, 1).await?;
            // The node before this one may have been in its place for the rest of a second.
            if answer.reason == "AddressNotAllowed" && answer.message.contains(&canonical) {
                break answer;
            }
            assert_ne!(
                answer.outcome(),
                v1::Outcome::Programmed,
                "{address}: {answer:?}"
            );
        };
        assert!(answer.message.contains(words), "{address}: {answer:?}");
        assert!(
            answer.message.contains("node alone"),
            "{address}: {answer:?}"
        );
        assert!(answer.ingress.is_empty(), "{address}: {answer:?}");
    }
    let now = attack.standing().await?;
    assert!(!now.keys().any(|name| name.contains("probe")), "{now:?}");
    for service in ["web", "rest"] {
        let (backends, _) = attack.ground.backends(&attack.tenant, service).await?;
        assert!(backends.iter().all(|it| *it == good), "{backends:?}");
    }
    attack.answered().await
}

#[tokio::test]
async fn hostile_50_a_node_that_is_the_machine_itself_is_left_out() -> Result<()> {
    let attack = Attack::begin("50", Evidence::node("never")).await?;
    let cases = [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("::1", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
    ];
    each_is_left_out(attack, &cases).await
}

#[tokio::test]
async fn hostile_51_link_local_and_metadata_addresses_are_left_out() -> Result<()> {
    let attack = Attack::begin("51", Evidence::node("never")).await?;
    let cases = [
        ("169.254.0.1", "link-local"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("fd00:ec2::254", "metadata"),
        ("100.100.100.200", "metadata"),
    ];
    each_is_left_out(attack, &cases).await
}

#[tokio::test]
async fn hostile_52_multicast_broadcast_and_class_e_are_left_out() -> Result<()> {
    let attack = Attack::begin("52", Evidence::node("never")).await?;
    let cases = [
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("240.0.0.1", "reserved"),
    ];
    each_is_left_out(attack, &cases).await
}

#[tokio::test]
async fn hostile_53_an_address_within_another_is_taken_for_what_it_is_and_left_out() -> Result<()> {
    let attack = Attack::begin("53a", Evidence::node("never")).await?;
    let cases = [
        ("::ffff:127.0.0.1", "127.0.0.1 is a loopback"),
        ("::ffff:169.254.169.254", "169.254.169.254 is a link-local"),
        ("::127.0.0.1", "IPv4 address in IPv6"),
        ("64:ff9b::7f00:1", "NAT64"),
        ("2002:7f00:1::1", "6to4"),
        ("2001:0:7f00:1::1", "Teredo"),
    ];
    each_is_left_out(attack, &cases).await
}

/// What inet_aton would take for 127.0.0.1, and what a resolver would have to be asked for.
#[tokio::test]
async fn hostile_53_other_spellings_zones_and_host_names_are_refused() -> Result<()> {
    let attack = Attack::begin("53b", Evidence::resource()).await?;
    let n1 = node("n1");
    let good = address_of(&n1);
    let mut session = attack.session(&[n1.clone(), service("web", 1, 80)]).await?;
    programmed(&mut session, "web", 1).await?;
    let before = attack.standing().await?;
    let spellings = [
        "0177.1",
        "0177.0.0.1",
        "2130706433",
        "0x7f000001",
        "127.1",
        "fe80::1%eth0",
        "::1%lo",
        "localhost",
        "metadata.google.internal",
        "10.0.0.1/32",
        " 10.0.0.1",
        "[::1]",
        "",
    ];
    let mut told = vec![n1, service("web", 1, 80), service("rest", 1, 80)];
    for (index, spelling) in spellings.iter().enumerate() {
        told.push(node_at(&format!("bad-{index}"), 1, spelling));
    }
    // And one that has an address that is in order besides, which is not believed either.
    let mut both = node_at("both", 1, "10.77.0.1");
    if let Some(v1::resource::Body::Node(node)) = &mut both.body {
        node.addresses.push("localhost".into());
    }
    told.push(both);
    for body in snapshot(2, &told) {
        session.say(body).await;
    }
    let names = (0..spellings.len()).map(|index| (format!("bad-{index}"), 0));
    for (name, at) in names.chain([("both".into(), 1)]) {
        let answer = session.answer(&name, 1).await?;
        assert_eq!(answer.outcome(), v1::Outcome::Refused, "{name}: {answer:?}");
        assert_eq!(
            answer.field,
            format!("status.addresses[{at}]"),
            "{name}: {answer:?}"
        );
    }
    programmed(&mut session, "rest", 1).await?;
    let (backends, _) = attack.ground.backends(&attack.tenant, "rest").await?;
    assert_eq!(backends, [good]);
    assert_eq!(attack.added(&before).await?.len(), 3);
    attack.answered().await
}

/// A real node's address and the real API server's; a pod's is what the operator has said it is.
#[tokio::test]
async fn hostile_54_what_is_the_management_clusters_own_is_left_out() -> Result<()> {
    let attack = Attack::begin("54", Evidence::node("management")).await?;
    let client = attack.ground.lab.management().client().await?;
    let nodes: Api<Node> = Api::all(client.clone());
    let nodes = nodes.list(&ListParams::default()).await?;
    let address = |node: &Node| {
        Some(
            node.status
                .as_ref()?
                .addresses
                .as_ref()?
                .first()?
                .address
                .clone(),
        )
    };
    let node = nodes
        .iter()
        .find_map(address)
        .expect("management has nodes");
    let services: Api<Service> = Api::namespaced(client, "default");
    let api = services
        .get("kubernetes")
        .await?
        .spec
        .unwrap()
        .cluster_ip
        .unwrap();
    let within = format!("::ffff:{api}");
    let own = "the management cluster's own";
    let cases = [
        (node.as_str(), own),
        (api.as_str(), own),
        (within.as_str(), own),
        ("10.96.0.10", own),
        ("10.99.3.4", own),
    ];
    each_is_left_out(attack, &cases).await
}

#[tokio::test]
async fn hostile_55_an_address_of_a_load_balancer_is_left_out_whoever_has_it() -> Result<()> {
    let attack = Attack::begin("55a", Evidence::node("load_balancer")).await?;
    let (_, address, _) = attack.neighbour();
    each_is_left_out(attack, &[(&address, "a load balancer")]).await
}

/// It is not said whose.
#[tokio::test]
async fn hostile_55_another_tenants_node_is_left_out_and_stays_with_it() -> Result<()> {
    let attack = Attack::begin("55b", Evidence::node("other_tenant")).await?;
    let (tenant, _, node) = attack.neighbour();
    let ground = attack.ground;
    let before = ground.standing(&tenant).await?;
    each_is_left_out(attack, &[(&node, "a node of another cluster")]).await?;
    // The neighbour has changed its Service meanwhile, and leads to the same node.
    assert_eq!(ground.standing(&tenant).await?.len(), before.len());
    assert_eq!(ground.backends(&tenant, "web").await?.0, [node]);
    Ok(())
}

/// The API server's bound for a slice is 1,000 endpoints.
#[tokio::test]
async fn hostile_56_ten_thousand_nodes_are_ten_slices_and_one_more_is_too_much() -> Result<()> {
    const MANY: u16 = 10_000;
    let attack = Attack::begin("56", Evidence::ended("ResourceExhausted", "protocol")).await?;
    let at = |n: u16| {
        let [high, low] = n.to_be_bytes();
        Ipv4Addr::new(198, 19, high, low).to_string()
    };
    let mut told: Vec<_> = (0..MANY)
        .map(|n| node_at(&format!("n-{n}"), 1, &at(n)))
        .collect();
    told.push(service("web", 1, 80));
    let mut session = attack.session(&told).await?;
    programmed(&mut session, "web", 1).await?;
    let whole = || async {
        let found = attack.ground.backends(&attack.tenant, "web").await;
        let (backends, slices) = found.map_err(|error| Seen(format!("{error:#}")))?;
        let different: BTreeSet<&String> = backends.iter().collect();
        match (different.len(), backends.len(), slices) {
            (10_000, 10_000, 10) => Ok(()),
            other => Err(Seen(format!("{other:?}"))),
        }
    };
    eventually(SOON, "ten slices of a thousand", whole).await?;
    let before = attack.standing().await?;
    let one_more = node_at("one-more", 1, &at(MANY));
    session.say(messages::upsert(1, one_more)).await;
    let status = session.ended().await;
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("10000 nodes"), "{status}");
    assert_eq!(attack.standing().await?, before);
    attack.answered().await
}
