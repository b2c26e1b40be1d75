//! The agent: one in each tenant cluster. It streams the cluster's load balancer Services and nodes to the hub, and
//! writes back what came of them.

pub mod app;
pub mod apply;
pub mod broker;
pub mod claims;
pub mod cli;
pub mod dial;
pub mod doctor;
pub mod events;
pub mod explain;
pub mod identity;
pub mod index;
pub mod link;
pub mod metrics;
pub mod project;
pub mod queue;
pub mod release;
pub mod settings;
pub mod simulate;
pub mod status;
pub mod watch;
