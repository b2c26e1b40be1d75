//! A fleet against the hub's real front door, gRPC server and sessions, in one process and over real mutual TLS on loopback.
//! There is no Kubernetes behind the hub here: what many agents do to it before anything is planned is the matter.

mod hub;
mod renewals;

use std::time::Duration;

use anyhow::Result;
use berth_agent::{
    settings::Hub as HubSettings,
    simulate::{Churn, Credentials, Fleet, Plan},
};
use berth_common::identity::TrustDomain;
use tokio::{runtime::Runtime, time::timeout};

use hub::{Hub, Pki, SNAPSHOTS, runtime};

/// How many agents.
const FLEET: usize = 1_000;
/// How many of them the hub lets shake hands at once.
const HANDSHAKES: usize = 16;
/// For the whole fleet to come, in a build that is not optimised and on a machine that is busy.
const DEADLINE: Duration = Duration::from_secs(120);

#[test]
fn point_07_a_thousand_agents_come_back_to_a_restarted_hub_a_few_at_a_time() -> Result<()> {
    let pki = Pki::new()?;
    let first = Hub::start(&pki, None, FLEET, HANDSHAKES)?;
    let address = first.address();
    let agents = runtime()?;
    let fleet = fleet(&agents, &pki, &first)?;
    whole(&agents, &fleet, 1)?;
    assert_eq!(first.synced_services(), FLEET);
    assert_within_limits(&first);

    // As SIGKILL would: no word to anybody, every socket closed.
    first.kill();
    let second = Hub::start(&pki, Some(address), FLEET, HANDSHAKES)?;
    whole(&agents, &fleet, 2)?;
    let look = fleet.look();
    assert_eq!((look.connected, look.synced), (FLEET, FLEET), "{look}");
    assert_eq!(
        second.synced_services(),
        FLEET,
        "the new hub holds everything"
    );
    assert_within_limits(&second);
    // A thousandth of a second for each of them.
    assert_eq!(look.spread_seconds, 1.0);

    agents.block_on(fleet.stop());
    second.kill();
    agents.shutdown_background();
    Ok(())
}

/// What a hub never had more of than it was told to allow, however many came at once.
fn assert_within_limits(hub: &Hub) {
    let most = hub.metrics().most_handshakes();
    assert!(most <= HANDSHAKES as i64, "{most} handshakes at once");
    // More than one at a time: else the bound was never near, and nothing was shown.
    assert!(most > 1, "never more than {most} handshake at once");
    assert!(hub.metrics().accepted.get() >= FLEET as u64);
    assert_eq!(hub.metrics().refused("too-many-handshakes"), 0);
    assert_eq!(hub.most_snapshots(), SNAPSHOTS as i64);
}

fn fleet(agents: &Runtime, pki: &Pki, hub: &Hub) -> Result<Fleet> {
    let (certificate, key) = pki.authority();
    let credentials = Credentials::authority_in_memory(certificate, &key, TrustDomain::default())?;
    let plan = Plan {
        hub: HubSettings {
            address: hub
                .address()
                .to_string()
                .parse()
                .map_err(anyhow::Error::msg)?,
            server_name: None,
        },
        first: 1,
        tenants: FLEET,
        services: 1,
        request_ip: None,
        churn: Churn::Rate(0.0),
        spread: Duration::from_millis(200),
    };
    agents.block_on(async { Fleet::start(&plan, &credentials) })
}

fn whole(agents: &Runtime, fleet: &Fleet, round: u32) -> Result<()> {
    let mut whole = fleet.whole();
    let reached = agents.block_on(async {
        timeout(DEADLINE, whole.wait_for(|whole| *whole >= round))
            .await
            .is_ok()
    });
    anyhow::ensure!(
        reached,
        "not all synced within {DEADLINE:?}: {}",
        fleet.look()
    );
    Ok(())
}
