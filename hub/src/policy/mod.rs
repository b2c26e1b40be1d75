//! What the operator's policy makes of what a tenant brings along: which of its nodes' addresses may receive traffic. Pure: it
//! knows neither clients nor clocks, and what it says depends on nothing but what it was told.

mod claims;
mod nodes;

pub use claims::{Barred, Claims, Judged, Rules};
pub use nodes::{NodePorts, NodeRules, Quotas, Unfit, networks};
