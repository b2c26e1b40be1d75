//! Hello, as the hub reads it: everything about it that needs nothing but itself.

use berth_wire::v1;

use super::{FEATURES, PROTOCOL, ProtocolError, digest::Digests};

/// What Hello said, for whoever decides whether the session may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The agent's release.
    pub agent_version: String,
    /// Random, new with every start of the agent.
    pub instance_id: String,
    /// The tenant cluster's UID; empty while the agent has not been able to read it.
    pub cluster_uid: String,
    /// Whether the agent has read its cluster.
    pub synced: bool,
    /// What of this release's features the agent knows.
    pub(super) features: Vec<&'static str>,
    pub(super) digests: Option<Digests>,
}

impl Greeting {
    /// Reads a Hello.
    pub(super) fn read(hello: v1::Hello) -> Result<Self, ProtocolError> {
        let (min, max) = (hello.protocol_min, hello.protocol_max);
        if !(min..=max).contains(&PROTOCOL) {
            return Err(ProtocolError::Version { min, max });
        }
        for (name, value) in [
            ("agent_version", &hello.agent_version),
            ("instance_id", &hello.instance_id),
            ("cluster_uid", &hello.cluster_uid),
        ] {
            if value.len() > 128 || value.chars().any(|c| !c.is_ascii_graphic()) {
                return Err(ProtocolError::Invalid(format!(
                    "Hello.{name} is not a word of at most 128 ASCII characters"
                )));
            }
        }
        let digests = match hello.digests.len() {
            0 => None,
            _ => Some(Digests::from_bytes(&hello.digests).ok_or_else(|| {
                ProtocolError::Invalid("Hello.digests are not 4096 bytes".into())
            })?),
        };
        if digests.is_some() && hello.cluster_uid.is_empty() {
            return Err(ProtocolError::Invalid("Hello.cluster_uid is empty".into()));
        }
        let is_told = |feature: &&&str| hello.features.iter().any(|told| told == **feature);
        Ok(Self {
            features: FEATURES.iter().filter(is_told).copied().collect(),
            agent_version: hello.agent_version,
            instance_id: hello.instance_id,
            cluster_uid: hello.cluster_uid,
            synced: digests.is_some(),
            digests,
        })
    }
}
