//! What a tenant's operator may set on the agent, and what each value must be. Only the table and its types; where
//! values come from, and every message about them, is `berth_common::settings`.

mod class;
mod host;
mod secret;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, str::FromStr};

use berth_common::{
    settings::{self, Conflict, Setting, Settings},
    telemetry::{LOG_FILTER, LOG_FORMAT, LogSettings},
    tls::Pin,
};
use serde::{Deserialize, Deserializer, de::Error};

pub use class::LoadBalancerClass;
pub use host::{Host, HubAddress};
pub use secret::SecretName;

use crate::project::AddressType;

/// The settings of `berth-agent`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AgentSettings {
    /// `hub`.
    pub hub: Hub,
    /// `tls`.
    pub tls: TlsFiles,
    /// `enroll`.
    pub enroll: Enroll,
    /// `kubeconfig`: of the tenant cluster. `None`: the pod's own account, or `$KUBECONFIG`.
    #[serde(deserialize_with = "settings::optional_path")]
    pub kubeconfig: Option<PathBuf>,
    /// `useLoadBalancerClass`: leave Services without a class to others.
    pub use_load_balancer_class: bool,
    /// `loadBalancerClasses`: the values of `spec.loadBalancerClass` that are ours. Not empty where
    /// `use_load_balancer_class` is true.
    pub load_balancer_classes: BTreeSet<LoadBalancerClass>,
    /// `nodeAddressType`: which of a node's addresses get traffic, the most wanted first. Never empty, no type twice.
    #[serde(deserialize_with = "preference")]
    pub node_address_type: Vec<AddressType>,
    /// `adminListen`: metrics and probes, in plain HTTP.
    #[serde(deserialize_with = "settings::socket_addr")]
    pub admin_listen: SocketAddr,
    /// `log`.
    pub log: LogSettings,
}

/// The settings under `hub`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Hub {
    /// `hub.address`.
    pub address: HubAddress,
    /// `hub.serverName`: the name that the hub's certificate must carry, where it is not the address's.
    #[serde(deserialize_with = "optional_host")]
    pub server_name: Option<Host>,
}

impl Hub {
    /// The name that the hub's certificate must carry.
    pub fn server_name(&self) -> &Host {
        self.server_name.as_ref().unwrap_or(self.address.host())
    }
}

/// The settings under `tls`: PEM files, read again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TlsFiles {
    /// `tls.cert`: this tenant's certificate, with the chain up to the CA.
    #[serde(deserialize_with = "settings::path")]
    pub cert: PathBuf,
    /// `tls.key`: its key.
    #[serde(deserialize_with = "settings::path")]
    pub key: PathBuf,
    /// `tls.ca`: the CA of the hub's certificate.
    #[serde(deserialize_with = "settings::path")]
    pub ca: PathBuf,
}

/// The settings under `enroll`: an identity that the agent gets and keeps by itself, instead of files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Enroll {
    /// `enroll.secret`: where key and certificate are kept. `None`: they are in files.
    #[serde(deserialize_with = "optional")]
    pub secret: Option<SecretName>,
    /// `enroll.address`: needed once, with a token.
    #[serde(deserialize_with = "optional")]
    pub address: Option<HubAddress>,
    /// `enroll.caHash`: needed once, with a token.
    #[serde(deserialize_with = "optional_pin")]
    pub ca_hash: Option<Pin>,
    /// `enroll.tokenFile`: need not exist.
    #[serde(deserialize_with = "settings::path")]
    pub token_file: PathBuf,
}

impl Settings for AgentSettings {
    const TABLE: &'static [Setting] = &[
        Setting::text("hub.address", "HOST:PORT", "The hub to connect to"),
        Setting::text(
            "hub.serverName",
            "NAME",
            "The name that the hub's certificate must carry; none: the host of hub.address",
        )
        .default(""),
        Setting::text(
            "tls.cert",
            "FILE",
            "This tenant's certificate and its chain, in PEM",
        )
        .default("/etc/berth/tls/tls.crt"),
        Setting::text("tls.key", "FILE", "The key of that certificate, in PEM")
            .default("/etc/berth/tls/tls.key"),
        Setting::text(
            "tls.ca",
            "FILE",
            "The CA that signs the hub's certificate, in PEM",
        )
        .default("/etc/berth/tls/ca.crt"),
        Setting::text(
            "enroll.secret",
            "NS/NAME",
            "The Secret in which the agent keeps a key and certificate of its own, instead of tls.cert; none: files",
        )
        .default(""),
        Setting::text(
            "enroll.address",
            "HOST:PORT",
            "Where the hub trades a join token for that certificate, as `berth-hub token create` says",
        )
        .default(""),
        Setting::text(
            "enroll.caHash",
            "sha256:…",
            "The digest of the hub's CA, by which the hub is known there",
        )
        .default(""),
        Setting::text(
            "enroll.tokenFile",
            "FILE",
            "The file with the join token; it is needed once, and again where the Secret was lost",
        )
        .default("/etc/berth/join/token"),
        Setting::text(
            "kubeconfig",
            "FILE",
            "The tenant cluster's kubeconfig; none: the pod's own account, or $KUBECONFIG",
        )
        .default(""),
        Setting::bool(
            "useLoadBalancerClass",
            "Leave Services without a loadBalancerClass to others",
        ),
        Setting::list(
            "loadBalancerClasses",
            "CLASS,…",
            "The values of spec.loadBalancerClass that are served here",
        )
        .default("berth.dev/berth"),
        Setting::list(
            "nodeAddressType",
            "TYPE,…",
            "The node addresses that get traffic, InternalIP or ExternalIP, or both with the preferred first",
        )
        .default("InternalIP"),
        Setting::text(
            "adminListen",
            "IP:PORT",
            "Where /metrics, /livez and /readyz are served, without TLS",
        )
        .default("0.0.0.0:9090"),
        LOG_FORMAT,
        LOG_FILTER,
    ];

    fn check(&self) -> Result<(), Conflict> {
        if self.use_load_balancer_class && self.load_balancer_classes.is_empty() {
            return Err(Conflict {
                keys: &["useLoadBalancerClass", "loadBalancerClasses"],
                rule: "loadBalancerClasses must name at least one class when useLoadBalancerClass is true, \
                       or no Service would be served"
                    .to_owned(),
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

fn preference<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<AddressType>, D::Error> {
    let mut types: Vec<AddressType> = Vec::new();
    for text in Vec::<String>::deserialize(deserializer)? {
        let one = text.parse().map_err(D::Error::custom)?;
        if types.contains(&one) {
            return Err(D::Error::custom(format!(
                "expected each type once; {one} is there twice"
            )));
        }
        types.push(one);
    }
    if types.is_empty() {
        return Err(D::Error::custom("expected InternalIP, ExternalIP or both"));
    }
    Ok(types)
}

fn optional<'de, D: Deserializer<'de>, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: FromStr<Err = &'static str>,
{
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(D::Error::custom)
}

fn optional_pin<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Pin>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        D::Error::custom(
            "expected sha256: and 64 hexadecimal digits, as `berth-hub token create` prints them",
        )
    })
}

fn optional_host<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Host>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(D::Error::custom)
}
