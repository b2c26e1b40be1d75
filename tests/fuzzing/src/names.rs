//! Certificates and the names in them, as somebody could have them made: whatever they say, a peer is somebody only where the one
//! name is, byte for byte, the one way to write who it is.

use std::sync::LazyLock;

use arbitrary::{Arbitrary, Unstructured};
use berth_common::identity::{Identity, TrustDomain, UriError, identity_of};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};

/// Which key it is makes no difference, so it need not be the same in each run.
static KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate().expect("randomness"));

/// Subject alternative names (RFC 5280, 4.2.1.6).
const SAN: [u64; 4] = [2, 5, 29, 17];
/// The context tag of a name that is a URI.
const URI: u8 = 0x86;

/// A text that is an identity, or was one.
#[derive(Arbitrary, Debug)]
enum Text<'a> {
    /// `spiffe://berth.local`, and whatever follows.
    Below(&'a [u8]),
    /// Good, but for what is put in the place of so many bytes.
    Spliced(u8, u8, u8, &'a [u8]),
    Any(&'a [u8]),
}

impl Text<'_> {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Below(path) => [b"spiffe://berth.local", *path].concat(),
            Self::Spliced(which, at, length, with) => {
                let whole = [
                    "spiffe://berth.local/tenant/acme",
                    "spiffe://berth.local/admin/o-2",
                    "spiffe://berth.local/hub",
                ][usize::from(which % 3)]
                .as_bytes();
                let at = usize::from(*at) % (whole.len() + 1);
                let after = (at + usize::from(*length) % 4).min(whole.len());
                [&whole[..at], with, &whole[after..]].concat()
            }
            Self::Any(bytes) => bytes.to_vec(),
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// Not as a certificate says it, but as text.
    Uri(Text<'a>),
    /// A certificate in order, but for its names.
    Certificate {
        names: Vec<(Option<u8>, Text<'a>)>,
        authority: bool,
        for_servers: bool,
        twice: bool,
    },
    /// What is to be the list of names.
    Names(&'a [u8]),
    Bytes(&'a [u8]),
}

/// See the module.
pub fn run(data: &[u8]) {
    let domain = TrustDomain::default();
    let mut unstructured = Unstructured::new(data);
    while !unstructured.is_empty()
        && let Ok(input) = unstructured.arbitrary::<Input<'_>>()
    {
        match input {
            Input::Uri(text) => uri(&text.bytes(), &domain),
            Input::Certificate {
                names,
                authority,
                for_servers,
                twice,
            } => {
                let names: Vec<_> = names
                    .into_iter()
                    .map(|(tag, text)| (tag.unwrap_or(URI), text.bytes()))
                    .collect();
                let der = certificate(&list(&names), authority, for_servers, twice);
                let read = identity_of(&der, &domain);
                let good = |names: &[(u8, Vec<u8>)]| match names {
                    [(URI, uri)] => reads(uri),
                    _ => false,
                };
                let is = good(&names) && !authority && !twice;
                let hub = || matches!(&read, Ok(peer) if peer.identity == Identity::Hub);
                // The hub's own certificate has the names that it is reached by as well.
                assert!(read.is_ok() == is || hub(), "{names:?}: {read:?}");
                if let Ok(peer) = read {
                    let uri = peer.identity.uri(&domain).into_bytes();
                    assert!(names.contains(&(URI, uri)), "{names:?}: {peer:?}");
                    assert!(!authority && !twice);
                }
            }
            Input::Names(names) => any(&certificate(names, false, false, false), &domain),
            Input::Bytes(der) => any(der, &domain),
        }
    }
    any(data, &domain);
}

/// Of a certificate that nobody knows: whoever it is, there is one way to write that, and it stands in it.
fn any(der: &[u8], domain: &TrustDomain) {
    match identity_of(der, domain) {
        Ok(peer) => {
            let uri = peer.identity.uri(domain);
            let found = der.windows(uri.len()).any(|part| part == uri.as_bytes());
            assert!(found, "{peer:?}");
        }
        Err(error) => told(&error.to_string()),
    }
}

fn uri(text: &[u8], domain: &TrustDomain) {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let read: Result<Identity, UriError> = Identity::from_uri(text, domain);
    assert_eq!(read.is_ok(), reads(text.as_bytes()), "{text:?}: {read:?}");
    match read {
        Ok(identity) => assert_eq!(identity.uri(domain), text),
        Err(error) => told(&error.to_string()),
    }
    // Where it is shown and nothing is decided by it, it may be anything; but it is one domain or none.
    if let Some(shown) = TrustDomain::of_uri(text) {
        assert!(text.starts_with(&format!("spiffe://{shown}")));
    }
}

/// The grammar again, in other words.
fn reads(uri: &[u8]) -> bool {
    let Some(path) = uri.strip_prefix(b"spiffe://berth.local/") else {
        return false;
    };
    let name = |name: &[u8]| {
        let inner = |c: &u8| c.is_ascii_digit() || c.is_ascii_lowercase() || *c == b'-';
        (1..=40).contains(&name.len())
            && name.iter().all(inner)
            && name.first() != Some(&b'-')
            && name.last() != Some(&b'-')
    };
    path == b"hub"
        || path.strip_prefix(b"tenant/").is_some_and(name)
        || path.strip_prefix(b"admin/").is_some_and(name)
}

/// It goes into logs and audit lines.
fn told(text: &str) {
    assert!(
        text.len() < 600 && !text.chars().any(char::is_control),
        "{text:?}"
    );
}

/// A list of names in DER: tag, length, bytes.
fn list(names: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let names: Vec<u8> = names
        .iter()
        .flat_map(|(tag, name)| field(*tag, name))
        .collect();
    field(0x30, &names)
}

fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut field = vec![tag];
    match u8::try_from(length) {
        Ok(short @ 0..=0x7f) => field.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            let bytes = &bytes[zeros..];
            // A length has at most eight bytes.
            field.push(0x80 | bytes.len() as u8);
            field.extend(bytes);
        }
    }
    field.extend(content);
    field
}

fn certificate(names: &[u8], authority: bool, for_servers: bool, twice: bool) -> Vec<u8> {
    let mut params = CertificateParams::default();
    for _ in 0..=u8::from(twice) {
        let names = CustomExtension::from_oid_content(&SAN, names.to_vec());
        params.custom_extensions.push(names);
    }
    params.is_ca = if authority {
        IsCa::Ca(BasicConstraints::Unconstrained)
    } else {
        IsCa::ExplicitNoCa
    };
    params.extended_key_usages = vec![if for_servers {
        ExtendedKeyUsagePurpose::ServerAuth
    } else {
        ExtendedKeyUsagePurpose::ClientAuth
    }];
    let made = params.self_signed(&*KEY).expect("a certificate");
    made.der().to_vec()
}
