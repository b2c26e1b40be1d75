//! Names of the hub's objects: a prefix for people, and a hash that keeps any two Services apart whatever is in their
//! names. The same Service has the same names in every process and release.

use berth_common::model::IpFamily;
use sha2::{Digest as _, Sha256};

use super::Id;

/// The longest prefix in bytes; with the hash and a slice's suffix the whole stays a DNS label.
const MAX_PREFIX: usize = 30;

/// RFC 4648's base32 in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The name of a load balancer's `LoadBalancer` and `Service`: a DNS-1035 label (older clusters allow Services no other)
/// of at most 57 bytes.
pub fn object(id: &Id) -> String {
    format!("{}-{}", prefix(id), hash(id))
}

/// The name of the `index`th EndpointSlice of a family.
pub fn slice(id: &Id, family: IpFamily, index: u32) -> String {
    format!("{}-{}-{index}", object(id), family_word(family))
}

/// The family and index in an EndpointSlice's name, where it is one of this load balancer's.
pub fn slice_index(id: &Id, name: &str) -> Option<(IpFamily, u32)> {
    let rest = name.strip_prefix(&object(id))?.strip_prefix('-')?;
    let (word, index) = rest.split_once('-')?;
    let family = [IpFamily::V4, IpFamily::V6]
        .into_iter()
        .find(|family| family_word(*family) == word)?;
    let parsed: u32 = index.parse().ok()?;
    // One spelling only: "+1" and "01" are numbers too.
    (parsed.to_string() == index).then_some((family, parsed))
}

fn family_word(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "v4",
        IpFamily::V6 => "v6",
    }
}

/// `<namespace>-<name>`, cut, and beginning with a letter.
fn prefix(id: &Id) -> String {
    let mut prefix = format!("{}-{}", id.key.namespace, id.key.name);
    if !prefix.starts_with(|c: char| c.is_ascii_lowercase()) {
        prefix.insert_str(0, "s-");
    }
    // Names are ASCII, so that any byte is a place to cut.
    prefix.truncate(MAX_PREFIX);
    prefix.truncate(prefix.trim_end_matches('-').len());
    prefix
}

/// 128 bits over the three names, each preceded by its length, so that (`a-b`, `c`) and (`a`, `b-c`) differ.
fn hash(id: &Id) -> String {
    let mut hash = Sha256::new();
    for part in [id.tenant.as_str(), &id.key.namespace, &id.key.name] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    base32(&hash.finalize()[..16])
}

/// Base32 without padding; the last digit is filled up with zero bits.
fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    let (mut buffer, mut bits) = (0_u32, 0_u32);
    for byte in bytes {
        buffer = buffer << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(digit(buffer >> bits));
        }
    }
    if bits > 0 {
        text.push(digit(buffer << (5 - bits)));
    }
    text
}

fn digit(value: u32) -> char {
    char::from(ALPHABET[(value & 31) as usize])
}

#[cfg(test)]
mod tests {
    use berth_common::{identity::TenantName, model::ServiceKey};
    use proptest::prelude::*;

    use super::*;

    fn id(tenant: &str, namespace: &str, name: &str) -> Id {
        Id::new(
            TenantName::parse(tenant).unwrap(),
            ServiceKey::new(namespace, name),
        )
    }

    #[test]
    fn base32_as_in_rfc_4648() {
        assert_eq!(base32(b"foobar"), "mzxw6ytboi");
        assert_eq!(base32(b"f"), "my");
    }

    #[test]
    fn names_are_the_same_in_every_release() {
        let name = object(&id("acme", "default", "backend"));
        assert_eq!(name, "default-backend-vcptljn7vdjd7nqyrpsoubus2a");
    }

    #[test]
    fn hostile_46_names_that_join_alike_are_distinct() {
        let pairs = [
            (id("acme", "a-b", "c"), id("acme", "a", "b-c")),
            (id("a", "b", "c"), id("b", "a", "c")),
            (id("acme", "ab", "c"), id("acme", "a", "bc")),
        ];
        for (one, other) in pairs {
            assert_ne!(object(&one), object(&other), "{one} {other}");
        }
    }

    #[test]
    fn hostile_45_a_leading_digit_works_on_older_clusters() {
        let name = object(&id("acme", "9lives", "1"));
        assert!(name.starts_with("s-9lives-1-"), "{name}");
    }

    fn label() -> impl Strategy<Value = String> {
        "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
    }

    proptest! {
        #[test]
        fn every_name_is_a_dns_1035_label(tenant in "[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", namespace in label(), name in label(), index in 0_u32..100) {
            let id = id(&tenant, &namespace, &name);
            let object = object(&id);
            prop_assert!(object.len() <= 57, "{object}");
            prop_assert!(object.starts_with(|c: char| c.is_ascii_lowercase()));
            prop_assert!(object.ends_with(|c: char| c.is_ascii_alphanumeric()));
            prop_assert!(object.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-'));
            for family in [IpFamily::V4, IpFamily::V6] {
                let slice = slice(&id, family, index);
                prop_assert!(slice.len() <= 63);
                prop_assert_eq!(slice_index(&id, &slice), Some((family, index)));
            }
        }
    }
}
