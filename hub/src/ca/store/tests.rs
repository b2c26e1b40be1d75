use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use http::{Method, Request, Response};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::ca::{CertificateRequest, DEFAULT_AUTHORITY_LIFETIME, DEFAULT_LIFETIME};

fn authority() -> Authority {
    let now = SystemTime::now();
    Authority::create(TrustDomain::default(), DEFAULT_AUTHORITY_LIFETIME, now).unwrap()
}

fn pem() -> PemSet {
    let request = CertificateRequest {
        subject: berth_common::identity::Identity::Tenant("acme".parse().unwrap()),
        dns: vec![],
        ips: vec![],
        lifetime: DEFAULT_LIFETIME,
        not_earlier: None,
    };
    PemSet::from(&authority().issue(&request, SystemTime::now()).unwrap())
}

const NAMED: &str = "the place";

/// The four states of a rotation, in order.
fn rotation() -> [Kept; 4] {
    let now = SystemTime::now();
    let first = authority();
    let at_rest = Kept::new(&first);
    let (next, cross) = first.succeed(DEFAULT_AUTHORITY_LIFETIME, now).unwrap();
    let published = at_rest.publish(&next, cross, now);
    let switched = published.switch(now).unwrap();
    let dropped = switched.drop_previous(now);
    [at_rest, published, switched, dropped]
}

fn signs_and_trusts(kept: &Kept) -> (String, Vec<String>) {
    let authority = kept.authority(None, NAMED).unwrap();
    let keys = authority.trusted().iter().map(ToString::to_string);
    (
        authority.facts().key_id.unwrap().to_string(),
        keys.collect(),
    )
}

#[test]
fn a_rotation_changes_who_is_trusted_then_who_signs_then_who_is_trusted() {
    let [at_rest, published, switched, dropped] = rotation();
    let (old, trusted) = signs_and_trusts(&at_rest);
    assert_eq!(trusted, std::slice::from_ref(&old));
    let (signer, trusted) = signs_and_trusts(&published);
    let new = trusted[1].clone();
    assert_eq!(
        (signer, trusted),
        (old.clone(), vec![old.clone(), new.clone()])
    );
    assert_eq!(
        signs_and_trusts(&switched),
        (new.clone(), vec![new.clone(), old.clone()])
    );
    assert_eq!(signs_and_trusts(&dropped), (new.clone(), vec![new.clone()]));
    // The former key is nowhere once it signs no more.
    for kept in [&switched, &dropped] {
        assert!(kept.key != at_rest.key && kept.next.is_none());
    }
    let stage = |kept: &Kept| kept.stage(NAMED).unwrap();
    assert_eq!(stage(&at_rest), crate::ca::Stage::Rest(None));
    assert!(
        matches!(stage(&published), crate::ca::Stage::Published { next, .. } if next.to_string() == new)
    );
    assert!(matches!(
        stage(&switched),
        crate::ca::Stage::Switched { .. }
    ));
    assert!(matches!(stage(&dropped), crate::ca::Stage::Rest(Some(_))));
    // The certificate across is shown between the switch and the end.
    let crosses = [&at_rest, &published, &switched, &dropped]
        .map(|kept| kept.authority(None, NAMED).unwrap().cross().is_some());
    assert_eq!(crosses, [false, false, true, false]);
}

/// An interruption between any two files leaves one state or the next, and the same command goes on.
#[tokio::test]
async fn a_directory_is_whole_wherever_its_writing_was_interrupted() {
    let states = rotation();
    for (before, after) in states.iter().zip(&states[1..]) {
        let signers = [signs_and_trusts(before), signs_and_trusts(after)];
        let full = TempDir::new().unwrap();
        write_all(full.path(), before);
        let names = names_of(full.path());
        let place = Place::Directory(full.path().to_owned());
        let (read, version) = place.kept().await.unwrap();
        assert!(read == *before);
        place.replace(after, &version).await.unwrap();
        assert!(place.kept().await.unwrap().0 == *after);
        let error = place.replace(before, &version).await.unwrap_err();
        assert!(matches!(error, CaError::Changed { .. }), "{error}");
        assert_eq!(mode(&full.path().join("ca.key")), 0o600);

        // In the order of the writing, each file alone is new or old.
        let order = [
            "cross.crt",
            "previous.crt",
            "next.key",
            "next.crt",
            "since",
            "ca.key",
            "ca.crt",
        ];
        for written in 0..=order.len() {
            let half = TempDir::new().unwrap();
            write_all(half.path(), before);
            for name in &order[..written] {
                if let Ok(text) = fs::read(full.path().join(name)) {
                    fs::write(half.path().join(name), text).unwrap();
                }
            }
            let place = Place::Directory(half.path().to_owned());
            let (found, version) = place.kept().await.unwrap();
            assert!(
                signers.contains(&signs_and_trusts(&found)),
                "{names:?}, {written} files written"
            );
            found.stage(NAMED).unwrap();
            place.replace(after, &version).await.unwrap();
            assert!(place.kept().await.unwrap().0 == *after);
        }
    }
}

fn names_of(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn write_all(directory: &Path, kept: &Kept) {
    let since = kept.since.map(|since| since.to_string());
    let next = kept.next.as_ref();
    for (name, text) in [
        ("ca.crt", Some(&kept.bundle)),
        ("ca.key", Some(&kept.key)),
        ("next.crt", next.map(|(certificate, _)| certificate)),
        ("next.key", next.map(|(_, key)| key)),
        ("previous.crt", kept.previous.as_ref()),
        ("cross.crt", kept.cross.as_ref()),
        ("since", since.as_ref()),
    ] {
        if let Some(text) = text {
            fs::write(directory.join(name), text).unwrap();
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_directory_keeps_an_authority_and_never_overwrites_it() {
    let parent = TempDir::new().unwrap();
    let path = parent.path().join("deep/ca");
    let place = Place::Directory(path.clone());
    let made = authority();
    place.keep_authority(&made).await.unwrap();
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join("ca.key")), 0o600);
    assert_eq!(mode(&path.join("ca.crt")), 0o644);
    let read = place.authority(None).await.unwrap();
    assert_eq!(read.facts(), made.facts());

    let before = fs::read(path.join("ca.key")).unwrap();
    let error = place.keep_authority(&authority()).await.unwrap_err();
    assert!(matches!(error, CaError::AlreadyExists { .. }), "{error}");
    assert_eq!(fs::read(path.join("ca.key")).unwrap(), before);

    // Either file alone is reason enough.
    fs::remove_file(path.join("ca.crt")).unwrap();
    let error = place.keep_authority(&authority()).await.unwrap_err();
    assert!(matches!(error, CaError::AlreadyExists { .. }), "{error}");
    let error = place.authority(None).await.unwrap_err();
    assert!(
        matches!(&error, CaError::Incomplete { missing, .. } if missing == "ca.crt is missing"),
        "{error}"
    );
}

#[tokio::test]
async fn a_directory_keeps_a_certificate_and_replaces_it_when_told() {
    let directory = TempDir::new().unwrap();
    let place = Place::Directory(directory.path().to_owned());
    let file = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
    let first = pem();
    place.keep_certificate(&first, false).await.unwrap();
    assert_eq!(file("tls.crt"), first.certificate);
    assert_eq!(file("ca.crt"), first.bundle);
    assert_eq!(mode(&directory.path().join("tls.key")), 0o600);

    let second = pem();
    let error = place.keep_certificate(&second, false).await.unwrap_err();
    assert!(error.to_string().contains("--replace"), "{error}");
    assert_eq!(file("tls.key"), first.key);

    place.keep_certificate(&second, true).await.unwrap();
    assert_eq!(file("tls.key"), second.key);
    assert_eq!(mode(&directory.path().join("tls.key")), 0o600);
    let names = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(names, 3, "nothing is left lying about");
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_named() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let place = Place::Directory(file.join("below"));
    let error = place.keep_certificate(&pem(), false).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot create /"), "{error}");
}

/// An API server that gives these answers, in order, and remembers what it was asked.
struct Api {
    client: Client,
    requests: Arc<Mutex<Vec<(Method, String, Value)>>>,
}

impl Api {
    fn answering(answers: impl IntoIterator<Item = (u16, Value)>) -> Self {
        let answers = Arc::new(Mutex::new(answers.into_iter().collect::<VecDeque<_>>()));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let service = tower::service_fn(move |request: Request<Body>| {
            let (answers, seen) = (Arc::clone(&answers), Arc::clone(&seen));
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let asked = (parts.method, parts.uri.path().to_owned(), body);
                seen.lock().unwrap().push(asked);
                let (status, body) = answers.lock().unwrap().pop_front().unwrap();
                let body = Body::from(serde_json::to_vec(&body).unwrap());
                let answer = Response::builder().status(status).body(body);
                Ok::<_, kube::Error>(answer.unwrap())
            }
        });
        Self {
            client: Client::new(service, "default"),
            requests,
        }
    }

    fn place(&self) -> Place {
        Place::Secret(self.client.clone(), "berth-system/ca".parse().unwrap())
    }

    fn asked(&self) -> Vec<(Method, String, Value)> {
        self.requests.lock().unwrap().clone()
    }
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": reason, "message": reason});
    (code, status)
}

fn secret(labels: &Value) -> Value {
    json!({"kind": "Secret", "apiVersion": "v1",
        "metadata": {"name": "ca", "namespace": "berth-system", "resourceVersion": "7", "labels": labels}})
}

const OURS: &str = r#"{"app.kubernetes.io/managed-by": "berth-hub"}"#;

fn ours() -> Value {
    serde_json::from_str(OURS).unwrap()
}

#[tokio::test]
async fn a_secret_keeps_an_authority_by_a_create_that_cannot_overwrite() {
    let api = Api::answering([(201, secret(&ours()))]);
    let made = authority();
    api.place().keep_authority(&made).await.unwrap();
    let [(method, path, body)] = api.asked().try_into().unwrap();
    assert_eq!(method, Method::POST);
    assert_eq!(path, "/api/v1/namespaces/berth-system/secrets");
    assert_eq!(body["type"], "kubernetes.io/tls");
    assert_eq!(body["metadata"]["labels"], ours());
    assert_eq!(body["stringData"]["tls.crt"], made.bundle());
    assert_eq!(body["stringData"]["tls.key"], made.key_pem());

    let api = Api::answering([failure(409, "AlreadyExists")]);
    let error = api.place().keep_authority(&made).await.unwrap_err();
    assert!(matches!(error, CaError::AlreadyExists { .. }), "{error}");
}

#[tokio::test]
async fn an_authority_is_read_from_a_secret() {
    let made = authority();
    let mut kept = secret(&json!({}));
    let base64 = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    kept["data"] = json!({"tls.crt": base64(made.bundle()), "tls.key": base64(&made.key_pem())});
    let mut keyless = kept.clone();
    keyless["data"]["tls.key"] = Value::Null;
    let api = Api::answering([(200, kept), (200, keyless), failure(404, "NotFound")]);
    let read = api.place().authority(None).await.unwrap();
    assert_eq!(read.facts(), made.facts());
    for (said, advice) in [
        ("tls.key is missing", "bring that back from a copy"),
        (
            "there is no such Secret",
            "`berth-hub ca init --secret berth-system/ca`",
        ),
    ] {
        let error = api.place().authority(None).await.unwrap_err().to_string();
        assert!(error.contains(said) && error.contains(advice), "{error}");
    }
}

#[tokio::test]
async fn a_secret_of_ours_is_replaced_only_when_told_and_only_as_it_was_seen() {
    let api = Api::answering([(200, secret(&ours()))]);
    let error = api
        .place()
        .keep_certificate(&pem(), false)
        .await
        .unwrap_err();
    assert!(matches!(error, CaError::Occupied { .. }), "{error}");

    let api = Api::answering([(200, secret(&ours())), (200, secret(&ours()))]);
    api.place().keep_certificate(&pem(), true).await.unwrap();
    let (method, path, body) = api.asked().pop().unwrap();
    assert_eq!(method, Method::PUT);
    assert_eq!(path, "/api/v1/namespaces/berth-system/secrets/ca");
    assert_eq!(body["metadata"]["resourceVersion"], "7");

    let api = Api::answering([(200, secret(&ours())), failure(409, "Conflict")]);
    let error = api
        .place()
        .keep_certificate(&pem(), true)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            CaError::Api {
                action: "replace",
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_secret_of_somebody_else_is_left_alone() {
    let api = Api::answering([(200, secret(&json!({"app": "other"})))]);
    let error = api
        .place()
        .keep_certificate(&pem(), true)
        .await
        .unwrap_err();
    assert!(matches!(error, CaError::ForeignSecret { .. }), "{error}");
    assert_eq!(api.asked().len(), 1);
}

#[tokio::test]
async fn a_missing_secret_is_created() {
    let api = Api::answering([failure(404, "NotFound"), (201, secret(&ours()))]);
    api.place().keep_certificate(&pem(), false).await.unwrap();
    assert_eq!(api.asked().pop().unwrap().0, Method::POST);
}

#[test]
fn secret_references_say_what_is_wrong() {
    let parse = |text: &str| text.parse::<SecretRef>().map_err(|error| error.to_string());
    assert_eq!(parse("berth-system/ca.v1").unwrap().name, "ca.v1");
    for (text, expected) in [
        ("ca", "is not of the form NAMESPACE/NAME"),
        ("a/b/c", "is not of the form NAMESPACE/NAME"),
        ("/ca", "names no Secret: the namespace is empty"),
        (
            "a.b/ca",
            "names no Secret: the namespace has '.' at byte 1; only a-z, 0-9 and - are allowed",
        ),
        (
            "a/CA",
            "names no Secret: the name has 'C' at byte 0; only a-z, 0-9 and - are allowed",
        ),
    ] {
        assert_eq!(parse(text), Err(expected.to_owned()));
    }
}
