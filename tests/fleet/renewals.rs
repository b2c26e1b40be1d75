//! Two thousand certificates that were issued in one minute, over days of virtual time: the agents' real decision when to renew
//! (`Pace`), the hub's real authority, and its real question to all of them when the authority changes. No clock is read and nothing
//! waits. What is shown is how many renewals reach the hub in any one moment.
//!
//! The bounds follow from the formulas. A renewal comes at 0.4 to 0.6 of a life of 24 h, uniformly: at any moment of the 4.8 h between,
//! with a density of 1/4.8 h. Whatever came before, an agent renews at most once within 4.8 h, for it never does sooner than 9.6 h after
//! the last time; so the chance that it does in a given minute is never above 1/288, also when the generations overlap. Of an attempt
//! that is repeated after `c/2` to `c`, uniformly, the density is at most `2/c` for the same reason. How many of a fleet come
//! is binomial then, and a bound is what it exceeds in none of all minutes but with a chance of one in a million.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use berth_agent::identity::{Pace, Step};
use berth_common::{
    identity::{CertificateFacts, TenantName, TrustDomain},
    model::ServiceKey,
    session::{
        agent::{AgentInfo, AgentSession, Event, Source},
        hub::Limits,
    },
};
use berth_hub::{
    ca::{Authority, DEFAULT_AUTHORITY_LIFETIME, Issuing, Lifetime},
    tenants::{Admission, Credential, Marks, Next, Seat, Tenants},
};
use fastrand::Rng;
use rcgen::KeyPair;

const FLEET: usize = 2_000;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const LIFE: Duration = Duration::from_secs(24 * 3_600);
/// Half of a life, a tenth of it sooner or later: the time over which a generation spreads.
const SPREAD: Duration = Duration::from_secs(24 * 3_600 / 5);
/// A failed renewal is tried again within this, where enough is left.
const CAP: Duration = Duration::from_secs(15 * 60);

/// When it all begins.
fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + 500_000 * HOUR
}

/// The least number that a binomial count of `n` with chance `p` exceeds in none of `times` draws, but with a chance of one in a million.
fn bound(n: usize, p: f64, times: f64) -> usize {
    let mut of_exactly = n as f64 * (-p).ln_1p();
    let chances: Vec<f64> = (0..=n)
        .map(|k| {
            let chance = of_exactly.exp();
            of_exactly += ((n - k) as f64 / (k + 1) as f64).ln() + (p / (1.0 - p)).ln();
            chance
        })
        .collect();
    let mut beyond = 0.0;
    let mut most = n;
    while most > 0 && times * (beyond + chances[most]) < 1e-6 {
        beyond += chances[most];
        most -= 1;
    }
    most
}

struct Agent {
    tenant: TenantName,
    pace: Pace,
    leaf: CertificateFacts,
}

/// A fleet and its hub's authority.
struct Fleet {
    agents: Vec<Agent>,
    issuing: Issuing,
    key: KeyPair,
    random: Rng,
    /// When each agent looks next, in whole microseconds since the start.
    queue: BinaryHeap<Reverse<(u64, usize)>>,
}

/// What reached the hub: when, since the start, and how much was left of the certificate that it was for.
type Renewals = Vec<(Duration, Duration)>;

impl Fleet {
    /// All were admitted within one minute.
    fn new(seed: u64) -> Result<Self> {
        let authority =
            Authority::create(TrustDomain::default(), DEFAULT_AUTHORITY_LIFETIME, start())?;
        let mut fleet = Self {
            agents: Vec::new(),
            issuing: Issuing::new(authority, Lifetime::seconds(LIFE.as_secs())),
            key: KeyPair::generate()?,
            random: Rng::with_seed(seed),
            queue: BinaryHeap::new(),
        };
        for number in 0..FLEET {
            let tenant = TenantName::parse(&format!("t{number}"))?;
            let at = MINUTE.mul_f64(fleet.random.f64());
            let leaf = fleet.issue(&tenant, at)?;
            let pace = Pace::default();
            fleet.agents.push(Agent { tenant, pace, leaf });
            fleet.look_at(number, at);
        }
        Ok(fleet)
    }

    /// As the hub does it, but for the serial number, which is random there too.
    fn issue(&mut self, tenant: &TenantName, at: Duration) -> Result<CertificateFacts> {
        let mut serial = [0; 16];
        self.random.fill(&mut serial);
        serial[0] &= 0x7f;
        let (lifetime, made) = (self.issuing.tenants_lifetime(), start() + at);
        let (_, facts) = self
            .issuing
            .tenant(tenant, &self.key, serial, lifetime, made, None)?;
        Ok(facts)
    }

    fn look_at(&mut self, number: usize, at: Duration) {
        let micros = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
        self.queue.push(Reverse((micros, number)));
    }

    /// Lets time pass until `end`; the hub is away between the two of `outage`.
    fn run(&mut self, end: Duration, outage: (Duration, Duration)) -> Result<Renewals> {
        let mut renewals = Renewals::new();
        while let Some(Reverse((micros, number))) = self.queue.pop() {
            let at = Duration::from_micros(micros);
            if at >= end {
                self.look_at(number, at);
                break;
            }
            let (now, lot) = (start() + at, self.random.f64());
            let agent = &mut self.agents[number];
            let next = match agent.pace.step(&agent.leaf, now) {
                Step::Over => anyhow::bail!("{}'s certificate has ended at {at:?}", agent.tenant),
                // Never less than the clock of this test can tell.
                Step::Wait(until) => at + until.max(Duration::from_micros(1)),
                Step::Renew => {
                    let left = agent.leaf.not_after.duration_since(now)?;
                    if outage.0 <= at && at < outage.1 {
                        at + agent.pace.failed(left, lot).wait
                    } else {
                        agent.pace.renewed();
                        renewals.push((at, left));
                        let tenant = agent.tenant.clone();
                        self.agents[number].leaf = self.issue(&tenant, at)?;
                        at
                    }
                }
            };
            self.look_at(number, next);
        }
        Ok(renewals)
    }
}

/// The most renewals of one slice of time.
fn most(renewals: &Renewals, slice: Duration) -> usize {
    let mut counts = BTreeMap::<u128, usize>::new();
    for (at, _) in renewals {
        *counts
            .entry(at.as_micros() / slice.as_micros())
            .or_default() += 1;
    }
    counts.into_values().max().unwrap_or_default()
}

const NEVER: (Duration, Duration) = (Duration::ZERO, Duration::ZERO);

/// What a minute may bring of the fleet, without any trouble.
fn per_minute(time: Duration) -> usize {
    let minutes = time.as_secs_f64() / MINUTE.as_secs_f64();
    bound(FLEET, MINUTE.as_secs_f64() / SPREAD.as_secs_f64(), minutes)
}

#[test]
fn a_fleet_that_was_admitted_in_a_minute_renews_spread_over_hours_and_goes_on_so() -> Result<()> {
    let mut fleet = Fleet::new(1)?;
    let time = 72 * HOUR;
    let renewals = fleet.run(time, NEVER)?;
    let (most, allowed) = (most(&renewals, MINUTE), per_minute(time));
    println!(
        "{} renewals, at most {most} in a minute of {allowed}",
        renewals.len()
    );
    assert!(most <= allowed, "{most} in a minute, and {allowed} at most");
    // Each five to seven times in three days, and the first minute that brings any is not the one that brings all.
    assert!(
        (5 * FLEET..=7 * FLEET).contains(&renewals.len()),
        "{}",
        renewals.len()
    );
    let least = renewals
        .iter()
        .map(|(_, left)| *left)
        .min()
        .context("no renewals")?;
    assert!(
        least >= LIFE.mul_f64(0.4) - Duration::from_secs(1),
        "{least:?} was left"
    );
    Ok(())
}

#[test]
fn after_hours_without_a_hub_nobody_has_expired_and_they_do_not_come_back_as_one() -> Result<()> {
    // From when the first come due: at its end nearly all of them wait.
    let from = 10 * HOUR;
    for hours in [2, 6, 12] {
        let mut fleet = Fleet::new(2)?;
        let until = from + hours * HOUR;
        let renewals = fleet.run(until + 15 * HOUR, (from, until))?;
        let (back, later): (Renewals, Renewals) = {
            let all = renewals.iter().copied().filter(|(at, _)| *at >= until);
            all.partition(|(at, _)| *at < until + CAP)
        };
        // What is left at the end of the outage decides how often is tried.
        let left = LIFE - until;
        let ceiling = CAP.min(left / 20);
        // And who has come due only now tries at ever longer distances, ten of them up to the longest.
        let chance = 2.0 / ceiling.as_secs_f64() + 10.0 / SPREAD.as_secs_f64();
        let (most, allowed) = (
            most(&back, Duration::from_secs(1)),
            bound(FLEET, chance, CAP.as_secs_f64()),
        );
        println!(
            "after {hours} h {} come back, at most {most} in a second of {allowed}",
            back.len()
        );
        assert!(most <= allowed, "{most} in a second, and {allowed} at most");
        assert!(
            back.len() > FLEET / 10,
            "hardly any had waited: {}",
            back.len()
        );
        let (most, allowed) = (super::renewals::most(&later, MINUTE), per_minute(72 * HOUR));
        assert!(
            most <= allowed,
            "later {most} in a minute, and {allowed} at most"
        );
    }
    Ok(())
}

struct Nobody;

impl Marks for Nobody {
    fn service(&self, _: &TenantName, _: &ServiceKey) {}
    fn observed(&self, _: &TenantName) {}
}

/// The sessions of a fleet with one hub, without a network between them.
struct Sessions {
    tenants: Arc<Tenants>,
    pairs: Vec<(AgentSession, Seat)>,
    now: Instant,
}

impl Sessions {
    fn open(names: &[TenantName]) -> Result<Self> {
        let now = Instant::now();
        let tenants = Arc::new(Tenants::new(1, Limits::default(), Arc::new(Nobody)));
        let admitted = names
            .iter()
            .map(|name| (name.clone(), Admission::default()));
        tenants.admit(admitted.collect());
        let mut sessions = Self {
            tenants: tenants.clone(),
            pairs: Vec::new(),
            now,
        };
        for name in names {
            let info = AgentInfo {
                version: "0".into(),
                instance_id: name.to_string(),
            };
            let mut agent = AgentSession::new(info).renewing();
            let _ = agent.set_source(Source::Synced {
                cluster_uid: format!("{name}-cluster"),
            });
            agent.connected(now);
            let seat = tenants.open(name, Credential::default(), now)?;
            sessions.pairs.push((agent, seat));
        }
        ensure!(sessions.settle()?.is_empty(), "nobody was asked yet");
        Ok(sessions)
    }

    /// Whatever anybody has to say is said. Returns whom the hub has asked for a renewal, and within which time.
    fn settle(&mut self) -> Result<Vec<(usize, Duration)>> {
        let mut asked = Vec::new();
        let mut busy = true;
        while busy {
            busy = false;
            for (number, (agent, seat)) in self.pairs.iter_mut().enumerate() {
                while let Some(message) = agent.next_message(self.now) {
                    seat.receive(message, self.now)?;
                    busy = true;
                }
                while let Next::Message(message) = seat.next(self.now) {
                    for event in agent.received(*message, self.now)? {
                        if let Event::Reissue { within } = event {
                            asked.push((number, within));
                        }
                    }
                    busy = true;
                }
            }
        }
        Ok(asked)
    }
}

/// The fleet at an hour at which nobody is due, and asked by the hub, all at once, to renew. Returns within which time.
fn asked(seed: u64, at: Duration) -> Result<(Fleet, Duration)> {
    let mut fleet = Fleet::new(seed)?;
    fleet.run(at, NEVER)?;
    let names: Vec<TenantName> = fleet.agents.iter().map(|it| it.tenant.clone()).collect();
    let mut sessions = Sessions::open(&names)?;
    for name in &names {
        sessions.tenants.reissue(name, 1);
    }
    let asked = sessions.settle()?;
    ensure!(asked.len() == FLEET, "{} were asked", asked.len());
    let mut longest = Duration::ZERO;
    for (number, within) in asked {
        longest = longest.max(within);
        let lot = fleet.random.f64();
        fleet.agents[number]
            .pace
            .heard(1, within, start() + at, lot);
        fleet.look_at(number, at);
    }
    Ok((fleet, longest))
}

#[test]
fn when_the_authority_changes_all_are_asked_at_once_and_come_one_after_the_other() -> Result<()> {
    let at = HOUR;
    let (mut fleet, within) = asked(3, at)?;
    let renewals = fleet.run(at + within + Duration::from_secs(1), NEVER)?;
    assert_eq!(renewals.len(), FLEET, "each once");
    let seconds = within.as_secs_f64();
    let (most, allowed) = (
        most(&renewals, Duration::from_secs(1)),
        bound(FLEET, 1.0 / seconds, seconds),
    );
    println!("asked within {seconds} s, at most {most} in a second of {allowed}");
    assert!(most <= allowed, "{most} in a second, and {allowed} at most");
    // A certificate costs the hub a few milliseconds of one core with all that belongs to it: it is never far behind.
    assert!(allowed < 100, "{allowed} in a second");
    Ok(())
}

#[test]
fn a_hub_that_goes_while_all_renew_at_its_word_does_not_find_them_in_step() -> Result<()> {
    let at = HOUR;
    for minutes in [5, 10, 120] {
        let (mut fleet, within) = asked(4, at)?;
        let until = at + minutes * MINUTE;
        let renewals = fleet.run(until + CAP, (at, until))?;
        assert_eq!(renewals.len(), FLEET, "each once, when the hub is back");
        // It doubles from a second, so that the present distance is at least half of the time for which there has been trouble.
        let ceiling = CAP.min((minutes * MINUTE - within) / 2);
        let (most, allowed) = (
            most(&renewals, Duration::from_secs(1)),
            bound(FLEET, 2.0 / ceiling.as_secs_f64(), CAP.as_secs_f64()),
        );
        println!("away for {minutes} min, then at most {most} in a second of {allowed}");
        assert!(most <= allowed, "{most} in a second, and {allowed} at most");
    }
    Ok(())
}
