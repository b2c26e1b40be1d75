//! The only randomness of authority and tokens: keys, serial numbers and secrets. Everything else takes them as arguments.

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

use super::CaError;

/// A new ECDSA P-256 key.
///
/// # Errors
/// When the system has no randomness to give.
pub fn fresh_key() -> Result<KeyPair, CaError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

/// A new serial number of 128 random bits: two are never the same, and none says how many there are.
///
/// # Errors
/// When the system has no randomness to give.
pub fn fresh_serial() -> Result<[u8; 16], CaError> {
    let mut serial = [0; 16];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut serial)
        .map_err(|_| CaError::NoRandomness)?;
    Ok(serial)
}

/// 256 random bits, for a token.
///
/// # Errors
/// When the system has no randomness to give.
pub fn fresh_secret() -> Result<[u8; 32], CaError> {
    let mut secret = [0; 32];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut secret)
        .map_err(|_| CaError::NoRandomness)?;
    Ok(secret)
}
