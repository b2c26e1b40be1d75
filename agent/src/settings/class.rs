//! The value of `spec.loadBalancerClass`, checked as the API server checks it: a class that no Service can have is a
//! typo, and would silently serve nothing.

use std::{fmt, str::FromStr};

use serde::Deserialize;

/// The longest name, after the slash.
const MAX_NAME: usize = 63;
/// The longest domain, before the slash.
const MAX_DOMAIN: usize = 253;
const EXPECTED: &str = "expected classes such as berth.dev/berth: an optional lower-case domain with a slash, and a name";

/// A load balancer class: `name` or `domain/name`, like a label's key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct LoadBalancerClass(String);

impl LoadBalancerClass {
    /// The class as Services carry it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LoadBalancerClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LoadBalancerClass {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (domain, name) = match text.split_once('/') {
            Some((domain, name)) => (Some(domain), name),
            None => (None, text),
        };
        if domain.is_none_or(is_domain) && is_name(name) {
            Ok(Self(text.to_owned()))
        } else {
            Err(EXPECTED)
        }
    }
}

impl TryFrom<String> for LoadBalancerClass {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Letters and digits, with `-`, `_` and `.` between them.
fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let outer = |c: char| c.is_ascii_alphanumeric();
    name.len() <= MAX_NAME
        && name.starts_with(outer)
        && name.ends_with(outer)
        && name.chars().all(inner)
}

/// A lower-case DNS subdomain (RFC 1123).
fn is_domain(domain: &str) -> bool {
    let outer = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    domain.len() <= MAX_DOMAIN
        && domain.split('.').all(|label| {
            label.starts_with(outer)
                && label.ends_with(outer)
                && label.chars().all(|c| outer(c) || c == '-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_a_service_can_have_and_nothing_else() {
        for good in [
            "berth.dev/berth",
            "kubelb",
            "a",
            "Internal_VIP.2",
            "x-1.example/y",
        ] {
            assert_eq!(good.parse::<LoadBalancerClass>().unwrap().as_str(), good);
        }
        let long = format!("berth.dev/{}", "x".repeat(64));
        for bad in [
            "",
            "/",
            "berth.dev/",
            "/berth",
            "a/b/c",
            "Berth.dev/x",
            "-x",
            "x-",
            "a b",
            "a..b/c",
            "größe",
            &long,
        ] {
            assert_eq!(bad.parse::<LoadBalancerClass>(), Err(EXPECTED), "{bad:?}");
        }
    }
}
