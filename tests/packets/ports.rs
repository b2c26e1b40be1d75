//! A Service's ports change while its address stays.

use anyhow::{Result, ensure};
use berth_lab::workload::Pods;

use crate::support::{SOON, on_stage, url, word};

#[tokio::test]
async fn point_10_after_a_change_the_new_port_answers_and_the_old_one_does_not() -> Result<()> {
    on_stage(async |stage| {
        let ip = stage.web(&Pods::new("web", 2), "").await?;
        let client = stage.lab.client();
        let change = r#"[{"op": "replace", "path": "/spec/ports/0/port", "value": 8080}]"#;
        stage.patch("web", "json", change).await?;
        client.await_get(&url(&ip, 8080), SOON).await?;
        client.await_silence(&url(&ip, 80), SOON).await?;
        ensure!(stage.tenant.await_ip(&stage.namespace, "web").await? == ip);

        // Another node port and another port of the pod under the same number.
        let before = stage.node_port("web").await?;
        let change = format!(
            r#"[{{"op": "replace", "path": "/spec/ports/0/nodePort", "value": {}}}]"#,
            if before == 31_081 { 31_082 } else { 31_081 }
        );
        stage.patch("web", "json", &change).await?;
        ensure!(stage.node_port("web").await? != before);
        stage
            .await_answering(&url(&ip, 8080), "every request is answered", |pods| {
                pods > 0
            })
            .await?;
        ensure!(stage.tenant.await_ip(&stage.namespace, "web").await? == ip);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn point_10_a_port_that_is_added_leaves_the_others_alone() -> Result<()> {
    on_stage(async |stage| {
        let ip = stage.web(&Pods::new("web", 1), "").await?;
        let client = stage.lab.client();
        let more =
            "[{name: http, port: 80, targetPort: 3000}, {name: more, port: 81, targetPort: 3000}]";
        ensure!(stage.serve("web", more, "").await? == ip);
        let answer = client.await_get(&url(&ip, 81), SOON).await?;
        ensure!(word(&answer, "host")?.starts_with("web-"), "{answer}");
        client.get(&url(&ip, 80)).await?;
        Ok(())
    })
    .await
}
