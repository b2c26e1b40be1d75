//! The hub debugged with the real grpcurl: an admin sees what there is to call, everyone else no more than they should.

use std::path::Path;

use anyhow::Result;
use berth_lab::{Lab, hub::Certificate};

/// Runs grpcurl on the hub's node. Exit code, and both outputs in one text.
async fn grpcurl(
    lab: &Lab,
    certificate: Option<&Certificate>,
    arguments: &[&str],
) -> Result<(i32, String)> {
    let path = |path: &Path| path.display().to_string();
    let mut argv = vec![path(&lab.parts().path("grpcurl"))];
    if let Some(certificate) = certificate {
        argv.extend(["-cacert".into(), path(&certificate.ca())]);
        argv.extend(["-cert".into(), path(&certificate.certificate())]);
        argv.extend(["-key".into(), path(&certificate.key())]);
    } else {
        argv.push("-insecure".into());
    }
    argv.extend(["-connect-timeout", "5", "-max-time", "10"].map(String::from));
    argv.extend(arguments.iter().map(|a| (*a).to_owned()));
    lab.hub().run_beside(argv).await.map_err(Into::into)
}

fn with_address<'a>(address: &'a str, words: &[&'a str]) -> Vec<&'a str> {
    let mut argv = vec![address];
    argv.extend(words);
    argv
}

#[tokio::test]
async fn an_admin_lists_describes_and_asks_for_health() -> Result<()> {
    let lab = Lab::start().await?;
    let ops = lab.hub().admin_certificate("ops").await?;
    let address = lab.hub().address().to_string();

    let (code, text) = grpcurl(&lab, Some(&ops), &with_address(&address, &["list"])).await?;
    assert_eq!(code, 0, "{text}");
    for service in ["berth.v1.AgentService", "grpc.health.v1.Health"] {
        assert!(text.contains(service), "{service} in {text}");
    }
    let describe = with_address(&address, &["describe", "berth.v1.Hello"]);
    let (code, text) = grpcurl(&lab, Some(&ops), &describe).await?;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("cluster_uid"), "{text}");
    for body in ["{}", r#"{"service":"berth.v1.AgentService"}"#] {
        let check = ["-d", body, &address, "grpc.health.v1.Health/Check"];
        let (code, text) = grpcurl(&lab, Some(&ops), &check).await?;
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("SERVING"), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn hostile_03_without_a_certificate_nothing_answers() -> Result<()> {
    let lab = Lab::start().await?;
    let address = lab.hub().address().to_string();
    let (code, text) = grpcurl(&lab, None, &with_address(&address, &["list"])).await?;
    assert_ne!(code, 0);
    assert!(!text.contains("AgentService"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_tenant_may_ask_for_health_and_not_for_reflection() -> Result<()> {
    let lab = Lab::start().await?;
    let tenant = lab.hub().tenant_certificate("curious").await?;
    let address = lab.hub().address().to_string();
    let (code, text) = grpcurl(&lab, Some(&tenant), &with_address(&address, &["list"])).await?;
    assert_ne!(code, 0);
    assert!(text.contains("no admin"), "{text}");
    assert!(!text.contains("berth.v1.AgentService"), "{text}");
    Ok(())
}

#[tokio::test]
async fn an_admin_has_no_session() -> Result<()> {
    let lab = Lab::start().await?;
    let ops = lab.hub().admin_certificate("ops").await?;
    let address = lab.hub().address().to_string();
    let sync = [
        "-d",
        r#"{"hello":{"protocolMin":1,"protocolMax":1}}"#,
        &address,
        "berth.v1.AgentService/Sync",
    ];
    let (code, text) = grpcurl(&lab, Some(&ops), &sync).await?;
    assert_ne!(code, 0);
    assert!(text.contains("PermissionDenied"), "{text}");
    Ok(())
}
