//! The configuration in use, and its replacement when the files under it change. Files are compared by content, at
//! intervals: Kubernetes swaps a symlink two levels above them, which no watch of the files themselves sees.
//! A set of files that cannot be used never replaces one that can.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{ClientConfig, ServerConfig};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

use super::{
    Credentials, Health, Role, TlsError, TlsFiles, Validity, client_config, credentials::RawFiles,
    format_time, open_server_config, server_config,
};
use crate::identity::CertificateFacts;

/// The hub's end.
pub type ServerTls = TlsSource<ServerConfig>;
/// The agent's end.
pub type ClientTls = TlsSource<ClientConfig>;

/// A configuration and what it was made from. A connection keeps the one that it began with.
#[derive(Debug)]
pub struct Current<C> {
    /// To hand to an acceptor or a connector.
    pub config: Arc<C>,
    /// Our own certificate.
    pub leaf: CertificateFacts,
    /// The authorities trusted.
    pub authorities: Vec<CertificateFacts>,
    digest: [u8; 32],
}

/// What [`TlsSource::reload`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// The files are the same as before.
    Unchanged,
    /// The files were new, and are in use now.
    Swapped,
}

/// Credentials that follow their files.
pub struct TlsSource<C> {
    files: TlsFiles,
    role: Role,
    build: fn(&Credentials) -> Result<C, TlsError>,
    current: ArcSwap<Current<C>>,
    revision: watch::Sender<u64>,
    said: Mutex<Said>,
}

/// What was logged last, so that nothing is logged twice.
#[derive(Default)]
struct Said {
    failure: Option<String>,
    stage: Option<(String, Stage)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Ageing,
    Expired,
}

impl TlsSource<ServerConfig> {
    /// The hub's credentials, read now. Anything wrong with them is the caller's reason not to start.
    pub fn server(files: TlsFiles, now: SystemTime) -> Result<Arc<Self>, TlsError> {
        Self::open(files, Role::Server, server_config, now)
    }

    /// The same for clients that have no certificate yet (see [`open_server_config`]).
    pub fn open_server(files: TlsFiles, now: SystemTime) -> Result<Arc<Self>, TlsError> {
        Self::open(files, Role::Server, open_server_config, now)
    }

    /// Credentials that lie in no file: [`TlsSource::swap`] replaces them.
    pub fn server_in_memory(
        cert: &str,
        key: &str,
        ca: &str,
        now: SystemTime,
    ) -> Result<Arc<Self>, TlsError> {
        Self::in_memory(cert, key, ca, Role::Server, server_config, now)
    }

    /// The same for clients that have no certificate yet.
    pub fn open_server_in_memory(
        cert: &str,
        key: &str,
        ca: &str,
        now: SystemTime,
    ) -> Result<Arc<Self>, TlsError> {
        Self::in_memory(cert, key, ca, Role::Server, open_server_config, now)
    }
}

impl TlsSource<ClientConfig> {
    /// The agent's credentials, read now.
    pub fn client(files: TlsFiles, now: SystemTime) -> Result<Arc<Self>, TlsError> {
        Self::open(files, Role::Client, client_config, now)
    }

    /// Credentials that lie in no file: [`TlsSource::swap`] replaces them.
    pub fn client_in_memory(
        cert: &str,
        key: &str,
        ca: &str,
        now: SystemTime,
    ) -> Result<Arc<Self>, TlsError> {
        Self::in_memory(cert, key, ca, Role::Client, client_config, now)
    }
}

impl<C: Send + Sync + 'static> TlsSource<C> {
    fn open(
        files: TlsFiles,
        role: Role,
        build: fn(&Credentials) -> Result<C, TlsError>,
        now: SystemTime,
    ) -> Result<Arc<Self>, TlsError> {
        let first = load(&files, role, build, now)?;
        Ok(Self::holding(files, role, build, first))
    }

    fn in_memory(
        cert: &str,
        key: &str,
        ca: &str,
        role: Role,
        build: fn(&Credentials) -> Result<C, TlsError>,
        now: SystemTime,
    ) -> Result<Arc<Self>, TlsError> {
        let nowhere = |name: &str| Path::new("(memory)").join(name);
        let files = TlsFiles {
            cert: nowhere("tls.crt"),
            key: nowhere("tls.key"),
            ca: nowhere("ca.crt"),
        };
        let raw = RawFiles::new(cert, key, ca);
        let credentials = Credentials::parse(&files, &raw, role, now)?;
        let first = make(&credentials, raw.digest(), build)?;
        Ok(Self::holding(files, role, build, first))
    }

    fn holding(
        files: TlsFiles,
        role: Role,
        build: fn(&Credentials) -> Result<C, TlsError>,
        first: Current<C>,
    ) -> Arc<Self> {
        Arc::new(Self {
            files,
            role,
            build,
            current: ArcSwap::from_pointee(first),
            revision: watch::Sender::new(0),
            said: Mutex::default(),
        })
    }

    /// What is in use now.
    pub fn current(&self) -> Arc<Current<C>> {
        self.current.load_full()
    }

    /// How our own certificate stands at `now`, for readiness, metrics and doctor.
    pub fn health(&self, now: SystemTime) -> Health {
        Validity::from(&self.current.load().leaf).health(now)
    }

    /// Counts the replacements; a change is seen by [`watch::Receiver::changed`].
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Reads the files once, and swaps if they are new and usable.
    pub fn reload(&self, now: SystemTime) -> Result<Reload, TlsError> {
        let raw = self.files.read()?;
        let seen = raw.digest();
        if seen == self.current.load().digest {
            return Ok(Reload::Unchanged);
        }
        let next = match Credentials::parse(&self.files, &raw, self.role, now) {
            Ok(credentials) => make(&credentials, seen, self.build)?,
            // Read across a swap, certificate and key may be of different pairs: what a second reading gives, counts.
            Err(error) if self.files.read()?.digest() == seen => return Err(error),
            Err(_) => load(&self.files, self.role, self.build, now)?,
        };
        self.current.store(Arc::new(next));
        self.revision.send_modify(|revision| *revision += 1);
        Ok(Reload::Swapped)
    }

    /// Puts others in the place of credentials that lie in no file. What cannot be used replaces nothing.
    pub fn swap(
        &self,
        cert: &str,
        key: &str,
        ca: &str,
        now: SystemTime,
    ) -> Result<Reload, TlsError> {
        let raw = RawFiles::new(cert, key, ca);
        let digest = raw.digest();
        if digest == self.current.load().digest {
            return Ok(Reload::Unchanged);
        }
        let credentials = Credentials::parse(&self.files, &raw, self.role, now)?;
        self.current
            .store(Arc::new(make(&credentials, digest, self.build)?));
        self.revision.send_modify(|revision| *revision += 1);
        Ok(Reload::Swapped)
    }

    /// Looks at the files every `every` (10 s is a good value), for ever: run it as a task, end it by dropping it.
    ///
    /// A failure is logged once, not at each look; so is each stage of our own certificate's ageing.
    pub async fn watch(self: Arc<Self>, every: Duration) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let source = Arc::clone(&self);
            // Reading a file may block for long where the volume is remote. The task panics only where reload does,
            // and then the next look is as good.
            let _ = tokio::task::spawn_blocking(move || source.look(SystemTime::now())).await;
        }
    }

    /// One look: reload, and say what is new.
    fn look(&self, now: SystemTime) {
        let result = self.reload(now);
        let current = self.current();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(Reload::Unchanged) => said.failure = None,
            Ok(Reload::Swapped) => {
                *said = Said::default();
                info!(
                    certificate = %self.files.cert.display(),
                    serial = %current.leaf.serial,
                    not_after = %format_time(current.leaf.not_after),
                    "TLS files changed and are in use for new connections"
                );
            }
            Err(problem) => {
                let text = chain(&problem);
                if said.failure.as_ref() != Some(&text) {
                    warn!(problem = %text, "TLS files changed and cannot be used; the ones before stay in use");
                    said.failure = Some(text);
                }
            }
        }
        said.ageing(&self.files, &current.leaf, now);
    }
}

impl Said {
    fn ageing(&mut self, files: &TlsFiles, leaf: &CertificateFacts, now: SystemTime) {
        let health = Validity::from(leaf).health(now);
        let stage = match health {
            Health::Ageing { .. } => Stage::Ageing,
            Health::Expired { .. } => Stage::Expired,
            Health::Good { .. } | Health::NotYetValid { .. } => return,
        };
        let said = (leaf.serial.to_string(), stage);
        if self.stage.as_ref() == Some(&said) {
            return;
        }
        self.stage = Some(said);
        let certificate = files.cert.display();
        match stage {
            Stage::Ageing => warn!(%certificate, %health, "our certificate should be renewed"),
            Stage::Expired => {
                error!(%certificate, %health, "our certificate is over: every new handshake will fail")
            }
        }
    }
}

fn load<C>(
    files: &TlsFiles,
    role: Role,
    build: fn(&Credentials) -> Result<C, TlsError>,
    now: SystemTime,
) -> Result<Current<C>, TlsError> {
    let raw = files.read()?;
    make(
        &Credentials::parse(files, &raw, role, now)?,
        raw.digest(),
        build,
    )
}

fn make<C>(
    credentials: &Credentials,
    digest: [u8; 32],
    build: fn(&Credentials) -> Result<C, TlsError>,
) -> Result<Current<C>, TlsError> {
    Ok(Current {
        config: Arc::new(build(credentials)?),
        leaf: credentials.leaf.clone(),
        authorities: credentials.authority_facts.clone(),
        digest,
    })
}

/// An error and its sources in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
