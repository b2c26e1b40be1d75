//! When the addresses of deleted load balancers are given back. Nothing is behind a parked Service any more; it only keeps its
//! address, for the tenant that may come back. Giving an address back is dear: MetalLB writes the status of every other
//! Service anew each time, and serves nobody meanwhile (about 45 ms for each). So parked Services are released together, as
//! seldom as their number asks for and preferably while the allocator rests; and at once when somebody has to wait for an
//! address. Pure: time is a parameter, and what is remembered here may be lost: what is parked is seen in the objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::objects::Id;

/// What a release costs the allocator for each Service that there is (measured with MetalLB 0.15.2: 8.7 s for 200).
const COST: Duration = Duration::from_millis(45);
/// The part of its time that the allocator may spend on releases: one in so many.
const SHARE: u32 = 10;
/// Addresses are not kept from others for longer than this, however many Services there are.
const LONGEST: Duration = Duration::from_secs(600);
/// The allocator rests when it has given no address for this long.
const REST: Duration = Duration::from_secs(3);
/// Between two releases for somebody who waits: the first may have been what was missing. Each that was not doubles it, for who
/// waits for something that no release brings must not make every release a single one.
const PRESSED: Duration = Duration::from_secs(1);
/// It is not doubled more often than that.
const DOUBLED: u32 = 5;

/// The parked Services.
#[derive(Debug, Default)]
pub struct Parking {
    parked: BTreeMap<Id, Parked>,
    /// Who has to wait for an address because the allocator has none.
    starving: BTreeSet<Id>,
    released: Option<Instant>,
    /// How many releases in a row have not helped those who wait.
    in_vain: u32,
}

#[derive(Debug)]
struct Parked {
    since: Instant,
    /// Its tenant may come back until then.
    until: Instant,
}

impl Parking {
    /// A Service is parked, for at least `keep` from the first time that this is said. Returns whether that is news.
    pub fn park(&mut self, id: &Id, keep: Duration, now: Instant) -> bool {
        let parked = self.parked.entry(id.clone()).or_insert(Parked {
            since: now,
            until: now,
        });
        let until = parked.since + keep;
        std::mem::replace(&mut parked.until, until) != until
    }

    /// It is wanted again, or gone. Returns whether that is news.
    pub fn leave(&mut self, id: &Id) -> bool {
        self.parked.remove(id).is_some()
    }

    /// The allocator has no address for this one; or it has served it, or need not any more. Returns whether that is news.
    pub fn starves(&mut self, id: &Id, starves: bool) -> bool {
        let news = if starves {
            self.starving.insert(id.clone())
        } else {
            self.starving.remove(id)
        };
        if news {
            self.in_vain = 0;
        }
        news
    }

    /// How many are parked.
    pub fn len(&self) -> usize {
        self.parked.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }

    /// Those whose time has come, and when to ask again. `services` is how many Services the allocator has in all, and
    /// `gave` when it last gave anybody an address.
    pub fn due(
        &mut self,
        services: usize,
        gave: Option<Instant>,
        now: Instant,
    ) -> (Vec<Id>, Option<Instant>) {
        let Some(first) = self.parked.values().map(|parked| parked.since).min() else {
            return (Vec::new(), None);
        };
        let pressed = !self.starving.is_empty();
        let at = if pressed {
            let doubled = self.in_vain.saturating_sub(1).min(DOUBLED);
            self.released
                .map_or(now, |last| last + PRESSED * (1 << doubled))
        } else {
            self.batch(first, services, gave)
        };
        if now < at {
            return (Vec::new(), Some(at));
        }
        let ripe = |(_, parked): &(&Id, &Parked)| pressed || parked.until <= now;
        let due: Vec<Id> = self
            .parked
            .iter()
            .filter(ripe)
            .map(|(id, _)| id.clone())
            .collect();
        for id in &due {
            self.parked.remove(id);
        }
        self.released = Some(now);
        if pressed {
            self.in_vain = self.in_vain.saturating_add(1);
        }
        let next = (!self.parked.is_empty()).then(|| now + PRESSED);
        (due, next)
    }

    /// When the next batch goes, if nobody waits for it.
    fn batch(&self, first: Instant, services: usize, gave: Option<Instant>) -> Instant {
        // Those that stay are written anew; of what is parked most goes.
        let stay = services.saturating_sub(self.parked.len());
        let cost = COST.saturating_mul(u32::try_from(stay).unwrap_or(u32::MAX));
        let apart = cost.saturating_mul(SHARE).min(LONGEST);
        let ripe = self.parked.values().map(|parked| parked.until).min();
        let earliest = ripe
            .unwrap_or(first)
            .max(self.released.map_or(first, |last| last.max(first)) + apart);
        let rests = gave.map_or(earliest, |gave| gave + REST);
        earliest.max(rests.min(earliest + apart))
    }
}

#[cfg(test)]
mod tests {
    use berth_common::{identity::TenantName, model::ServiceKey};
    use proptest::prelude::*;

    use super::*;

    const KEEP: Duration = Duration::from_secs(30);

    fn id(name: &str) -> Id {
        Id::new(
            TenantName::parse("acme").unwrap(),
            ServiceKey::new("default", name),
        )
    }

    /// Asks whenever it is due, for at most so long, until something is released.
    fn wait(parking: &mut Parking, services: usize, start: Instant) -> (Vec<Id>, Duration) {
        let mut now = start;
        for _ in 0..100 {
            let (due, next) = parking.due(services, None, now);
            if !due.is_empty() {
                return (due, now - start);
            }
            now = next.unwrap();
        }
        panic!("never");
    }

    #[test]
    fn few_services_let_a_parked_one_go_when_its_time_is_up() {
        let mut parking = Parking::default();
        let now = Instant::now();
        assert_eq!(parking.due(10, None, now), (Vec::new(), None));
        parking.park(&id("a"), KEEP, now);
        assert!(!parking.park(&id("a"), KEEP, now + KEEP), "no news");
        assert_eq!(wait(&mut parking, 10, now), (vec![id("a")], KEEP));
        assert!(parking.is_empty());
    }

    #[test]
    fn another_time_of_the_operators_counts_from_the_same_moment() {
        let mut parking = Parking::default();
        let now = Instant::now();
        parking.park(&id("a"), 9 * KEEP, now);
        assert!(parking.park(&id("a"), 2 * KEEP, now + KEEP));
        assert_eq!(wait(&mut parking, 10, now), (vec![id("a")], 2 * KEEP));
    }

    #[test]
    fn who_comes_back_is_not_released() {
        let mut parking = Parking::default();
        let now = Instant::now();
        parking.park(&id("a"), KEEP, now);
        parking.leave(&id("a"));
        assert_eq!(parking.due(10, None, now + 9 * KEEP), (Vec::new(), None));
    }

    #[test]
    fn many_services_make_batches_rare_and_none_is_released_before_its_time() {
        let mut parking = Parking::default();
        let start = Instant::now();
        let mut releases = Vec::new();
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            parking.park(&id(&format!("s{second}")), KEEP, now);
            let (due, _) = parking.due(300 + parking.len(), Some(now), now);
            if !due.is_empty() {
                releases.push((second, due.len()));
            }
        }
        // 300 Services: 13.5 s of work for a batch, and one in ten seconds for it.
        assert!((2..=4).contains(&releases.len()), "{releases:?}");
        assert!(releases[0].0 >= 135, "{releases:?}");
        assert!(parking.len() >= 30);
    }

    #[test]
    fn a_resting_allocator_is_preferred_and_not_waited_for_without_end() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut parking = Parking::default();
        parking.park(&id("a"), KEEP, now);
        // 100 Services beside it: 45 s between two batches.
        let (due, next) = parking.due(101, Some(after(44)), after(45));
        assert_eq!((due, next), (Vec::new(), Some(after(47))));
        let (due, next) = parking.due(101, Some(after(89)), after(89));
        assert_eq!((due, next), (Vec::new(), Some(after(90))));
        assert_eq!(parking.due(101, Some(after(90)), after(90)).0, [id("a")]);
    }

    #[test]
    fn who_waits_for_an_address_gets_all_that_are_parked_at_once() {
        let mut parking = Parking::default();
        let now = Instant::now();
        parking.park(&id("a"), KEEP, now);
        parking.park(&id("b"), KEEP, now);
        parking.starves(&id("new"), true);
        assert_eq!(parking.due(1_000, Some(now), now).0.len(), 2);
        // What is parked after that, one second later.
        parking.park(&id("c"), KEEP, now);
        assert_eq!(
            parking.due(1_000, None, now),
            (Vec::new(), Some(now + PRESSED))
        );
        assert_eq!(parking.due(1_000, None, now + PRESSED).0, [id("c")]);
        parking.starves(&id("new"), false);
        parking.park(&id("d"), KEEP, now);
        assert_eq!(parking.due(10, None, now + 2 * PRESSED).0, []);
    }

    #[test]
    fn who_waits_for_what_no_release_brings_does_not_undo_the_batches() {
        let mut parking = Parking::default();
        let start = Instant::now();
        parking.starves(&id("hopeless"), true);
        let mut releases = 0;
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            parking.park(&id(&format!("s{second}")), KEEP, now);
            releases += usize::from(!parking.due(10, None, now).0.is_empty());
        }
        assert!((15..=30).contains(&releases), "{releases}");
        // Somebody else may be helped.
        let now = start + Duration::from_secs(601);
        parking.park(&id("last"), KEEP, now);
        parking.starves(&id("new"), true);
        assert!(parking.due(10, None, now + PRESSED).0.contains(&id("last")));
    }

    proptest! {
        #[test]
        fn everything_parked_goes_in_the_end_and_nobody_asks_in_vain(
            services in 0_usize..100_000,
            offsets in prop::collection::vec(0_u64..200, 1..20),
            gave in prop::option::of(0_u64..2_000),
        ) {
            let start = Instant::now();
            let gave = gave.map(|s| start + Duration::from_secs(s));
            let mut parking = Parking::default();
            for (n, offset) in offsets.iter().enumerate() {
                parking.park(&id(&format!("s{n}")), KEEP, start + Duration::from_secs(*offset));
            }
            let mut now = start;
            let mut rounds = 0;
            while !parking.is_empty() {
                let (_, next) = parking.due(services, gave, now);
                if let Some(next) = next {
                    prop_assert!(next > now);
                    now = next;
                }
                rounds += 1;
                prop_assert!(rounds < 2_000);
            }
            prop_assert!(now <= start + Duration::from_secs(200) + 22 * LONGEST);
        }
    }
}
