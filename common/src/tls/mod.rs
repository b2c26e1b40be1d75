//! TLS as both ends of Berth speak it: version 1.3 only, mutual, `h2`, nothing resumed, with *ring* named explicitly
//! and never taken from the process. It knows PEM files and certificates; it opens no socket and does not know what
//! an identity may do. Configurations are values that are swapped whole (see [`TlsSource`]), never changed.

mod config;
mod credentials;
mod error;
mod pin;
mod reload;
pub mod renewal;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod validity;
mod verifier;

pub use config::{
    ALPN_H2, client_config, open_client_config, open_server_config, server_config, server_name,
};
pub use credentials::{Credentials, Role, TlsFiles, certificates_from_pem};
pub use error::TlsError;
pub use pin::{Pin, PinError, pinned_client_config};
pub use reload::{ClientTls, Current, Reload, ServerTls, TlsSource};
pub use validity::{Health, Validity, format_time, in_words};
pub use verifier::{MAX_CHAIN_LENGTH, StrictClientVerifier, once_valid};
