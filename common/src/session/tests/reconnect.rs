//! What a reconnect costs, in bytes and in work.

use prost::Message as _;

use super::{Pair, key, service};
use crate::{
    model::{Body, Key, ServiceKey},
    session::digest::Digests,
    wire::generation_of,
};

/// A Service as they are: two named ports, an appProtocol, a UID of 36 letters, a range.
fn full(i: u16, node_port: u16) -> (Key, Body) {
    let Body::Service(mut service) = service(node_port) else {
        unreachable!()
    };
    service.uid = format!("0b5c1a52-7f3e-4c0e-9a55-{i:012}");
    service.ports[0].name = "http".into();
    service.ports[0].app_protocol = Some("kubernetes.io/h2c".into());
    let mut second = service.ports[0].clone();
    second.name = "metrics".into();
    second.port = 9_090;
    service.ports.push(second);
    service.source_ranges = ["10.0.0.0/8".parse().unwrap()].into();
    let name = format!("storefront-checkout-{i:05}");
    (
        Key::Service(ServiceKey::new("team-payments-production", name)),
        Body::Service(service),
    )
}

fn fleet(pair: &mut Pair) {
    for i in 0..10_000 {
        let (key, body) = full(i, 30_000);
        pair.agent.upsert(key, body);
    }
}

#[test]
fn rule_2_a_reconnect_after_one_of_10_000_changed_moves_64_kib_at_most() {
    let mut pair = Pair::new();
    fleet(&mut pair);
    pair.connect();
    pair.settle();
    let up = |pair: &Pair| pair.sent.iter().map(|m| m.encoded_len()).sum::<usize>();
    assert!(up(&pair) > 1024 * 1024, "the whole state is much more");

    pair.agent.disconnected();
    let (changed, body) = full(7_777, 31_000);
    pair.agent.upsert(changed.clone(), body.clone());
    pair.connect();
    pair.settle();
    let bytes = up(&pair);
    assert!(bytes <= 64 * 1024, "{bytes} bytes");
    let Key::Service(changed) = changed else {
        unreachable!()
    };
    let Body::Service(body) = body else {
        unreachable!()
    };
    assert!(matches!(pair.held.wanted(&changed), super::Wanted::Present(_, held) if *held == body));
    assert_eq!(pair.held.services(), 10_000);

    // Nothing changed: nothing moves but Hello.
    pair.connect();
    pair.settle();
    assert_eq!(pair.loads(), 0);
    assert_eq!(pair.sent.len(), 1);
    assert!(up(&pair) < 5 * 1024, "{} bytes", up(&pair));
}

#[test]
fn a_change_of_one_service_touches_one_digest_however_many_there_are() {
    let mut digests = Digests::default();
    for i in 0..10_000 {
        let (key, body) = full(i, 30_000);
        digests.toggle(&key, generation_of(&body));
    }
    let before = digests.to_bytes();
    let key = Key::Service(key("one-more"));
    digests.toggle(&key, generation_of(&service(30_001)));
    let after = digests.to_bytes();
    let changed: Vec<usize> = (0..before.len())
        .filter(|i| before[*i] != after[*i])
        .map(|i| i / 16)
        .collect();
    assert!(!changed.is_empty());
    assert!(changed.iter().all(|bucket| *bucket == changed[0]));
    // And it is its own inverse: no other entry is ever read again.
    digests.toggle(&key, generation_of(&service(30_001)));
    assert_eq!(digests.to_bytes(), before);
}
