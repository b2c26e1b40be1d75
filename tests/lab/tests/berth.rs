//! What the lab offers for tests of Berth: a hub and tenants that start, are asked, killed and started again. What Berth does
//! meanwhile is for the end-to-end tests.

use berth_lab::Lab;

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n\
    spec: {type: LoadBalancer, selector: {app: web}, ports: [{name: http, port: 80}]}\n";

#[tokio::test]
async fn two_tenants_get_addresses_and_their_programs_can_be_asked() -> anyhow::Result<()> {
    let lab = Lab::start().await?;
    let mut addresses = Vec::new();
    for name in ["acme", "beta"] {
        let tenant = lab.tenant(name).await?;
        let namespace = tenant.namespace().await?;
        tenant.apply_in(&namespace, SERVICE).await?;
        addresses.push(tenant.await_ip(&namespace, "web").await?);
    }
    assert_ne!(addresses[0], addresses[1]);

    // Asking for a tenant again gives the same one.
    let beta = lab.tenant("beta").await?;
    let pid = beta.agent().process().pid().await?;
    assert_eq!(
        lab.tenant("beta").await?.agent().process().pid().await?,
        pid
    );

    let sessions = lab.hub().metrics().await?;
    assert!(sessions.contains("# TYPE"), "{sessions}");
    assert!(lab.hub().process().resident_kib().await? > 1000);
    let argv = ["cat", "/proc/self/comm"].map(String::from).to_vec();
    assert_eq!(lab.hub().run_beside(argv).await?, (0, "cat\n".into()));

    beta.agent().kill().await?;
    assert!(!beta.agent().process().is_running().await?);
    beta.agent().start().await?;
    assert_ne!(beta.agent().process().pid().await?, pid);
    assert!(beta.agent().stop().await?.success());
    let other = beta.agent_with(&["--log-format=json"]).await?;
    other.start().await?;
    other
        .await_log("{\"", std::time::Duration::from_secs(10))
        .await?;
    Ok(())
}
