//! Two peers with one identity: the newest session wins, and another cluster never gets one.

use tonic::Code;

use crate::{
    SOON,
    agent::{Agent, key, service, services},
    eventually,
    hub::Hub,
    pki::Pki,
    proxy::{Mode, Proxy, Way},
    raw::{Raw, delta, hello, resource},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_session_wins_and_the_older_agent_stays_away() {
    let pki = Pki::new();
    let hub = Hub::start(&pki, ["acme"]).await;
    let (to_older, to_newer) = (
        Proxy::start(hub.address).await,
        Proxy::start(hub.address).await,
    );
    let tls = pki.client("acme");
    let older = Agent::start(tls.clone(), "acme", to_older.address(), services(3));
    hub.until_holds(&older).await;

    let newer = Agent::start(tls, "acme", to_newer.address(), services(5));
    hub.until_holds(&newer).await;
    eventually("ABORTED at the older", SOON, || older.ended("aborted") == 1).await;
    // What it still wants stays its own business, and it does not throw the newer one out in its turn.
    older.want(key(0), service(0, 6_666, 1));
    for port in 1_000..1_050 {
        newer.want(key(0), service(0, port, 1));
        hub.until_holds(&newer).await;
    }
    assert_eq!(to_older.lines().len(), 1, "the older came back at once");
    assert_eq!(to_newer.lines().len(), 1, "the newer was thrown out");
    older.finish().await;
    newer.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_fenced_session_still_sends_changes_nothing() {
    let pki = Pki::new();
    let hub = Hub::start(&pki, ["acme"]).await;
    let proxy = Proxy::start(hub.address).await;
    let tls = pki.client("acme");
    let mut older = Raw::synced(tls.clone(), proxy.address(), "cluster").await;
    older.say(delta(1, [resource(&key(0), 1)])).await;
    assert_eq!(older.answers().await[0].generation, 1);

    // Under way when the newer session begins, and arriving after it.
    proxy.set(Way::Up, Mode::Stall);
    older
        .say(delta(2, [resource(&key(0), 666), resource(&key(9), 666)]))
        .await;
    let mut newer = Raw::synced(tls, hub.address, "cluster").await;
    newer.say(delta(1, [resource(&key(0), 2)])).await;
    while newer.answers().await[0].generation != 2 {}
    let marks = hub.planner.marks();
    proxy.set(Way::Up, Mode::Pass);

    let status = older.ended().await;
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    newer.say(delta(2, [resource(&key(1), 3)])).await;
    assert_eq!(newer.answers().await[0].generation, 3);
    assert_eq!(hub.generation("acme", &key(0)).map(|g| g.0), Some(2));
    assert_eq!(hub.generation("acme", &key(9)), None);
    assert_eq!(hub.planner.marks(), marks + 1, "the older made work");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_cluster_under_one_identity_is_refused_and_the_first_undisturbed() {
    let pki = Pki::new();
    let hub = Hub::start(&pki, ["acme"]).await;
    let proxy = Proxy::start(hub.address).await;
    let tls = pki.client("acme");
    let first = Agent::start(tls.clone(), "acme", proxy.address(), services(3));
    hub.until_holds(&first).await;

    let mut stranger = Raw::connect(tls.clone(), hub.address).await;
    stranger.say(hello("another-cluster")).await;
    let status = stranger.ended().await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    for word in ["another-cluster", "cluster-of-acme"] {
        assert!(status.message().contains(word), "{status:?}");
    }
    let second = Agent::of_cluster(tls, "acme", hub.address, services(9), "a-third-cluster");
    let refused = || second.ended("failed_precondition") >= 2;
    eventually("the second is refused, and asks again", SOON, refused).await;

    first.want(key(1), service(1, 8_080, 1));
    hub.until_holds(&first).await;
    assert_eq!(proxy.lines().len(), 1, "the first was disturbed");
    assert_eq!(first.ended("aborted"), 0);
    first.finish().await;
    second.finish().await;
    hub.planner.assert_nothing_lost();
}

/// Whoever fails at Hello never was the tenant's session.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_good_hello_does_not_disturb_the_live_one() {
    let pki = Pki::new();
    let hub = Hub::start(&pki, ["acme"]).await;
    let proxy = Proxy::start(hub.address).await;
    let tls = pki.client("acme");
    let agent = Agent::start(tls.clone(), "acme", proxy.address(), services(3));
    hub.until_holds(&agent).await;
    let silent = Raw::connect(tls.clone(), hub.address).await;
    let mut rude = Raw::connect(tls, hub.address).await;
    rude.say(delta(1, [resource(&key(0), 666)])).await;
    assert_eq!(rude.ended().await.code(), Code::FailedPrecondition);
    agent.want(key(1), service(1, 8_080, 1));
    hub.until_holds(&agent).await;
    assert_eq!(proxy.lines().len(), 1);
    drop(silent);
    agent.finish().await;
}
