//! From Kubernetes objects to what the agent keeps of them: pure functions that take an object whole and give back a
//! small value, so that the object can be dropped at once (PITFALLS 17). They know the Kubernetes API's shapes and
//! defaults; they decide nothing that depends on another object.

mod endpoints;
mod node;
mod service;

pub use endpoints::{SeenSlice, SliceKey};
pub use node::{AddressType, SeenNode};
pub use service::{Fault, SeenCondition, SeenIngress, SeenService, SeenStatus, Wish};

/// The condition by which Berth says on a Service whether its load balancer works.
pub const PROGRAMMED: &str = "berth.dev/Programmed";
/// Upstream's condition for ports that the load balancer cannot serve.
pub const PORTS_ERROR: &str = "LoadBalancerPortsError";
/// The field manager of everything that the agent writes.
pub const FIELD_MANAGER: &str = "berth-agent";

/// The version of an object in its API server. The numbers of one kind of object can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceVersion(pub String);

impl ResourceVersion {
    /// Whether this is certainly the older of the two: both are numbers, and this one is smaller.
    pub fn is_older_than(&self, other: &Self) -> bool {
        match (self.0.parse::<u64>(), other.0.parse::<u64>()) {
            (Ok(this), Ok(other)) => this < other,
            _ => false,
        }
    }
}
