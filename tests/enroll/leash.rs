//! Programs that end with this process, whatever ends it: a hub that all tests share is in a static, and those are never dropped.

use std::{fs::File, path::Path, process::Stdio};

use anyhow::Result;
use tokio::process::{Child, Command};

/// Runs its arguments until its input ends. This process alone holds the other end of that, and the kernel closes it in any case.
const LEASH: &str =
    r#""$@" & child=$!; while read -r _; do :; done; kill -KILL "$child"; wait "$child""#;

/// A program that runs. Dropped, it is killed.
pub(crate) struct Leashed(Child);

impl Leashed {
    /// Starts a program with this environment and no other. Its output goes to a file.
    pub(crate) fn start(
        program: &Path,
        arguments: &[String],
        environment: impl IntoIterator<Item = (String, String)>,
        log: &Path,
    ) -> Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        let child = Command::new("/bin/sh")
            .args(["-c", LEASH, "leash"])
            .arg(program)
            .args(arguments)
            .env_clear()
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self(child))
    }

    /// Kills it, as a crash would end it, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        self.0.wait().await?;
        Ok(())
    }
}
