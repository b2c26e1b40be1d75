//! An identity that the agent gets and keeps by itself: it makes a key, trades a join token for a certificate, keeps both in a Secret of
//! its own namespace and renews the certificate in time. The key is sent to nobody. What a Secret's content means is pure (`held`), and
//! so is when to renew (`pace`); `vault` reads and writes it, `join` and `renew` ask the hub.

mod held;
mod join;
mod pace;
mod renew;
#[cfg(test)]
mod tests;
mod vault;

pub use held::{Held, State};
pub use join::{JoinError, Joiner};
pub use pace::{Failed, Pace, Step};
pub use renew::Renewer;
pub use vault::{Vault, VaultError};
