//! How the agent comes to its identity: from the Secret where it is there already, and from the hub for a join token where it is not, or for
//! a certificate that has expired, if that is allowed.
//! It tries until it has one, says once what is missing, and notices a new token without a restart.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use berth_common::{
    backoff::{Backoff, Cause},
    tls::{
        ClientTls, Pin, TlsError, certificates_from_pem, format_time, open_client_config,
        pinned_client_config,
    },
};
use berth_wire::v1::{self, enrollment_client::EnrollmentClient};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};
use tracing::{debug, info, warn};

use super::{
    held::{Given, Held, State},
    vault::{Stored, Vault, VaultError},
};
use crate::{
    dial::{DialError, Wire},
    link::Ending,
    settings::{AgentSettings, SecretName},
};

/// The first delay after a failure is at most this.
const BACKOFF_BASE: Duration = Duration::from_secs(1);
/// How often a person may have brought a new token.
const LOOK: Duration = Duration::from_secs(2);
/// For the hub's answer, which waits for the management cluster.
const ANSWER: Duration = Duration::from_secs(15);
/// A file larger than this is no token.
const MAX_TOKEN: usize = 1_024;

/// Why there is no identity yet.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The Secret cannot be used.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// There is no certificate and nothing to get one for.
    #[error(
        "{found}, and there is no join token in {}: the hub's operator makes one with `berth-hub token create NAME`, which prints \
         the command to run here",
        file.display()
    )]
    NoToken {
        /// What is in the Secret.
        found: String,
        /// Where a token would be.
        file: PathBuf,
    },
    /// The certificate has expired, the hub gives no other one for it, and there is no token.
    #[error(
        "{found}, the hub does not renew it ({why}), and there is no join token in {}: the hub's operator makes one with `berth-hub token create \
         NAME`, which prints the command to run here",
        file.display()
    )]
    Over {
        /// What is in the Secret.
        found: String,
        /// What came of asking.
        why: Box<JoinError>,
        /// Where a token would be.
        file: PathBuf,
    },
    /// There is a token, and nobody to give it to.
    #[error("{0} is not set: `berth-hub token create NAME` prints it with the token")]
    Unset(&'static str),
    /// The hub is not to be reached, or is not the one of the pin.
    #[error("cannot join: {0}")]
    Dial(#[from] DialError),
    /// The hub gives no certificate.
    #[error("the hub gives no certificate: {}", .0.message())]
    Refused(Status),
    /// The hub said nothing.
    #[error("the hub did not answer within {} s", ANSWER.as_secs())]
    Silent,
    /// What the hub has given cannot be used.
    #[error("the certificate that the hub has given cannot be used: {0}")]
    Unusable(#[source] TlsError),
    /// The settings make no TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The key cannot be made, or read.
    #[error("the key in the Secret cannot be used: {0}")]
    Key(#[from] rcgen::Error),
    /// Others write the Secret all the time.
    #[error("the Secret {0} is being changed by others")]
    Contended(SecretName),
}

impl JoinError {
    /// What it means for the next attempt.
    fn cause(&self) -> Cause {
        match self {
            // Nothing changes before a person has done something, and that is looked for.
            Self::NoToken { .. } | Self::Unset(_) | Self::Key(_) => Cause::Refused,
            Self::Over { why, .. } => why.cause(),
            Self::Refused(status) if status.code() == Code::InvalidArgument => Cause::Refused,
            Self::Refused(status) => Ending::of_status(status, &Default::default()).cause(),
            _ => Cause::Lost,
        }
    }
}

/// Gets the identity.
pub struct Joiner {
    vault: Vault,
    wire: Option<Wire>,
    pin: Option<Pin>,
    token_file: PathBuf,
    version: &'static str,
}

impl Joiner {
    /// As these settings say; `version` is the agent's release.
    pub fn new(
        vault: Vault,
        settings: &AgentSettings,
        version: &'static str,
    ) -> Result<Self, TlsError> {
        let enroll = &settings.enroll;
        // The certificate is the same at both ports; so is its name.
        let wire = match &enroll.address {
            None => None,
            Some(address) => {
                let own = settings.hub.server_name.as_ref();
                let name = own.unwrap_or(address.host());
                Some(Wire::new(address.clone(), name)?)
            }
        };
        Ok(Self {
            vault,
            wire,
            pin: enroll.ca_hash,
            token_file: enroll.token_file.clone(),
            version,
        })
    }

    /// Where the identity is kept.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Tries until there is one.
    pub async fn obtain(&self) -> (Stored, Arc<ClientTls>) {
        let mut backoff = Backoff::new(BACKOFF_BASE);
        let mut random = fastrand::Rng::new();
        let mut said = None;
        loop {
            let error = match self.attempt().await {
                Ok(found) => return found,
                Err(error) => error,
            };
            let text = error.to_string();
            let delay = backoff.next(error.cause(), Duration::ZERO, &mut random);
            if said.as_ref() == Some(&text) {
                debug!("still no certificate: {text}; next attempt in {delay:.1?}");
            } else {
                warn!("no certificate yet: {text}");
                said = Some(text);
            }
            self.wait(delay).await;
        }
    }

    /// Until then, or until the token is another one.
    async fn wait(&self, delay: Duration) {
        let end = Instant::now() + delay;
        let before = token(&self.token_file);
        while Instant::now() < end && token(&self.token_file) == before {
            tokio::time::sleep(LOOK.min(end.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// One attempt, from whatever is in the Secret.
    pub(super) async fn attempt(&self) -> Result<(Stored, Arc<ClientTls>), JoinError> {
        let stored = self.stored().await?;
        let secret = self.vault.name();
        let mut expired = false;
        let found = match stored.held.state(SystemTime::now()) {
            State::Good(tls) => return Ok((stored, tls)),
            State::Bare => format!("the Secret {secret} has no certificate"),
            State::Unusable(TlsError::Expired { not_after, .. }) => {
                expired = true;
                format!(
                    "the certificate in the Secret {secret} has expired on {}",
                    format_time(not_after)
                )
            }
            State::Unusable(error) => {
                format!("the certificate in the Secret {secret} cannot be used ({error})")
            }
        };
        let file = self.token_file.clone();
        let given = match (token(&file), expired) {
            (Some(token), _) => self.enroll(token, stored.held.request()?).await?,
            (None, false) => return Err(JoinError::NoToken { found, file }),
            (None, true) => self.rejoin(&stored.held).await.map_err(|why| {
                let why = Box::new(why);
                JoinError::Over { found, why, file }
            })?,
        };
        let held = stored.held.with(given);
        let tls = match held.state(SystemTime::now()) {
            State::Good(tls) => tls,
            State::Unusable(error) => return Err(JoinError::Unusable(error)),
            State::Bare => return Err(JoinError::Contended(secret.clone())),
        };
        let current = tls.current();
        let identity = current.leaf.uris.concat();
        info!(%identity, serial = %current.leaf.serial, "this cluster is admitted");
        // Somebody else who was faster has the same key, and so a certificate of the same name.
        match self.vault.replace(&stored, &held).await? {
            Some(stored) => Ok((stored, tls)),
            None => Err(JoinError::Contended(secret.clone())),
        }
    }

    /// What is in the Secret, with a new key in a new one where there is none.
    async fn stored(&self) -> Result<Stored, JoinError> {
        for _ in 0..3 {
            if let Some(stored) = self.vault.read().await? {
                return Ok(stored);
            }
            if let Some(stored) = self.vault.create(&Held::new()?).await? {
                info!(secret = %self.vault.name(), "made a key");
                return Ok(stored);
            }
        }
        Err(JoinError::Contended(self.vault.name().clone()))
    }

    async fn enroll(&self, token: String, csr: Vec<u8>) -> Result<Given, JoinError> {
        let wire = self
            .wire
            .as_ref()
            .ok_or(JoinError::Unset("enroll.address"))?;
        let pin = self.pin.ok_or(JoinError::Unset("enroll.caHash"))?;
        let config = Arc::new(pinned_client_config(pin)?);
        let connection = wire.dial(config).await?;
        let request = v1::EnrollRequest {
            token,
            csr: csr.into(),
            agent_version: self.version.to_owned(),
        };
        let mut client = EnrollmentClient::new(connection.channel);
        match timeout(ANSWER, client.enroll(request)).await {
            Ok(Ok(response)) => Ok(given(response.into_inner())),
            Ok(Err(status)) => Err(JoinError::Refused(status)),
            Err(_) => Err(JoinError::Silent),
        }
    }
}

impl Joiner {
    /// Another certificate for the one that has expired, where the hub's operator allows that. The hub is known by the authorities that came
    /// with it: the pin of the join command may be of one that was replaced since.
    async fn rejoin(&self, held: &Held) -> Result<Given, JoinError> {
        let wire = self
            .wire
            .as_ref()
            .ok_or(JoinError::Unset("enroll.address"))?;
        let Some(given) = &held.certificate else {
            return Err(JoinError::Contended(self.vault.name().clone()));
        };
        let path = Path::new("tls.crt");
        let chain = certificates_from_pem(path, given.certificate.as_bytes())?;
        let config = open_client_config(&given.authorities, SystemTime::now())?;
        let connection = wire.dial(Arc::new(config)).await?;
        let request = v1::RejoinRequest {
            certificate: chain[0].to_vec().into(),
            csr: held.request()?.into(),
            agent_version: self.version.to_owned(),
        };
        let mut client = EnrollmentClient::new(connection.channel);
        match timeout(ANSWER, client.rejoin(request)).await {
            Ok(Ok(response)) => Ok(self::given(response.into_inner())),
            Ok(Err(status)) => Err(JoinError::Refused(status)),
            Err(_) => Err(JoinError::Silent),
        }
    }
}

/// What an answer of the hub's says.
pub(super) fn given(response: v1::CertificateResponse) -> Given {
    Given {
        certificate: response.certificate,
        authorities: response.authorities,
    }
}

/// The token in a file, if there is one.
fn token(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let text = text.trim();
    (!text.is_empty() && text.len() <= MAX_TOKEN).then(|| text.to_owned())
}
