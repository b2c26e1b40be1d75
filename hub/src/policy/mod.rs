//! What the operator's policy makes of what a tenant brings along: which of its nodes' addresses may receive traffic. Pure: it
//! knows neither clients nor clocks, and what it says depends on nothing but what it was told.

mod account;
mod claims;
mod ledger;
mod nodes;
mod shortage;
mod terms;

use std::num::NonZeroU32;

pub use claims::{Barred, Claims, Judged, Rules};
pub use ledger::Ledger;
pub use nodes::{NodePorts, NodeRules, Quotas, Unfit, networks};
pub use shortage::{QUOTA_EXCEEDED, Shortage};
pub use terms::{Holding, Limits, News, Said, Usage, Verdict};

/// How many changes of a tenant are carried out in a second, unless its Tenant says otherwise: three thousand new Services at once are
/// no matter.
pub const CHANGES_PER_SECOND: NonZeroU32 = NonZeroU32::new(200).unwrap();
