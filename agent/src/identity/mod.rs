//! An identity that the agent gets and keeps by itself: it makes a key, trades a join token for a certificate, keeps both in a Secret of
//! its own namespace and renews the certificate in time. The key is sent to nobody. What a Secret's content means is pure (`held`);
//! `vault` reads and writes it, `join` and `renew` ask the hub.

mod held;
mod join;
mod renew;
#[cfg(test)]
mod tests;
mod vault;

pub use held::{Held, State};
pub use join::{JoinError, Joiner};
pub use renew::Renewer;
pub use vault::{Vault, VaultError};
