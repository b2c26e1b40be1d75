//! Certificate, key and trusted authorities, read from PEM and checked before they are used: a wrong file is named
//! at the start, not found out by a peer in a handshake. It decides what is usable, not what it is used for.

use std::{
    fmt, fs, io,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustls::{crypto::CryptoProvider, sign::CertifiedKey};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use sha2::{Digest as _, Sha256};

use super::{TlsError, validity::Health, validity::Validity};
use crate::identity::CertificateFacts;

/// The largest file read; a bundle of a hundred authorities has a quarter of it.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// Which end of the connection the credentials are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The hub: the certificate needs serverAuth.
    Server,
    /// An agent or an admin: the certificate needs clientAuth.
    Client,
}

/// Where the three PEM files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, leaf first, then its intermediates.
    pub cert: PathBuf,
    /// The leaf's private key.
    pub key: PathBuf,
    /// The authorities that the other end's certificate must come from.
    pub ca: PathBuf,
}

/// The bytes of the three files at one moment.
pub(super) struct RawFiles {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

/// Checked credentials: the chain, its key, and whom to trust.
pub struct Credentials {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) authorities: Vec<CertificateDer<'static>>,
    /// What the leaf says.
    pub leaf: CertificateFacts,
    /// What the authorities in use say.
    pub authority_facts: Vec<CertificateFacts>,
}

/// Without the key.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("leaf", &self.leaf)
            .field("authorities", &self.authority_facts)
            .finish_non_exhaustive()
    }
}

impl TlsFiles {
    pub(super) fn read(&self) -> Result<RawFiles, TlsError> {
        Ok(RawFiles {
            cert: read(&self.cert)?,
            key: read(&self.key)?,
            ca: read(&self.ca)?,
        })
    }
}

impl RawFiles {
    pub(super) fn new(cert: &str, key: &str, ca: &str) -> Self {
        Self {
            cert: cert.into(),
            key: key.into(),
            ca: ca.into(),
        }
    }

    /// A digest of everything, to see a change whatever the file system does with names and times.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [&self.cert, &self.key, &self.ca] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

impl Credentials {
    /// Reads and checks the three files.
    pub fn load(files: &TlsFiles, role: Role, now: SystemTime) -> Result<Self, TlsError> {
        Self::parse(files, &files.read()?, role, now)
    }

    pub(super) fn parse(
        files: &TlsFiles,
        raw: &RawFiles,
        role: Role,
        now: SystemTime,
    ) -> Result<Self, TlsError> {
        let chain = certificates_from_pem(&files.cert, &raw.cert)?;
        let leaf = facts(&files.cert, 1, &chain[0])?;
        check_purpose(&files.cert, &leaf, role)?;
        check_time(&files.cert, &leaf, now)?;
        let key = key_from_pem(&files.key, &raw.key)?;
        check_pair(files, &chain, &key)?;
        let (authorities, authority_facts) = authorities(&files.ca, &raw.ca, now)?;
        Ok(Self {
            chain,
            key,
            authorities,
            leaf,
            authority_facts,
        })
    }
}

/// The provider of all cryptography here; the process-wide default is never asked.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => TlsError::Missing {
            path: path.to_owned(),
        },
        _ => TlsError::Unreadable {
            path: path.to_owned(),
            source,
        },
    };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_SIZE {
        return Err(TlsError::TooLarge {
            path: path.to_owned(),
            max: MAX_FILE_SIZE,
        });
    }
    Ok(bytes)
}

/// Every certificate of a PEM text, at least one, in order. `path` is only for the error.
pub fn certificates_from_pem(
    path: &Path,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(not_pem(path, "certificate", &pem::Error::NoItemsFound)),
        Err(error) => Err(not_pem(path, "certificate", &error)),
    }
}

fn key_from_pem(path: &Path, text: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| not_pem(path, "private key", &error))
}

/// The library's own message quotes the offending line, which may be a piece of a key: only its kind is kept.
fn not_pem(path: &Path, expected: &'static str, error: &pem::Error) -> TlsError {
    let problem = match error {
        pem::Error::NoItemsFound => "there is no such block in it",
        pem::Error::MissingSectionEnd { .. } => "an END line is missing: is the file cut short?",
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is malformed",
        pem::Error::Base64Decode(_) => "a block is not base64",
        _ => "it cannot be decoded",
    };
    TlsError::NotPem {
        path: path.to_owned(),
        expected,
        problem,
    }
}

fn facts(path: &Path, number: usize, der: &[u8]) -> Result<CertificateFacts, TlsError> {
    CertificateFacts::from_der(der).map_err(|error| TlsError::BadCertificate {
        path: path.to_owned(),
        number,
        problem: error.to_string(),
    })
}

fn check_purpose(path: &Path, leaf: &CertificateFacts, role: Role) -> Result<(), TlsError> {
    let (fits, lacks, issue) = match role {
        Role::Server => (
            leaf.for_servers,
            "is not meant for a server (no serverAuth)",
            "--server",
        ),
        Role::Client => (
            leaf.for_clients,
            "is not meant for a client (no clientAuth)",
            "--tenant NAME",
        ),
    };
    let problem = match (leaf.is_authority, fits) {
        (true, _) => "is a certificate authority's own",
        (false, false) => lacks,
        (false, true) => return Ok(()),
    };
    Err(TlsError::WrongPurpose {
        path: path.to_owned(),
        problem,
        issue,
    })
}

fn check_time(path: &Path, leaf: &CertificateFacts, now: SystemTime) -> Result<(), TlsError> {
    match Validity::from(leaf).health(now) {
        Health::Good { .. } | Health::Ageing { .. } => Ok(()),
        Health::Expired { .. } => Err(TlsError::Expired {
            path: path.to_owned(),
            not_after: leaf.not_after,
        }),
        Health::NotYetValid { .. } => Err(TlsError::NotYetValid {
            path: path.to_owned(),
            not_before: leaf.not_before,
        }),
    }
}

fn check_pair(
    files: &TlsFiles,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<(), TlsError> {
    let signer = provider()
        .key_provider
        .load_private_key(key.clone_key())
        .map_err(|_| TlsError::UnsupportedKey {
            path: files.key.clone(),
        })?;
    match CertifiedKey::new(chain.to_vec(), signer).keys_match() {
        Ok(()) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::KeyMismatch {
            cert: files.cert.clone(),
            key: files.key.clone(),
        }),
        Err(other) => Err(other.into()),
    }
}

/// The authorities that are in their validity now. An expired one beside a valid one is what a rotation leaves
/// behind; it is left out, because a trust anchor's dates are not looked at in a handshake.
pub(super) fn authorities(
    path: &Path,
    text: &[u8],
    now: SystemTime,
) -> Result<(Vec<CertificateDer<'static>>, Vec<CertificateFacts>), TlsError> {
    let mut kept = (Vec::new(), Vec::new());
    let mut last_end = SystemTime::UNIX_EPOCH;
    for (index, der) in certificates_from_pem(path, text)?.into_iter().enumerate() {
        let number = index + 1;
        let facts = facts(path, number, &der)?;
        if !facts.is_authority {
            return Err(TlsError::NotAnAuthority {
                path: path.to_owned(),
                number,
            });
        }
        last_end = last_end.max(facts.not_after);
        if Validity::from(&facts).health(now).is_valid() {
            kept.0.push(der);
            kept.1.push(facts);
        }
    }
    if kept.0.is_empty() {
        return Err(TlsError::NoValidAuthority {
            path: path.to_owned(),
            not_after: last_end,
        });
    }
    Ok(kept)
}
