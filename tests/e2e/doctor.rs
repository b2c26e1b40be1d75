//! Both doctors, in a healthy lab and in the two traps of the tutorial.

use anyhow::Result;
use berth_lab::Lab;

use crate::support::SOON;

#[tokio::test]
async fn both_doctors_find_a_healthy_lab_healthy_and_the_tutorials_traps_by_name() -> Result<()> {
    let lab = Lab::builder().start_own().await?;
    let acme = lab.tenant("acme").await?;

    let (code, said) = lab.hub().doctor().await?;
    assert_eq!(code, 0, "{said}");
    for line in [
        "CRD tenants.berth.dev: present and current",
        "the account may do all that the hub does",
        "announced by L2Advertisement extern",
        "hub certificate",
    ] {
        assert!(said.contains(line), "{line:?} in\n{said}");
    }
    assert!(!said.contains("fail ") && !said.contains("warn "), "{said}");
    let (code, said) = acme.agent().doctor().await?;
    assert_eq!(code, 0, "{said}");
    for word in ["tenant/acme", "SERVING", "2 of 2 nodes", "InternalIP"] {
        assert!(said.contains(word), "{word:?} in\n{said}");
    }

    // Trap one: the advertisement selects a pool of another name.
    lab.management()
        .kubectl(&[
            "patch",
            "l2advertisement",
            "extern",
            "-n",
            "metallb-system",
            "--type=merge",
            "-p",
            r#"{"spec":{"ipAddressPools":["extern"]}}"#,
        ])
        .await?;
    // Trap two: the Deployment's ServiceAccount does not exist, so no pod is there.
    let namespace = acme.namespace().await?;
    let tutorial = include_str!("../../docs/tutorial/backend.yaml");
    let trapped: Vec<&str> = tutorial
        .split("\n---\n")
        .filter(|d| !d.contains("kind: ServiceAccount"))
        .collect();
    acme.apply_in(&namespace, &trapped.join("\n---\n")).await?;
    acme.await_ip(&namespace, "backend").await?;
    berth_lab::eventually(SOON, "the doctor names both traps", || async {
        let (code, said) = lab
            .hub()
            .doctor()
            .await
            .map_err(|e| berth_lab::Seen(e.to_string()))?;
        let traps = ["selects pool extern", "ServiceAccount"];
        match code == 1 && traps.iter().all(|trap| said.contains(trap)) {
            true => Ok(()),
            false => Err(berth_lab::Seen(said)),
        }
    })
    .await?;

    // And with the hub away, the agent's doctor says that it is.
    lab.hub().kill().await?;
    let (code, said) = acme.agent().doctor().await?;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("fail "), "{said}");
    lab.stop().await?;
    Ok(())
}
