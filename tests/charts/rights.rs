//! The rights that the charts give are exactly those of the tables here, so that to widen them is a deliberate change.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::helm::{ADDRESS, AGENT, HUB, kind, only, render, workload};

/// API group, resource, the only object's name (empty: any), verbs.
type Row = (&'static str, &'static str, &'static str, &'static str);

#[rustfmt::skip] // one right a line reads as the table it is
const HUB_RIGHTS: &[Row] = &[
    ("",                 "events",               "", "list watch"),
    ("",                 "namespaces",           "", "create list patch watch"),
    ("",                 "services",             "", "create delete get list patch watch"),
    ("berth.dev",        "loadbalancers",        "", "create delete get list patch watch"),
    ("berth.dev",        "loadbalancers/status", "", "patch"),
    ("berth.dev",        "tenants",              "", "get list patch watch"),
    ("berth.dev",        "tenants/status",       "", "patch"),
    ("discovery.k8s.io", "endpointslices",       "", "create delete get list patch watch"),
    ("events.k8s.io",    "events",               "", "create patch"),
];

#[rustfmt::skip]
const DOCTOR_RIGHTS: &[Row] = &[
    ("apiextensions.k8s.io", "customresourcedefinitions", "loadbalancers.berth.dev", "get"),
    ("apiextensions.k8s.io", "customresourcedefinitions", "tenants.berth.dev",       "get"),
    ("metallb.io",           "bgpadvertisements",         "",                        "list"),
    ("metallb.io",           "ipaddresspools",            "",                        "list"),
    ("metallb.io",           "l2advertisements",          "",                        "list"),
];

#[rustfmt::skip]
const AGENT_RIGHTS: &[Row] = &[
    ("",                 "namespaces",      "kube-system", "get"),
    ("",                 "nodes",           "",            "get list watch"),
    ("",                 "services",        "",            "get list patch watch"),
    ("",                 "services/status", "",            "patch"),
    ("discovery.k8s.io", "endpointslices",  "",            "get list watch"),
    ("events.k8s.io",    "events",          "",            "create"),
];

/// In the hub's own namespace.
#[rustfmt::skip]
const HUB_RIGHTS_AT_HOME: &[Row] = &[
    ("", "secrets", "",                  "create"),
    ("", "secrets", "berth-ca",          "get"),
    ("", "secrets", "berth-join-tokens", "get update"),
];

/// In the agent's own namespace.
#[rustfmt::skip]
const AGENT_RIGHTS_AT_HOME: &[Row] = &[
    ("", "secrets", "",                     "create"),
    ("", "secrets", "berth-agent-identity", "get update"),
];

/// Group, resource and name, with the verbs.
type Rights = BTreeMap<[String; 3], BTreeSet<String>>;

fn table(rows: &[Row]) -> Rights {
    rows.iter()
        .map(|(group, resource, name, verbs)| {
            let verbs = verbs.split(' ').map(str::to_owned).collect();
            ([group, resource, name].map(|&text| text.to_owned()), verbs)
        })
        .collect()
}

/// What the objects give to the account of their workload, everywhere.
fn rights(objects: &[Value]) -> Result<Rights> {
    given(objects, "ClusterRole")
}

/// What they give it in its own namespace, beyond that.
fn rights_at_home(objects: &[Value]) -> Result<Rights> {
    let namespace = &workload(objects)?["metadata"]["namespace"];
    ensure!(only(objects, "Role")?["metadata"]["namespace"] == *namespace);
    ensure!(only(objects, "RoleBinding")?["metadata"]["namespace"] == *namespace);
    given(objects, "Role")
}

fn given(objects: &[Value], role_kind: &str) -> Result<Rights> {
    let role = only(objects, role_kind)?;
    let binding = only(objects, &format!("{role_kind}Binding"))?;
    let workload = workload(objects)?;
    let account = &workload["spec"]["template"]["spec"]["serviceAccountName"];
    ensure!(binding["roleRef"]["name"] == role["metadata"]["name"]);
    ensure!(binding["roleRef"]["kind"] == role_kind);
    let subjects = binding["subjects"].as_array().context("subjects")?;
    ensure!(subjects.len() == 1 && subjects[0]["name"] == *account);
    ensure!(subjects[0]["namespace"] == workload["metadata"]["namespace"]);

    let mut rights = Rights::new();
    for rule in role["rules"].as_array().context("rules")? {
        let texts = |field: &str| -> Vec<String> {
            let items = rule[field].as_array().into_iter().flatten();
            items
                .filter_map(|item| item.as_str().map(str::to_owned))
                .collect()
        };
        ensure!(rule["nonResourceURLs"].is_null());
        let mut names = texts("resourceNames");
        if names.is_empty() {
            names.push(String::new());
        }
        for group in &texts("apiGroups") {
            for resource in &texts("resources") {
                for name in &names {
                    let key = [group, resource, name].map(Clone::clone);
                    rights.entry(key).or_default().extend(texts("verbs"));
                }
            }
        }
    }
    Ok(rights)
}

#[test]
fn the_hub_has_exactly_these_rights() {
    let everything = [HUB_RIGHTS, DOCTOR_RIGHTS].concat();
    let rendered = render(HUB, &[]).unwrap();
    assert_eq!(rights(&rendered).unwrap(), table(&everything));
    let rendered = render(HUB, &["rbac.doctor=false"]).unwrap();
    assert_eq!(rights(&rendered).unwrap(), table(HUB_RIGHTS));
}

/// The CA and the tokens, and no other Secret; none at all where the hub issues nothing.
#[test]
fn the_hub_has_exactly_these_rights_at_home() {
    let rendered = render(HUB, &[]).unwrap();
    assert_eq!(
        rights_at_home(&rendered).unwrap(),
        table(HUB_RIGHTS_AT_HOME)
    );
    let rendered = render(HUB, &["ca.create=false"]).unwrap();
    assert_eq!(
        rights_at_home(&rendered).unwrap(),
        table(&HUB_RIGHTS_AT_HOME[1..])
    );
    let rendered = render(HUB, &["ca.secretName=", "tls.secretName=own"]).unwrap();
    assert!(only(&rendered, "Role").is_err() && only(&rendered, "RoleBinding").is_err());
}

#[test]
fn the_agent_has_exactly_these_rights() {
    for kind in ["kind=Deployment", "kind=DaemonSet"] {
        let rendered = render(AGENT, &[ADDRESS, kind]).unwrap();
        assert_eq!(rights(&rendered).unwrap(), table(AGENT_RIGHTS));
    }
}

/// The one Secret with its identity; none where somebody else keeps that.
#[test]
fn the_agent_has_exactly_these_rights_at_home() {
    for kind in ["kind=Deployment", "kind=DaemonSet"] {
        let rendered = render(AGENT, &[ADDRESS, kind]).unwrap();
        let rights = rights_at_home(&rendered).unwrap();
        assert_eq!(rights, table(AGENT_RIGHTS_AT_HOME));
    }
    let rendered = render(AGENT, &[ADDRESS, "tlsSecretName=own"]).unwrap();
    assert!(only(&rendered, "Role").is_err() && only(&rendered, "RoleBinding").is_err());
}

/// What `berth-hub doctor` asks for is what the chart gives, or people are sent to mend what is right.
#[test]
fn the_hubs_doctor_asks_for_exactly_this() {
    let asked: Rights = berth_hub::doctor::rights::NEEDED
        .iter()
        .map(|(group, resource, verbs)| {
            let verbs = verbs.iter().map(|&verb| verb.to_owned()).collect();
            ([group, resource, &""].map(|&text| text.to_owned()), verbs)
        })
        .collect();
    assert_eq!(asked, table(HUB_RIGHTS));
}

/// The agent's asks for no more.
#[test]
fn the_agents_doctor_asks_for_nothing_else() {
    let given = table(AGENT_RIGHTS);
    for (group, resource, subresource, name, verbs) in berth_agent::doctor::PERMISSIONS {
        let slash = if subresource.is_empty() { "" } else { "/" };
        let key = [group, &*format!("{resource}{slash}{subresource}"), name].map(str::to_owned);
        for verb in *verbs {
            assert!(given[&key].contains(*verb), "{verb} {key:?}");
        }
    }
}

#[test]
fn without_rbac_nobody_is_given_anything() {
    for (chart, sets) in [
        (HUB, &["rbac.create=false"][..]),
        (AGENT, &[ADDRESS, "rbac.create=false"]),
    ] {
        let rendered = render(chart, sets).unwrap();
        assert!(
            !rendered.iter().any(|object| kind(object).contains("Role")),
            "{chart}"
        );
    }
}

#[test]
fn an_account_of_the_operators_own_gets_the_rights() {
    let sets = ["serviceAccount.create=false", "serviceAccount.name=mine"];
    let rendered = render(HUB, &sets).unwrap();
    assert!(only(&rendered, "ServiceAccount").is_err());
    assert_eq!(
        only(&rendered, "ClusterRoleBinding").unwrap()["subjects"][0]["name"],
        "mine"
    );
    rights(&rendered).unwrap();
}
