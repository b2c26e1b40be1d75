//! Secrets of the type `kubernetes.io/tls`. An authority's is replaced by a rotation and nothing else, a certificate's where the
//! operator said so; both only where they are ours, and only in the version that was looked at.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};

use super::{PemSet, SecretRef};
use crate::ca::{CaError, Kept, kept};

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
    kept: &Kept,
) -> Result<(), CaError> {
    let pem = PemSet {
        certificate: kept.certificate.clone(),
        key: kept.key.clone(),
        bundle: kept.bundle.clone(),
    };
    match create(client, secret, &pem).await {
        Err(error) if is_conflict(&error) => Err(CaError::AlreadyExists {
            place: format!("the Secret {secret}"),
        }),
        other => other.map_err(failed("create", secret)),
    }
}

const NEXT: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const PREVIOUS: &str = "previous.crt";
const CROSS: &str = "cross.crt";
const SINCE: &str = "since";

pub(super) fn is_ours(secret: &Secret) -> bool {
    let labels = secret.metadata.labels.as_ref();
    labels.is_some_and(|labels| labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER))
}

pub(super) async fn read_authority(
    client: &Client,
    secret: &SecretRef,
) -> Result<(Kept, Secret), CaError> {
    let object = get(client, secret).await?;
    let pem = pem_set(&object, secret)?;
    let text = |key: &str| text(&object, key);
    // Somebody else's `ca.crt` is whoever signed the authority, and not ours to trust.
    let same = kept::first(&pem.bundle).is_some_and(|it| kept::first(&pem.certificate) == Some(it));
    let bundle = match is_ours(&object) && same {
        true => pem.bundle,
        false => pem.certificate.clone(),
    };
    let kept = Kept {
        bundle,
        certificate: pem.certificate,
        key: pem.key,
        next: text(NEXT).zip(text(NEXT_KEY)),
        previous: text(PREVIOUS),
        cross: text(CROSS),
        since: text(SINCE).and_then(|since| since.trim().parse().ok()),
    };
    Ok((kept, object))
}

pub(super) async fn replace_authority(
    client: &Client,
    secret: &SecretRef,
    kept: &Kept,
    before: &Secret,
) -> Result<(), CaError> {
    if !is_ours(before) {
        return Err(CaError::ForeignAuthority {
            place: secret.to_string(),
        });
    }
    let mut object = before.clone();
    let data = object.data.get_or_insert_default();
    let since = kept.since.map(|since| since.to_string());
    let next = kept.next.as_ref();
    for (key, text) in [
        ("tls.crt", Some(&kept.certificate)),
        ("tls.key", Some(&kept.key)),
        ("ca.crt", Some(&kept.bundle)),
        (NEXT, next.map(|(certificate, _)| certificate)),
        (NEXT_KEY, next.map(|(_, key)| key)),
        (PREVIOUS, kept.previous.as_ref()),
        (CROSS, kept.cross.as_ref()),
        (SINCE, since.as_ref()),
    ] {
        match text {
            Some(text) => data.insert(key.to_owned(), ByteString(text.clone().into_bytes())),
            None => data.remove(key),
        };
    }
    let params = PostParams {
        field_manager: Some(MANAGER.into()),
        ..PostParams::default()
    };
    let replaced = api(client, secret)
        .replace(&secret.name, &params, &object)
        .await;
    match replaced {
        Err(error) if is_conflict(&error) => Err(CaError::Changed {
            place: format!("the Secret {secret}"),
        }),
        other => other.map(drop).map_err(failed("replace", secret)),
    }
}

pub(super) async fn read(client: &Client, secret: &SecretRef) -> Result<PemSet, CaError> {
    pem_set(&get(client, secret).await?, secret)
}

async fn get(client: &Client, secret: &SecretRef) -> Result<Secret, CaError> {
    api(client, secret)
        .get_opt(&secret.name)
        .await
        .map_err(failed("read", secret))?
        .ok_or_else(|| CaError::NotFound {
            place: format!("the Secret {secret}"),
            missing: "there is no such Secret".into(),
            option: format!("--secret {secret}"),
        })
}

/// Some issuers leave a key there and empty.
fn text(object: &Secret, key: &str) -> Option<String> {
    let bytes = object.data.as_ref()?.get(key)?;
    let text = String::from_utf8(bytes.0.clone()).ok()?;
    (!text.is_empty()).then_some(text)
}

fn pem_set(object: &Secret, secret: &SecretRef) -> Result<PemSet, CaError> {
    let text = |key: &str| {
        text(object, key).ok_or_else(|| CaError::Incomplete {
            place: format!("the Secret {secret}"),
            missing: format!("{key} is missing"),
        })
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
