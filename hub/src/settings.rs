//! What an operator may set on the hub, and what each value must be. Only the table and its types; where values come
//! from, and every message about them, is `berth_common::settings`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use berth_common::{
    identity::TrustDomain,
    settings::{self, Conflict, Setting, Settings},
    telemetry::{LOG_FILTER, LOG_FORMAT, LogSettings},
};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error};

use crate::ca::{Lifetime, store::SecretRef};
use crate::policy::networks;

/// The settings of `berth-hub`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HubSettings {
    /// `listen`: where agents, and admins with grpcurl, connect.
    #[serde(deserialize_with = "settings::socket_addr")]
    pub listen: SocketAddr,
    /// `adminListen`: metrics and probes, in plain HTTP.
    #[serde(deserialize_with = "settings::socket_addr")]
    pub admin_listen: SocketAddr,
    /// `trustDomain`: the first part of every identity.
    #[serde(deserialize_with = "trust_domain")]
    pub trust_domain: TrustDomain,
    /// `kubeconfig`: of the management cluster. `None`: the pod's own account, or `$KUBECONFIG`.
    #[serde(deserialize_with = "settings::optional_path")]
    pub kubeconfig: Option<PathBuf>,
    /// `allocator`.
    pub allocator: Allocator,
    /// `managementCidrs`: the management cluster's own addresses, which are no tenant's backends.
    #[serde(deserialize_with = "management_cidrs")]
    pub management_cidrs: Vec<IpNet>,
    /// `handshakes`: how many may be in progress.
    #[serde(deserialize_with = "settings::count")]
    pub handshakes: usize,
    /// `handshakesPerAddress`: how many of them from one address.
    #[serde(deserialize_with = "settings::count")]
    pub handshakes_per_address: usize,
    /// `snapshots`: how many tenants may tell their whole state at the same time.
    #[serde(deserialize_with = "settings::count")]
    pub snapshots: usize,
    /// `tls`.
    pub tls: TlsFiles,
    /// `ca`.
    pub ca: Authority,
    /// `enroll`.
    pub enroll: Enroll,
    /// `log`.
    pub log: LogSettings,
}

/// The domain's own error says what is wrong with it, and a person wants to know what would be right, too.
fn trust_domain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TrustDomain, D::Error> {
    let text = String::deserialize(deserializer)?;
    TrustDomain::parse(&text).map_err(|error| {
        D::Error::custom(format!(
            "expected a lower-case DNS name such as berth.local; this one {error}"
        ))
    })
}

/// Addresses and CIDRs, in one string so that a flag and a variable can hold them too.
fn management_cidrs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let text = String::deserialize(deserializer)?;
    networks(&text).map_err(|part| {
        D::Error::custom(format!(
            "expected addresses and CIDRs such as 10.0.0.0/16,fd00::/64; {part:?} is neither"
        ))
    })
}

impl HubSettings {
    /// The management cluster's own addresses: those that are set, and the one at which it shows its API server to pods.
    pub fn management(&self) -> Vec<IpNet> {
        let api = std::env::var("KUBERNETES_SERVICE_HOST").unwrap_or_default();
        let api = api.parse::<IpAddr>().ok().map(IpNet::from);
        self.management_cidrs.iter().copied().chain(api).collect()
    }
}

/// The settings under `tls`: PEM files, read again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TlsFiles {
    /// `tls.cert`: the hub's certificate, with the chain up to the CA.
    #[serde(deserialize_with = "settings::path")]
    pub cert: PathBuf,
    /// `tls.key`: its key.
    #[serde(deserialize_with = "settings::path")]
    pub key: PathBuf,
    /// `tls.clientCa`: the CA of the agents' and admins' certificates.
    #[serde(deserialize_with = "settings::path")]
    pub client_ca: PathBuf,
}

/// The settings under `ca`: the authority that the hub issues certificates with. With neither Secret nor directory it issues none.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Authority {
    /// `ca.secret`: made at the first start, where there is none.
    #[serde(deserialize_with = "optional_secret")]
    pub secret: Option<SecretRef>,
    /// `ca.dir`.
    #[serde(deserialize_with = "settings::optional_path")]
    pub dir: Option<PathBuf>,
    /// `ca.serverNames`: where there are any, the hub issues its own certificate and reads no files.
    pub server_names: Vec<String>,
    /// `ca.lifetime`: of agents' certificates, and of the hub's own.
    #[serde(deserialize_with = "lifetime")]
    pub lifetime: Lifetime,
}

impl Authority {
    /// Whether the hub issues certificates.
    pub fn is_there(&self) -> bool {
        self.secret.is_some() || self.dir.is_some()
    }
}

/// The settings under `enroll`: how clusters are admitted by join tokens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Enroll {
    /// `enroll.listen`: where agents without a certificate connect. Only where the hub issues certificates.
    #[serde(deserialize_with = "settings::socket_addr")]
    pub listen: SocketAddr,
    /// `enroll.tokens`: where join tokens are kept.
    #[serde(deserialize_with = "secret")]
    pub tokens: SecretRef,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretRef, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse()
        .map_err(|error| D::Error::custom(format!("expected NAMESPACE/NAME; this {error}")))
}

fn optional_secret<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SecretRef>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|error| D::Error::custom(format!("expected NAMESPACE/NAME; this {error}")))
}

fn lifetime<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Lifetime, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse()
        .map_err(|error| D::Error::custom(format!("expected a lifetime such as 24h; this {error}")))
}

/// Who gives the management Services their addresses: which way to ask for the same address again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Allocator {
    /// MetalLB: an allocated address is pinned with MetalLB's annotation.
    MetalLb,
    /// Any other controller: nothing is pinned.
    Other,
}

impl FromStr for Allocator {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "metallb" => Ok(Self::MetalLb),
            "other" => Ok(Self::Other),
            _ => Err("expected metallb or other"),
        }
    }
}

impl TryFrom<String> for Allocator {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl Settings for HubSettings {
    const TABLE: &'static [Setting] = &[
        Setting::text(
            "listen",
            "IP:PORT",
            "Where agents connect: gRPC over mutual TLS",
        )
        .default("0.0.0.0:8443"),
        Setting::text(
            "adminListen",
            "IP:PORT",
            "Where /metrics, /livez and /readyz are served, without TLS",
        )
        .default("0.0.0.0:9090"),
        Setting::text(
            "trustDomain",
            "DOMAIN",
            "The first part of every identity: spiffe://DOMAIN/tenant/NAME",
        )
        .default("berth.local"),
        Setting::text(
            "kubeconfig",
            "FILE",
            "The management cluster's kubeconfig; none: the pod's own account, or $KUBECONFIG",
        )
        .default(""),
        Setting::text(
            "allocator",
            "NAME",
            "Who allocates addresses in the management cluster: metallb or other",
        )
        .default("metallb"),
        Setting::text(
            "managementCidrs",
            "CIDR,...",
            "The management cluster's own addresses (nodes, pods, Services, API server, pools): no tenant's node has one",
        )
        .default(""),
        Setting::number(
            "handshakes",
            "N",
            "How many TLS handshakes may be in progress; further connections wait",
        )
        .default("256"),
        Setting::number(
            "handshakesPerAddress",
            "N",
            "How many of them from one address (IPv6: one /64); further ones are closed",
        )
        .default("64"),
        Setting::number(
            "snapshots",
            "N",
            "How many tenants may tell their whole state at the same time; others wait their turn",
        )
        .default("64"),
        Setting::text(
            "tls.cert",
            "FILE",
            "The hub's certificate and its chain, in PEM",
        )
        .default("/etc/berth/tls/tls.crt"),
        Setting::text("tls.key", "FILE", "The key of that certificate, in PEM")
            .default("/etc/berth/tls/tls.key"),
        Setting::text(
            "tls.clientCa",
            "FILE",
            "The CA that signs agents' and admins' certificates, in PEM",
        )
        .default("/etc/berth/tls/ca.crt"),
        Setting::text(
            "ca.secret",
            "NS/NAME",
            "The Secret with the CA that issues agents' certificates, made where there is none; none: they come from elsewhere",
        )
        .default(""),
        Setting::text(
            "ca.dir",
            "DIR",
            "The directory with that CA (ca.crt, ca.key) instead of a Secret",
        )
        .default(""),
        Setting::list(
            "ca.serverNames",
            "NAME,…",
            "The names and addresses that the hub issues its own certificate for; none: it reads tls.cert",
        )
        .default(""),
        Setting::text(
            "ca.lifetime",
            "TIME",
            "How long the certificates live that the hub issues; agents renew them at half of it",
        )
        .default("24h"),
        Setting::text(
            "enroll.listen",
            "IP:PORT",
            "Where agents trade a join token for a certificate, if the hub has a CA: gRPC over TLS",
        )
        .default("0.0.0.0:8444"),
        Setting::text(
            "enroll.tokens",
            "NS/NAME",
            "The Secret with the join tokens, which `berth-hub token create` makes",
        )
        .default("berth-system/berth-join-tokens"),
        LOG_FORMAT,
        LOG_FILTER,
    ];

    fn check(&self) -> Result<(), Conflict> {
        // Port 0 is a different port each time.
        if self.listen == self.admin_listen && self.listen.port() != 0 {
            return Err(Conflict {
                keys: &["listen", "adminListen"],
                rule: "listen and adminListen must be different addresses".to_owned(),
            });
        }
        for (key, other) in [("listen", self.listen), ("adminListen", self.admin_listen)] {
            if self.ca.is_there() && other == self.enroll.listen && other.port() != 0 {
                return Err(Conflict {
                    keys: match key {
                        "listen" => &["listen", "enroll.listen"],
                        _ => &["adminListen", "enroll.listen"],
                    },
                    rule: format!("{key} and enroll.listen must be different addresses"),
                });
            }
        }
        if self.ca.secret.is_some() && self.ca.dir.is_some() {
            return Err(Conflict {
                keys: &["ca.secret", "ca.dir"],
                rule: "ca.secret and ca.dir cannot both be given".to_owned(),
            });
        }
        if !self.ca.is_there() && !self.ca.server_names.is_empty() {
            return Err(Conflict {
                keys: &["ca.serverNames", "ca.secret"],
                rule: "ca.serverNames needs a CA: give ca.secret or ca.dir".to_owned(),
            });
        }
        if self.tls.cert == self.tls.key {
            return Err(Conflict {
                keys: &["tls.cert", "tls.key"],
                rule: "tls.cert and tls.key must be different files".to_owned(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use berth_common::settings::{Inputs, check_table, resolve};

    use super::*;

    fn parse(file: &str) -> Result<HubSettings, String> {
        let inputs = Inputs {
            file: Some(("hub.yaml".into(), file.to_owned())),
            ..Inputs::default()
        };
        resolve::<HubSettings>(&inputs)
            .and_then(|resolved| resolved.parse())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_table_is_sound_and_complete_and_its_defaults_are_good() {
        check_table::<HubSettings>().unwrap();
        let settings = parse("").unwrap();
        assert_eq!(settings.listen.port(), 8443);
        assert_eq!(settings.admin_listen.port(), 9090);
        assert_eq!(settings.trust_domain, TrustDomain::default());
        assert_eq!(settings.kubeconfig, None);
        assert_eq!(settings.allocator, Allocator::MetalLb);
        let limits = crate::listen::ListenLimits::default();
        assert_eq!(
            (settings.handshakes, settings.handshakes_per_address),
            (limits.handshakes, limits.handshakes_per_address)
        );
        assert_eq!(settings.snapshots, crate::tenants::SNAPSHOTS);
        assert_eq!(settings.management_cidrs, []);
        let own = parse("managementCidrs: 10.0.0.0/16,10.96.0.1").unwrap();
        assert!(own.management().contains(&"10.96.0.1/32".parse().unwrap()));
        assert_eq!(parse("handshakes: 7").unwrap().handshakes, 7);
    }

    #[test]
    fn defaults_print_as_a_file() {
        insta::assert_snapshot!(resolve::<HubSettings>(&Inputs::default()).unwrap());
    }

    #[test]
    fn help_reads_well() {
        use berth_common::settings::SettingsArgs;
        use clap::{Args, Command};
        let mut command =
            SettingsArgs::<HubSettings>::augment_args(Command::new("berth-hub")).term_width(100);
        command.build();
        insta::assert_snapshot!(command.render_help());
    }

    #[test]
    fn bad_values_say_what_is_expected() {
        for (file, line) in [
            (
                "listen: ':8443'",
                r#"listen: ":8443" (hub.yaml): expected IP:port, such as 0.0.0.0:8443 or [::]:8443"#,
            ),
            (
                "trustDomain: Berth.local",
                "trustDomain: \"Berth.local\" (hub.yaml): expected a lower-case DNS name such as berth.local; \
                 this one has 'B' at byte 0; only a-z, 0-9 and - are allowed",
            ),
            (
                "allocator: cilium",
                r#"allocator: "cilium" (hub.yaml): expected metallb or other"#,
            ),
            (
                "ca: {secret: berth-ca}",
                r#"ca.secret: "berth-ca" (hub.yaml): expected NAMESPACE/NAME; this is not of the form NAMESPACE/NAME"#,
            ),
            (
                "ca: {lifetime: soon}",
                "ca.lifetime: \"soon\" (hub.yaml): expected a lifetime such as 24h; this is not a lifetime; write a whole number \
                 and s, m, h, d or y, such as 24h, 90d or 1y",
            ),
            (
                "ca: {serverNames: [hub.example]}",
                "ca.serverNames needs a CA: give ca.secret or ca.dir \
                 (ca.serverNames: [\"hub.example\"] from hub.yaml, ca.secret: \"\" from default)",
            ),
            (
                "managementCidrs: 10.0.0.0/16 fd00::/640",
                "managementCidrs: \"10.0.0.0/16 fd00::/640\" (hub.yaml): expected addresses and CIDRs such as \
                 10.0.0.0/16,fd00::/64; \"fd00::/640\" is neither",
            ),
            (
                "handshakes: 0",
                r#"handshakes: "0" (hub.yaml): expected a number from 1 to 1000000"#,
            ),
            (
                "adminListen: 0.0.0.0:8443",
                "listen and adminListen must be different addresses \
                 (listen: \"0.0.0.0:8443\" from default, adminListen: \"0.0.0.0:8443\" from hub.yaml)",
            ),
            (
                "tls: {cert: /a.pem, key: /a.pem}",
                "tls.cert and tls.key must be different files \
                 (tls.cert: \"/a.pem\" from hub.yaml, tls.key: \"/a.pem\" from hub.yaml)",
            ),
        ] {
            assert_eq!(parse(file).unwrap_err(), line);
        }
    }
}
