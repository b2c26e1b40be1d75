//! What an operator decides about a tenant, by `berth-hub tenant …` with a kubeconfig of the management cluster: which cluster an
//! identity belongs to, and whether what vanished all at once may go.

use std::time::Duration;

use anyhow::Result;
use berth_lab::{Lab, Seen, Tenant, eventually};

use crate::support::{SOON, berth_hub_tenant, get, service, tenant};

/// The grace of what is absent, and some time.
const GRACE: Duration = Duration::from_secs(120);

async fn load_balancers(lab: &Lab, tenant: &str) -> Result<usize> {
    let home = format!("berth-{tenant}");
    let found = get(lab.management(), &["loadbalancers", "-n", &home]).await?;
    Ok(found["items"].as_array().map_or(0, Vec::len))
}

async fn await_load_balancers(lab: &Lab, tenant: &str, count: usize) -> Result<()> {
    let what = format!("{tenant} has {count} load balancers");
    eventually(GRACE, &what, || async {
        let found = load_balancers(lab, tenant).await;
        match found.map_err(|e| Seen(e.to_string()))? {
            found if found == count => Ok(()),
            found => Err(Seen(format!("{found}"))),
        }
    })
    .await?;
    Ok(())
}

async fn await_held(lab: &Lab, tenant: &str, count: f64) -> Result<()> {
    let label = format!("tenant=\"{tenant}\"");
    let what = format!("{count} load balancers of {tenant} are held");
    eventually(SOON, &what, || async {
        let held = lab
            .hub()
            .metric("berth_load_balancers_held", &[&label])
            .await?;
        match (held - count).abs() < 0.5 {
            true => Ok(()),
            false => Err(Seen(format!("{held}"))),
        }
    })
    .await?;
    Ok(())
}

/// The Services vanish while the agent is down, and nobody tells the hub: what a restored backup looks like.
async fn vanish(tenant: &Tenant, namespace: &str, names: &[String]) -> Result<()> {
    tenant.agent().kill().await?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &names {
        let none = r#"{"metadata":{"finalizers":null}}"#;
        tenant
            .kubectl(&[
                "patch",
                "svc",
                name,
                "-n",
                namespace,
                "--type=merge",
                "-p",
                none,
            ])
            .await?;
    }
    let mut delete = vec!["delete", "svc", "-n", namespace];
    delete.extend(&names);
    tenant.kubectl(&delete).await?;
    tenant.agent().start().await?;
    Ok(())
}

#[tokio::test]
async fn rule_5_what_vanishes_all_at_once_is_held_until_the_operator_lets_it_go_and_then_held_again()
-> Result<()> {
    let lab = Lab::start().await?;
    let (braked, namespace) = tenant(&lab, "braked").await?;
    let (control, control_namespace) = tenant(&lab, "control").await?;
    let names = |prefix: &str, count: usize| -> Vec<String> {
        (0..count).map(|n| format!("{prefix}-{n}")).collect()
    };
    let (first, second) = (names("first", 5), names("second", 5));
    for name in first.iter().chain(&second) {
        braked.apply_in(&namespace, &service(name, "")).await?;
    }
    control
        .apply_in(&control_namespace, &service("alone", ""))
        .await?;
    for name in first.iter().chain(&second) {
        braked.await_ip(&namespace, name).await?;
    }
    control.await_ip(&control_namespace, "alone").await?;

    vanish(&braked, &namespace, &first).await?;
    await_held(&lab, "braked", 5.0).await?;
    let management = lab.management();
    management
        .kubectl(&[
            "wait",
            "tenant/braked",
            "--for=condition=DeletionsHeld",
            "--timeout=30s",
        ])
        .await?;
    let object = get(management, &["tenant", "braked"]).await?;
    assert_eq!(object["status"]["heldLoadBalancers"], 5);
    let conditions = object["status"]["conditions"].to_string();
    assert!(
        conditions.contains("berth-hub tenant release-held braked"),
        "{conditions}"
    );
    let listed = berth_hub_tenant(&lab, &["list"]).await?;
    let line = listed.lines().find(|line| line.starts_with("braked "));
    let cells: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
    assert_eq!(
        (cells[1], cells[3], cells[4]),
        ("yes", "10", "5"),
        "{listed}"
    );

    // One alone is not held: when it has gone, the grace of those that vanished earlier is over as well.
    vanish(&control, &control_namespace, &["alone".into()]).await?;
    await_load_balancers(&lab, "control", 0).await?;
    assert_eq!(load_balancers(&lab, "braked").await?, 10);

    let said = berth_hub_tenant(&lab, &["release-held", "braked"]).await?;
    assert!(said.starts_with("5 load balancers go"), "{said}");
    await_load_balancers(&lab, "braked", 5).await?;
    await_held(&lab, "braked", 0.0).await?;
    let object = get(management, &["tenant", "braked"]).await?;
    assert!(object["metadata"]["annotations"]["berth.dev/release-held"].is_null());

    vanish(&braked, &namespace, &second).await?;
    await_held(&lab, "braked", 5.0).await?;
    assert_eq!(load_balancers(&lab, "braked").await?, 5);
    Ok(())
}

#[tokio::test]
async fn a_second_cluster_is_refused_until_the_operator_rebinds_and_then_the_first_is() -> Result<()>
{
    let lab = Lab::start().await?;
    let (first, namespace) = tenant(&lab, "moved").await?;
    first.apply_in(&namespace, &service("web", "")).await?;
    first.await_ip(&namespace, "web").await?;
    // Another cluster, with the first one's certificate.
    let second = lab.tenant("rebuilt").await?;
    let certificate = first.certificate();
    let tls = |flag: &str, path: std::path::PathBuf| format!("--tls-{flag}={}", path.display());
    let intruder = second
        .agent_with(&[
            &tls("cert", certificate.certificate()),
            &tls("key", certificate.key()),
        ])
        .await?;
    let bound = async || -> Result<String> {
        let object = get(lab.management(), &["tenant", "moved"]).await?;
        Ok(object["status"]["clusterUID"]
            .as_str()
            .unwrap_or("none")
            .to_owned())
    };
    let uid = async |cluster: &Tenant| -> Result<String> {
        let kube_system = get(cluster, &["namespace", "kube-system"]).await?;
        Ok(kube_system["metadata"]["uid"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    };
    let (first_uid, second_uid) = (uid(&first).await?, uid(&second).await?);

    let ended = first
        .agent()
        .metric("berth_agent_sessions_ended_total", &[])
        .await?;
    intruder.process().start().await?;
    let belongs = format!("identity moved already belongs to the cluster with UID {first_uid}");
    intruder.await_log(&belongs, SOON).await?;
    first.apply_in(&namespace, &service("later", "")).await?;
    first.await_ip(&namespace, "later").await?;
    let still = first
        .agent()
        .metric("berth_agent_sessions_ended_total", &[])
        .await?;
    assert!((still - ended).abs() < 0.5, "the first is not disturbed");
    assert_eq!(bound().await?, first_uid);

    let said = berth_hub_tenant(&lab, &["rebind", "moved"]).await?;
    assert!(said.contains(&first_uid), "{said}");
    // It would come by itself; it need not be waited for.
    intruder.restart().await?;
    first.agent().await_log("a newer session", SOON).await?;
    eventually(SOON, "the binding is on record", || async {
        match bound().await.map_err(|e| Seen(e.to_string()))? {
            uid if uid == second_uid => Ok(()),
            uid => Err(Seen(uid)),
        }
    })
    .await?;
    first.agent().kill().await?;
    first.agent().process().start().await?;
    let belongs = format!("identity moved already belongs to the cluster with UID {second_uid}");
    first.agent().await_log(&belongs, SOON).await?;

    // And back, by name: the present session ends at once.
    let belongs = format!("identity moved already belongs to the cluster with UID {first_uid}");
    let told = async || -> Result<usize> { Ok(intruder.log().await?.matches(&belongs).count()) };
    let before = told().await?;
    let said = berth_hub_tenant(&lab, &["rebind", "moved", "--to", &first_uid]).await?;
    assert!(said.contains("belongs to the cluster"), "{said}");
    eventually(SOON, "the other's session has ended", || async {
        match told().await.map_err(|e| Seen(e.to_string()))? {
            now if now > before => Ok(()),
            now => Err(Seen(format!("{now} times"))),
        }
    })
    .await?;
    first.agent().restart().await?;
    assert_eq!(bound().await?, first_uid);
    Ok(())
}
