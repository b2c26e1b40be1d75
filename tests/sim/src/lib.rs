//! Tries to break Berth. Agents, hubs, a management cluster and an allocator live in virtual time in one thread; the parts
//! that decide are the real ones (`AgentSession`, `HubSession` and `Held` behind the hub's `Tenants`, its work queue, cache and
//! planner), and what they would do by IO is modelled. A schedule of people's doings and faults, drawn from a seed, runs over
//! them; after every step the invariants of DESIGN.md are checked by a ledger of what is true, and in the end everything
//! has to become what the tenants want. The same seed gives the same run, to the last message.
//!
//! The way through it: `op` (what can happen) → `world` (time and events) → `doings`, `wires`, `executor` (what an event does)
//! → `ledger` and `settle` (what must hold) → `runner` (many schedules, and smaller ones of those that fail). `mutation` has
//! the bugs by which the simulator itself is tested.

mod agent;
mod cluster;
mod doings;
mod excuse;
mod executor;
mod hub;
mod ledger;
mod management;
mod mutation;
mod net;
mod op;
mod runner;
mod settle;
mod stats;
mod wires;
mod world;

pub use excuse::{EXCUSED, Finding};
pub use ledger::Violation;
pub use mutation::Mutation;
pub use op::{Cut, Kind, Op, Schedule, Version, Way};
pub use runner::{Case, Failure, run, run_traced, schedule, seed_of, shrink};
pub use settle::BOUND;
pub use stats::Stats;
