//! Tries to break Berth. Agents, hubs, a management cluster and an allocator live in virtual time in one thread; the parts
//! that decide are the real ones (`AgentSession`, `HubSession` and `Held` behind the hub's `Tenants`, its work queue, cache and
//! planner), and what they would do by IO is modelled. A schedule of people's doings and faults, drawn from a seed, runs over
//! them; after every step the invariants of DESIGN.md are checked by a ledger of what is true, and in the end everything
//! has to become what the tenants want. The same seed gives the same run, to the last message.
//!
//! What is covered, and by what:
//!
//! - several tenants, each with an agent that can read its cluster, cannot, finds it empty, restored from an old backup, or
//!   another in its place (`SourceLost`, `Restore`, `Swap`, `Rebind`); two agents under one identity, of the same cluster
//!   (`Twin`) and of another (`Impostor`);
//! - agents and hubs that lose their memory at any moment, with writes of the dead hub that land or do not (`AgentRestart`,
//!   `HubKill`, `HubDrain`), and every one of them once more at the end;
//! - a network that cuts behind any message, and of which one end or both notice, or what was sent arrives when a newer
//!   session is there (`CutOff`, `CutBehind`); that is half-open, slow, stalled until a writer gives up (`HalfOpen`, `Slow`,
//!   `Stall`); and, which no transport does, loses messages from the middle (`Lose`);
//! - a management API that is slow, down, refuses, does what it then cannot say, with watches that lag or break, and people
//!   who delete and change what is there (`ApiSlow`, `ApiDown`, `FailWrites`, `LoseReplies`, `WatchLag`, `WatchBreak`, `Vandal`,
//!   `Drift`); an allocator that is away or forgets (`AllocatorDown`, `AllocatorAmnesia`);
//! - an operator who sets quotas, widens and narrows them and has them enforced (`Quota`), deletes Tenants under either reclaim
//!   policy, loses them, confirms, and makes others of the same name (`DeleteTenant`, `LoseTenant`, `ConfirmDeletion`,
//!   `CreateTenant`);
//! - after every step: no known address changes, none is shared, every object has an owner, a fenced session changes nothing,
//!   nothing goes without its tenant's word or grace and brake, an answer speaks of the version that it names (`ledger`); no
//!   load balancer is written beyond a quota, also across a crash, who waits first is served first, and what is wanted is
//!   withdrawn only where that is enforced; of a deleted Tenant goes what its policy lets go, not before it may, and of a
//!   lost one nothing (`quota`); and when the faults stop, everything that there is room for is as the tenants want within
//!   [`BOUND`], the rest is told why not, and then nothing is said or written, whatever restarts (`settle`).
//!
//! What it does not have is the executor itself, and who sees deleted Tenants off, which are async: `executor` and `departures` do
//! the same rounds. Sockets, and the memory that a flood would take, are for tests of the real shells.
//!
//! `regressions` has the schedules that once broke something; `tests/` runs those, the first ten thousand of a seed, and the
//! bugs of `mutation`. The way through it: `op` (what can happen) → `world` (time and events) → `doings`, `comings`, `tenants`,
//! `wires`, `executor`, `departures` (what an event does) → `ledger`, `quota` and `settle` (what must hold) → `runner` (one
//! schedule, and smaller ones of one that fails), `sweep` (many), `saved` (as files). `mutation` has the bugs by which the
//! simulator itself is tested.

mod agent;
mod bend;
mod births;
mod cluster;
mod comings;
mod departures;
mod doings;
mod executor;
mod hub;
mod ledger;
mod management;
mod mutation;
mod net;
mod objects;
mod op;
mod places;
mod quota;
mod runner;
mod saved;
mod settle;
mod stats;
mod status;
mod sweep;
mod tenants;
mod wires;
mod wishes;
mod words;
mod world;

pub use ledger::Violation;
pub use mutation::Mutation;
pub use op::{Cut, Kind, Op, Schedule, Version, Way};
pub use runner::{Case, Failure, run, run_traced, schedule, seed_of, shrink};
pub use saved::Saved;
pub use settle::BOUND;
pub use stats::Stats;
pub use sweep::{Sweep, sweep};
