//! The binaries as a person meets them: exit codes, and one clear line for what is wrong.

use std::process::{Command, Output};

use anyhow::Result;
use berth_lab::Lab;

/// Runs one of the two binaries, which the lab has seen to, in an empty environment.
async fn run(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Output> {
    let lab = Lab::start().await?;
    let mut command = Command::new(lab.program(program));
    command.env_clear().args(arguments);
    command.envs(environment.iter().copied());
    Ok(command.output()?)
}

fn line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.lines().count(), 1, "one line: {text}");
    text
}

#[tokio::test]
async fn a_misspelt_key_is_exit_code_2_and_one_line_with_the_nearest_key() -> Result<()> {
    for program in ["berth-hub", "berth-agent"] {
        let wrong = run(program, &["run"], &[("BERTH_LOG_FILTR", "info")]).await?;
        assert_eq!(wrong.status.code(), Some(2));
        let said = line(&wrong);
        assert!(said.contains("BERTH_LOG_FILTER"), "{said}");
    }
    let wrong = run("berth-hub", &["run", "--lsten=0.0.0.0:1"], &[]).await?;
    assert_eq!(wrong.status.code(), Some(2));
    assert!(line(&wrong).contains("--listen"));

    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), "tls: {clientCA: /x}\n")?;
    let config = format!("--config={}", file.path().display());
    let wrong = run("berth-hub", &["run", &config], &[]).await?;
    assert_eq!(wrong.status.code(), Some(2));
    assert!(line(&wrong).contains("tls.clientCa"));
    Ok(())
}

#[tokio::test]
async fn a_bad_value_is_exit_code_2_and_one_line_that_says_what_is_expected() -> Result<()> {
    let arguments = ["run", "--hub-address=hub.example:8443"];
    let environment = [("BERTH_NODE_ADDRESS_TYPE", "External")];
    let wrong = run("berth-agent", &arguments, &environment).await?;
    assert_eq!(wrong.status.code(), Some(2));
    let said = line(&wrong);
    assert!(said.contains("ExternalIP"), "{said}");
    Ok(())
}

#[tokio::test]
async fn print_config_shows_each_value_with_its_source() -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(
        file.path(),
        "trustDomain: example.org\nlisten: 127.0.0.1:1\n",
    )?;
    let config = format!("--config={}", file.path().display());
    let shown = run(
        "berth-hub",
        &["run", "--print-config", &config, "--log-format=json"],
        &[("BERTH_LISTEN", "127.0.0.1:2")],
    )
    .await?;
    assert_eq!(shown.status.code(), Some(0));
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let has = |words: &[&str]| {
        text.lines()
            .any(|line| words.iter().all(|word| line.contains(word)))
    };
    assert!(has(&["127.0.0.1:2", "BERTH_LISTEN"]), "{text}");
    assert!(
        has(&["example.org", &file.path().display().to_string()]),
        "{text}"
    );
    assert!(has(&["json", "--log-format"]), "{text}");
    assert!(has(&["adminListen", "default"]), "{text}");
    Ok(())
}

#[tokio::test]
async fn crds_are_printed_for_kubectl_and_accepted_by_the_api_server() -> Result<()> {
    let lab = Lab::start().await?;
    let printed = run("berth-hub", &["crds"], &[]).await?;
    assert_eq!(printed.status.code(), Some(0));
    let yaml = String::from_utf8(printed.stdout)?;
    lab.management().apply(&yaml).await?;
    let bad =
        "apiVersion: berth.dev/v1alpha1\nkind: Tenant\nmetadata: {name: Not.A.Label}\nspec: {}\n";
    let refused = lab.management().apply(bad).await.unwrap_err();
    let refused = format!("{:#}", anyhow::Error::from(refused));
    assert!(refused.contains("Not.A.Label"), "{refused}");
    let bad = "apiVersion: berth.dev/v1alpha1\nkind: Tenant\nmetadata: {name: wide}\nspec: {requestableIPs: [everything]}\n";
    let refused = lab.management().apply(bad).await.unwrap_err();
    let refused = format!("{:#}", anyhow::Error::from(refused));
    assert!(refused.contains("CIDR"), "{refused}");
    let checked = |check: &str| {
        format!(
            "apiVersion: berth.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: checked}}\nspec: {{healthCheck: {check}}}\n"
        )
    };
    for good in [
        "{}",
        "{mode: NodePort}",
        "{intervalMilliseconds: 250, timeoutMilliseconds: 250, failureThreshold: 1}",
    ] {
        lab.management().apply(&checked(good)).await?;
    }
    for (bad, word) in [
        ("{mode: Maybe}", "KubeProxy"),
        ("{intervalMilliseconds: 100}", "250"),
        (
            "{timeoutMilliseconds: 2000}",
            "a probe ends before the next begins",
        ),
    ] {
        let refused = lab.management().apply(&checked(bad)).await.unwrap_err();
        let refused = format!("{:#}", anyhow::Error::from(refused));
        assert!(refused.contains(word), "{refused}");
    }
    Ok(())
}

#[tokio::test]
async fn a_tenant_that_does_not_exist_is_exit_code_1_and_one_line_that_says_where_to_look()
-> Result<()> {
    let lab = Lab::start().await?;
    let kubeconfig = lab.management().kubeconfig().display().to_string();
    for command in ["rebind", "release-held"] {
        let arguments = ["tenant", command, "nobody", "--kubeconfig", &kubeconfig];
        let wrong = run("berth-hub", &arguments, &[]).await?;
        assert_eq!(wrong.status.code(), Some(1));
        let said = line(&wrong);
        assert!(said.contains("no Tenant nobody"), "{said}");
    }
    let arguments = ["tenant", "rebind", "nobody", "--to", "two words"];
    let wrong = run("berth-hub", &arguments, &[]).await?;
    assert_eq!(wrong.status.code(), Some(2));
    line(&wrong);
    Ok(())
}
