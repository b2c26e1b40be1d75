//! How a cluster is admitted, and keeps its certificate: join tokens, what may be in a request for a certificate, and the two gRPC
//! services. What decides is pure (`token`, `entry`, `csr`, `attempts`, `grace`); `store` keeps tokens in a Secret, `service`, `rejoin` and
//! `renewal` speak gRPC. It signs with `ca`; it knows nothing of sessions.

mod attempts;
mod budget;
mod csr;
mod entry;
mod grace;
mod metrics;
mod rejoin;
mod renewal;
mod service;
mod store;
#[cfg(test)]
mod tests;
mod token;

pub use attempts::{Attempts, Locked};
pub use csr::{CsrError, MAX_CSR_BYTES, Requested};
pub use entry::{Bound, Decision, Entry, MAX_TTL, Refused, Signed};
pub use metrics::EnrollMetrics;
pub use renewal::Renewals;
pub use service::Enrollments;
pub use store::{StoreError, Tokens};
pub use token::{Token, TokenId};
