//! Least privilege, tried: with the tokens of the service accounts that the charts render, at real API servers. What the rules grant
//! there is what the charts say and nothing else; what somebody who has taken over a program would want first is really tried,
//! and forbidden. What RBAC cannot keep a program from is tried as well, so that `docs/security.md`, which lists it, stays true.

mod account;

use anyhow::Result;
use kube::Api;
use serde_json::{Value, json};

use crate::ground::Ground;
use account::{Account, HOME, Try};

/// A Secret that is none of theirs, in their own namespace.
const OTHERS_SECRET: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: others, namespace: berth-system}\nstringData: {k: v}\n";

const READ: &str = "get list watch";
const WRITE: &str = "create update patch delete deletecollection";

/// Nothing of this is anybody's: group/resource, namespace.
const NOBODYS: [(&str, &str); 24] = [
    ("/configmaps", "default"),
    ("/configmaps", HOME),
    ("/pods", "default"),
    ("/pods", HOME),
    ("/pods/exec", HOME),
    ("/pods/attach", HOME),
    ("/pods/portforward", HOME),
    ("/pods/log", HOME),
    ("/nodes/proxy", ""),
    ("/serviceaccounts", HOME),
    ("/serviceaccounts/token", HOME),
    ("/serviceaccounts/token", "kube-system"),
    ("/services/proxy", "default"),
    ("/persistentvolumes", ""),
    ("apps/deployments", HOME),
    ("apps/daemonsets", HOME),
    ("batch/jobs", HOME),
    ("coordination.k8s.io/leases", HOME),
    ("coordination.k8s.io/leases", "kube-system"),
    ("rbac.authorization.k8s.io/roles", HOME),
    ("rbac.authorization.k8s.io/rolebindings", HOME),
    ("rbac.authorization.k8s.io/clusterroles", ""),
    ("rbac.authorization.k8s.io/clusterrolebindings", ""),
    (
        "admissionregistration.k8s.io/mutatingwebhookconfigurations",
        "",
    ),
];

/// Nor any way to become somebody else.
const ELEVATING: [(&str, &str, &str, &str); 9] = [
    (
        "escalate bind",
        "rbac.authorization.k8s.io/clusterroles",
        "",
        "",
    ),
    ("escalate bind", "rbac.authorization.k8s.io/roles", HOME, ""),
    ("impersonate", "/users", "", ""),
    ("impersonate", "/groups", "", ""),
    ("impersonate", "/serviceaccounts", HOME, ""),
    (
        "create approve sign",
        "certificates.k8s.io/certificatesigningrequests",
        "",
        "",
    ),
    (
        "create update patch",
        "certificates.k8s.io/certificatesigningrequests/approval",
        "",
        "",
    ),
    (
        "create update patch delete",
        "apiextensions.k8s.io/customresourcedefinitions",
        "",
        "",
    ),
    ("*", "*/*", "", ""),
];

fn of_everything(
    verbs: &'static str,
) -> Vec<(&'static str, &'static str, &'static str, &'static str)> {
    let nobodys = NOBODYS
        .iter()
        .map(|(path, namespace)| (verbs, *path, *namespace, ""));
    nobodys.collect()
}

/// What either could want that has taken over a program, beside what is different for each of the two.
fn tries() -> Vec<Try> {
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "mine" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "kind": "Group", "name": "system:serviceaccounts", "apiGroup": "rbac.authorization.k8s.io" }],
    });
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "mine" } });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "mine" },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
    });
    let token = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "audiences": [] } });
    let labels = json!({ "metadata": { "labels": { "mine": "yes" } } });
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "mine" } });
    vec![
        ("GET", "/api/v1/secrets", Value::Null),
        ("GET", "/api/v1/secrets?watch=1", Value::Null),
        (
            "GET",
            "/api/v1/namespaces/berth-system/secrets",
            Value::Null,
        ),
        (
            "GET",
            "/api/v1/namespaces/berth-system/secrets/others",
            Value::Null,
        ),
        (
            "PUT",
            "/api/v1/namespaces/berth-system/secrets/others",
            secret.clone(),
        ),
        (
            "PATCH",
            "/api/v1/namespaces/berth-system/secrets/others",
            labels.clone(),
        ),
        (
            "DELETE",
            "/api/v1/namespaces/berth-system/secrets/others",
            Value::Null,
        ),
        (
            "DELETE",
            "/api/v1/namespaces/berth-system/secrets",
            Value::Null,
        ),
        ("GET", "/api/v1/namespaces/kube-system/secrets", Value::Null),
        ("POST", "/api/v1/namespaces/default/secrets", secret),
        ("POST", "/api/v1/namespaces/default/pods", pod),
        ("GET", "/api/v1/pods", Value::Null),
        (
            "POST",
            "/api/v1/namespaces/default/pods/x/exec?command=sh",
            Value::Null,
        ),
        ("GET", "/api/v1/configmaps", Value::Null),
        ("POST", "/api/v1/namespaces/berth-system/configmaps", map),
        (
            "POST",
            "/api/v1/namespaces/kube-system/serviceaccounts/default/token",
            token.clone(),
        ),
        (
            "POST",
            "/api/v1/namespaces/berth-system/serviceaccounts/default/token",
            token,
        ),
        (
            "POST",
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            binding,
        ),
        (
            "PATCH",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin",
            labels.clone(),
        ),
        ("GET", "/apis/coordination.k8s.io/v1/leases", Value::Null),
        ("DELETE", "/api/v1/namespaces/default", Value::Null),
        ("GET", "/api/v1/namespaces", Value::Null),
        (
            "PUT",
            "/api/v1/namespaces/default/services/kubernetes",
            json!({ "apiVersion": "v1", "kind": "Service" }),
        ),
        ("DELETE", "/api/v1/namespaces/default/services", Value::Null),
    ]
}

#[tokio::test]
async fn least_privilege_of_the_agent() -> Result<()> {
    let cluster = Ground::get().await?.lab.acme();
    let chart = ["--set", "hub.address=hub.example:8443"];
    let agent = Account::new(cluster, "berth-agent", &chart).await?;
    cluster.apply(OTHERS_SECRET).await?;
    agent.has_what_its_chart_says().await?;
    agent.may_not(&of_everything(READ)).await?;
    agent.may_not(&of_everything(WRITE)).await?;
    agent.may_not(&ELEVATING).await?;
    let identity = "berth-agent-identity";
    agent
        .may_not(&[
            (READ, "/secrets", "default", ""),
            (READ, "/secrets", "", ""),
            (WRITE, "/secrets", "default", ""),
            (READ, "/secrets", HOME, ""),
            ("update patch delete deletecollection", "/secrets", HOME, ""),
            ("patch delete", "/secrets", HOME, identity),
            (
                "create update delete deletecollection",
                "/services",
                "default",
                "",
            ),
            ("get update", "/services/status", "default", ""),
            (WRITE, "/nodes", "", ""),
            (WRITE, "/nodes/status", "", ""),
            (WRITE, "discovery.k8s.io/endpointslices", "default", ""),
            (WRITE, "/endpoints", "default", ""),
            (
                "list watch create update patch delete",
                "/namespaces",
                "",
                "",
            ),
            ("get", "/namespaces", "", "default"),
            (
                "get list watch update patch delete",
                "events.k8s.io/events",
                "default",
                "",
            ),
            (WRITE, "/events", "default", ""),
        ])
        .await?;

    let mut wanted = tries();
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "mine" }, "spec": { "ports": [{ "port": 1 }] },
    });
    let labels = json!({ "metadata": { "labels": { "mine": "yes" } } });
    wanted.extend([
        (
            "PATCH",
            "/api/v1/namespaces/berth-system/secrets/berth-agent-identity",
            labels.clone(),
        ),
        (
            "DELETE",
            "/api/v1/namespaces/berth-system/secrets/berth-agent-identity",
            Value::Null,
        ),
        ("POST", "/api/v1/namespaces/default/services", service),
        (
            "DELETE",
            "/api/v1/namespaces/default/services/kubernetes",
            Value::Null,
        ),
        (
            "PUT",
            "/api/v1/namespaces/default/services/kubernetes/status",
            json!({ "kind": "Service", "apiVersion": "v1" }),
        ),
        ("PATCH", "/api/v1/nodes/acme-1", labels.clone()),
        ("PATCH", "/api/v1/nodes/acme-1/status", labels.clone()),
        ("DELETE", "/api/v1/nodes", Value::Null),
        ("GET", "/api/v1/namespaces/default", Value::Null),
        (
            "DELETE",
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            Value::Null,
        ),
    ]);
    agent.is_forbidden(&wanted).await?;

    // The finalizer is a part of the Service: who may write it may write the rest, of any Service. And to create is to create any.
    let namespace = cluster.namespace().await?;
    let spec =
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n";
    agent.cluster.apply_in(&namespace, spec).await?;
    let services: Api<k8s_openapi::api::core::v1::Service> =
        Api::namespaced(agent.client.clone(), &namespace);
    let patch = kube::api::Patch::Merge(json!({ "spec": { "externalIPs": ["198.51.100.1"] } }));
    services.patch("web", &Default::default(), &patch).await?;
    assert!(agent.may("create", "/secrets", HOME, "").await?);
    Ok(())
}

#[tokio::test]
async fn least_privilege_of_the_hub() -> Result<()> {
    let ground = Ground::get().await?;
    let cluster = ground.lab.management();
    cluster.apply(OTHERS_SECRET).await?;
    ground.admit("bystander", "").await?;
    let hub = Account::new(cluster, "berth-hub", &[]).await?;
    hub.has_what_its_chart_says().await?;
    hub.may_not(&of_everything(READ)).await?;
    hub.may_not(&of_everything(WRITE)).await?;
    hub.may_not(&ELEVATING).await?;
    hub.may_not(&[
        (READ, "/secrets", "default", ""),
        (READ, "/secrets", "", ""),
        (WRITE, "/secrets", "default", ""),
        (READ, "/secrets", HOME, ""),
        ("update patch delete deletecollection", "/secrets", HOME, ""),
        (
            "list watch update patch delete",
            "/secrets",
            HOME,
            "berth-ca",
        ),
        (
            "list watch patch delete",
            "/secrets",
            HOME,
            "berth-join-tokens",
        ),
        ("get", "/secrets", "metallb-system", "memberlist"),
        ("update deletecollection", "/services", "default", ""),
        (WRITE, "/services/status", "default", ""),
        (READ, "/nodes", "", ""),
        (WRITE, "/nodes", "", ""),
        (
            "get list watch update delete deletecollection",
            "/namespaces",
            "",
            "",
        ),
        (READ, "/endpoints", "default", ""),
        (WRITE, "/endpoints", "default", ""),
        (
            "update deletecollection",
            "discovery.k8s.io/endpointslices",
            "default",
            "",
        ),
        (
            "create update delete deletecollection",
            "berth.dev/tenants",
            "",
            "",
        ),
        (
            "update deletecollection",
            "berth.dev/loadbalancers",
            "default",
            "",
        ),
        (
            "get watch create update patch delete",
            "metallb.io/ipaddresspools",
            "metallb-system",
            "",
        ),
        (READ, "metallb.io/bgppeers", "metallb-system", ""),
        ("get create update patch delete", "/events", "default", ""),
        (
            "get list watch update delete",
            "events.k8s.io/events",
            "default",
            "",
        ),
    ])
    .await?;

    let mut wanted = tries();
    let labels = json!({ "metadata": { "labels": { "mine": "yes" } } });
    let tenant = json!({
        "apiVersion": "berth.dev/v1alpha1", "kind": "Tenant", "metadata": { "name": "mine" }, "spec": {},
    });
    let pool = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": { "name": "mine" },
        "spec": { "addresses": ["10.0.0.0/24"] },
    });
    wanted.extend([
        (
            "GET",
            "/api/v1/namespaces/metallb-system/secrets/memberlist",
            Value::Null,
        ),
        (
            "PATCH",
            "/api/v1/namespaces/berth-system/secrets/berth-ca",
            labels.clone(),
        ),
        (
            "DELETE",
            "/api/v1/namespaces/berth-system/secrets/berth-ca",
            Value::Null,
        ),
        (
            "DELETE",
            "/api/v1/namespaces/berth-system/secrets/berth-join-tokens",
            Value::Null,
        ),
        ("GET", "/api/v1/nodes", Value::Null),
        ("PATCH", "/api/v1/nodes/management-1", labels.clone()),
        ("POST", "/apis/berth.dev/v1alpha1/tenants", tenant),
        (
            "DELETE",
            "/apis/berth.dev/v1alpha1/tenants/bystander",
            Value::Null,
        ),
        ("DELETE", "/apis/berth.dev/v1alpha1/tenants", Value::Null),
        (
            "POST",
            "/apis/metallb.io/v1beta1/namespaces/metallb-system/ipaddresspools",
            pool,
        ),
        (
            "PATCH",
            "/api/v1/namespaces/default/services/kubernetes/status",
            labels,
        ),
    ]);
    hub.is_forbidden(&wanted).await?;

    // RBAC knows no prefix of a namespace's name, and no single annotation: that the hub writes neither Services of others nor a
    // Tenant's spec is the code's to keep.
    for (verb, path, namespace) in [
        ("delete", "/services", "kube-system"),
        ("patch", "/services", "default"),
        ("patch", "discovery.k8s.io/endpointslices", "default"),
        ("patch", "berth.dev/tenants", ""),
        ("patch", "/namespaces", ""),
        ("create", "/secrets", HOME),
    ] {
        assert!(hub.may(verb, path, namespace, "").await?, "{verb} {path}");
    }
    Ok(())
}
