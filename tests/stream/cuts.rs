//! Connections that are cut anywhere: in the handshake, in Hello, in a page of a snapshot, between two records or within
//! one. Whatever the hub had by then, it deletes nothing for it, and after the next session both sides hold the same.

use futures::{StreamExt as _, stream};

use crate::{
    SOON,
    agent::{Agent, Services, key, service, services},
    eventually,
    hub::Hub,
    pki::Pki,
    proxy::{Cut, End, Place, Proxy, Way},
};

/// Of the cluster: what the hub knows from before, in an older version, and what there is in all.
const BEFORE: usize = 10;
const ALL: usize = 48;
/// Ports of each, so that together they make a snapshot of several pages.
const LARGE: u16 = 250;
/// The same, for a snapshot of one page.
const SMALL: u16 = 20;
/// Cuts that are tried at once.
const AT_ONCE: usize = 12;
/// More than the handshake, Hello and one small change take, and less than any page.
const NO_SNAPSHOT: u64 = 16 * 1024;

/// A hub and the cuts to try on it, each with a tenant of its own.
struct Course {
    pki: Pki,
    hub: Hub,
    all: Services,
}

impl Course {
    async fn new(tenants: &[String], ports: u16) -> Self {
        let pki = Pki::new();
        let hub = Hub::start(&pki, tenants.iter().map(String::as_str)).await;
        Self {
            pki,
            hub,
            all: (0..ALL)
                .map(|i| (key(i), service(i, 1_000, ports)))
                .collect(),
        }
    }

    /// How many bytes a whole session takes, up and down.
    async fn measure(&self, tenant: &str) -> (u64, u64) {
        let proxy = Proxy::start(self.hub.address).await;
        let tls = self.pki.client(tenant);
        let agent = Agent::start(tls, tenant, proxy.address(), self.all.clone());
        self.hub.until_holds(&agent).await;
        let line = proxy.line();
        let measured = (line.passed(Way::Up), line.passed(Way::Down));
        agent.finish().await;
        measured
    }

    async fn survive(&self, tenant: &str, cut: Cut) {
        let proxy = Proxy::start(self.hub.address).await;
        let tls = self.pki.client(tenant);
        // The hub knows a part of it already: a broken snapshot could make it take that for deleted.
        let before = Agent::start(tls.clone(), tenant, proxy.address(), services(BEFORE));
        self.hub.until_holds(&before).await;
        before.finish().await;

        proxy.cut_next(cut);
        let agent = Agent::start(tls, tenant, proxy.address(), self.all.clone());
        let line = || proxy.lines().get(1).cloned();
        let what = format!("{cut:?} and convergence");
        let kept = || (0..BEFORE).all(|i| self.hub.generation(tenant, &key(i)).is_some());
        let mut nudges = 0;
        eventually(&what, SOON, || {
            assert!(kept(), "{cut:?} made the hub forget what it knew");
            let was_cut = line().is_some_and(|line| line.was_cut());
            if !was_cut && self.hub.holds(&agent) {
                // How much shares a message and a record differs from session to session, so that this one may have
                // ended short of the last places of the one that was measured. One more change takes it there.
                nudges += 1;
                agent.want(key(ALL), service(ALL, 80 + nudges, 1));
            }
            was_cut && self.hub.holds(&agent)
        })
        .await;
        if let Place::Byte(at) = cut.at {
            assert_eq!(line().unwrap().passed(cut.way), at);
        }

        // Both sides' digests are equal: the session after this one moves nothing of it.
        let lines = proxy.lines().len();
        proxy.cut_all(End::Rst);
        eventually("a new session", SOON, || {
            proxy.lines().len() > lines && agent.is_up()
        })
        .await;
        agent.want(key(ALL), service(ALL, 80, 1));
        self.hub.until_holds(&agent).await;
        let moved = proxy.line().passed(Way::Up);
        assert!(moved < NO_SNAPSHOT, "{cut:?}: {moved} bytes moved again");
        agent.finish().await;
    }
}

async fn all_survive(ports: u16, most: usize, cuts: impl FnOnce((u64, u64)) -> Vec<Cut>) {
    let tenants: Vec<String> = (0..=most).map(|i| format!("t{i}")).collect();
    let course = Course::new(&tenants, ports).await;
    let total = course.measure(&tenants[most]).await;
    let cuts = cuts(total);
    assert!(cuts.len() <= most, "{} cuts", cuts.len());
    stream::iter(cuts.into_iter().zip(&tenants))
        .for_each_concurrent(AT_ONCE, |(cut, tenant)| course.survive(tenant, cut))
        .await;
    course.hub.planner.assert_nothing_lost();
}

/// Places from the first byte to the last: dense where the handshake, Hello and Welcome are, then evenly spread.
fn places(total: u64, dense_step: u64, spread: u64) -> impl Iterator<Item = u64> {
    const DENSE: u64 = 8 * 1024;
    let dense = (0..DENSE.min(total)).step_by(usize::try_from(dense_step).unwrap());
    let step = usize::try_from(total.saturating_sub(DENSE) / spread)
        .unwrap()
        .max(1);
    dense
        .chain((DENSE..total).step_by(step))
        .chain([total - 100, total - 1])
}

fn ends() -> impl Iterator<Item = End> {
    [End::Rst, End::Fin].into_iter().cycle()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_cut_after_any_byte_up_converges_and_deletes_nothing() {
    let cuts = |(up, _): (u64, u64)| {
        assert!(
            up > 2 * 256 * 1024,
            "only {up} bytes: that is no snapshot of several pages"
        );
        let cut = |(at, by)| Cut {
            way: Way::Up,
            at: Place::Byte(at),
            by,
        };
        places(up, 331, 24).zip(ends()).map(cut).collect()
    };
    all_survive(LARGE, 64, cuts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_cut_after_any_byte_down_converges_and_deletes_nothing() {
    let cuts = |(_, down): (u64, u64)| {
        let cut = |(at, by)| Cut {
            way: Way::Down,
            at: Place::Byte(at),
            by,
        };
        places(down, 431, 8).zip(ends()).map(cut).collect()
    };
    all_survive(SMALL, 48, cuts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_truncated_within_a_tls_record_converges_and_deletes_nothing() {
    let cuts = |_| {
        // Up: the handshake, the preface of HTTP/2, Hello, then the pages. Down: the handshake, Welcome, answers.
        let up = [0, 2, 3, 4, 5, 6, 9, 16, 25, 34].map(|record| (Way::Up, record));
        let down = [0, 2, 3, 4, 5, 6].map(|record| (Way::Down, record));
        let cut = |((way, record), by)| Cut {
            way,
            at: Place::Record(record),
            by,
        };
        up.into_iter().chain(down).zip(ends()).map(cut).collect()
    };
    all_survive(LARGE, 16, cuts).await;
}
