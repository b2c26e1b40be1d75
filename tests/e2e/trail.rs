//! The audit log has what operators do and what is refused, each once; and `tenant check` says beforehand what would be.

use anyhow::Result;
use berth_lab::{Lab, Seen, eventually};
use serde_json::Value;

use crate::support::{SOON, await_condition, berth_hub_tenant, get, patch, service, tenant};

/// The hub's audit lines about a tenant.
async fn lines(lab: &Lab, tenant: &str) -> Result<Vec<Value>> {
    let log = lab.hub().log().await?;
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(lines.filter(|line| line["tenant"] == tenant).collect())
}

/// Waits for a line with this event and reason, and returns its detail.
pub(crate) async fn await_line(
    lab: &Lab,
    tenant: &str,
    event: &str,
    reason: &str,
) -> Result<String> {
    let what = format!("the audit log has {event} {reason} of {tenant}");
    let detail = eventually(SOON, &what, || async {
        let lines = lines(lab, tenant).await.map_err(|e| Seen(e.to_string()))?;
        let mut found = lines.iter();
        match found.find(|line| line["event"] == event && line["reason"] == reason) {
            Some(line) => Ok(line["detail"].as_str().unwrap_or_default().to_owned()),
            None => Err(Seen(format!("{} lines", lines.len()))),
        }
    })
    .await?;
    Ok(detail)
}

/// Runs `berth-hub` as an operator does, and returns its exit code and all that it says.
async fn berth_hub(lab: &Lab, arguments: &[&str]) -> Result<(i32, String)> {
    let kubeconfig = lab.management().kubeconfig_inside().display().to_string();
    let program = lab.program("berth-hub").display().to_string();
    let mut argv = vec![program];
    argv.extend(arguments.iter().map(|it| (*it).to_owned()));
    argv.extend(["--kubeconfig".into(), kubeconfig]);
    Ok(lab.hub().run_beside(argv).await?)
}

#[tokio::test]
async fn a_services_refusal_is_in_the_audit_log_once_however_often_it_is_planned() -> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, namespace) = tenant(&lab, "refused").await?;
    let bare = service("bare", "allocateLoadBalancerNodePorts: false");
    tenant.apply_in(&namespace, &bare).await?;
    let kind = "berth.dev/Programmed";
    let reason = "NodePortMissing";
    await_condition(&tenant, &namespace, "bare", kind, "False", reason).await?;
    let detail = await_line(&lab, "refused", "refusal", reason).await?;
    assert!(
        detail.starts_with(&format!("{namespace}/bare: spec.ports[0].nodePort: ")),
        "{detail}"
    );
    // A session that tells it anew, another policy, and another Service: it is planned each time.
    tenant.agent().restart().await?;
    let spec = r#"{"spec":{"releaseAfterSeconds":7}}"#;
    patch(lab.management(), &["tenant", "refused"], spec).await?;
    tenant.apply_in(&namespace, &service("other", "")).await?;
    tenant.await_ip(&namespace, "other").await?;
    let told = lines(&lab, "refused").await?;
    let told = told.iter().filter(|line| line["reason"] == reason);
    assert_eq!(told.count(), 1);
    let label = format!("reason=\"{reason}\"");
    let counted = lab
        .hub()
        .metric("berth_services_refused_total", &[&label])
        .await?;
    assert!(counted > 0.5, "{counted}");
    Ok(())
}

#[tokio::test]
async fn what_operators_do_is_in_the_audit_log_and_on_their_own_stderr() -> Result<()> {
    let lab = Lab::start().await?;
    let (tenant, _) = tenant(&lab, "audited").await?;
    let commands: [(&[&str], &str, &str); 3] = [
        (
            &["tenant", "suspend", "audited"],
            "tenant_suspend",
            "suspended",
        ),
        (&["tenant", "resume", "audited"], "tenant_resume", "resumed"),
        (
            &["tenant", "revoke", "audited", "--serial", "3f09"],
            "tenant_revoke",
            "credentials",
        ),
    ];
    for (command, operator, seen) in commands {
        let (code, said) = berth_hub(&lab, command).await?;
        assert_eq!(code, 0, "{said}");
        let mut trail = said.lines().filter(|line| line.starts_with('{'));
        let line: Value = serde_json::from_str(trail.next().unwrap_or_default())?;
        assert_eq!(line["event"], "operator", "{said}");
        assert_eq!(line["reason"], operator);
        assert_eq!(line["tenant"], "audited");
        await_line(&lab, "audited", "tenant", seen).await?;
    }
    let spec = r#"{"spec":{"addressPool":"lab","requestableIPs":["192.0.2.0/24"]}}"#;
    patch(lab.management(), &["tenant", "audited"], spec).await?;
    let detail = await_line(&lab, "audited", "tenant", "policy").await?;
    assert_eq!(detail, "addressPool, requestableIPs");
    await_line(&lab, "audited", "tenant", "created").await?;
    tenant.agent().restart().await?;
    Ok(())
}

#[tokio::test]
async fn a_policys_refusals_are_shown_before_it_is_applied_and_nothing_is_written() -> Result<()> {
    let lab = Lab::start().await?;
    let management = lab.management();
    let (tenant, namespace) = tenant(&lab, "checked").await?;
    tenant.apply_in(&namespace, &service("web", "")).await?;
    tenant.await_ip(&namespace, "web").await?;
    management
        .kubectl(&[
            "wait",
            "loadbalancers",
            "--all",
            "-n",
            "berth-checked",
            "--for=condition=Programmed",
            "--timeout=30s",
        ])
        .await?;
    let file = |name: &str, spec: &str| -> Result<String> {
        let path = lab.directory().join(format!("checked-{name}.yaml"));
        let text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: other}}\n---\napiVersion: berth.dev/v1alpha1\nkind: Tenant\nmetadata: \
             {{name: checked}}\nspec: {spec}\n"
        );
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let check = async |file: &str, output: &str| {
        berth_hub(&lab, &["tenant", "check", "-f", file, "--output", output]).await
    };
    let before = get(management, &["tenant", "checked"]).await?;

    let fits = file("fits", "{healthCheck: {mode: None}}")?;
    let (code, said) = check(&fits, "table").await?;
    assert_eq!(code, 0, "{said}");
    assert!(
        said.starts_with("1 load balancers looked at, 0 of them touched"),
        "{said}"
    );

    let narrow = "{healthCheck: {mode: None}, nodePortRange: 1024-1025, nodeCIDRs: [192.0.2.0/24], quotas: {ports: 0}}";
    let narrow = file("narrow", narrow)?;
    let (code, said) = check(&narrow, "table").await?;
    assert_eq!(code, 1, "{said}");
    let row = said
        .lines()
        .find(|line| line.contains("NodePortOutOfRange"));
    assert!(
        row.is_some_and(
            |row| row.contains(&format!("checked {namespace}/web")) && row.contains("refused")
        ),
        "{said}"
    );
    assert!(said.contains("it keeps its traffic"), "{said}");
    assert!(said.contains("1 ports are there, and 0 may be"), "{said}");
    let enforced = "{healthCheck: {mode: None}, enforce: true, nodeCIDRs: [192.0.2.0/24], quotas: {loadBalancers: 0}}";
    let (code, enforced) = check(&file("enforced", enforced)?, "table").await?;
    assert_eq!(code, 1, "{enforced}");
    assert!(enforced.contains("no node is left"), "{enforced}");
    assert!(enforced.contains("quotas.loadBalancers") && enforced.contains("withdrawn"));
    let (code, said) = check(&narrow, "json").await?;
    let json: Value = serde_json::from_str(&said)?;
    assert_eq!((code, &json["loadBalancers"]), (1, &Value::from(1)));
    assert_eq!(json["findings"][0]["already"], false);

    for (name, spec, why) in [
        (
            "typo",
            "{nodePortRang: 1-2}",
            "spec.nodePortRang is no field",
        ),
        ("schema", "{nodeCIDRs: [nonsense]}", "would not be taken"),
    ] {
        let (code, said) = check(&file(name, spec)?, "table").await?;
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(why), "{said}");
    }
    let (code, said) = check("/does/not/exist", "table").await?;
    assert_eq!(code, 2, "{said}");

    let after = get(management, &["tenant", "checked"]).await?;
    assert_eq!(
        before["metadata"]["generation"],
        after["metadata"]["generation"]
    );
    assert_eq!(before["spec"], after["spec"]);
    // What was foreseen comes to be.
    management
        .kubectl(&[
            "apply",
            "--server-side",
            "--force-conflicts",
            "-f",
            &narrow,
            "-n",
            "default",
        ])
        .await?;
    let kind = "berth.dev/Programmed";
    eventually(SOON, "the Service is told", || async {
        let object = get(&tenant, &["service", "web", "-n", &namespace])
            .await
            .map_err(|e| Seen(e.to_string()))?;
        let conditions = object["status"]["conditions"].to_string();
        match conditions.contains(kind) && conditions.contains("NodePortOutOfRange") {
            true => Ok(()),
            false => Err(Seen(conditions)),
        }
    })
    .await?;
    let (code, said) = check(&narrow, "table").await?;
    assert_eq!(code, 0, "it is so already: {said}");
    assert!(said.contains("refused already"), "{said}");
    berth_hub_tenant(&lab, &["list"]).await?;
    Ok(())
}
