//! `sessionAffinity: ClientIP` keeps a client with one pod, over both hops.

use anyhow::Result;
use berth_lab::workload::Pods;

use crate::support::{on_stage, url};

#[tokio::test]
async fn point_15_affinity_sticks_and_ends_when_it_is_switched_off() -> Result<()> {
    on_stage(async |stage| {
        let ip = stage.web(&Pods::new("web", 4), "").await?;
        let url = url(&ip, 80);
        let several = "requests go to several pods";
        stage.await_answering(&url, several, |pods| pods > 1).await?;

        let sticky = r#"{"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}}"#;
        stage.merge("web", sticky).await?;
        let one = "all requests go to one pod";
        let first = stage.await_answering(&url, one, |pods| pods == 1).await?;
        for _ in 0..3 {
            let again = stage.answering(&url).await?;
            assert_eq!(again, first, "it was another pod's turn");
        }

        stage
            .merge("web", r#"{"sessionAffinity": "None", "sessionAffinityConfig": null}"#)
            .await?;
        stage.await_answering(&url, several, |pods| pods > 1).await?;
        Ok(())
    })
    .await
}
