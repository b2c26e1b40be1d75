//! Reading a leaf certificate: what it says (facts, for people) and who it is (identity, for decisions). It checks
//! form only; that the chain is of our CA, in time and meant for a client is the TLS layer's work, done before.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use x509_parser::prelude::{
    ASN1Time, FromDer as _, GeneralName, ParsedExtension, X509Certificate, X509Extension,
};

use super::{Identity, KeyId, Serial, TrustDomain, UriError};

/// Why a certificate has no identity here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// There is none.
    #[error("no certificate was presented")]
    NoCertificate,
    /// The bytes are not one X.509 certificate.
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    /// A certificate authority's own certificate.
    #[error("the certificate is a certificate authority's (CA:TRUE), not a peer's")]
    IsAuthority,
    /// No subject alternative name at all; the common name counts for nothing.
    #[error("the certificate has no subject alternative name; a spiffe:// URI is required")]
    NoName,
    /// More than one name.
    #[error("the certificate has {count} subject alternative names, exactly one is allowed")]
    SeveralNames {
        /// How many.
        count: usize,
    },
    /// The one name is not a URI.
    #[error("the certificate's only subject alternative name is of the type {kind}, not a URI")]
    NotAUri {
        /// The type of the name.
        kind: &'static str,
    },
    /// The URI is not an identity of this trust domain.
    #[error(transparent)]
    Uri(#[from] UriError),
}

/// A peer's certificate, once its identity is known. Nothing else of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Who the peer is.
    pub identity: Identity,
    /// The certificate's serial number, for revocation and logs.
    pub serial: Serial,
    /// The key that signed it, where it says so.
    pub signed_by: Option<KeyId>,
    /// Valid from; also what a tenant's "revoke everything issued earlier" is compared with.
    pub not_before: SystemTime,
    /// Valid until; a session never outlives it.
    pub not_after: SystemTime,
}

/// What a certificate says, without judgement: for logs, `cert show` and `doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The subject's distinguished name.
    pub subject: String,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// The serial number.
    pub serial: Serial,
    /// The id that it gives its own key, as authorities do.
    pub key: Option<KeyId>,
    /// The id of the key that signed it.
    pub signed_by: Option<KeyId>,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
    /// Whether it is a certificate authority (CA:TRUE).
    pub is_authority: bool,
    /// Whether it names clientAuth among its extended key usages.
    pub for_clients: bool,
    /// Whether it names serverAuth among its extended key usages.
    pub for_servers: bool,
    /// URI names, in order.
    pub uris: Vec<String>,
    /// DNS names, in order.
    pub dns: Vec<String>,
    /// IP addresses, in order.
    pub ips: Vec<IpAddr>,
    /// Names of other types, malformed ones included, by type.
    pub other_names: Vec<&'static str>,
}

impl CertificateFacts {
    /// Reads one DER certificate. Trailing bytes, a repeated extension, or an extension of ours that does not parse are errors.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        let unreadable = |what: &str| IdentityError::Unreadable(what.to_owned());
        let (rest, certificate) = X509Certificate::from_der(der)
            .map_err(|_| unreadable("not an X.509 certificate in DER"))?;
        if !rest.is_empty() {
            return Err(unreadable("bytes follow the certificate"));
        }
        let mut facts = Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            serial: Serial::from_bytes(certificate.raw_serial()),
            key: None,
            signed_by: None,
            not_before: system_time(certificate.validity().not_before)?,
            not_after: system_time(certificate.validity().not_after)?,
            is_authority: false,
            for_clients: false,
            for_servers: false,
            uris: Vec::new(),
            dns: Vec::new(),
            ips: Vec::new(),
            other_names: Vec::new(),
        };
        for (index, extension) in certificate.extensions().iter().enumerate() {
            // RFC 5280, 4.2: never twice. A reader that takes the first and a verifier that takes the last would disagree.
            if certificate.extensions()[..index]
                .iter()
                .any(|earlier| earlier.oid == extension.oid)
            {
                return Err(unreadable("an extension appears twice"));
            }
            facts.take(extension)?;
        }
        Ok(facts)
    }

    /// How many subject alternative names there are, of all types.
    pub fn name_count(&self) -> usize {
        self.uris.len() + self.dns.len() + self.ips.len() + self.other_names.len()
    }

    fn take(&mut self, extension: &X509Extension<'_>) -> Result<(), IdentityError> {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                names.general_names.iter().for_each(|name| self.name(name));
            }
            ParsedExtension::BasicConstraints(constraints) => self.is_authority = constraints.ca,
            ParsedExtension::SubjectKeyIdentifier(id) => self.key = KeyId::from_bytes(id.0),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                let id = id.key_identifier.as_ref();
                self.signed_by = id.and_then(|id| KeyId::from_bytes(id.0));
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                self.for_clients = usage.client_auth;
                self.for_servers = usage.server_auth;
            }
            ParsedExtension::ParseError { .. } => {
                let oid = &extension.oid;
                return Err(IdentityError::Unreadable(format!(
                    "the extension {oid} is malformed"
                )));
            }
            _ => {}
        }
        Ok(())
    }

    fn name(&mut self, name: &GeneralName<'_>) {
        let other = match name {
            GeneralName::URI(uri) => return self.uris.push((*uri).to_owned()),
            GeneralName::DNSName(dns) => return self.dns.push((*dns).to_owned()),
            GeneralName::IPAddress(bytes) => match ip(bytes) {
                Some(ip) => return self.ips.push(ip),
                None => "malformed IP address",
            },
            GeneralName::RFC822Name(_) => "email address",
            GeneralName::DirectoryName(_) => "directory name",
            GeneralName::OtherName(..) => "otherName",
            GeneralName::X400Address(_) => "X.400 address",
            GeneralName::EDIPartyName(_) => "EDI party name",
            GeneralName::RegisteredID(_) => "registered ID",
            GeneralName::Invalid(..) => "malformed",
        };
        self.other_names.push(other);
    }

    /// The type of the first name that is not a URI.
    fn first_other_type(&self) -> Option<&'static str> {
        if !self.dns.is_empty() {
            return Some("DNS name");
        }
        if !self.ips.is_empty() {
            return Some("IP address");
        }
        self.other_names.first().copied()
    }
}

/// Who the holder of a leaf certificate is.
///
/// A tenant's or admin's certificate has exactly one subject alternative name, its URI. The hub's also has the DNS
/// names and addresses it is reached under. A CA certificate is nobody's identity.
pub fn identity_of(
    certificate_der: &[u8],
    trust_domain: &TrustDomain,
) -> Result<PeerCertificate, IdentityError> {
    let facts = CertificateFacts::from_der(certificate_der)?;
    if facts.is_authority {
        return Err(IdentityError::IsAuthority);
    }
    let several = || IdentityError::SeveralNames {
        count: facts.name_count(),
    };
    let identity = match facts.uris.as_slice() {
        [] => {
            return Err(match (facts.first_other_type(), facts.name_count()) {
                (None, _) => IdentityError::NoName,
                (Some(kind), 1) => IdentityError::NotAUri { kind },
                (Some(_), _) => several(),
            });
        }
        [uri] => Identity::from_uri(uri, trust_domain),
        _ => return Err(several()),
    };
    // Two names are an error even where the URI among them is one too: the count is the graver fault.
    let hub = identity == Ok(Identity::Hub) && facts.other_names.is_empty();
    if facts.name_count() > 1 && !hub {
        return Err(several());
    }
    Ok(PeerCertificate {
        identity: identity?,
        serial: facts.serial,
        signed_by: facts.signed_by,
        not_before: facts.not_before,
        not_after: facts.not_after,
    })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn system_time(time: ASN1Time) -> Result<SystemTime, IdentityError> {
    let seconds = time.timestamp();
    let span = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(span)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(span)
    }
    .ok_or_else(|| {
        IdentityError::Unreadable(
            "its validity is outside of what this machine can tell".to_owned(),
        )
    })
}
