//! A fleet: `berth-agent simulate` as a process on the hub's host, and what it reports. Knows its command line and its lines;
//! must not know what is measured.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_agent::simulate::Look;
use berth_lab::{Hub, Process};

/// Between two looks at what it has written.
const EVERY: Duration = Duration::from_millis(200);

/// A running fleet.
pub(crate) struct Fleet {
    process: Process,
    /// Where in the log this process's lines begin.
    from: usize,
}

impl Fleet {
    /// Starts agents beside the hub.
    pub(crate) async fn start(hub: &Hub, arguments: &[&str]) -> Result<Self> {
        let address = hub.address().to_string();
        let authority = hub.ca_directory();
        let (cert, key) = (authority.join("ca.crt"), authority.join("ca.key"));
        let (cert, key) = (cert.to_string_lossy(), key.to_string_lossy());
        let mut all = vec![
            "simulate",
            "--report",
            "json",
            "--hub",
            &address,
            "--ca-cert",
            &cert,
            "--ca-key",
            &key,
        ];
        all.extend(arguments);
        let process = hub.beside("fleet", "berth-agent", &all);
        let before = tokio::fs::read(process.log_path())
            .await
            .unwrap_or_default();
        process.start().await?;
        Ok(Self {
            process,
            from: before.len(),
        })
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// The latest of what it said.
    pub(crate) async fn look(&self) -> Result<Option<Look>> {
        let log = self.process.log().await?;
        let lines = log.get(self.from..).unwrap_or_default();
        let last = lines
            .lines()
            .rev()
            .find(|line| line.starts_with('{') && line.ends_with('}'));
        last.map(serde_json::from_str)
            .transpose()
            .context("the fleet reports something unknown")
    }

    /// Waits until its report shows what is awaited.
    pub(crate) async fn until(
        &self,
        what: &str,
        deadline: Duration,
        reached: impl Fn(&Look) -> bool,
    ) -> Result<Look> {
        let end = Instant::now() + deadline;
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            ticks.tick().await;
            let look = self.look().await?;
            match look {
                Some(look) if reached(&look) => return Ok(look),
                look if Instant::now() > end => {
                    let log = self.process.log().await?;
                    let tail: Vec<_> = log.lines().rev().take(5).collect();
                    bail!("not within {deadline:?}: {what}; the fleet: {look:?}; its log: {tail:?}")
                }
                _ => {}
            }
            if !self.process.is_running().await? {
                bail!("the fleet has ended: {}", self.process.log().await?);
            }
        }
    }

    /// Ends it in order.
    pub(crate) async fn stop(self) -> Result<()> {
        self.process.stop().await?;
        Ok(())
    }
}
