//! What hub and agent have in common in the lab: a process with an admin port. Knows health and metrics paths; must not know
//! which of the two it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::control_plane::DEADLINE;
use crate::error::{Error, Result};
use crate::forward;
use crate::http;
use crate::process::Process;
use crate::protocol::Exit;
use crate::site::Site;
use crate::wait::{Seen, eventually};

/// A running hub or agent.
#[derive(Debug, Clone)]
pub struct Program {
    site: Arc<Site>,
    process: Process,
    netns: Option<&'static str>,
    admin: SocketAddr,
}

impl Program {
    pub(crate) fn new(
        site: Arc<Site>,
        process: Process,
        netns: Option<&'static str>,
        admin: SocketAddr,
    ) -> Self {
        Self {
            process: process.netns(netns),
            site,
            netns,
            admin,
        }
    }

    /// The process, for whatever is not here.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Starts it and waits until it says that it is ready.
    pub async fn start(&self) -> Result<()> {
        self.process.start().await?;
        self.ready().await
    }

    /// Waits until it says that it is ready; if it ends instead, the error shows its log.
    pub async fn ready(&self) -> Result<()> {
        let look = || async {
            match self.get("/readyz").await? {
                (200, _) => Ok(()),
                (status, body) => Err(Seen(format!("/readyz answered {status}: {body}"))),
            }
        };
        self.process.ready(DEADLINE, look).await
    }

    /// Kills it, as a crash would.
    pub async fn kill(&self) -> Result<()> {
        self.process.kill().await
    }

    /// Asks it to end and waits until it has.
    pub async fn stop(&self) -> Result<Exit> {
        self.process.stop().await
    }

    /// Stops it, starts it and waits until it is ready.
    pub async fn restart(&self) -> Result<()> {
        self.process.stop().await?;
        self.start().await
    }

    /// Everything it has logged so far, over all its starts.
    pub async fn log(&self) -> Result<String> {
        self.process.log().await
    }

    /// Waits until its log has a text.
    pub async fn await_log(&self, text: &str, deadline: Duration) -> Result<()> {
        let what = format!("the log of {} has {text:?}", self.process.name());
        eventually(deadline, &what, || async {
            let log = self.log().await?;
            match log.contains(text) {
                true => Ok(()),
                false => Err(Seen(crate::control::tail(&log, 500).to_owned())),
            }
        })
        .await
    }

    /// Its metrics, as Prometheus would get them.
    pub async fn metrics(&self) -> Result<String> {
        match self.get("/metrics").await? {
            (200, body) => Ok(body),
            (status, _) => Err(Error::Start(format!("/metrics answered {status}"))),
        }
    }

    /// The sum of a metric over all lines whose labels contain `labels`; an error where the program has no such metric, so
    /// that a misspelt name is not taken for zero. (A counter that has not counted yet is not shown at all, and is zero.)
    pub async fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let metrics = self.metrics().await?;
        if !declares(&metrics, name) && !name.ends_with("_total") {
            return Err(Error::Start(format!("there is no metric {name}")));
        }
        Ok(sum(&metrics, name, labels))
    }

    /// Runs its `doctor` with the settings it was started with. Exit code, and everything printed.
    pub async fn doctor(&self) -> Result<(i32, String)> {
        self.command("doctor").await
    }

    /// Runs another of its commands with the settings it was started with. Exit code, and everything printed.
    pub async fn command(&self, name: &str) -> Result<(i32, String)> {
        Ok(self.process.subcommand(name).output().await?.told())
    }

    /// Runs a command on its host. Exit code, and everything printed.
    pub async fn run_beside(&self, argv: Vec<String>) -> Result<(i32, String)> {
        let mut command = self.site.sandbox.control.command(argv);
        if let Some(netns) = self.netns {
            command = command.netns(netns);
        }
        Ok(command.output().await?.told())
    }

    /// A port on the machine's 127.0.0.1 that leads to this address on its host, until the lab ends.
    ///
    /// # Errors
    /// Without a port to listen on.
    pub async fn forwarded(&self, to: SocketAddr) -> Result<SocketAddr> {
        forward::open(&self.site, self.netns, to).await
    }

    /// A process of the caller's own on its host, not yet started: one of this project's programs with these arguments.
    #[must_use]
    pub fn beside(&self, name: &str, program: &str, arguments: &[&str]) -> Process {
        let program = self.site.program(program);
        let argv = std::iter::once(program.as_str()).chain(arguments.iter().copied());
        self.site.process(name, argv).netns(self.netns)
    }

    /// The same with more arguments, under the same name: only one of the two can run.
    #[must_use]
    pub(crate) fn with(&self, arguments: &[&str]) -> Self {
        let mut other = self.clone();
        for argument in arguments {
            other.process = other.process.arg(*argument);
        }
        other
    }

    /// Where its admin port listens.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Gets a path of the admin port.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        http::get(&self.site.sandbox.control, self.netns, self.admin, path).await
    }
}

fn declares(metrics: &str, name: &str) -> bool {
    let family = ["_total", "_count", "_sum"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name);
    let declaration = format!("# TYPE {family} ");
    metrics.lines().any(|line| line.starts_with(&declaration))
}

fn sum(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    let lines = metrics.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_matching_labels() {
        let text = "# TYPE a counter\na_total{t=\"x\",r=\"1\"} 2\na_total{t=\"x\",r=\"2\"} 3\na_total{t=\"y\"} 7\na_total_other 9\n";
        assert!((sum(text, "a_total", &["t=\"x\""]) - 5.0).abs() < f64::EPSILON);
        assert!((sum(text, "a_total", &[]) - 12.0).abs() < f64::EPSILON);
        assert!(declares(text, "a_total") && !declares(text, "b_total"));
    }
}
