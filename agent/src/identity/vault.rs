//! The agent's Secret: read, made where there is none, and written only over the version that was read. Whoever else has written
//! meanwhile was right; what they wrote is read again.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};

use super::held::{Given, Held};
use crate::{explain::explain, project::FIELD_MANAGER, settings::SecretName};

const KEY: &str = "tls.key";
const CERTIFICATE: &str = "tls.crt";
const AUTHORITIES: &str = "ca.crt";

/// Why the Secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The API server refused, or could not be reached.
    #[error("cannot {action} the Secret {secret}: {problem}")]
    Api {
        /// `read`, `create` or `update`.
        action: &'static str,
        /// The Secret.
        secret: SecretName,
        /// Why, and what to do about it.
        problem: String,
    },
    /// There is a Secret of that name without a key of ours.
    #[error(
        "the Secret {0} has no tls.key: it is somebody else's, or was damaged; delete it, or choose another name (enroll.secret)"
    )]
    Foreign(SecretName),
}

/// The Secret.
#[derive(Clone)]
pub struct Vault {
    api: Api<Secret>,
    name: SecretName,
}

/// What was read, and of which version.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its content.
    pub held: Held,
    /// The object without its content.
    meta: ObjectMeta,
}

impl Stored {
    /// `metadata.uid`, for events about it.
    pub fn uid(&self) -> String {
        self.meta.uid.clone().unwrap_or_default()
    }
}

impl Vault {
    /// This Secret.
    pub fn new(client: Client, name: SecretName) -> Self {
        Self {
            api: Api::namespaced(client, &name.namespace),
            name,
        }
    }

    /// Which one it is.
    pub fn name(&self) -> &SecretName {
        &self.name
    }

    /// None where there is none.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn read(&self) -> Result<Option<Stored>, VaultError> {
        let found = self.api.get_opt(&self.name.name).await;
        match found.map_err(|error| self.failed("read", error))? {
            None => Ok(None),
            Some(secret) => self.stored(secret).map(Some),
        }
    }

    /// None where somebody else was faster.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn create(&self, held: &Held) -> Result<Option<Stored>, VaultError> {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(self.name.name.clone()),
                labels: Some(
                    [(
                        "app.kubernetes.io/managed-by".to_owned(),
                        FIELD_MANAGER.to_owned(),
                    )]
                    .into(),
                ),
                ..ObjectMeta::default()
            },
            type_: Some("berth.dev/identity".into()),
            data: Some(data(held)),
            ..Secret::default()
        };
        match self.api.create(&params(), &secret).await {
            Ok(secret) => self.stored(secret).map(Some),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(self.failed("create", error)),
        }
    }

    /// None where somebody else was faster.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn replace(
        &self,
        before: &Stored,
        held: &Held,
    ) -> Result<Option<Stored>, VaultError> {
        let secret = Secret {
            metadata: before.meta.clone(),
            type_: Some("berth.dev/identity".into()),
            data: Some(data(held)),
            ..Secret::default()
        };
        match self.api.replace(&self.name.name, &params(), &secret).await {
            Ok(secret) => self.stored(secret).map(Some),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
            Err(error) => Err(self.failed("update", error)),
        }
    }

    fn stored(&self, secret: Secret) -> Result<Stored, VaultError> {
        let data = secret.data.unwrap_or_default();
        let text = |key: &str| {
            let bytes = data.get(key)?;
            let text = String::from_utf8(bytes.0.clone()).ok();
            text.filter(|text| !text.is_empty())
        };
        let key = text(KEY).ok_or_else(|| VaultError::Foreign(self.name.clone()))?;
        let given = text(CERTIFICATE).zip(text(AUTHORITIES));
        let certificate = given.map(|(certificate, authorities)| Given {
            certificate,
            authorities,
        });
        Ok(Stored {
            held: Held { key, certificate },
            meta: secret.metadata,
        })
    }

    fn failed(&self, action: &'static str, error: kube::Error) -> VaultError {
        VaultError::Api {
            action,
            secret: self.name.clone(),
            problem: explain(&error),
        }
    }
}

fn data(held: &Held) -> BTreeMap<String, ByteString> {
    let mut data = BTreeMap::from([(KEY.to_owned(), ByteString(held.key.clone().into()))]);
    if let Some(given) = &held.certificate {
        let texts = [
            (CERTIFICATE, &given.certificate),
            (AUTHORITIES, &given.authorities),
        ];
        for (key, text) in texts {
            data.insert(key.to_owned(), ByteString(text.clone().into()));
        }
    }
    data
}

fn params() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}
