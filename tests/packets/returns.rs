//! A Service that is deleted and comes back has its address, whoever came between.

use anyhow::{Result, ensure};
use berth_lab::workload::Pods;

use crate::support::{HTTP, SOON, on_stage, url};

#[tokio::test]
async fn point_05_deleted_and_created_again_after_another_it_has_its_address_and_answers()
-> Result<()> {
    on_stage(async |stage| {
        let pods = Pods::new("web", 2);
        let ip = stage.web(&pods, "").await?;
        let delete = ["delete", "service", "web", "-n", &stage.namespace];
        stage.tenant.kubectl(&delete).await?;
        stage
            .lab
            .client()
            .await_silence(&url(&ip, 80), SOON)
            .await?;
        let between = stage.serve("between", HTTP, "").await?;
        ensure!(between != ip, "{ip} went to another Service");
        let again = stage.serve("web", HTTP, "").await?;
        ensure!(again == ip, "it had {ip} and has {again}");
        stage.lab.client().await_get(&url(&ip, 80), SOON).await?;
        Ok(())
    })
    .await
}
