//! `sessionAffinity: ClientIP` keeps a client with one pod, over both hops.

use std::time::Duration;

use anyhow::{Result, ensure};
use berth_lab::workload::Pods;
use tokio::time::Instant;

use crate::support::{Stage, on_stage, url, word};

/// For how long a pod is a client's after its last connection. Every hop begins anew with each connection.
const TIMEOUT: Duration = Duration::from_secs(3);

/// What one request may take, and what a clock may be wrong by.
const SLACK: Duration = Duration::from_millis(500);

/// Asks again and again after pauses of that length, `times` at most, until another pod than `first` answers, and says how many
/// requests that took. Without a request for so long is what is tested, so here it is right to sleep.
async fn until_another(
    stage: &Stage,
    url: &str,
    first: &str,
    pause: Duration,
    times: usize,
) -> Result<Option<usize>> {
    for request in 1..=times {
        let since = Instant::now();
        tokio::time::sleep(pause).await;
        let answer = stage.lab.client().get(url).await?;
        let quiet = since.elapsed();
        if word(&answer, "host")? != first {
            return Ok(Some(request));
        }
        ensure!(
            pause > TIMEOUT || quiet < TIMEOUT,
            "this machine is too busy: a request came {quiet:?} after the one before"
        );
    }
    Ok(None)
}

#[tokio::test]
async fn point_15_affinity_sticks_until_a_client_has_been_away_for_its_timeout() -> Result<()> {
    on_stage(async |stage| {
        let seconds = TIMEOUT.as_secs();
        let sticky = format!(
            "sessionAffinity: ClientIP\nsessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}"
        );
        let ip = stage.web(&Pods::new("web", 4), &sticky).await?;
        let url = url(&ip, 80);
        let one = "all requests go to one pod";
        let first = stage.await_answering(&url, one, |pods| pods == 1).await?;
        let first = first.into_keys().next().unwrap_or_default();

        // Longer than the timeout in all, and never away for so long.
        let moved = until_another(stage, &url, &first, TIMEOUT / 2, 4).await?;
        ensure!(moved.is_none(), "request {moved:?} went to another pod");

        // Away for longer, a client is anybody's: one in four goes to the same pod by chance, and fifteen in a row never.
        let away = TIMEOUT + SLACK;
        let moved = until_another(stage, &url, &first, away, 15).await?;
        ensure!(moved.is_some(), "{first} is a client's for longer than {seconds} s");
        Ok(())
    })
    .await
}

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
