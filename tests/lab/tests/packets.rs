//! The lab itself, before anything of Berth is in it: packets reach a pod through MetalLB and two kube-proxies, as root and as
//! an ordinary user, and what a test breaks comes back.

use std::time::Duration;

use berth_lab::isolation::Isolation;
use berth_lab::{Lab, Seen, check, eventually};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn packets_flow_and_the_lab_ends_with_its_last_handle() -> anyhow::Result<()> {
    let lab = Lab::builder().without_berth().start_own().await?;
    let said = check::packets(&lab).await?;
    assert!(!lab.has_packets() || said.contains("path=/check"), "{said}");
    let directory = lab.directory().to_owned();
    drop(lab);
    eventually(SOON, "the lab's directory is gone", || async {
        match directory.exists() {
            true => Err(Seen(directory.display().to_string())),
            false => Ok(()),
        }
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn an_ordinary_users_lab_moves_packets_and_repairs_what_a_test_breaks() -> anyhow::Result<()>
{
    if Isolation::detect(true) == Isolation::Loopback {
        eprintln!("skipped: the kernel gives ordinary users no namespaces");
        return Ok(());
    }
    let lab = Lab::builder()
        .rootless()
        .without_berth()
        .start_own()
        .await?;
    let said = check::packets(&lab).await?;
    assert!(said.contains("path=/check"), "{said}");
    let directory = lab.directory().to_owned();
    // Outside, every process of it belongs to that user; inside, to root.
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(directory.join("log"))?);
    assert_ne!(owner, 0);
    assert!(matches!(lab.isolation(), Isolation::User { .. }));

    // An API server that was killed comes back with what it knew, and counts again from zero.
    let acme = lab.acme();
    let namespace = acme.namespace().await?;
    acme.kill_api_server().await?;
    assert!(
        acme.kubectl(&["get", "namespaces", "--request-timeout=1s"])
            .await
            .is_err()
    );
    acme.start_api_server().await?;
    let namespaces = acme.kubectl(&["get", "namespaces"]).await?;
    assert!(namespaces.contains(&namespace), "{namespaces}");

    // Writes are counted by kind, and told apart by writer.
    let before = acme.writes().await?;
    let audited = acme.audit().await?.0.len();
    acme.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: written}\ndata: {a: b}\n")
        .await?;
    let written = (&acme.writes().await? - &before).of(&["configmaps"]);
    assert_eq!(written.to_string(), "1 APPLY configmaps");
    let audit = eventually(
        Duration::from_secs(5),
        "the audit log has the write",
        || async {
            let news = acme.audit().await?.since(audited).by("admin");
            match news.0.is_empty() {
                true => Err(Seen("nothing".into())),
                false => Ok(news),
            }
        },
    )
    .await?;
    assert_eq!(audit.0[0].object, "default/written");
    // A further tenant's cluster has nodes with addresses that no other has.
    let beta = lab.cluster("beta").await?;
    let nodes = beta.kubectl(&["get", "nodes", "-o", "wide"]).await?;
    assert!(
        nodes.contains("beta-1") && nodes.contains("10.11.8.1"),
        "{nodes}"
    );

    drop(beta);
    lab.stop().await?;
    assert!(!directory.exists());
    Ok(())
}
