//! The lab, and hubs beside it: each test that changes settings starts one of its own, all against the same management cluster.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Context as _, Result, bail, ensure};
use berth_common::tls::{Pin, certificates_from_pem};
use berth_lab::{Installed, Lab, Seen, eventually};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::OnceCell,
};

use crate::{SOON, leash::Leashed};

/// What the hub's chart sets for the name in its certificate.
pub(crate) const SERVER_NAME: &str = "berth-hub.berth-system.svc";

/// The lab that all tests share, and the hub's rights in it.
pub(crate) struct Ground {
    pub(crate) lab: Lab,
    pub(crate) rights: Installed,
}

static GROUND: OnceCell<Ground> = OnceCell::const_new();

impl Ground {
    pub(crate) async fn get() -> Result<&'static Self> {
        GROUND
            .get_or_try_init(|| async {
                let lab = Lab::builder().hub_later().start_own().await?;
                let rights = lab.management().install("berth-hub", &[]).await?;
                Ok(Self { lab, rights })
            })
            .await
    }

    /// Runs `berth-hub` with these arguments and the rights of an operator.
    pub(crate) fn operator(&self, arguments: &[&str]) -> Result<Output> {
        let output = Command::new(self.lab.program("berth-hub"))
            .env_clear()
            .args(arguments)
            .arg("--kubeconfig")
            .arg(self.lab.management().kubeconfig())
            .output()?;
        Ok(output)
    }

    /// The same, which must succeed; what it prints.
    pub(crate) fn operated(&self, arguments: &[&str]) -> Result<String> {
        let output = self.operator(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            bail!("berth-hub {arguments:?}: {said}");
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The first hub, which most tests share.
    pub(crate) async fn hub(&'static self) -> Result<&'static Hub> {
        static HUB: OnceCell<Hub> = OnceCell::const_new();
        HUB.get_or_try_init(|| Hub::start(self, "shared", &[]))
            .await
    }
}

/// A hub as a process of this machine. It ends when dropped.
pub(crate) struct Hub {
    program: PathBuf,
    arguments: Vec<String>,
    kubeconfig: PathBuf,
    process: Option<Leashed>,
    pub(crate) sessions: SocketAddr,
    pub(crate) enrollment: SocketAddr,
    admin: SocketAddr,
    log: PathBuf,
}

impl Hub {
    /// With these settings beside those that make it a hub with an authority.
    pub(crate) async fn start(ground: &Ground, name: &str, settings: &[&str]) -> Result<Self> {
        Self::start_as(
            ground,
            name,
            &ground.rights,
            "berth-system/berth-ca",
            settings,
        )
        .await
    }

    /// The same with other rights, and an authority in another Secret.
    pub(crate) async fn start_as(
        ground: &Ground,
        name: &str,
        rights: &Installed,
        authority: &str,
        settings: &[&str],
    ) -> Result<Self> {
        let [sessions, enrollment, admin] = [free()?, free()?, free()?];
        let log = ground.lab.directory().join(format!("hub-{name}.log"));
        let mut arguments = vec![
            "run".to_owned(),
            format!("--listen={sessions}"),
            format!("--admin-listen={admin}"),
            format!("--enroll-listen={enrollment}"),
            "--log-format=json".to_owned(),
            format!("--ca-secret={authority}"),
            format!("--ca-server-names={SERVER_NAME},127.0.0.1"),
        ];
        arguments.extend(settings.iter().map(|&setting| setting.to_owned()));
        let mut hub = Self {
            program: ground.lab.program("berth-hub"),
            arguments,
            kubeconfig: rights.kubeconfig.clone(),
            process: None,
            sessions,
            enrollment,
            admin,
            log,
        };
        hub.restart().await?;
        Ok(hub)
    }

    /// Ends it, as a crash would.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.kill().await?;
        }
        Ok(())
    }

    /// Starts it, again on the same ports, and waits until it is ready.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        let kubeconfig = self.kubeconfig.display().to_string();
        let environment = [("BERTH_KUBECONFIG".to_owned(), kubeconfig)];
        let started = Leashed::start(&self.program, &self.arguments, environment, &self.log)?;
        self.process = Some(started);
        await_ready(self.admin, &self.log).await
    }

    pub(crate) fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }

    /// The lines of its audit log in which these fields have these values.
    pub(crate) fn audit(&self, fields: &[(&str, &str)]) -> Result<Vec<Value>> {
        let log = self.log()?;
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let fits = |line: &Value| {
            line["target"] == "audit" && fields.iter().all(|(name, value)| line[*name] == *value)
        };
        Ok(lines.filter(fits).collect())
    }

    /// The sum of a counter over the lines with this label; 0 where it has not counted yet.
    pub(crate) async fn counted(&self, metric: &str, label: &str) -> Result<f64> {
        let metrics = get(self.admin, "/metrics").await?.1;
        let lines = metrics.lines();
        let values = lines.filter(|line| line.starts_with(metric) && line.contains(label));
        let values = values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum())
    }

    /// A new token for a tenant, which is created where there is none, and the whole command that was printed.
    pub(crate) fn token(&self, ground: &Ground, tenant: &str, more: &[&str]) -> Result<Joining> {
        let (hub, enrollment) = (self.sessions.to_string(), self.enrollment.to_string());
        let mut arguments = vec!["token", "create", tenant, "--create"];
        arguments.extend(["--hub", &hub, "--enroll", &enrollment]);
        arguments.extend(["--server-name", SERVER_NAME]);
        arguments.extend(more);
        let command = ground.operated(&arguments)?;
        Joining::read(command)
    }
}

/// What `token create` printed.
pub(crate) struct Joining {
    /// Helm's arguments.
    pub(crate) arguments: Vec<String>,
    pub(crate) token: String,
    pub(crate) pin: Pin,
}

impl Joining {
    fn read(command: String) -> Result<Self> {
        let words: Vec<String> = command
            .replace("\\\n", " ")
            .split_whitespace()
            .map(|word| word.trim_matches('\'').to_owned())
            .collect();
        let value = |key: &str| {
            let start = format!("{key}=");
            let found = words.iter().find_map(|word| word.strip_prefix(&start));
            found.with_context(|| format!("no {key} in {command}"))
        };
        let (token, pin) = (value("enroll.token")?.to_owned(), value("enroll.caHash")?);
        let pin = pin.parse()?;
        let first = words.iter().position(|word| word.starts_with("--set"));
        let arguments = words[first.context("no values")?..].to_vec();
        Ok(Self {
            arguments,
            token,
            pin,
        })
    }

    /// The token's id, as `token list` and the audit have it.
    pub(crate) fn id(&self) -> Result<String> {
        let token = berth_hub::enroll::Token::parse(&self.token).context("no token")?;
        Ok(token.digest().id().to_string())
    }
}

/// Waits until the program with this admin port is ready.
pub(crate) async fn await_ready(admin: SocketAddr, log: &Path) -> Result<()> {
    eventually(SOON, "the program is ready", || async {
        match get(admin, "/readyz").await {
            Ok((200, _)) => Ok(()),
            Ok((status, body)) => Err(Seen(format!("/readyz: {status} {body}"))),
            Err(error) => Err(Seen(format!(
                "{error:#}; {}",
                std::fs::read_to_string(log).unwrap_or_default()
            ))),
        }
    })
    .await?;
    Ok(())
}

/// A page of an admin port.
pub(crate) async fn get(admin: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(admin).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, answer))
}

/// A port that is free, and is given to nobody else here. Below those that the kernel gives to clients.
pub(crate) fn free() -> Result<SocketAddr> {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() % 20_000)?;
    loop {
        let port = first + GIVEN.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        ensure!(port < 32_000, "no port is free");
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
}

/// The DER of the first certificate of a PEM text.
pub(crate) fn der(pem: &str) -> Result<Vec<u8>> {
    let all = certificates_from_pem(Path::new("answer"), pem.as_bytes())?;
    Ok(all.first().context("no certificate")?.to_vec())
}
