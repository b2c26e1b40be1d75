//! Where tokens are kept: one Secret of the management cluster, an entry for each token under its id. All in one, so that the hub needs
//! a right to that Secret and to no other. It writes only over the version that it has read, so that of many who use one token at
//! once, here or at another replica, one is the first. What an entry means is `entry`'s.

use std::{collections::BTreeMap, time::SystemTime};

use k8s_openapi::{
    ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};

use super::{
    entry::{Decision, Entry, Refused, Signed},
    token::{TokenDigest, TokenId},
};
use crate::{
    ca::store::SecretRef,
    objects::{FIELD_MANAGER, MANAGED_BY, MANAGER},
};

/// How often somebody else may be faster, before this is given up. Each time at least one of those who try gets through.
const TRIES: usize = 20;

/// The most that all entries may take: the API server takes no Secret of more than 1 MiB.
const MAX_BYTES: usize = 900 * 1024;

/// Why the store could not be asked or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The API server refused, or could not be reached.
    #[error("cannot {action} the Secret {secret}")]
    Api {
        /// `read`, `create` or `update`.
        action: &'static str,
        /// The Secret.
        secret: SecretRef,
        /// Why.
        source: Box<kube::Error>,
    },
    /// Somebody else was faster, each time.
    #[error("the Secret {0} is being changed by too many at once; try again")]
    Busy(SecretRef),
    /// The Secret is full.
    #[error("there are too many tokens in the Secret {0}; they go an hour after their deadline")]
    Full(SecretRef),
    /// Somebody else's Secret.
    #[error("the Secret {0} is not managed by berth-hub, so it is left alone; choose another name")]
    Foreign(SecretRef),
    /// There is no such token.
    #[error("there is no token {0}; `berth-hub token list` shows those there are")]
    NoToken(TokenId),
    /// An entry cannot be written as JSON, which does not happen.
    #[error("an entry cannot be written")]
    Entry(#[from] serde_json::Error),
}

impl StoreError {
    fn api(action: &'static str, secret: &SecretRef) -> impl FnOnce(kube::Error) -> Self {
        let secret = secret.clone();
        move |source| Self::Api {
            action,
            secret,
            source: Box::new(source),
        }
    }
}

/// The tokens of one hub.
#[derive(Clone)]
pub struct Tokens {
    api: Api<Secret>,
    secret: SecretRef,
}

impl Tokens {
    /// In this Secret.
    pub fn new(client: Client, secret: SecretRef) -> Self {
        Self {
            api: Api::namespaced(client, &secret.namespace),
            secret,
        }
    }

    /// Every token there is, by id. What cannot be read is left out.
    ///
    /// # Errors
    /// [`StoreError::Api`].
    pub async fn list(&self) -> Result<BTreeMap<TokenId, Entry>, StoreError> {
        let data = self.read().await?.and_then(|secret| secret.data);
        Ok(data
            .unwrap_or_default()
            .iter()
            .filter_map(|(id, bytes)| Some((TokenId::parse(id)?, parse(bytes)?)))
            .collect())
    }

    /// Keeps a new one, and lets go of those that are long past. Makes the Secret where there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add(
        &self,
        id: &TokenId,
        entry: &Entry,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        let text = serde_json::to_vec(entry)?;
        for _ in 0..TRIES {
            let mut secret = match self.read().await? {
                Some(secret) => secret,
                None => match self.create().await? {
                    Some(secret) => secret,
                    None => continue,
                },
            };
            let data = secret.data.get_or_insert_default();
            data.retain(|_, bytes| parse(bytes).is_none_or(|entry| !entry.is_past(now)));
            data.insert(id.as_str().to_owned(), ByteString(text.clone()));
            if data.values().map(|bytes| bytes.0.len() + 64).sum::<usize>() > MAX_BYTES {
                return Err(StoreError::Full(self.secret.clone()));
            }
            if self.replace(&secret).await? {
                return Ok(());
            }
        }
        Err(StoreError::Busy(self.secret.clone()))
    }

    /// Takes one back, and returns what it was. Its certificate, if it got one, is not touched.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn revoke(&self, id: &TokenId) -> Result<Entry, StoreError> {
        let none = || StoreError::NoToken(id.clone());
        for _ in 0..TRIES {
            let mut secret = self.read().await?.ok_or_else(none)?;
            let data = secret.data.get_or_insert_default();
            let was = data.get(id.as_str()).and_then(parse).ok_or_else(none)?;
            let next = Entry {
                revoked: true,
                ..was.clone()
            };
            data.insert(id.as_str().into(), ByteString(serde_json::to_vec(&next)?));
            if self.replace(&secret).await? {
                return Ok(was);
            }
        }
        Err(StoreError::Busy(self.secret.clone()))
    }

    /// Takes back all of a Tenant that is being deleted, and returns how many were good until now.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn revoke_all(&self, tenant_uid: &str, now: SystemTime) -> Result<usize, StoreError> {
        for _ in 0..TRIES {
            let Some(mut secret) = self.read().await? else {
                return Ok(0);
            };
            let mut revoked = 0;
            for bytes in secret.data.get_or_insert_default().values_mut() {
                let good =
                    |entry: &Entry| entry.tenant_uid == tenant_uid && entry.state(now) == "unused";
                if let Some(entry) = parse(bytes).filter(good) {
                    let next = Entry {
                        revoked: true,
                        ..entry
                    };
                    *bytes = ByteString(serde_json::to_vec(&next)?);
                    revoked += 1;
                }
            }
            if revoked == 0 || self.replace(&secret).await? {
                return Ok(revoked);
            }
        }
        Err(StoreError::Busy(self.secret.clone()))
    }

    /// The entry of a token, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Api`].
    pub async fn find(&self, digest: &TokenDigest) -> Result<Option<Entry>, StoreError> {
        let data = self.read().await?.and_then(|secret| secret.data);
        Ok(data.and_then(|data| data.get(digest.id().as_str()).and_then(parse)))
    }

    /// Uses a token with a key: the first use is written down before this returns, and of several at once one is the first.
    ///
    /// # Errors
    /// The outer error: the store could not be asked. The inner one: the token is refused.
    pub async fn consume(
        &self,
        digest: &TokenDigest,
        key: &str,
        certificate: &Signed,
        now: SystemTime,
    ) -> Result<Result<Signed, Refused>, StoreError> {
        let id = digest.id();
        for _ in 0..TRIES {
            let Some(mut secret) = self.read().await? else {
                return Ok(Err(Refused::Unknown));
            };
            let data = secret.data.get_or_insert_default();
            let Some(entry) = data.get(id.as_str()).and_then(parse) else {
                return Ok(Err(Refused::Unknown));
            };
            let next = match entry.decide(digest, key, certificate.clone(), now) {
                Err(refused) => return Ok(Err(refused)),
                Ok(Decision::Again(signed)) => return Ok(Ok(signed)),
                Ok(Decision::First(next)) => next,
            };
            data.insert(id.as_str().into(), ByteString(serde_json::to_vec(&next)?));
            if self.replace(&secret).await? {
                return Ok(Ok(certificate.clone()));
            }
        }
        Err(StoreError::Busy(self.secret.clone()))
    }

    /// None where there is none. Somebody else's is an error: what is in it is not ours to read.
    async fn read(&self) -> Result<Option<Secret>, StoreError> {
        let found = self
            .api
            .get_opt(&self.secret.name)
            .await
            .map_err(StoreError::api("read", &self.secret))?;
        let ours = |secret: &Secret| {
            let labels = secret.metadata.labels.as_ref();
            labels.is_some_and(|labels| labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER))
        };
        match found {
            Some(secret) if !ours(&secret) => Err(StoreError::Foreign(self.secret.clone())),
            other => Ok(other),
        }
    }

    /// None where somebody else was faster.
    async fn create(&self) -> Result<Option<Secret>, StoreError> {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(self.secret.name.clone()),
                labels: Some([(MANAGED_BY.to_owned(), MANAGER.to_owned())].into()),
                ..ObjectMeta::default()
            },
            type_: Some("berth.dev/join-tokens".into()),
            ..Secret::default()
        };
        match self.api.create(&params(), &secret).await {
            Ok(secret) => Ok(Some(secret)),
            Err(error) if conflicts(&error) => Ok(None),
            Err(error) => Err(StoreError::api("create", &self.secret)(error)),
        }
    }

    /// Only over the version that was read; false where that is no longer the one there.
    async fn replace(&self, secret: &Secret) -> Result<bool, StoreError> {
        match self.api.replace(&self.secret.name, &params(), secret).await {
            Ok(_) => Ok(true),
            Err(error) if conflicts(&error) => Ok(false),
            Err(error) => Err(StoreError::api("update", &self.secret)(error)),
        }
    }
}

fn parse(bytes: &ByteString) -> Option<Entry> {
    serde_json::from_slice(&bytes.0).ok()
}

fn params() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PostParams::default()
    }
}

fn conflicts(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
