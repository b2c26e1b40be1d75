//! The judge: it follows what is true in each tenant's cluster, what the hub was told, and what it does, and knows the
//! invariants of DESIGN.md. It never asks the engine whether the engine is right: what the hub believes is compared with
//! what really happened in the tenant's cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use berth_common::{
    identity::TenantName,
    model::{Answer, Generation, Outcome},
    session::held::Wanted,
};
use berth_hub::{
    objects::{Id, Kind},
    plan::{Plan, Write, brake},
    tenants::Tenants,
};

use crate::{
    births::Births,
    cluster::{key_number, service_key},
    executor::RELEASE_AFTER,
    management::{Management, Objects, ips},
    op::KEYS,
    quota::{Regime, WITHDRAWN},
};

/// How long something must be absent before it may go. The judge's own number: the planner's could be wrong.
const GRACE: Duration = Duration::from_secs(60);

/// For how long at least an address is kept for a Service that may come back. Nobody waits for one: there are enough.
const KEPT: Duration = RELEASE_AFTER;

/// An invariant is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one, in a few words that stay the same while a schedule shrinks.
    pub rule: &'static str,
    /// What happened.
    pub what: String,
}

pub(crate) fn broken(rule: &'static str, what: impl Into<String>) -> Violation {
    Violation {
        rule,
        what: what.into(),
    }
}

pub(crate) const KNOWN_ADDRESS: &str =
    "1: a known address changes only by its tenant's delete or an operator";
pub(crate) const SHARED_ADDRESS: &str = "2: no two tenants share an address";
pub(crate) const OWNED: &str = "3: every managed object has a live or tombstoned owner";
pub(crate) const FENCED: &str = "4: a fenced session changes nothing";
pub(crate) const CONVERGES: &str = "5: when faults stop, the system converges";
pub(crate) const NO_WRITES: &str = "6: unchanged input means no writes";
pub(crate) const DELETION: &str =
    "nothing goes that its tenant did not delete, but by grace and brake";
pub(crate) const PARKED: &str = "the address of a deleted Service is kept for it, and not for ever";
pub(crate) const TOLD: &str = "what the hub holds was told by the tenant";
pub(crate) const ANSWERS: &str = "an answer speaks of the version that it names";
pub(crate) const LIVENESS: &str = "a deadline that has passed makes something happen";

pub(crate) const PANICS: &str = "nothing panics";

/// What the hub's process believes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Belief {
    Unknown,
    Present { uid: u64 },
    Deleted,
    Absent { since: Instant, deleted: bool },
}

/// One key of a tenant, from the beginning of the schedule to its end.
#[derive(Clone, Debug)]
struct Life {
    /// Since when the tenant's cluster has it; `None`: it has not.
    present_since: Option<Instant>,
    births: Births,
    belief: Belief,
    /// The address that the tenant was told.
    known: Option<IpAddr>,
    /// An operator or an allocator without memory had its hands in it: no address is known until it stands safely again.
    tampered: bool,
    /// Its address was given to another while its own Service was gone.
    robbed: bool,
    said: BTreeMap<Generation2, Vec<Answer>>,
    /// Since when this hub keeps its address for a Service that may come back.
    parked_since: Option<Instant>,
    /// The hub lets go of that address.
    let_go: bool,
}

/// [`Generation`], with an order.
type Generation2 = u64;

/// See the module.
pub(crate) struct Ledger {
    names: Vec<TenantName>,
    lives: Vec<Life>,
    /// By tenant, what its Tenant object means.
    pub(crate) regimes: Vec<Regime>,
    /// Whether the operator lets deletions go on.
    pub(crate) released: Vec<bool>,
}

impl Ledger {
    pub(crate) fn new(names: Vec<TenantName>) -> Self {
        let life = Life {
            present_since: None,
            births: Births::default(),
            belief: Belief::Unknown,
            known: None,
            tampered: false,
            robbed: false,
            said: BTreeMap::new(),
            parked_since: None,
            let_go: false,
        };
        Self {
            lives: vec![life; names.len() * usize::from(KEYS)],
            regimes: vec![Regime::default(); names.len()],
            released: vec![false; names.len()],
            names,
        }
    }

    fn life(&mut self, t: u8, k: u8) -> &mut Life {
        &mut self.lives[usize::from(t) * usize::from(KEYS) + usize::from(k)]
    }

    pub(crate) fn name(&self, t: u8) -> TenantName {
        self.names[usize::from(t)].clone()
    }

    /// The address that a tenant was told.
    pub(crate) fn known(&self, t: u8, k: u8) -> Option<IpAddr> {
        self.lives[usize::from(t) * usize::from(KEYS) + usize::from(k)].known
    }

    pub(crate) fn number(&self, id: &Id) -> Option<(u8, u8)> {
        let t = self.names.iter().position(|name| *name == id.tenant)?;
        Some((u8::try_from(t).ok()?, key_number(&id.key)?))
    }

    /// The tenant's cluster has, or has not, a Service that is to stay.
    pub(crate) fn truth(&mut self, t: u8, k: u8, is_there: bool, now: Instant) {
        let life = self.life(t, k);
        if is_there {
            life.present_since.get_or_insert(now);
        } else {
            life.present_since = None;
        }
    }

    /// A version came to be in the tenant's cluster.
    pub(crate) fn born(&mut self, t: u8, k: u8, uid: u64, generation: Generation) {
        self.life(t, k).births.came(uid, generation);
    }

    /// An agent of the tenant's cluster saw a deletion.
    pub(crate) fn removed(&mut self, t: u8, k: u8, uid: u64) {
        let life = self.life(t, k);
        life.births.went(uid);
        life.known = None;
    }

    /// Addresses that are nowhere to be found any more are nobody's fault.
    pub(crate) fn tampered(&mut self, id: &Id) {
        if let Some((t, k)) = self.number(id) {
            let life = self.life(t, k);
            life.tampered = true;
            // Until it is settled the hub may act on what it saw before.
            life.robbed = true;
            life.known = None;
            self.regimes[usize::from(t)].excuse(k);
        }
    }

    pub(crate) fn robbed(&mut self, id: &Id) {
        if let Some((t, k)) = self.number(id) {
            self.life(t, k).robbed = true;
            self.regimes[usize::from(t)].excuse(k);
        }
    }

    pub(crate) fn is_robbed(&self, t: u8, k: u8) -> bool {
        self.lives[usize::from(t) * usize::from(KEYS) + usize::from(k)].robbed
    }

    /// A new process of the hub believes nothing.
    pub(crate) fn hub_restarted(&mut self) {
        for life in &mut self.lives {
            life.belief = Belief::Unknown;
            life.parked_since = None;
            life.let_go = false;
        }
        self.regimes.iter_mut().for_each(Regime::hub_restarted);
    }

    /// What the hub believed of a tenant is forgotten.
    pub(crate) fn forgotten(&mut self, t: u8) {
        for k in 0..KEYS {
            self.life(t, k).belief = Belief::Unknown;
        }
    }

    /// The hub lets go of an address for another that waits.
    pub(crate) fn let_go(&mut self, t: u8, k: u8) {
        self.life(t, k).let_go = true;
    }

    /// The hub took in a message of a session that was opened at `opened`: what does it believe now, and why?
    pub(crate) fn heard(
        &mut self,
        tenants: &Tenants,
        t: u8,
        opened: Instant,
        now: Instant,
    ) -> Result<(), Violation> {
        let name = self.names[usize::from(t)].clone();
        for k in 0..KEYS {
            let wanted = tenants.wanted(&name, &service_key(k)).0;
            let life = self.life(t, k);
            let before = life.belief;
            let who = || format!("{name} s{k}, of which the hub believed {before:?}");
            let after = match &wanted {
                Wanted::Present(generation, _) | Wanted::Unreadable { generation, .. } => {
                    match life.births.uid(*generation) {
                        Some(uid) => Belief::Present { uid },
                        None => {
                            let what = format!("{}: was never in the tenant's cluster", who());
                            return Err(broken(TOLD, what));
                        }
                    }
                }
                Wanted::Deleted(_) => {
                    let may = match before {
                        Belief::Present { uid } => life.births.has_gone(uid),
                        Belief::Deleted => true,
                        Belief::Unknown | Belief::Absent { .. } => life.births.has_any_gone(),
                    };
                    if !may {
                        return Err(broken(
                            DELETION,
                            format!("{}: taken for deleted, and nobody deleted it", who()),
                        ));
                    }
                    if before != Belief::Deleted {
                        life.known = None;
                    }
                    Belief::Deleted
                }
                Wanted::Absent => match before {
                    Belief::Absent { .. } => before,
                    Belief::Deleted => Belief::Absent {
                        since: now,
                        deleted: true,
                    },
                    Belief::Present { .. } | Belief::Unknown => {
                        if life.present_since.is_some_and(|since| since < opened) {
                            return Err(broken(
                                DELETION,
                                format!("{}: taken for absent, and it was there all along", who()),
                            ));
                        }
                        Belief::Absent {
                            since: now,
                            deleted: false,
                        }
                    }
                },
                Wanted::Unknown => match before {
                    Belief::Unknown => Belief::Unknown,
                    Belief::Present { .. } | Belief::Absent { .. } | Belief::Deleted => {
                        return Err(broken(TOLD, format!("{}: forgotten", who())));
                    }
                },
            };
            life.belief = after;
        }
        Ok(())
    }

    /// What the hub wants of every key of a tenant, as text: for comparing.
    pub(crate) fn holding(&self, tenants: &Tenants, t: u8) -> Vec<Wanted> {
        let name = &self.names[usize::from(t)];
        (0..KEYS)
            .map(|k| tenants.wanted(name, &service_key(k)).0)
            .collect()
    }

    /// The hub has planned for a key.
    pub(crate) fn planned(
        &mut self,
        id: &Id,
        plan: &Plan,
        management: &Management,
        now: Instant,
    ) -> Result<(), Violation> {
        let Some((t, k)) = self.number(id) else {
            return Err(broken(OWNED, format!("{id} is nobody's")));
        };
        if let Some(result) = self.departing(id, plan, management, now) {
            let life = self.life(t, k);
            life.parked_since = None;
            if plan.actions.iter().any(|action| is_deletion(&action.write)) {
                life.known = None;
            }
            return result;
        }
        let held = self.brake_holds(t, management);
        let objects = management.objects.get(id);
        let cut = objects.is_none_or(Objects::is_cut);
        let may_withdraw = self.may_withdraw(t, cut);
        let keeps = self.regimes[usize::from(t)].keeps();
        let bounded = self.regimes[usize::from(t)].is_bounded();
        let rests = objects.is_none_or(Objects::rests);
        let life = self.life(t, k);
        if let Belief::Present { .. } = life.belief
            && may_withdraw
            && (plan.parked || plan.actions.iter().any(|it| is_deletion(&it.write)))
        {
            // It is taken away, or on its way.
            life.known = None;
            if plan.parked {
                life.parked_since.get_or_insert(now);
            }
            return Ok(());
        }
        if let Belief::Present { .. } = life.belief {
            life.parked_since = None;
            life.let_go = false;
            if let Some(ip) = objects.and_then(Objects::parked)
                && !life.tampered
                && !life.robbed
            {
                // Whose it was before, it is again.
                life.known = Some(ip);
            }
        } else if plan.parked {
            life.parked_since.get_or_insert(now);
        }
        for action in &plan.actions {
            let deletes = is_deletion(&action.write);
            let of_service = matches!(
                action.write,
                Write::Delete {
                    kind: Kind::Service,
                    ..
                }
            );
            match life.belief {
                Belief::Present { .. } if !deletes => {}
                Belief::Deleted | Belief::Absent { .. } if of_service && !life.let_go => {
                    if let Some(ip) = objects.and_then(Objects::safe) {
                        let what = format!("{id}: {ip} is given back, because {:?}", action.reason);
                        return Err(broken(PARKED, what));
                    }
                }
                Belief::Present { .. } if bounded => {
                    let what = format!("{id}: {:?} because {:?}", action.write, action.reason);
                    return Err(broken(WITHDRAWN, what));
                }
                // Its address is kept for good, and that is said.
                Belief::Deleted | Belief::Absent { .. }
                    if keeps && matches!(action.write, Write::Status { .. }) => {}
                // What was kept of a former Tenant of that name is not missed.
                Belief::Absent { .. } if rests => {}
                // There is nothing that anybody could miss.
                Belief::Absent { .. } if of_service && cut => {}
                Belief::Deleted | Belief::Absent { deleted: true, .. }
                    if matches!(action.write, Write::Delete { .. }) => {}
                Belief::Absent { since, .. } if now >= since + GRACE && !held => {}
                _ => {
                    return Err(broken(
                        DELETION,
                        format!(
                            "{id}: {:?} because {:?}, while the hub believes {:?} (brake: {held})",
                            action.write, action.reason, life.belief
                        ),
                    ));
                }
            }
            if deletes {
                life.known = None;
            }
        }
        Ok(())
    }

    /// The hub lets go of an address that it kept.
    pub(crate) fn released(&mut self, id: &Id, now: Instant) -> Result<(), Violation> {
        let Some((t, k)) = self.number(id) else {
            return Err(broken(OWNED, format!("{id} is nobody's")));
        };
        let is_heard = self.is_heard(t);
        let life = self.life(t, k);
        let since = life.parked_since.map(|since| now - since);
        if !is_heard {
            // Nothing comes of it, before there is a Tenant again.
            life.let_go = true;
            return Ok(());
        }
        // What somebody else took away meanwhile is nobody's loss.
        let lost = since.is_none() && !life.tampered;
        if lost || since.is_some_and(|since| since < KEPT) {
            return Err(broken(PARKED, format!("{id}: let go after {since:?}")));
        }
        life.let_go = true;
        Ok(())
    }

    /// Whether the brake has to hold a tenant's absent load balancers, counted from what really is there.
    fn brake_holds(&mut self, t: u8, management: &Management) -> bool {
        let (mut absent, mut total) = (0, 0);
        for k in 0..KEYS {
            let id = Id::new(self.names[usize::from(t)].clone(), service_key(k));
            match self.life(t, k).belief {
                Belief::Absent { deleted: false, .. }
                    if management.objects.get(&id).is_some_and(|it| !it.is_cut()) =>
                {
                    absent += 1;
                    total += 1;
                }
                Belief::Present { .. } => total += 1,
                _ => {}
            }
        }
        brake(absent, total) && !self.released[usize::from(t)]
    }

    /// The hub says something to a tenant.
    pub(crate) fn emitted(
        &mut self,
        t: u8,
        k: u8,
        answer: &Answer,
        tenants: &Tenants,
        rests: bool,
        management: &Management,
    ) -> Result<(), Violation> {
        let name = self.names[usize::from(t)].clone();
        let id = Id::new(name.clone(), service_key(k));
        // On record with it is what is kept for good (reclaimPolicy Retain).
        if answer.outcome == Outcome::Deleted && !rests {
            return Err(broken(
                DELETION,
                format!(
                    "{id}: said to be gone, while the hub still sees more of it than an address"
                ),
            ));
        }
        let present = match tenants.wanted(&name, &id.key).0 {
            Wanted::Present(generation, _) | Wanted::Unreadable { generation, .. } => {
                generation == answer.generation
            }
            _ => false,
        };
        let said = ips(&answer.ingress);
        let others = management.objects.iter().filter(|(other, _)| **other != id);
        for (other, objects) in others {
            if let Some(ip) = objects.given().iter().find(|ip| said.contains(ip))
                && !self.life(t, k).robbed
            {
                return Err(broken(
                    SHARED_ADDRESS,
                    format!("{id} is told {ip}, which is {other}'s"),
                ));
            }
        }
        let life = self.life(t, k);
        let list = life.said.entry(answer.generation.0).or_default();
        if !list.contains(answer) {
            list.push(answer.clone());
        }
        if present
            && !life.tampered
            && let Some(ip) = said.first()
        {
            match life.known {
                Some(known) if known != *ip => {
                    return Err(broken(
                        KNOWN_ADDRESS,
                        format!("{id} was told {known}, and now {ip}"),
                    ));
                }
                _ => life.known = Some(*ip),
            }
        }
        Ok(())
    }

    /// An agent has taken an answer for the present version's.
    pub(crate) fn received(&mut self, t: u8, k: u8, answer: &Answer) -> Result<(), Violation> {
        let name = self.names[usize::from(t)].clone();
        let said = self.life(t, k).said.get(&answer.generation.0);
        if said.is_some_and(|said| said.contains(answer)) {
            return Ok(());
        }
        Err(broken(
            ANSWERS,
            format!(
                "{name} s{k} took for an answer what was never said of this version: {answer:?}"
            ),
        ))
    }

    /// The management cluster's state as it truly is.
    pub(crate) fn check(&mut self, management: &Management) -> Result<(), Violation> {
        let mut owners: BTreeMap<IpAddr, (&Id, bool)> = BTreeMap::new();
        for (id, objects) in &management.objects {
            let Some((t, k)) = self.number(id) else {
                return Err(broken(OWNED, format!("{id} is nobody's")));
            };
            let life = self.life(t, k);
            if objects.service.is_none() {
                life.parked_since = None;
                life.let_go = false;
            }
            if life.births.is_empty() {
                return Err(broken(OWNED, format!("{id} never was in its cluster")));
            }
            if (life.tampered || life.robbed) && is_settled(objects) {
                life.tampered = false;
                life.robbed = false;
            }
            if let Some(known) = life.known
                && let Some(other) = objects.claims().iter().find(|ip| **ip != known)
            {
                return Err(broken(
                    KNOWN_ADDRESS,
                    format!("{id} was told {known}, and {other} stands in its objects"),
                ));
            }
            let robbed = life.robbed;
            for ip in objects.pinned().into_iter().chain(objects.given()) {
                match owners.insert(ip, (id, robbed)) {
                    Some((other, its)) if other != id && !its && !robbed => {
                        return Err(broken(
                            SHARED_ADDRESS,
                            format!("{ip} stands with {other} and with {id}"),
                        ));
                    }
                    _ => {}
                }
            }
        }
        // What has no object left has nothing that could be another's.
        for t in 0..self.names.len() {
            for k in 0..KEYS {
                let life = &mut self.lives[t * usize::from(KEYS) + usize::from(k)];
                let id = Id::new(self.names[t].clone(), service_key(k));
                // After somebody's hand the hub may act for a moment on what it saw before.
                if !management.objects.contains_key(&id) && !life.tampered {
                    life.robbed = false;
                    life.parked_since = None;
                    life.let_go = false;
                }
            }
        }
        Ok(())
    }
}

/// Whether a load balancer goes by it, or what is left of one.
fn is_deletion(write: &Write) -> bool {
    matches!(
        write,
        Write::Delete {
            kind: Kind::Service | Kind::LoadBalancer,
            ..
        }
    )
}

/// Whether its address stands everywhere where it is kept.
fn is_settled(objects: &Objects) -> bool {
    let given: BTreeSet<IpAddr> = objects.given().into_iter().collect();
    let recorded: BTreeSet<IpAddr> = objects.recorded().into_iter().collect();
    !given.is_empty() && given == objects.pinned() && given == recorded
}
