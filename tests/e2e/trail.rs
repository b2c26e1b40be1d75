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
async fn await_line(lab: &Lab, tenant: &str, event: &str, reason: &str) -> Result<String> {
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
