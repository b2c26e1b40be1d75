//! How `berth-hub tenant` writes a Tenant: at the version that the decision was made with, and again when somebody has changed it
//! meanwhile. The hub writes statuses whenever it likes, and an operator's word does not wait for that; nor does it overwrite what it
//! has not seen.

use berth_common::identity::TenantName;
use kube::{
    Client,
    api::{Patch, PatchParams},
};
use serde_json::Value;

use super::{CliError, cluster, find};
use crate::api::Tenant;

/// How often the Tenant may have been changed by somebody else between reading and writing it.
const TRIES: usize = 20;

/// Which part of a Tenant a command writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// What an operator decides: spec and annotations.
    Decisions,
    /// The status.
    Status,
}

/// What became of a change.
#[derive(Debug)]
pub(super) struct Changed<T> {
    /// The Tenant as it was written; as it was read where there was nothing to write.
    pub(super) tenant: Tenant,
    /// Whether something was written.
    pub(super) written: bool,
    /// What the decision says, the one that counted.
    pub(super) said: T,
}

/// Has it decided what to write into a Tenant, as a merge patch, and writes that. Decided anew with each version that it finds, so
/// `decide` has to be good for being called again.
pub(super) async fn change<T>(
    client: Client,
    name: &TenantName,
    part: Part,
    mut decide: impl FnMut(&Tenant) -> Result<(Option<Value>, T), CliError>,
) -> Result<Changed<T>, CliError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let (api, tenant) = find(client.clone(), name).await?;
        let (patch, said) = decide(&tenant)?;
        let Some(mut patch) = patch else {
            return Ok(Changed {
                tenant,
                written: false,
                said,
            });
        };
        patch["metadata"]["resourceVersion"] = tenant.metadata.resource_version.into();
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let result = match part {
            Part::Decisions => api.patch(name.as_str(), &params, &patch).await,
            Part::Status => api.patch_status(name.as_str(), &params, &patch).await,
        };
        match result {
            Ok(tenant) => {
                return Ok(Changed {
                    tenant,
                    written: true,
                    said,
                });
            }
            Err(kube::Error::Api(status)) if status.code == 409 && tries < TRIES => {}
            Err(error) => return Err(cluster("write the Tenant", error)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex, MutexGuard};

    use http::{Method, Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    pub(crate) fn acme() -> TenantName {
        TenantName::parse("acme").unwrap()
    }

    /// An API server with one Tenant, which somebody else changes while the first commands that come are between reading and writing.
    #[derive(Clone, Default)]
    pub(crate) struct Server(Arc<Mutex<State>>);

    #[derive(Default)]
    pub(crate) struct State {
        pub(crate) tenant: Value,
        /// What becomes of it before the next writes, in order: merged into it.
        pub(crate) meanwhile: Vec<Value>,
        /// The writes that were taken: the path and the body.
        pub(crate) taken: Vec<(String, Value)>,
        pub(crate) refused: usize,
        version: u64,
    }

    impl Server {
        pub(crate) fn new(tenant: Value, meanwhile: impl IntoIterator<Item = Value>) -> Self {
            let mut all = json!({ "apiVersion": "berth.dev/v1alpha1", "kind": "Tenant",
                "metadata": { "name": "acme", "uid": "first" }, "spec": {} });
            merge(&mut all, &tenant);
            let server = Self::default();
            let mut state = server.state();
            state.tenant = all;
            state.meanwhile = meanwhile.into_iter().collect();
            state.meanwhile.reverse();
            drop(state);
            server
        }

        pub(crate) fn state(&self) -> MutexGuard<'_, State> {
            self.0.lock().unwrap()
        }

        pub(crate) fn client(&self) -> Client {
            let server = self.clone();
            let serve = move |request: Request<Body>| {
                let server = server.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect_bytes().await?;
                    let mut state = server.state();
                    let (code, answer) = match parts.method {
                        Method::GET => (200, state.read()),
                        Method::PATCH => {
                            let body = serde_json::from_slice(&body).unwrap();
                            state.patch(parts.uri.path().to_owned(), body)
                        }
                        other => panic!("{other}"),
                    };
                    let body = Body::from(serde_json::to_vec(&answer).unwrap());
                    Ok::<_, kube::Error>(Response::builder().status(code).body(body).unwrap())
                }
            };
            Client::new(tower::service_fn(serve), "default")
        }
    }

    impl State {
        fn read(&mut self) -> Value {
            self.tenant["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.tenant.clone()
        }

        fn patch(&mut self, path: String, body: Value) -> (u16, Value) {
            if let Some(change) = self.meanwhile.pop() {
                merge(&mut self.tenant, &change);
                self.version += 1;
            }
            let at = &body["metadata"]["resourceVersion"];
            if !at.is_null() && *at != json!(self.version.to_string()) {
                self.refused += 1;
                let conflict = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "code": 409, "reason": "Conflict", "message": "the object has been modified" });
                return (409, conflict);
            }
            merge(&mut self.tenant, &body);
            self.version += 1;
            self.taken.push((path, body));
            (200, self.read())
        }
    }

    /// RFC 7386.
    fn merge(into: &mut Value, patch: &Value) {
        let Some(patch) = patch.as_object() else {
            *into = patch.clone();
            return;
        };
        if !into.is_object() {
            *into = json!({});
        }
        for (key, value) in patch {
            match value {
                Value::Null => drop(into.as_object_mut().unwrap().remove(key)),
                value => merge(&mut into[key], value),
            }
        }
    }

    /// What the hub writes into a status now and then.
    pub(crate) fn hub() -> Value {
        json!({ "status": { "heldLoadBalancers": 3 } })
    }

    #[tokio::test]
    async fn what_somebody_else_wrote_meanwhile_is_read_before_anything_is_written() {
        let other = json!({ "spec": { "suspended": true } });
        let server = Server::new(json!({}), [hub(), other]);
        let mut seen = Vec::new();
        let name = acme();
        let changed = change(server.client(), &name, Part::Decisions, |tenant| {
            seen.push(tenant.spec.suspended);
            let note = json!({ "metadata": { "annotations": { "note": "x" } } });
            Ok((Some(note), seen.len()))
        });
        let changed = changed.await.unwrap();
        assert_eq!((changed.said, changed.written), (3, true));
        assert_eq!(seen, [false, false, true]);
        let state = server.state();
        assert_eq!((state.taken.len(), state.refused), (1, 2));
        assert_eq!(state.tenant["metadata"]["annotations"]["note"], "x");
        assert_eq!(state.tenant["spec"]["suspended"], true);
        assert_eq!(state.tenant["status"]["heldLoadBalancers"], 3);
    }

    #[tokio::test]
    async fn a_tenant_that_is_never_at_rest_is_given_up_and_the_error_says_why() {
        let server = Server::new(json!({}), vec![hub(); 100]);
        let name = acme();
        let change = change(server.client(), &name, Part::Status, |_| {
            Ok((Some(json!({ "status": {} })), ()))
        });
        let error = change.await.unwrap_err().one_line();
        assert!(error.contains("has been modified"), "{error}");
        let state = server.state();
        assert_eq!((state.taken.len(), state.refused), (0, TRIES));
    }
}
