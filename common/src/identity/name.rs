//! The three kinds of names, each parsed once and valid from then on. All are cheap to clone, for they are keys of
//! every map in hub and agent. What a name may look like is decided here and nowhere else.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// The longest tenant or admin name in bytes: `berth-<tenant>` must be a namespace's name (63 at most), with room for
/// suffixes.
pub const MAX_NAME_LENGTH: usize = 40;

/// The longest trust domain in bytes (a DNS name).
const MAX_TRUST_DOMAIN_LENGTH: usize = 253;

/// The longest label of a DNS name in bytes (RFC 1035).
const MAX_LABEL_LENGTH: usize = 63;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is nothing, or nothing between two dots.
    #[error("is empty")]
    Empty,
    /// More bytes than allowed.
    #[error("has {length} bytes, {max} are allowed")]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The longest allowed.
        max: usize,
    },
    /// A byte other than `a`-`z`, `0`-`9`, `-` (and `.` in a trust domain).
    #[error("has {:?} at byte {at}; only a-z, 0-9 and - are allowed", *.byte as char)]
    ForbiddenByte {
        /// The byte.
        byte: u8,
        /// Its offset.
        at: usize,
    },
    /// A hyphen at the start or the end of a label.
    #[error("starts or ends with a hyphen")]
    OuterHyphen,
}

/// The name of a tenant: a DNS label of at most [`MAX_NAME_LENGTH`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantName(Arc<str>);

impl TenantName {
    /// The namespace of this tenant's objects in the management cluster, `berth-<tenant>`.
    pub fn namespace(&self) -> String {
        format!("berth-{}", self.0)
    }
}

/// The name of an operator's person or tool: a DNS label of at most [`MAX_NAME_LENGTH`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AdminName(Arc<str>);

/// The trust domain of one installation: a lower-case DNS name such as `berth.local`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

impl Default for TrustDomain {
    /// `berth.local`, the default of every command and setting.
    fn default() -> Self {
        Self(Arc::from("berth.local"))
    }
}

/// One label: 1 to `max` bytes of `a`-`z`, `0`-`9` and inner hyphens. `offset` is where it starts in the whole name.
fn check_label(label: &str, offset: usize, max: usize) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::Empty);
    }
    if label.len() > max {
        return Err(NameError::TooLong {
            length: label.len(),
            max,
        });
    }
    let forbidden = |byte: &u8| !matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if let Some(at) = label.as_bytes().iter().position(forbidden) {
        return Err(NameError::ForbiddenByte {
            byte: label.as_bytes()[at],
            at: offset + at,
        });
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(NameError::OuterHyphen);
    }
    Ok(())
}

fn check_name(text: &str) -> Result<(), NameError> {
    check_label(text, 0, MAX_NAME_LENGTH)
}

fn check_trust_domain(text: &str) -> Result<(), NameError> {
    if text.len() > MAX_TRUST_DOMAIN_LENGTH {
        return Err(NameError::TooLong {
            length: text.len(),
            max: MAX_TRUST_DOMAIN_LENGTH,
        });
    }
    let mut offset = 0;
    for label in text.split('.') {
        check_label(label, offset, MAX_LABEL_LENGTH)?;
        offset += label.len() + 1;
    }
    Ok(())
}

/// What the three names have in common: parsing, and being read as text.
macro_rules! text_name {
    ($name:ident, $check:ident) => {
        impl $name {
            /// Parses a name; nothing is trimmed or changed.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                $check(text).map(|()| Self(Arc::from(text)))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

text_name!(TenantName, check_name);
text_name!(AdminName, check_name);
text_name!(TrustDomain, check_trust_domain);
