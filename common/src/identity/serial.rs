//! A certificate's serial number in one canonical text form, so that a log line, a metric and a list of revoked
//! serials written by hand all mean the same certificate.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// The longest serial number in bytes (RFC 5280, 4.1.2.2).
const MAX_SERIAL_LENGTH: usize = 20;

/// Why a text is not a serial number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SerialError {
    /// Neither plain hexadecimal nor hexadecimal pairs joined by colons.
    #[error("is not a hexadecimal serial number such as 3f09… or 3f:09:…")]
    NotHexadecimal,
    /// More than 20 bytes, which no valid certificate has.
    #[error("is longer than {MAX_SERIAL_LENGTH} bytes")]
    TooLong,
}

/// A serial number: lower-case hexadecimal without separators or leading zero bytes (`00` for zero).
///
/// Parsing accepts what tools print: upper or lower case, with or without colons.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial(Arc<str>);

impl Serial {
    /// From the big-endian bytes of the certificate's INTEGER.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let significant = bytes.iter().position(|byte| *byte != 0);
        let bytes = significant.map_or(&[0][..], |start| &bytes[start..]);
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Self(digits.into())
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Serial {
    type Err = SerialError;

    fn from_str(text: &str) -> Result<Self, SerialError> {
        let digits = text.replace(':', "");
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(SerialError::NotHexadecimal);
        }
        if text.contains(':') && text.split(':').any(|pair| pair.len() != 2) {
            return Err(SerialError::NotHexadecimal);
        }
        let digits = digits.trim_start_matches('0').to_ascii_lowercase();
        if digits.len() > 2 * MAX_SERIAL_LENGTH {
            return Err(SerialError::TooLong);
        }
        let width = digits.len().max(1).next_multiple_of(2);
        Ok(Self(format!("{digits:0>width$}").into()))
    }
}

impl TryFrom<String> for Serial {
    type Error = SerialError;

    fn try_from(text: String) -> Result<Self, SerialError> {
        text.parse()
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> Self {
        serial.as_str().to_owned()
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
