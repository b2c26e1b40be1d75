//! The certificate that the hub serves with: out of files that somebody else renews, or issued by its own authority, in memory, and
//! renewed here. Two configurations are made from it, for the port of the sessions and for that of enrollment.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use berth_common::{
    identity::KeyId,
    tls::{ServerTls, TlsError, TlsFiles, renewal},
};
use tracing::{info, warn};

use crate::ca::{Authority, CaError, Issuing};

/// A clock that was set back or forward is noticed within this time.
const LOOK: Duration = Duration::from_secs(60);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// The authority did not issue it.
    #[error("the hub's own certificate cannot be issued")]
    Authority(#[from] CaError),
    /// It cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The hub's certificate.
#[derive(Clone)]
pub struct Serving {
    sessions: Arc<ServerTls>,
    enrollment: Arc<ServerTls>,
    own: Option<Own>,
}

/// What it is issued by, and for which names.
#[derive(Clone)]
struct Own {
    issuing: Arc<Issuing>,
    names: Vec<String>,
}

impl Serving {
    /// From files.
    ///
    /// # Errors
    /// [`ServingError::Tls`].
    pub fn from_files(files: TlsFiles, now: SystemTime) -> Result<Self, ServingError> {
        Ok(Self {
            sessions: ServerTls::server(files.clone(), now)?,
            enrollment: ServerTls::open_server(files, now)?,
            own: None,
        })
    }

    /// By the hub's own authority.
    ///
    /// # Errors
    /// [`ServingError`].
    pub fn issued(
        issuing: Arc<Issuing>,
        names: Vec<String>,
        now: SystemTime,
    ) -> Result<Self, ServingError> {
        let issued = issuing.server(&names, now)?;
        let (cert, key, ca) = (&issued.certificate, &issued.key, &issued.bundle);
        Ok(Self {
            sessions: ServerTls::server_in_memory(cert, key, ca, now)?,
            enrollment: ServerTls::open_server_in_memory(cert, key, ca, now)?,
            own: Some(Own { issuing, names }),
        })
    }

    /// For the port of the sessions.
    pub fn sessions(&self) -> &Arc<ServerTls> {
        &self.sessions
    }

    /// For the port of enrollment.
    pub fn enrollment(&self) -> &Arc<ServerTls> {
        &self.enrollment
    }

    /// Another one now, in place of one that the hub issued itself; connections that are open keep theirs.
    ///
    /// # Errors
    /// [`ServingError`]; then the one before stays in use.
    pub fn renew(&self, now: SystemTime) -> Result<(), ServingError> {
        let Some(own) = &self.own else { return Ok(()) };
        let issued = own.issuing.server(&own.names, now)?;
        let (cert, key, ca) = (&issued.certificate, &issued.key, &issued.bundle);
        self.enrollment.swap(cert, key, ca, now)?;
        self.sessions.swap(cert, key, ca, now)?;
        Ok(())
    }

    /// Whether certificates of all that this authority trusts are let in. What is issued here trusts them by itself, and is renewed with
    /// them; files are somebody else's.
    pub fn trusts(&self, authority: &Authority) -> bool {
        let current = self.sessions.current();
        let has = |key: &KeyId| current.authorities.iter().any(|it| it.key == Some(*key));
        self.own.is_some() || authority.trusted().iter().all(has)
    }

    /// Keeps it good, for ever: looks at files this often, or renews what is issued here.
    pub async fn keep(self, every: Duration) {
        if self.own.is_some() {
            return self.renew_in_time().await;
        }
        tokio::join!(self.sessions.watch(every), self.enrollment.watch(every));
    }

    async fn renew_in_time(&self) {
        let mut failures = 0;
        loop {
            let (current, now) = (self.sessions.current(), SystemTime::now());
            let until = renewal::due(&current.leaf)
                .duration_since(now)
                .unwrap_or_default();
            if !until.is_zero() {
                tokio::time::sleep(until.min(LOOK)).await;
                continue;
            }
            match self.renew(now) {
                Ok(()) => {
                    failures = 0;
                    let serial = &self.sessions.current().leaf.serial;
                    info!(%serial, "the hub's own certificate is renewed");
                }
                Err(error) => {
                    let left = current
                        .leaf
                        .not_after
                        .duration_since(now)
                        .unwrap_or_default();
                    warn!(
                        "the hub's own certificate is not renewed: {:#}; it is good for {} more",
                        anyhow::Error::from(error),
                        berth_common::tls::in_words(left)
                    );
                    let wait = renewal::retry(failures, left, fastrand::f64());
                    failures = failures.saturating_add(1);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}
