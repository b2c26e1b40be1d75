//! Keeps the certificate good: at half of its life, or when the hub says that its authority changes, it asks the hub for another one, over the session's own connection where there is
//! one, and puts it into the Secret and into use. Where that fails it tries again, tells people, and goes on with the old one to its last
//! second; then only the grace of the hub's operator helps, or a join token.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use berth_common::tls::{ClientTls, Reload, TlsError, format_time, in_words};
use berth_wire::v1::{self, renewal_client::RenewalClient};
use tokio::time::timeout;
use tonic::Status;
use tracing::{debug, info, warn};

use super::{
    held::{Given, Held, State},
    join::{Joiner, given},
    pace::{Pace, Step},
    vault::{Stored, VaultError},
};
use crate::{
    dial::{DialError, Dialer},
    events::Events,
    link::Live,
    metrics::AgentMetrics,
    status::Notice,
};

/// A clock that was set, and a certificate that somebody else has renewed, are noticed within this time.
const LOOK: Duration = Duration::from_secs(60);
/// For the hub's answer.
const ANSWER: Duration = Duration::from_secs(15);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the hub refuses: {}", .0.message())]
    Refused(Status),
    #[error("the hub did not answer within {} s", ANSWER.as_secs())]
    Silent,
    #[error("what the hub has given cannot be used: {0}")]
    Unusable(#[from] TlsError),
    #[error("the key in the Secret cannot be used: {0}")]
    Key(#[from] rcgen::Error),
    #[error("the Secret is being changed by others")]
    Contended,
}

/// Keeps one agent's certificate.
pub struct Renewer {
    joiner: Joiner,
    stored: Stored,
    tls: Arc<ClientTls>,
    dialer: Dialer,
    live: Live,
    events: Arc<Events>,
    metrics: AgentMetrics,
    pace: Pace,
}

impl Renewer {
    /// Of what `joiner` has obtained. `dialer` and `live` are the link's.
    pub fn new(
        joiner: Joiner,
        stored: Stored,
        dialer: Dialer,
        live: Live,
        events: Arc<Events>,
        metrics: AgentMetrics,
    ) -> Self {
        let tls = Arc::clone(dialer.tls());
        Self {
            joiner,
            stored,
            tls,
            dialer,
            live,
            events,
            metrics,
            pace: Pace::default(),
        }
    }

    /// For ever: end it by dropping it.
    pub async fn run(mut self) {
        loop {
            let leaf = self.tls.current().leaf.clone();
            self.metrics.certificate_ends(leaf.not_after);
            let now = SystemTime::now();
            if now > leaf.not_after {
                self.over().await;
                continue;
            }
            self.hear(now);
            if self.live.channel().is_none() {
                self.catch_up().await;
            }
            let leaf = self.tls.current().leaf.clone();
            match self.pace.step(&leaf, now) {
                Step::Over => continue,
                Step::Wait(until) => {
                    tokio::select! {
                        () = tokio::time::sleep(until.min(LOOK)) => {}
                        () = self.live.asked_again(self.pace.asked()) => {}
                    }
                    continue;
                }
                Step::Renew => {}
            }
            match self.renew().await {
                Ok(()) => self.renewed(),
                Err(error) => {
                    let left = leaf.not_after.duration_since(now).unwrap_or_default();
                    let failed = self.pace.failed(left, fastrand::f64());
                    self.failed(&error, left, leaf.not_after, failed.first);
                    tokio::time::sleep(failed.wait).await;
                }
            }
        }
    }

    /// Takes in what the hub has asked for.
    fn hear(&mut self, now: SystemTime) {
        let (count, within) = self.live.asked();
        if self.pace.heard(count, within, now, fastrand::f64()) {
            info!("the hub asks for the certificate to be renewed, for its authority changes");
        }
    }

    /// While there is no session, it may be because the certificate in use is one that another agent of this tenant has renewed long ago.
    async fn catch_up(&mut self) {
        match self.joiner.vault().read().await {
            Ok(Some(stored)) => {
                match self.adopt(&stored.held) {
                    Ok(true) => info!("another agent of this cluster has renewed the certificate"),
                    Ok(false) => {}
                    Err(error) => debug!("what is in the Secret cannot be used: {error}"),
                }
                self.stored = stored;
            }
            Ok(None) => {}
            Err(error) => debug!("{error}"),
        }
    }

    async fn renew(&mut self) -> Result<(), RenewError> {
        // Another agent of this tenant may have done it; what the hub has asked for, it has asked this one for.
        if let Some(stored) = self.joiner.vault().read().await? {
            let newer = self.adopt(&stored.held)?;
            self.stored = stored;
            if newer && !self.pace.is_asked() {
                return Ok(());
            }
        }
        let request = v1::RenewRequest {
            csr: self.stored.held.request()?.into(),
        };
        let (number, channel) = match self.live.channel() {
            Some((number, channel)) => (Some(number), channel),
            None => (None, self.dialer.dial().await?.channel),
        };
        let mut client = RenewalClient::new(channel);
        let response = match timeout(ANSWER, client.renew(request)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(RenewError::Refused(status)),
            Err(_) => return Err(RenewError::Silent),
        };
        let held = self.stored.held.with(given(response));
        // First kept, then used: what is lost in between was never shown to anybody.
        self.keep(&held).await?;
        self.adopt(&held)?;
        if let Some(number) = number {
            self.live.extend(number, self.tls.current().leaf.not_after);
        }
        Ok(())
    }

    /// Into the Secret; made anew where somebody has deleted it.
    async fn keep(&mut self, held: &Held) -> Result<(), RenewError> {
        let vault = self.joiner.vault().clone();
        for _ in 0..3 {
            let kept = match vault.read().await? {
                Some(stored) if stored.held.key == held.key => vault.replace(&stored, held).await?,
                // Another key: a person has put another identity there, which is adopted next time.
                Some(_) => return Err(RenewError::Contended),
                None => vault.create(held).await?,
            };
            if let Some(stored) = kept {
                self.stored = stored;
                return Ok(());
            }
        }
        Err(RenewError::Contended)
    }

    /// Takes a certificate into use, if it is good, another one, and ends no earlier than the one in use. Whether it did.
    fn adopt(&self, held: &Held) -> Result<bool, RenewError> {
        let now = SystemTime::now();
        let (
            Some(Given {
                certificate,
                authorities,
            }),
            State::Good(other),
        ) = (&held.certificate, held.state(now))
        else {
            return Ok(false);
        };
        // Of two that end in the same second, the one that was given later.
        if other.current().leaf.not_after < self.tls.current().leaf.not_after {
            return Ok(false);
        }
        let swapped = self.tls.swap(certificate, &held.key, authorities, now)?;
        Ok(swapped == Reload::Swapped)
    }

    fn renewed(&mut self) {
        let after_trouble = self.pace.renewed();
        let leaf = &self.tls.current().leaf;
        info!(serial = %leaf.serial, not_after = %format_time(leaf.not_after), "the certificate is renewed");
        self.metrics.renewed("ok");
        if after_trouble {
            let note = format!(
                "renewed after trouble; good until {}",
                format_time(leaf.not_after)
            );
            self.tell(Notice::normal("CertificateRenewed", note));
        }
    }

    fn failed(&self, error: &RenewError, left: Duration, end: SystemTime, first: bool) {
        self.metrics.renewed("failed");
        let text = format!(
            "the certificate is not renewed: {error}; the one in use is good for {} more, until {}",
            in_words(left),
            format_time(end)
        );
        warn!("{text}");
        if first {
            self.tell(Notice::warning("CertificateRenewalFailed", text));
        }
    }

    /// The certificate has ended: the hub gives another one for it where its operator allows that. Else only a token helps, or somebody who
    /// puts another one into the Secret.
    async fn over(&mut self) {
        if let Ok((stored, _)) = self.joiner.attempt().await {
            return self.back(stored);
        }
        let note = "the certificate has expired, and this cluster's load balancers stay as they are until there is another one: the \
                    hub's operator makes a token with `berth-hub token create`";
        warn!("{note}");
        self.tell(Notice::warning("CertificateExpired", note));
        let (stored, _) = self.joiner.obtain().await;
        self.back(stored);
    }

    fn back(&mut self, stored: Stored) {
        if let Err(error) = self.adopt(&stored.held) {
            warn!("{error}");
        }
        self.stored = stored;
        self.pace.back();
    }

    fn tell(&self, notice: Notice) {
        let name = self.joiner.vault().name();
        let key = berth_common::model::ServiceKey::new(&name.namespace, &name.name);
        self.events.about_secret(&key, &self.stored.uid(), notice);
    }
}
