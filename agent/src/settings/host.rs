//! Where the hub is: a host and a port, told apart once, here. No name is resolved.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::Deserialize;

/// The longest DNS name in bytes.
const MAX_NAME: usize = 253;
/// The longest label of one.
const MAX_LABEL: usize = 63;
const EXPECTED_HOST: &str = "expected a DNS name such as hub.example.com, or an IP address";
const EXPECTED_ADDRESS: &str =
    "expected host:port, such as hub.example.com:8443 or [2001:db8::1]:8443, without a scheme";

/// A DNS name or an IP address, as a certificate can carry it: IPv6 without brackets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Host(String);

impl Host {
    /// The name or address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Host {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.parse::<IpAddr>().is_ok() || is_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(EXPECTED_HOST)
        }
    }
}

impl TryFrom<String> for Host {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    // A last label of digits alone would be an IPv4 address with a part too many, too few, or too large.
    let last = text.rsplit('.').next().unwrap_or(text);
    let is_number = last.chars().all(|c| c.is_ascii_digit());
    text.len() <= MAX_NAME && text.split('.').all(is_label) && !is_number
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HubAddress {
    host: Host,
    port: u16,
}

impl HubAddress {
    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port; never 0.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// `host:port`, with brackets around IPv6: the authority of a URL.
impl fmt::Display for HubAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.as_str().contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

impl FromStr for HubAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or(EXPECTED_ADDRESS)?;
        let bracketed = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        // Brackets are for IPv6, and IPv6 needs them: of `::1:8443` nobody can tell where the port begins.
        if bracketed.is_some() != bracketed.unwrap_or(host).contains(':') {
            return Err(EXPECTED_ADDRESS);
        }
        let host = bracketed
            .unwrap_or(host)
            .parse()
            .map_err(|_| EXPECTED_ADDRESS)?;
        // `u16` would take `+8443`.
        let port = Some(port)
            .filter(|it| it.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|it| it.parse().ok())
            .filter(|port| *port != 0)
            .ok_or(EXPECTED_ADDRESS)?;
        Ok(Self { host, port })
    }
}

impl TryFrom<String> for HubAddress {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_apart_and_together_again() {
        for (text, host, port) in [
            ("hub.example.com:8443", "hub.example.com", 8443),
            ("localhost:1", "localhost", 1),
            ("192.0.2.1:65535", "192.0.2.1", 65535),
            ("[2001:db8::1]:8443", "2001:db8::1", 8443),
        ] {
            let address: HubAddress = text.parse().unwrap();
            assert_eq!((address.host().as_str(), address.port()), (host, port));
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_no_address() {
        for bad in [
            "",
            "hub",
            "hub:",
            ":8443",
            "hub:0",
            "hub:65536",
            "hub:+1",
            "https://hub:8443",
            "hub:8443/",
            "::1:8443",
            "[hub]:8443",
            "[192.0.2.1]:8443",
            "[::1",
            "192.0.2.256:8443",
            "hub..example:8443",
            "-hub:8443",
            "hub name:8443",
            "hüb:8443",
        ] {
            assert_eq!(bad.parse::<HubAddress>(), Err(EXPECTED_ADDRESS), "{bad:?}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for good in [
            "hub",
            "hub.example.com",
            "192.0.2.1",
            "2001:db8::1",
            "1.example",
        ] {
            assert_eq!(good.parse::<Host>().unwrap().as_str(), good);
        }
        for bad in ["", "[::1]", "1.2.3", "hub:8443", "hub.", "*.example.com"] {
            assert_eq!(bad.parse::<Host>(), Err(EXPECTED_HOST), "{bad:?}");
        }
    }
}
