//! The SPIFFE URI of an identity, both ways. The grammar is so narrow that every accepted text is the one that
//! [`Identity::uri`] writes; there is no second spelling, and no prefix of a name is ever a match.

use super::{AdminName, Identity, NameError, TenantName, TrustDomain};

/// The longest URI looked at, in bytes (the SPIFFE ID specification, section 2.3).
pub const MAX_URI_LENGTH: usize = 2048;

const SCHEME: &str = "spiffe://";

/// Why a URI is not an identity of this trust domain. Texts of a peer are kept escaped and short, fit for a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Longer than [`MAX_URI_LENGTH`].
    #[error("the URI has {length} bytes, {MAX_URI_LENGTH} are allowed")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A NUL, a control character, a space or a byte beyond ASCII (a homoglyph, perhaps).
    #[error("the URI has the byte {byte:#04x} at {at}; only printable ASCII is allowed")]
    ForbiddenByte {
        /// The byte.
        byte: u8,
        /// Its offset.
        at: usize,
    },
    /// A percent sign: nothing in an identity needs encoding, and nothing is ever decoded.
    #[error("the URI is percent-encoded at byte {at}")]
    PercentEncoded {
        /// Its offset.
        at: usize,
    },
    /// An upper-case letter: identities are lower case, and nothing is folded.
    #[error("the URI has an upper-case letter at byte {at}")]
    UpperCase {
        /// Its offset.
        at: usize,
    },
    /// Something else than `spiffe://`.
    #[error("the URI {found:?} does not start with {SCHEME}")]
    Scheme {
        /// The start of the URI.
        found: String,
    },
    /// Another installation's identity.
    #[error("the URI is of the trust domain {found:?}, not of {expected}")]
    OtherTrustDomain {
        /// The trust domain in the URI.
        found: String,
        /// Ours.
        expected: TrustDomain,
    },
    /// A slash at the end.
    #[error("the URI ends with a slash")]
    TrailingSlash,
    /// An empty, `.` or `..` path segment.
    #[error("the URI has an empty or dot segment in its path")]
    DotSegment,
    /// A path of another form than `/tenant/<name>`, `/admin/<name>` or `/hub`.
    #[error("the path {found:?} is neither /tenant/<name> nor /admin/<name> nor /hub")]
    UnknownPath {
        /// The start of the path.
        found: String,
    },
    /// The last segment is no name.
    #[error("the name in the URI {0}")]
    Name(NameError),
}

impl Identity {
    /// The one URI of this identity in a trust domain.
    pub fn uri(&self, trust_domain: &TrustDomain) -> String {
        format!("{SCHEME}{trust_domain}/{self}")
    }

    /// Reads a URI; exactly what [`Identity::uri`] writes is accepted, byte for byte.
    pub fn from_uri(uri: &str, trust_domain: &TrustDomain) -> Result<Self, UriError> {
        check_bytes(uri)?;
        let rest = uri
            .strip_prefix(SCHEME)
            .ok_or_else(|| UriError::Scheme { found: start(uri) })?;
        let (found, path) = rest.split_once('/').unwrap_or((rest, ""));
        if found != trust_domain.as_str() {
            return Err(UriError::OtherTrustDomain {
                found: start(found),
                expected: trust_domain.clone(),
            });
        }
        from_path(path)
    }
}

impl TrustDomain {
    /// The trust domain that a SPIFFE URI names, whatever its path; for showing a certificate, and for an authority,
    /// whose URI has no path. Never for a decision about a peer.
    pub fn of_uri(uri: &str) -> Option<Self> {
        check_bytes(uri).ok()?;
        let rest = uri.strip_prefix(SCHEME)?;
        let (found, _) = rest.split_once('/').unwrap_or((rest, ""));
        Self::parse(found).ok()
    }
}

/// Everything that no identity contains, wherever it stands.
fn check_bytes(uri: &str) -> Result<(), UriError> {
    if uri.len() > MAX_URI_LENGTH {
        return Err(UriError::TooLong { length: uri.len() });
    }
    for (at, byte) in uri.bytes().enumerate() {
        match byte {
            b'%' => return Err(UriError::PercentEncoded { at }),
            b'A'..=b'Z' => return Err(UriError::UpperCase { at }),
            0x21..=0x7e => {}
            _ => return Err(UriError::ForbiddenByte { byte, at }),
        }
    }
    Ok(())
}

/// The path, without its first slash.
fn from_path(path: &str) -> Result<Identity, UriError> {
    let unknown = || UriError::UnknownPath {
        found: start(&format!("/{path}")),
    };
    if path.is_empty() {
        return Err(unknown());
    }
    if path.ends_with('/') {
        return Err(UriError::TrailingSlash);
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(UriError::DotSegment);
    }
    if path == "hub" {
        return Ok(Identity::Hub);
    }
    let (kind, name) = path.split_once('/').ok_or_else(unknown)?;
    if name.contains('/') {
        return Err(unknown());
    }
    match kind {
        "tenant" => TenantName::parse(name).map(Identity::Tenant),
        "admin" => AdminName::parse(name).map(Identity::Admin),
        _ => return Err(unknown()),
    }
    .map_err(UriError::Name)
}

/// At most 64 bytes of a text that is known to be printable ASCII: enough for a person to recognise it.
fn start(text: &str) -> String {
    text.chars().take(64).collect()
}
