//! What `berth-hub token create --output yaml` prints is the agent's chart: rendered here with words in the place of what a token
//! brings, and kept beside the command, which puts the rest in.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::helm::{AGENT, helm};

const FILE: &str = "hub/src/cli/token/agent.yaml";

const NAMESPACE: &str =
    "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: namespace.placeholder\n";

fn rendered() -> Result<String> {
    let (hash, token) = ("0".repeat(64), "a".repeat(52));
    let sets = [
        "hub.address=hub.placeholder:1".to_owned(),
        "hub.serverName=server.placeholder".to_owned(),
        "enroll.address=enroll.placeholder:1".to_owned(),
        format!("enroll.caHash=sha256:{hash}"),
        format!("enroll.token=berth-join-{token}"),
        "image.repository=image.placeholder".to_owned(),
    ];
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let arguments = ["template", AGENT, "--namespace", "namespace.placeholder"];
    let output = helm(&arguments, AGENT, &sets)?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut text = NAMESPACE.to_owned();
    for line in String::from_utf8(output.stdout)?.lines() {
        // Nobody's release: what helm says of it is not so.
        if line.starts_with("# Source: ") || line.contains("helm.sh/chart: ") {
            continue;
        }
        let line = line.replace("managed-by: Helm", "managed-by: manifest");
        match line.split_once("checksum/config: ") {
            Some((before, _)) => {
                text += &format!("{before}checksum/config: checksum.placeholder\n")
            }
            None => text += &format!("{line}\n"),
        }
    }
    Ok(text)
}

#[test]
fn the_manifest_of_token_create_is_what_the_chart_renders() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let rendered = rendered().unwrap();
    if std::env::var_os("BERTH_GENERATE").is_some() {
        std::fs::write(&file, &rendered).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap();
    assert_eq!(
        kept, rendered,
        "{FILE} is of another chart: BERTH_GENERATE=1 cargo test --test charts writes it"
    );
}
