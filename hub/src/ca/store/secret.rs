//! Secrets of the type `kubernetes.io/tls`. An authority's is created and never replaced; a certificate's is replaced
//! only where it is ours and the operator said so, and only in the version that was looked at.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, api::PostParams};

use super::{PemSet, SecretRef};
use crate::ca::CaError;

const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const MANAGER: &str = "berth-hub";

/// The Secret with these texts, readable when printed.
pub fn manifest(secret: &SecretRef, pem: &PemSet) -> Secret {
    let texts = [
        ("tls.crt", &pem.certificate),
        ("tls.key", &pem.key),
        ("ca.crt", &pem.bundle),
    ];
    Secret {
        metadata: ObjectMeta {
            name: Some(secret.name.clone()),
            namespace: Some(secret.namespace.clone()),
            labels: Some(BTreeMap::from([(MANAGED_BY.into(), MANAGER.into())])),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".into()),
        string_data: Some(
            texts
                .map(|(key, text)| (key.to_owned(), text.clone()))
                .into(),
        ),
        ..Secret::default()
    }
}

pub(super) async fn create_authority(
    client: &Client,
    secret: &SecretRef,
    pem: &PemSet,
) -> Result<(), CaError> {
    match create(client, secret, pem).await {
        Err(error) if is_conflict(&error) => Err(CaError::AlreadyExists {
            place: format!("the Secret {secret}"),
        }),
        other => other.map_err(failed("create", secret)),
    }
}

pub(super) async fn read(client: &Client, secret: &SecretRef) -> Result<PemSet, CaError> {
    let missing = |missing: &str| CaError::NotFound {
        place: format!("the Secret {secret}"),
        missing: missing.to_owned(),
    };
    let found = api(client, secret)
        .get_opt(&secret.name)
        .await
        .map_err(failed("read", secret))?
        .ok_or_else(|| missing("the Secret itself"))?;
    let data = found.data.unwrap_or_default();
    let text = |key: &str| {
        data.get(key)
            .and_then(|bytes| String::from_utf8(bytes.0.clone()).ok())
            // Some issuers leave ca.crt there and empty.
            .filter(|text| !text.is_empty())
            .ok_or_else(|| missing(key))
    };
    let certificate = text("tls.crt")?;
    Ok(PemSet {
        key: text("tls.key")?,
        bundle: text("ca.crt").unwrap_or_else(|_| certificate.clone()),
        certificate,
    })
}

pub(super) async fn put(
    client: &Client,
    secret: &SecretRef,
    pem: &PemSet,
    replace: bool,
) -> Result<(), CaError> {
    let place = || secret.to_string();
    let api = api(client, secret);
    let existing = api
        .get_opt(&secret.name)
        .await
        .map_err(failed("read", secret))?;
    let Some(existing) = existing else {
        return create(client, secret, pem)
            .await
            .map_err(failed("create", secret));
    };
    let labels = existing.metadata.labels.unwrap_or_default();
    if labels.get(MANAGED_BY).map(String::as_str) != Some(MANAGER) {
        return Err(CaError::ForeignSecret { place: place() });
    }
    if !replace {
        return Err(CaError::Occupied {
            place: format!("the Secret {secret}"),
        });
    }
    let mut next = manifest(secret, pem);
    next.metadata.resource_version = existing.metadata.resource_version;
    api.replace(&secret.name, &PostParams::default(), &next)
        .await
        .map(|_| ())
        .map_err(failed("replace", secret))
}

async fn create(client: &Client, secret: &SecretRef, pem: &PemSet) -> Result<(), kube::Error> {
    let params = PostParams {
        field_manager: Some(MANAGER.into()),
        ..PostParams::default()
    };
    api(client, secret)
        .create(&params, &manifest(secret, pem))
        .await
        .map(|_| ())
}

fn api(client: &Client, secret: &SecretRef) -> Api<Secret> {
    Api::namespaced(client.clone(), &secret.namespace)
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

fn failed(action: &'static str, secret: &SecretRef) -> impl FnOnce(kube::Error) -> CaError {
    let place = secret.to_string();
    move |source| CaError::Api {
        action,
        place,
        source: Box::new(source),
    }
}
