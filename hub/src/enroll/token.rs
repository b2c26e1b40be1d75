//! A join token: 256 random bits in a form that a person can copy, and the digest by which it is kept. The token itself is shown once
//! and is nowhere afterwards. Pure: the random bits are an argument.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// So that a token is recognised wherever it turns up, by people and by scanners for secrets.
const PREFIX: &str = "berth-join-";
/// RFC 4648, 6, in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// 256 bits in digits of five.
const DIGITS: usize = 52;
/// Digits of the digest in an id: 64 bits, which name a token and tell nothing of it.
const ID_DIGITS: usize = 16;

/// A token as its bearer has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// Never the token itself.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.digest().id())
    }
}

impl Token {
    /// The token of these bits.
    pub fn new(bits: &[u8; 32]) -> Self {
        let mut text = PREFIX.to_owned();
        for digit in 0..DIGITS {
            let value = (0..5).fold(0, |value, bit| {
                let at = digit * 5 + bit;
                let set = bits.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
                value << 1 | usize::from(set)
            });
            text.push(char::from(ALPHABET[value]));
        }
        Self(text)
    }

    /// Reads what [`Token::new`] writes, and nothing else. None for everything that cannot be a token.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?.as_bytes();
        let all = digits.len() == DIGITS && digits.iter().all(|digit| ALPHABET.contains(digit));
        // The last digit has one bit of the token, and four that are always 0.
        let canonical = digits
            .last()
            .is_some_and(|last| matches!(last, b'a' | b'q'));
        (all && canonical).then(|| Self(text.to_owned()))
    }

    /// For the person who is to have it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it: SHA-256 of its text.
    pub fn digest(&self) -> TokenDigest {
        TokenDigest(Sha256::digest(&self.0).into())
    }
}

/// The digest of a token.
#[derive(Clone, Copy, Debug)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// The token's name in lists and logs.
    pub fn id(&self) -> TokenId {
        TokenId(self.to_hex()[..ID_DIGITS].to_owned())
    }

    /// 64 hexadecimal digits.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }

    /// Compares with what [`TokenDigest::to_hex`] wrote, in a time that does not depend on where they differ.
    pub fn is(&self, hex: &str) -> bool {
        self.to_hex().as_bytes().ct_eq(hex.as_bytes()).into()
    }
}

/// A token's name: the beginning of its digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenId(String);

impl TokenId {
    /// Reads one. None where it cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = text.len() == ID_DIGITS
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        fits.then(|| Self(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of [`hex`], where there are so many.
pub(super) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}
