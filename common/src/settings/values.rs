//! Readings of common values, for `#[serde(deserialize_with = "…")]`: types of the standard library whose own errors do
//! not say what was expected.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Deserializer, de::Error};

/// An address to listen on: IP and port.
pub fn socket_addr<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    String::deserialize(deserializer)?
        .parse()
        .map_err(|_| D::Error::custom("expected IP:port, such as 0.0.0.0:8443 or [::]:8443"))
}

/// A path that is not empty.
pub fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    optional_path(deserializer)?.ok_or_else(|| D::Error::custom("expected the path of a file"))
}

/// A path, or nothing where the text is empty.
pub fn optional_path<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PathBuf>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok((!text.is_empty()).then(|| text.into()))
}

/// A number of things: at least one.
pub fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let number = String::deserialize(deserializer)?.parse().ok();
    number
        .filter(|number| (1..=1_000_000).contains(number))
        .ok_or_else(|| D::Error::custom("expected a number from 1 to 1000000"))
}
