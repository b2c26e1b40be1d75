//! The hub's certificate authority: a pure policy that decides every field of a certificate, the key that signs, where
//! both are kept, and how one authority takes the place of another (`kept`, `rotation`). It knows certificates, files and Secrets; it does not know who may ask for one.

mod authority;
mod error;
pub mod follow;
mod issuing;
mod kept;
mod lifetime;
mod material;
mod policy;
pub mod rotation;
pub mod store;
#[cfg(test)]
mod tests;

pub use authority::{Authority, Issued};
pub use error::{CaError, SecretRefError};
pub use issuing::{Issuing, Wanted};
pub use kept::{Kept, Stage};
pub use lifetime::{Lifetime, LifetimeError};
pub use material::{fresh_key, fresh_secret, fresh_serial};
pub use policy::{
    CLOCK_SKEW, CertificateRequest, DEFAULT_AUTHORITY_LIFETIME, DEFAULT_LIFETIME, PolicyError,
};
