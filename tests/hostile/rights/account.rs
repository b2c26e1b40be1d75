//! A program's service account, as an API server sees it: what it is granted, what it says it may do, and what comes of it when it
//! tries.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use berth_lab::{Cluster, Installed};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
    SelfSubjectRulesReview, SelfSubjectRulesReviewSpec,
};
use kube::{
    Api, Client,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;

/// Where both charts are installed.
pub(super) const HOME: &str = "berth-system";

/// A request: method, path, body, and more headers.
pub(super) type Try = (&'static str, &'static str, Value);

/// API group, resource, name (empty: any), verb.
type Right = (String, String, String, String);

/// What every account has, Kubernetes' `system:basic-user`: to ask about itself.
const OF_EVERYBODY: [(&str, &str); 3] = [
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
];

/// A program's service account, at the API server that it works with.
pub(super) struct Account<'a> {
    pub(super) cluster: &'a Cluster,
    chart: Installed,
    pub(super) client: Client,
}

impl<'a> Account<'a> {
    pub(super) async fn new(cluster: &'a Cluster, chart: &str, arguments: &[&str]) -> Result<Self> {
        let arguments: Vec<String> = arguments.iter().map(|&it| it.to_owned()).collect();
        let chart = cluster.install(chart, &arguments).await?;
        let file = Kubeconfig::read_from(&chart.kubeconfig)?;
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &options).await?;
        Ok(Self {
            cluster,
            client: Client::try_from(config)?,
            chart,
        })
    }

    /// What the chart's objects of this kind grant.
    fn granted(&self, kind: &str) -> BTreeSet<Right> {
        let roles = self.chart.objects.iter().filter(|it| it["kind"] == kind);
        let rules = roles.flat_map(|role| role["rules"].as_array().into_iter().flatten());
        rules.flat_map(rights).collect()
    }

    /// What the API server says it has in a namespace.
    async fn has(&self, namespace: &str) -> Result<BTreeSet<Right>> {
        let api: Api<SelfSubjectRulesReview> = Api::all(self.client.clone());
        let review = SelfSubjectRulesReview {
            spec: SelfSubjectRulesReviewSpec {
                namespace: Some(namespace.to_owned()),
            },
            ..SelfSubjectRulesReview::default()
        };
        let answer = api.create(&PostParams::default(), &review).await?;
        let status = answer.status.context("no answer")?;
        ensure!(!status.incomplete, "{status:?}");
        let rules = status.resource_rules.into_iter();
        let rules = rules.map(serde_json::to_value);
        let rules: Vec<Value> = rules.collect::<Result<_, _>>()?;
        Ok(rules.iter().flat_map(rights).collect())
    }

    /// Whether it may do this, by the API server's word.
    pub(super) async fn may(
        &self,
        verb: &str,
        path: &str,
        namespace: &str,
        name: &str,
    ) -> Result<bool> {
        let (group, resource) = path.split_once('/').context("group/resource")?;
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let text = |part: &str| Some(part.to_owned()).filter(|part| !part.is_empty());
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: text(group),
                    resource: text(resource),
                    subresource: text(subresource),
                    namespace: text(namespace),
                    name: text(name),
                    verb: text(verb),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let api: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// The HTTP status of a request of its own.
    async fn code(&self, (method, path, body): &Try, impersonate: Option<&str>) -> Result<u16> {
        let content = match *method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let mut request = http::Request::builder().method(*method).uri(*path);
        request = request.header("content-type", content);
        if let Some(user) = impersonate {
            request = request.header("impersonate-user", user);
        }
        let body = match body {
            Value::Null => Vec::new(),
            body => serde_json::to_vec(body)?,
        };
        match self.client.request_text(request.body(body)?).await {
            Ok(_) => Ok(200),
            Err(kube::Error::Api(status)) => Ok(status.code),
            Err(error) => Err(error.into()),
        }
    }

    /// Tries all of it, and asserts that none is allowed: not for want of an object or a field, but for want of the right.
    pub(super) async fn is_forbidden(&self, tries: &[Try]) -> Result<()> {
        for attempt in tries {
            let code = self.code(attempt, None).await?;
            assert_eq!(code, 403, "{} {}", attempt.0, attempt.1);
        }
        let all = ("GET", "/api/v1/secrets", Value::Null);
        for user in ["admin", "system:serviceaccount:kube-system:default"] {
            assert_eq!(self.code(&all, Some(user)).await?, 403, "as {user}");
        }
        Ok(())
    }

    /// Asks about everything in the table, `verbs group/resource/subresource namespace name`, and asserts that the answer is no.
    pub(super) async fn may_not(&self, table: &[(&str, &str, &str, &str)]) -> Result<()> {
        for (verbs, path, namespace, name) in table {
            for verb in verbs.split(' ') {
                let may = self.may(verb, path, namespace, name).await?;
                assert!(!may, "{verb} {path} {namespace}/{name}");
            }
        }
        Ok(())
    }

    /// What is granted is what the chart says, in its own namespace and in others.
    pub(super) async fn has_what_its_chart_says(&self) -> Result<()> {
        let mut everywhere = self.granted("ClusterRole");
        for (group, resource) in OF_EVERYBODY {
            let own = |part: &str| part.to_owned();
            everywhere.insert((own(group), own(resource), String::new(), own("create")));
        }
        for namespace in ["default", "kube-system", "metallb-system", "berth-acme"] {
            assert_eq!(self.has(namespace).await?, everywhere, "in {namespace}");
        }
        let at_home: BTreeSet<Right> = everywhere.union(&self.granted("Role")).cloned().collect();
        assert_eq!(self.has(HOME).await?, at_home);
        let any = |right: &Right| [&right.0, &right.1, &right.3].iter().any(|it| *it == "*");
        assert!(!at_home.iter().any(any), "{at_home:?}");
        Ok(())
    }
}

/// The single rights of a rule.
fn rights(rule: &Value) -> Vec<Right> {
    let texts = |field: &str| -> Vec<String> {
        let items = rule[field].as_array().into_iter().flatten();
        items
            .filter_map(|it| it.as_str().map(str::to_owned))
            .collect()
    };
    let mut names = texts("resourceNames");
    if names.is_empty() {
        names.push(String::new());
    }
    let mut all = Vec::new();
    for group in texts("apiGroups") {
        for resource in texts("resources") {
            for name in &names {
                for verb in texts("verbs") {
                    all.push((group.clone(), resource.clone(), name.clone(), verb));
                }
            }
        }
    }
    all
}
