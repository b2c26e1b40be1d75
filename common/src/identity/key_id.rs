//! Which key signed a certificate, in a form that fits into a status and that people can compare: the first eight bytes of the key
//! identifier that an authority gives itself (RFC 5280, 4.2.1.2), and every certificate it signs repeats (4.2.1.1).

use std::{fmt, str::FromStr};

/// How much of the identifier is kept: two authorities of one installation never share so much by chance.
const BYTES: usize = 8;

/// Why a text is no key id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a key id of 16 hexadecimal digits")]
pub struct KeyIdError;

/// An authority's key: 16 hexadecimal digits in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; BYTES]);

impl KeyId {
    /// Of an identifier as it stands in a certificate. None of one that is shorter, as none of any use is.
    pub fn from_bytes(identifier: &[u8]) -> Option<Self> {
        let first = identifier.get(..BYTES)?;
        Some(Self(first.try_into().ok()?))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 2 * BYTES || !text.bytes().all(digit) {
            return Err(KeyIdError);
        }
        let mut bytes = [0; BYTES];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| KeyIdError)?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_ids_read_and_write_alike() {
        let id = KeyId::from_bytes(&[0x0a, 1, 2, 3, 4, 5, 6, 0xff, 9, 9]).unwrap();
        assert_eq!(id.to_string(), "0a010203040506ff");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(KeyId::from_bytes(&[1, 2, 3]), None);
        for wrong in ["", "0a010203040506f", "0A010203040506FF", "0a0102030405éf"] {
            assert_eq!(wrong.parse::<KeyId>(), Err(KeyIdError), "{wrong}");
        }
    }
}
