//! What to do about one Service of a tenant: the pure difference between what its tenant wants and what the management
//! cluster has, under the operator's policy. It returns actions with their reasons, and the answer that the tenant is
//! due; it knows neither client nor clock (time is a parameter), and remembers nothing between two calls.
//!
//! A plan's actions may all run at once. What has to wait for them is in the next plan, which whoever runs plans makes
//! from what came of the first: the Service first, by itself, for the API server may reject it and every further
//! object would then be in the way; then the record and the backends, while the allocator is already at work; then, with
//! an address, pin and status. Planning what is already so gives no action at all.

mod addresses;
mod admit;
mod annotations;
mod answer;
mod backends;
mod brake;
mod diff;
mod health;
mod parking;
mod present;
mod preview;
mod state;
#[cfg(test)]
mod tests;
mod unwanted;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use berth_common::{
    model::{Answer, Generation, Node, NodeName, Reason, Service},
    wire::Refusal,
};
use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;

use crate::{
    api::LoadBalancerSpec,
    health::Verdicts,
    objects::{
        Id, Kind,
        backend_slice::{ObservedSlice, Place, SliceShape},
        record::{ObservedRecord, StatusShape},
        service::{ObservedService, ServiceShape},
    },
    policy::{Barred, Rules, Said, Verdict},
};

pub use admit::{is_node_port, permitted};
pub use annotations::Annotations;
pub(crate) use answer::POLICY_VIOLATED;
pub use backends::{Fitness, check_node, denied};
pub use brake::{brake, held_message};
pub use parking::Parking;
use present::Wish;
pub use preview::{Effect, Foreseen, preview, preview_all};
pub use unwanted::has_departed;

/// How long something may be absent from a verified snapshot before it counts as deleted.
pub const ABSENCE_GRACE: Duration = Duration::from_secs(60);
/// How long the allocator may do nothing for anybody before those who wait are told that it takes long. Saying so at once
/// would cost writes on both sides for what is usually done in a tenth of a second.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// After this, who waits is told also while the allocator is busy with others: MetalLB serves a thousand in less.
pub const PATIENCE_AT_MOST: Duration = Duration::from_secs(60);
/// The condition of a record of which only the address is left, for the tenant that may come back.
const RESERVED: &str = "Reserved";
/// How long a rejection of the API server's stands before the same request is tried again, and after which it is looked again
/// whether an address that is asked for has become free.
pub const REJECTION_STANDS: Duration = Duration::from_secs(60);

/// The addresses of all nodes of a tenant, shared by the plans of all its Services.
pub type Nodes = BTreeMap<NodeName, Node>;

/// What a tenant wants of one key.
#[derive(Clone, Debug)]
pub enum Want {
    /// The tenant has this Service.
    Present {
        /// Its version.
        generation: Generation,
        /// The Service.
        service: Arc<Service>,
        /// The tenant's nodes.
        nodes: Arc<Nodes>,
    },
    /// The tenant has this Service, and says it in a way that cannot be read.
    Unreadable {
        /// Its version.
        generation: Generation,
        /// Why.
        refusal: Refusal,
        /// The last version that could be read, in this process: of it, where the endpoints are still counts.
        last: Option<Arc<Service>>,
        /// The tenant's nodes.
        nodes: Arc<Nodes>,
    },
    /// The tenant said that the Service is gone.
    Deleted,
    /// A verified snapshot did not have it.
    Absent {
        /// Since when.
        since: Instant,
        /// The brake holds the tenant's deletions ([`brake`]).
        held: bool,
    },
    /// Nobody knows: the tenant has not synced with this process. Nothing is done.
    Unknown,
    /// The operator deleted the Tenant, and what it has here goes by its reclaim policy.
    TenantDeleted,
    /// There is no such Tenant, and nobody has deleted it before this hub's eyes. Nothing is done, but for what was kept when
    /// a Tenant was deleted and is let go now.
    NoTenant,
}

impl Want {
    /// Whether the tenant wants the very same: the same version, told once, among the same nodes.
    pub fn is(&self, other: &Self) -> bool {
        let same = |one: &Option<Arc<Service>>, other: &Option<Arc<Service>>| match (one, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        match (self, other) {
            (
                Self::Present {
                    generation,
                    service,
                    nodes,
                },
                Self::Present {
                    generation: g,
                    service: s,
                    nodes: n,
                },
            ) => generation == g && Arc::ptr_eq(service, s) && Arc::ptr_eq(nodes, n),
            (
                Self::Unreadable {
                    generation,
                    last,
                    nodes,
                    ..
                },
                Self::Unreadable {
                    generation: g,
                    last: l,
                    nodes: n,
                    ..
                },
            ) => generation == g && same(last, l) && Arc::ptr_eq(nodes, n),
            (Self::Absent { since, held }, Self::Absent { since: s, held: h }) => {
                since == s && held == h
            }
            (Self::Deleted, Self::Deleted)
            | (Self::Unknown, Self::Unknown)
            | (Self::TenantDeleted, Self::TenantDeleted)
            | (Self::NoTenant, Self::NoTenant) => true,
            (
                Self::Present { .. }
                | Self::Unreadable { .. }
                | Self::Deleted
                | Self::Absent { .. }
                | Self::Unknown
                | Self::TenantDeleted
                | Self::NoTenant,
                _,
            ) => false,
        }
    }
}

/// Who gives addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocator {
    /// MetalLB: can be told which addresses and which pool.
    MetalLb,
    /// Some other controller, of which nothing is known: its choice is followed.
    Other,
}

/// What the operator lets a tenant have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Who gives addresses.
    pub allocator: Allocator,
    /// The pool of new load balancers.
    pub pool: Option<String>,
    /// The class of new management Services.
    pub class: Option<String>,
    /// What the tenant may ask addresses out of.
    pub requestable: Vec<IpNet>,
    /// Which annotations Services may bring along, and which they are given.
    pub annotations: Arc<Annotations>,
    /// For how long the address of a Service that the tenant deletes stays parked; zero is not at all.
    pub release_after: Duration,
    /// It is kept, before that, until an operator deletes the LoadBalancer.
    pub retain: bool,
    /// Which of its nodes' addresses and ports may receive traffic.
    pub nodes: Rules,
}

impl Policy {
    /// Of whom there is no Tenant.
    pub fn nobodys(allocator: Allocator) -> Self {
        Self {
            allocator,
            pool: None,
            class: None,
            requestable: Vec::new(),
            annotations: Arc::default(),
            release_after: Duration::ZERO,
            retain: false,
            nodes: Rules::default(),
        }
    }
}

/// An object as the API server last showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen<T> {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`, by which the newer of two is known.
    pub version: u64,
    /// Deleted, and waiting for somebody's finalizer.
    pub deleting: bool,
    /// When this process first saw this object.
    pub since: Instant,
    /// What the planner wants to know of it.
    pub object: T,
}

/// The API server would not have what was planned for a version of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The version that was planned for.
    pub generation: Generation,
    /// The field at fault in the tenant's Service, as far as it is known.
    pub field: String,
    /// What the API server said.
    pub why: Reason,
    /// When it may be tried again.
    pub until: Instant,
}

/// What the management cluster has for one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The LoadBalancer.
    pub record: Option<Arc<Seen<ObservedRecord>>>,
    /// The Service.
    pub service: Option<Arc<Seen<ObservedService>>>,
    /// The EndpointSlices.
    pub slices: BTreeMap<Place, Arc<Seen<ObservedSlice>>>,
    /// The last rejection, of whatever version.
    pub rejection: Option<Arc<Rejection>>,
    /// Why the allocator gives no address, in its own words.
    pub allocator_says: Option<Arc<str>>,
    /// When the allocator last gave anybody an address: while it does, waiting is no news.
    pub allocator_gave: Option<Instant>,
    /// How the tenant's nodes stand, seen from here. None: they are not probed.
    pub health: Option<Arc<Verdicts>>,
    /// Which addresses of the tenant's nodes are somebody else's. None: nobody has looked.
    pub barred: Option<Arc<Barred>>,
    /// Which of the addresses that are asked for another tenant's load balancer has.
    pub taken: BTreeSet<IpAddr>,
    /// It is parked, and its time is up ([`Parking`]).
    pub released: bool,
    /// Whether the tenant's quotas have room for it.
    pub room: Room,
}

/// Whether there is room for a load balancer in its tenant's quotas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Room {
    /// There is, or nobody has asked.
    #[default]
    Enough,
    /// Not for what is wanted. What there is of it stays.
    None(Refusal),
    /// Not for what is there either: it goes.
    Gone(Refusal),
}

impl From<Said> for Room {
    fn from(said: Said) -> Self {
        match said.verdict {
            Verdict::Granted => Self::Enough,
            Verdict::Refused(shortage) => Self::None(shortage.refusal()),
            Verdict::Withdrawn(shortage) => Self::Gone(shortage.refusal()),
        }
    }
}

impl Observed {
    /// Whether no object is there, deleting ones included.
    pub fn is_empty(&self) -> bool {
        self.is_cut() && self.service.is_none()
    }

    /// Whether traffic has no way any more: at most the Service is left, with its address.
    pub fn is_cut(&self) -> bool {
        self.record.is_none() && self.slices.is_empty()
    }

    /// Whether all that is left is an address, parked or reserved, or nothing: nobody misses what is not served.
    pub fn rests(&self) -> bool {
        let reserved = |seen: &Arc<Seen<ObservedRecord>>| {
            let status = seen.object.status.as_ref();
            let shape = status.and_then(|status| status.shape.as_ref());
            shape.is_some_and(|shape| shape.programmed.reason == RESERVED)
        };
        self.slices.is_empty() && self.record.as_ref().is_none_or(reserved)
    }
}

/// The present moment, twice: for measuring, and for telling people.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic.
    pub instant: Instant,
    /// Wall clock.
    pub wall: Timestamp,
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// What to write.
    pub write: Write,
    /// Why, for the log.
    pub reason: &'static str,
}

/// What to write. Where an object is to be changed or deleted, `uid` is the one that was observed; without one it is to be
/// created.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Create or change the Service.
    Service {
        /// The observed Service.
        uid: Option<String>,
        /// What it is to be.
        shape: ServiceShape,
    },
    /// Take away from the Service what others put into it.
    StripService {
        /// The observed Service.
        uid: String,
        /// What is to be left.
        shape: ServiceShape,
    },
    /// Create or change a slice.
    Slice {
        /// The observed slice.
        uid: Option<String>,
        /// Which.
        place: Place,
        /// What it is to be.
        shape: SliceShape,
    },
    /// Create or change the record.
    Record {
        /// The observed record.
        uid: Option<String>,
        /// What it is to say.
        spec: Box<LoadBalancerSpec>,
    },
    /// Write the record's status.
    Status {
        /// What it is to say.
        shape: Box<StatusShape>,
        /// When.
        now: Timestamp,
    },
    /// Delete an object.
    Delete {
        /// Of which kind.
        kind: Kind,
        /// For a slice: which.
        place: Option<Place>,
        /// The observed object.
        uid: String,
    },
}

/// What to do, and what to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// To be written, in any order.
    pub actions: Vec<Action>,
    /// To be told to the tenant now, also while actions are still running. None: there is nothing to say yet.
    pub answer: Option<Answer>,
    /// What is not wanted serves nobody (any more), and is not at the tenant's disposal: finalizers may go.
    pub gone: bool,
    /// Only the Service is left, which keeps its address until it is released: nobody wants the load balancer, or it may not be.
    pub parked: bool,
    /// With so many ports the Service is to be there, which takes that much of the tenant's quotas. None: nothing is to be there.
    pub ports: Option<usize>,
    /// It is wanted, and waits for an address that the allocator does not give.
    pub starving: bool,
    /// Once this is written, another Service of the same name has taken over the load balancer.
    pub rebound: bool,
    /// It is wanted, and cut all the same, because policy is enforced: the reason's word and sentence.
    pub withdrawn: Option<(&'static str, String)>,
    /// Plan again at this time, even if nothing happens.
    pub revisit: Option<Instant>,
}

impl Plan {
    fn act(&mut self, reason: &'static str, write: Write) {
        self.actions.push(Action { write, reason });
    }

    /// Plans again then, if it is given.
    pub(crate) fn look_again(&mut self, at: Option<Instant>) {
        at.into_iter().for_each(|at| self.revisit_at(at));
    }

    fn revisit_at(&mut self, at: Instant) {
        self.revisit = Some(self.revisit.map_or(at, |earlier| earlier.min(at)));
    }
}

/// Plans for one key.
pub fn plan(id: &Id, want: &Want, observed: &Observed, policy: &Policy, now: Now) -> Plan {
    match want {
        Want::Present {
            generation,
            service,
            nodes,
        } => {
            let wish = Wish {
                generation: *generation,
                version: Ok(service),
                local_nodes: Some(&service.local_nodes),
            };
            present::plan(id, &wish, nodes, observed, policy, now)
        }
        Want::Unreadable {
            generation,
            refusal,
            last,
            nodes,
        } => {
            let wish = Wish {
                generation: *generation,
                version: Err(refusal),
                local_nodes: last.as_ref().map(|service| &service.local_nodes),
            };
            present::plan(id, &wish, nodes, observed, policy, now)
        }
        Want::Deleted => {
            unwanted::plan(id, observed, policy, now, "the tenant deleted the Service")
        }
        Want::Absent { since, held } => unwanted::absent(id, *since, *held, observed, policy, now),
        Want::Unknown => Plan::default(),
        Want::TenantDeleted => unwanted::departing(id, observed, policy, now),
        Want::NoTenant => unwanted::orphaned(observed),
    }
}

/// A refusal of the planner's own.
fn refuse(field: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Refusal {
    Refusal {
        field: field.into(),
        reason,
        message: message.into(),
    }
}

/// Whether an address is one that machines have, and may stand in a Service's status at all.
fn is_unicast(ip: &IpAddr) -> bool {
    backends::denied(ip).is_none()
}
