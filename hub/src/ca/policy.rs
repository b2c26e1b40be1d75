//! What goes into a certificate. Nothing of a request is copied but the subject, the names and the lifetime, each of
//! them checked; every other field is decided here. Pure: the serial number and the time are arguments.

use std::{net::IpAddr, time::SystemTime};

use berth_common::{
    identity::{CertificateFacts, Identity, TrustDomain},
    tls::{Health, Validity, format_time},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber, string::Ia5String,
};
use rustls_pki_types::DnsName;
use time::OffsetDateTime;

use super::Lifetime;

pub use berth_common::tls::renewal::CLOCK_SKEW;

/// The lifetime of an authority, unless said otherwise.
pub const DEFAULT_AUTHORITY_LIFETIME: Lifetime = Lifetime::days(10 * 365);

/// The lifetime of a certificate, unless said otherwise. A year, because renewal is by hand.
pub const DEFAULT_LIFETIME: Lifetime = Lifetime::days(365);

/// What is asked of the authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    /// Whose certificate it is to be.
    pub subject: Identity,
    /// The DNS names the hub is reached under; empty for everybody else.
    pub dns: Vec<String>,
    /// The addresses the hub is reached under; empty for everybody else.
    pub ips: Vec<IpAddr>,
    /// How long it is to live, from now.
    pub lifetime: Lifetime,
    /// It is valid from no earlier time than this: where all that is valid from before it was revoked.
    pub not_earlier: Option<SystemTime>,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// DNS names or addresses for something that is not a server.
    #[error("only the hub's certificate (--server) has DNS names and IP addresses")]
    NamesNotAllowed,
    /// A server without a name that an agent could verify.
    #[error("the hub's certificate needs a name that agents reach it under: give --dns or --ip")]
    NameRequired,
    /// Not a DNS name.
    #[error("{name:?} is not a DNS name in lower case")]
    BadDnsName {
        /// The name.
        name: String,
    },
    /// The authority itself cannot vouch for anything now.
    #[error(
        "the certificate authority is valid from {from} to {until}, which is not now: {health}"
    )]
    AuthorityNotValid {
        /// When it begins.
        from: String,
        /// When it ends.
        until: String,
        /// How it stands.
        health: String,
    },
    /// The dates do not fit into a certificate.
    #[error("a certificate cannot say a date so far away; choose a shorter lifetime")]
    DateOutOfRange,
}

/// The fields of a peer's certificate.
pub(super) fn leaf(
    request: &CertificateRequest,
    trust_domain: &TrustDomain,
    authority: &CertificateFacts,
    serial: [u8; 16],
    now: SystemTime,
) -> Result<CertificateParams, PolicyError> {
    let health = Validity::from(authority).health(now);
    if !health.is_valid() {
        return Err(PolicyError::AuthorityNotValid {
            from: format_time(authority.not_before),
            until: format_time(authority.not_after),
            health: health.to_string(),
        });
    }
    let mut params = CertificateParams::default();
    let (from, until) = dates(request.lifetime, now)?;
    // Never longer than the authority that vouches for it: it would fail from that day on without saying so.
    params.not_before = from.max(authority.not_before.into());
    if let Some(limit) = request.not_earlier.filter(|limit| *limit <= now) {
        params.not_before = params.not_before.max(limit.into());
    }
    params.not_after = until.min(authority.not_after.into());
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = name(&request.subject.to_string());
    params.subject_alt_names = names(request, trust_domain)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match request.subject {
        Identity::Hub => ExtendedKeyUsagePurpose::ServerAuth,
        Identity::Tenant(_) | Identity::Admin(_) => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The fields of an authority's own certificate. It signs leafs only, and names its trust domain.
pub(super) fn authority(
    trust_domain: &TrustDomain,
    lifetime: Lifetime,
    serial: [u8; 16],
    now: SystemTime,
) -> Result<CertificateParams, PolicyError> {
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = dates(lifetime, now)?;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    // A part of the serial number in the name tells two authorities of one trust domain apart, as during a rotation.
    let mark: String = serial[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    params.distinguished_name = name(&format!("Berth CA {mark}"));
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// Makes an authority's own certificate one that another authority signs: valid while both are. False where that one is not valid now.
pub(super) fn vouch(
    params: &mut CertificateParams,
    by: &CertificateFacts,
    serial: [u8; 16],
    now: SystemTime,
) -> bool {
    params.not_before = params.not_before.max(by.not_before.into());
    params.not_after = params.not_after.min(by.not_after.into());
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Validity::from(by).health(now).is_valid()
}

fn dates(
    lifetime: Lifetime,
    now: SystemTime,
) -> Result<(OffsetDateTime, OffsetDateTime), PolicyError> {
    let instant = |time: Option<SystemTime>| {
        // Whole seconds: a certificate says no less, and then what is shown is what was asked for.
        time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
            .and_then(|since| i64::try_from(since.as_secs()).ok())
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .ok_or(PolicyError::DateOutOfRange)
    };
    let from = instant(now.checked_sub(CLOCK_SKEW))?;
    let until = instant(now.checked_add(lifetime.duration()))?;
    Ok((from, until))
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Berth");
    name.push(DnType::CommonName, common_name);
    name
}

fn names(
    request: &CertificateRequest,
    trust_domain: &TrustDomain,
) -> Result<Vec<SanType>, PolicyError> {
    let none = request.dns.is_empty() && request.ips.is_empty();
    match request.subject {
        Identity::Hub if none => return Err(PolicyError::NameRequired),
        Identity::Tenant(_) | Identity::Admin(_) if !none => {
            return Err(PolicyError::NamesNotAllowed);
        }
        Identity::Hub | Identity::Tenant(_) | Identity::Admin(_) => {}
    }
    let mut names = vec![uri(&request.subject.uri(trust_domain))?];
    for dns in &request.dns {
        names.push(SanType::DnsName(dns_name(dns)?));
    }
    names.extend(request.ips.iter().copied().map(SanType::IpAddress));
    Ok(names)
}

fn dns_name(name: &str) -> Result<Ia5String, PolicyError> {
    let bad = || PolicyError::BadDnsName {
        name: name.to_owned(),
    };
    if DnsName::try_from(name).is_err() || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(bad());
    }
    Ia5String::try_from(name).map_err(|_| bad())
}

/// Trust domains and names are ASCII, so this fails for none of them.
fn uri(text: &str) -> Result<SanType, PolicyError> {
    Ia5String::try_from(text)
        .map(SanType::URI)
        .map_err(|_| PolicyError::BadDnsName {
            name: text.to_owned(),
        })
}

/// How a certificate's end compares with what was asked for, for the person who asked.
pub(super) fn is_shortened(
    params: &CertificateParams,
    lifetime: Lifetime,
    now: SystemTime,
) -> bool {
    dates(lifetime, now).is_ok_and(|(_, until)| params.not_after < until)
}

/// Whether an authority's certificate may be used to sign at all, whatever the time.
pub(super) fn unusable(facts: &CertificateFacts) -> Option<&'static str> {
    match Validity::from(facts).health(facts.not_before) {
        _ if !facts.is_authority => Some("it is not a certificate authority (CA:TRUE is missing)"),
        Health::Expired { .. } => Some("its dates are the wrong way round"),
        _ => None,
    }
}
