//! An agent as a process of this machine, with the settings, the rights and the token that its chart gives it.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result};
use berth_lab::{Installed, Seen, eventually};
use serde_json::Value;

use crate::{
    SOON,
    ground::{Ground, await_ready, free, get},
    leash::Leashed,
};

/// Creates a Tenant whose nodes are not probed: from here, nobody's nodes are.
pub(crate) async fn tenant(ground: &Ground, name: &str) -> Result<()> {
    let yaml = format!(
        "apiVersion: berth.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec: {{healthCheck: {{mode: None}}}}\n"
    );
    ground.lab.management().apply(&yaml).await?;
    Ok(())
}

/// An agent. It ends when dropped.
pub(crate) struct Agent {
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    process: Option<Leashed>,
    admin: SocketAddr,
    token_file: PathBuf,
    log: PathBuf,
}

impl Agent {
    /// Starts one with what its chart has rendered, and a token where there is one.
    pub(crate) async fn start(
        ground: &Ground,
        name: &str,
        installed: &Installed,
        token: Option<&str>,
    ) -> Result<Self> {
        Self::prepare(ground, name, installed, token)?.run().await
    }

    /// The same, not yet started.
    pub(crate) fn prepare(
        ground: &Ground,
        name: &str,
        installed: &Installed,
        token: Option<&str>,
    ) -> Result<Self> {
        let path = |kind: &str| ground.lab.directory().join(format!("agent-{name}.{kind}"));
        let object = |kind: &str| {
            let found = installed
                .objects
                .iter()
                .find(|object| object["kind"] == kind);
            found.with_context(|| format!("the chart has no {kind}"))
        };
        let config = object("ConfigMap")?["data"]["agent.yaml"].as_str();
        std::fs::write(path("yaml"), config.context("no settings")?)?;
        let container = &object("Deployment")?["spec"]["template"]["spec"]["containers"][0];
        let variables = container["env"].as_array().context("no environment")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut environment: Vec<(String, String)> = variables
            .iter()
            .map(|variable| (text(&variable["name"]), text(&variable["value"])))
            .filter(|(name, _)| name != "BERTH_CONFIG")
            .collect();
        let kubeconfig = installed.kubeconfig.display().to_string();
        environment.push(("BERTH_KUBECONFIG".into(), kubeconfig));
        let admin = free()?;
        let token_file = path("token");
        let agent = Self {
            program: ground.lab.program("berth-agent"),
            arguments: vec![
                "run".into(),
                format!("--config={}", path("yaml").display()),
                format!("--admin-listen={admin}"),
                format!("--enroll-token-file={}", token_file.display()),
            ],
            environment,
            process: None,
            admin,
            token_file,
            log: path("log"),
        };
        if let Some(token) = token {
            agent.bring_token(token)?;
        }
        Ok(agent)
    }

    /// With more arguments.
    pub(crate) fn with(mut self, arguments: impl IntoIterator<Item = String>) -> Self {
        self.arguments.extend(arguments);
        self
    }

    pub(crate) async fn run(mut self) -> Result<Self> {
        self.restart().await?;
        Ok(self)
    }

    /// Ends it, as a crash would.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.kill().await?;
        }
        Ok(())
    }

    pub(crate) async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        let environment = self.environment.iter().cloned();
        let started = Leashed::start(&self.program, &self.arguments, environment, &self.log)?;
        self.process = Some(started);
        Ok(())
    }

    /// Runs its doctor with the same settings: whether all is well, and what it says.
    pub(crate) async fn doctor(&self) -> Result<(bool, String)> {
        let mut command = tokio::process::Command::new(&self.program);
        command.env_clear().arg("doctor").args(&self.arguments[1..]);
        command.envs(self.environment.iter().cloned());
        let output = command.output().await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok((output.status.success(), said))
    }

    /// Waits until it has a session in which everything was told.
    pub(crate) async fn ready(&self) -> Result<()> {
        await_ready(self.admin, &self.log).await
    }

    pub(crate) fn bring_token(&self, token: &str) -> Result<()> {
        Ok(std::fs::write(&self.token_file, token)?)
    }

    pub(crate) fn forget_token(&self) -> Result<()> {
        Ok(std::fs::remove_file(&self.token_file)?)
    }

    pub(crate) fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }

    /// How often its log has these words.
    pub(crate) fn said(&self, words: &str) -> Result<usize> {
        Ok(self.log()?.matches(words).count())
    }

    pub(crate) async fn await_log(&self, words: &str) -> Result<()> {
        let what = format!("the agent says {words:?}");
        eventually(SOON, &what, || async {
            match self.said(words)? {
                0 => Err(Seen(self.log()?)),
                _ => Ok(()),
            }
        })
        .await?;
        Ok(())
    }

    /// The value of one of its counters with this label; 0 where it has not counted yet.
    pub(crate) async fn counted(&self, metric: &str, label: &str) -> Result<f64> {
        let metrics = get(self.admin, "/metrics").await?.1;
        let lines = metrics.lines();
        let values = lines.filter(|line| line.starts_with(metric) && line.contains(label));
        let values = values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum())
    }
}
