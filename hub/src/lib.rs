//! The hub, the only holder of management-cluster credentials. The way of the data: `listen` (who is there) → `session`
//! (messages) → `tenants` (what each wants) → `plan` (pure: what to do) → `execute` (the only writer) → `observe` (what came of
//! it) → `tenants` → the same stream. Beside it, `health` asks the tenants' nodes, and `plan` heeds what they say.

pub mod api;
pub mod app;
pub mod audit;
pub mod ca;
pub mod certificates;
pub mod cli;
pub mod deletion;
pub mod doctor;
pub mod enroll;
pub mod execute;
pub mod health;
mod lines;
pub mod listen;
pub mod metrics;
pub mod objects;
pub mod observe;
pub mod pace;
pub mod plan;
pub mod policy;
pub mod release;
pub mod serve;
pub mod serving;
pub mod session;
pub mod settings;
pub mod shutdown;
pub mod standing;
pub mod tenants;
pub mod work;
