//! Health of tenants' nodes, seen from the management side: a node that does not answer receives no new traffic. What is
//! probed is what would be a backend, and nothing else. [`node`] decides about one address and [`fleet`] about all of
//! them, without clock, randomness or IO; [`probe`] is one probe, [`watch`] the task that sends them. The planner reads
//! [`Verdicts`] and writes slices; nothing here does.
//!
//! The rule. An address fails when it has said so itself (503, KEP-3458) or was silent, so many times in a row, to every
//! kind of probe that can be sent to it: kube-proxy's healthz and, where that was never heard or has gone silent, a TCP
//! connection to one of the tenant's node ports. Refusing a connection is a sign of life. Silence counts only while another
//! address of the same tenant and family has answered since it began, for otherwise it may be the hub that cannot be
//! heard. Where all fail, all stay (fail open), and the record says so.

pub mod demand;
pub mod fleet;
pub mod ground;
pub mod metrics;
pub mod node;
pub mod policy;
pub mod probe;
#[cfg(test)]
mod tests;
mod verdicts;
pub mod watch;

pub use policy::{Mode, Policy};
pub use verdicts::Verdicts;
pub use watch::Health;
