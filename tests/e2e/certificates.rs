//! Who may have a session: only a certificate of the hub's CA, with one SAN of the right form, of a tenant that exists and is
//! not suspended. Tried with the real agent and the real openssl-free way of making certificates, the hub's own CLI.

use anyhow::{Context, Result};
use berth_lab::{Lab, Seen, eventually, hub::Certificate};

use crate::support::{SOON, berth_hub_tenant, get, service};

/// Calls Sync with a certificate by grpcurl, from the hub's node; what it prints.
async fn sync(lab: &Lab, certificate: &Certificate) -> Result<String> {
    let descriptors = lab.directory().join("berth.protoset");
    std::fs::write(&descriptors, berth_wire::DESCRIPTORS)?;
    let hello = r#"{"hello":{"protocolMin":1,"protocolMax":1,"agentVersion":"0","instanceId":"i","clusterUid":"c"}}"#;
    let text = |path: std::path::PathBuf| path.display().to_string();
    let argv = [
        text(lab.parts().path("grpcurl")),
        "-cacert".into(),
        text(lab.hub().ca()),
        "-cert".into(),
        text(certificate.certificate()),
        "-key".into(),
        text(certificate.key()),
        "-connect-timeout=5".into(),
        "-max-time=5".into(),
        format!("-protoset={}", descriptors.display()),
        format!("-d={hello}"),
        lab.hub().address().to_string(),
        "berth.v1.AgentService/Sync".into(),
    ];
    let (_, output) = lab.hub().run_beside(argv.to_vec()).await?;
    Ok(output)
}

/// Refusals that the hub has counted, by any metric with this reason.
async fn refusals(lab: &Lab, metric: &str, reason: &str) -> Result<f64> {
    let label = format!("reason=\"{reason}\"");
    Ok(lab.hub().metric(metric, &[&label]).await?)
}

#[tokio::test]
async fn an_unknown_tenant_is_refused_with_a_sentence_a_metric_and_a_log_line() -> Result<()> {
    let lab = Lab::start().await?;
    let stranger = lab.hub().tenant_certificate("stranger").await?;
    let before = refusals(&lab, "berth_sessions_refused_total", "unknown_tenant").await?;
    let said = sync(&lab, &stranger).await?;
    assert!(said.contains("PermissionDenied"), "{said}");
    assert!(
        said.contains("creating the Tenant object stranger"),
        "{said}"
    );
    let after = refusals(&lab, "berth_sessions_refused_total", "unknown_tenant").await?;
    assert!(after > before);
    lab.hub()
        .await_log("tenant stranger is not known", SOON)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_suspended_tenant_loses_its_session_and_keeps_what_it_has() -> Result<()> {
    let lab = Lab::start().await?;
    let tenant = lab.tenant("suspended").await?;
    let namespace = tenant.namespace().await?;
    tenant.apply_in(&namespace, &service("web", "")).await?;
    let ip = tenant.await_ip(&namespace, "web").await?;
    let said = berth_hub_tenant(&lab, &["suspend", "suspended"]).await?;
    assert!(said.contains("keeps working"), "{said}");
    tenant
        .agent()
        .await_log("tenant suspended is suspended", SOON)
        .await?;
    let said = sync(&lab, tenant.certificate()).await?;
    assert!(said.contains("PermissionDenied"), "{said}");
    let kept = get(
        lab.management(),
        &["loadbalancers", "-n", "berth-suspended"],
    )
    .await?;
    assert_eq!(kept["items"][0]["status"]["addresses"][0], ip.as_str());

    let said = berth_hub_tenant(&lab, &["resume", "suspended"]).await?;
    assert!(said.contains("is resumed"), "{said}");
    // The agent was refused and waits for minutes; another start of it does not.
    tenant.agent().kill().await?;
    tenant.agent().start().await?;
    tenant.apply_in(&namespace, &service("next", "")).await?;
    tenant.await_ip(&namespace, "next").await?;
    Ok(())
}

#[tokio::test]
async fn hostile_09_a_revoked_certificate_loses_its_session_and_a_new_one_goes_on() -> Result<()> {
    let lab = Lab::start().await?;
    let tenant = lab.tenant("stolen").await?;
    let namespace = tenant.namespace().await?;
    tenant.apply_in(&namespace, &service("web", "")).await?;
    let ip = tenant.await_ip(&namespace, "web").await?;
    let other = lab.hub().tenant_certificate("stolen").await?;
    let file = tenant.certificate().certificate().display().to_string();
    let shown = lab.hub().command(&["cert", "show", &file]).await?;
    let mut lines = shown.lines();
    let revoked = lines.find_map(|line| line.trim().strip_prefix("serial"));
    let revoked = revoked.map(|rest| rest.trim_matches(|c: char| !c.is_ascii_hexdigit()));
    let revoked = revoked.with_context(|| format!("no serial number in {shown}"))?;
    let said = berth_hub_tenant(&lab, &["revoke", "stolen", "--serial", revoked]).await?;
    assert!(said.contains("a session with it ends now"), "{said}");
    tenant
        .agent()
        .await_log("is refused: it was revoked by its serial number", SOON)
        .await?;
    let said = sync(&lab, tenant.certificate()).await?;
    assert!(said.contains("Unauthenticated"), "{said}");
    assert!(refusals(&lab, "berth_sessions_refused_total", "revoked").await? > 0.0);
    // Another certificate of the same tenant is another matter: it is refused for its cluster, which grpcurl invents.
    let said = sync(&lab, &other).await?;
    assert!(said.contains("FailedPrecondition"), "{said}");

    let said = berth_hub_tenant(&lab, &["revoke", "stolen"]).await?;
    assert!(said.contains("every certificate of stolen"), "{said}");
    let refused = eventually(SOON, "the other is refused as well", || async {
        let said = sync(&lab, &other).await.map_err(|e| Seen(e.to_string()))?;
        match said.contains("Unauthenticated") {
            true => Ok(said),
            false => Err(Seen(said)),
        }
    });
    let said = refused.await?;
    assert!(said.contains("all that are valid from before"), "{said}");
    let kept = get(lab.management(), &["loadbalancers", "-n", "berth-stolen"]).await?;
    assert_eq!(kept["items"][0]["status"]["addresses"][0], ip.as_str());
    Ok(())
}

#[tokio::test]
async fn hostile_06_07_a_certificate_of_another_ca_does_not_pass_the_handshake() -> Result<()> {
    let lab = Lab::start().await?;
    for (name, domain) in [("foreign", "other.example"), ("lookalike", "berth.local")] {
        let home = lab.directory().join(name);
        let ca = home.join("ca").display().to_string();
        let out = home.join("tenant").display().to_string();
        lab.hub()
            .command(&["ca", "init", "--dir", &ca, "--trust-domain", domain])
            .await?;
        lab.hub()
            .command(&[
                "cert", "issue", "--ca-dir", &ca, "--tenant", "acme", "--out", &out,
            ])
            .await?;
        let before = lab
            .hub()
            .metric("berth_refused_connections_total", &[])
            .await?;
        let said = sync(&lab, &Certificate::in_directory(out)).await?;
        assert!(!said.contains("welcome"), "{said}");
        eventually(SOON, "the refusal is counted", || async {
            let now = lab
                .hub()
                .metric("berth_refused_connections_total", &[])
                .await?;
            match now > before {
                true => Ok(()),
                false => Err(Seen(format!("{now}"))),
            }
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn hostile_24_a_second_cluster_under_one_identity_is_refused_and_the_first_goes_on()
-> Result<()> {
    let lab = Lab::start().await?;
    let tenant = lab.tenant("twins").await?;
    let namespace = tenant.namespace().await?;
    let said = sync(&lab, tenant.certificate()).await?;
    // grpcurl's Hello names another cluster: refused, and the live session goes on.
    assert!(said.contains("FailedPrecondition"), "{said}");
    tenant.apply_in(&namespace, &service("web", "")).await?;
    tenant.await_ip(&namespace, "web").await?;
    Ok(())
}

/// A client certificate of the hub's own CA with these names, as nobody in order would issue it.
fn forge(lab: &Lab, names: &[&str]) -> Result<Certificate> {
    let ca = lab.hub().ca_directory();
    let key = rcgen::KeyPair::from_pem(&std::fs::read_to_string(ca.join("ca.key"))?)?;
    let issuer =
        rcgen::Issuer::from_ca_cert_pem(&std::fs::read_to_string(ca.join("ca.crt"))?, key)?;
    let mut params = rcgen::CertificateParams::default();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    for name in names {
        let name = rcgen::string::Ia5String::try_from(*name)?;
        params.subject_alt_names.push(rcgen::SanType::URI(name));
    }
    let own = rcgen::KeyPair::generate()?;
    let certificate = params.signed_by(&own, &issuer)?;
    let home = lab
        .directory()
        .join(format!(
            "forged-{}",
            own.serialize_der().len() + names.len()
        ))
        .join(certificate.der().len().to_string());
    std::fs::create_dir_all(&home)?;
    std::fs::write(home.join("tls.crt"), certificate.pem())?;
    std::fs::write(home.join("tls.key"), own.serialize_pem())?;
    Ok(Certificate::in_directory(home))
}

#[tokio::test]
async fn hostile_20_21_a_san_of_another_form_names_nobody() -> Result<()> {
    let lab = Lab::start().await?;
    lab.tenant("acme").await?;
    let long = format!("spiffe://berth.local/tenant/{}", "a".repeat(2_048));
    let forms: [&[&str]; 9] = [
        &[],
        &[
            "spiffe://berth.local/tenant/acme",
            "spiffe://berth.local/tenant/beta",
        ],
        &["spiffe://berth.local/tenant/../tenant/acme"],
        &["spiffe://berth.local/tenant/%61cme"],
        &["spiffe://berth.local/tenant/acme/"],
        &["spiffe://berth.local/tenant/ACME"],
        &["spiffe://other.example/tenant/acme"],
        &["https://berth.local/tenant/acme"],
        &[&long],
    ];
    for names in forms {
        let before = refusals(&lab, "berth_sessions_refused_total", "bad_identity").await?;
        let said = sync(&lab, &forge(&lab, names)?).await?;
        assert!(said.contains("Unauthenticated"), "{names:?}: {said}");
        let after = refusals(&lab, "berth_sessions_refused_total", "bad_identity").await?;
        assert!(after > before, "{names:?}");
    }
    // The same hand makes one that passes: it is the name that was refused, not the forgery.
    let said = sync(
        &lab,
        &forge(&lab, &["spiffe://berth.local/tenant/stranger"])?,
    )
    .await?;
    assert!(said.contains("PermissionDenied"), "{said}");
    Ok(())
}

#[tokio::test]
async fn hostile_22_a_name_is_no_prefix_of_another() -> Result<()> {
    let lab = Lab::start().await?;
    lab.tenant("acme").await?;
    let near = lab.hub().tenant_certificate("acm").await?;
    let said = sync(&lab, &near).await?;
    assert!(said.contains("tenant acm is not known"), "{said}");
    Ok(())
}

#[tokio::test]
async fn ca_and_certificates_live_in_secrets_too_and_say_when_they_expire() -> Result<()> {
    let lab = Lab::start().await?;
    let management = lab.management();
    let namespace = management.namespace().await?;
    let kubeconfig = management.kubeconfig_inside().display().to_string();
    let hub = async |arguments: &[&str]| {
        let mut argv = arguments.to_vec();
        argv.extend(["--kubeconfig", &kubeconfig]);
        lab.hub().command(&argv).await
    };
    let (ca, tls) = (format!("{namespace}/ca"), format!("{namespace}/acme-tls"));
    hub(&["ca", "init", "--secret", &ca]).await?;
    let again = hub(&["ca", "init", "--secret", &ca]).await;
    assert!(again.is_err(), "a CA is never overwritten");
    hub(&[
        "cert",
        "issue",
        "--tenant",
        "acme",
        "--ca-secret",
        &ca,
        "--out-secret",
        &tls,
        "--valid-for",
        "30d",
    ])
    .await?;
    let secret = get(management, &["secret", "acme-tls", "-n", &namespace]).await?;
    assert_eq!(secret["type"], "kubernetes.io/tls");
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        assert!(secret["data"][file].is_string(), "{file}");
    }
    let shown = hub(&["cert", "show", "--secret", &tls]).await?;
    let who = "tenant/acme in the trust domain berth.local";
    assert!(shown.contains(who), "{who:?} in\n{shown}");
    // A second may have passed since it was issued.
    let left = ["30 days left", "29 days 23 hours left"];
    assert!(left.iter().any(|words| shown.contains(words)), "{shown}");
    Ok(())
}
