//! A running hub follows its authority's place: every replica reads it at intervals, and takes what it finds there into use. A step of a
//! rotation is thus in force everywhere within [`EVERY`] of its writing. What cannot be used replaces nothing.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use berth_common::identity::{KeyId, TrustDomain};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Authority, CaError, Issuing, store::Place};
use crate::{
    serving::{Serving, ServingError},
    tenants::Tenants,
};

/// Between two readings. One small Secret each time: a watch would need a right more, and be no faster than anybody needs.
pub const EVERY: Duration = Duration::from_secs(5);

/// Why what is found is not taken into use.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Place(#[from] CaError),
    #[error(transparent)]
    Serving(#[from] ServingError),
    #[error(
        "the file of tls.clientCa does not have all authorities of {0}: put them there first, so that this hub lets in whom it admits"
    )]
    NotTrusted(String),
}

/// Runs until stopped.
pub async fn follow(
    place: Place,
    trust_domain: TrustDomain,
    issuing: Arc<Issuing>,
    serving: Serving,
    tenants: Arc<Tenants>,
    stop: CancellationToken,
) {
    let (mut said, mut unserved) = (None, false);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        match look(&place, &trust_domain, &issuing, &serving, &mut unserved).await {
            Ok(None) => said = None,
            Ok(Some(before)) => {
                said = None;
                let now = issuing.authority();
                let is_former = |key: &&KeyId| !now.trusted().contains(key);
                tenants.distrust(before.trusted().iter().filter(is_former).copied());
                say(&place, &now);
            }
            Err(error) => {
                let text = format!("{:#}", anyhow::Error::from(error));
                if said.as_ref() != Some(&text) {
                    warn!("the authority stays as it was: {text}");
                    said = Some(text);
                }
            }
        }
    }
}

/// What was in use before, where there was something new.
async fn look(
    place: &Place,
    trust_domain: &TrustDomain,
    issuing: &Issuing,
    serving: &Serving,
    unserved: &mut bool,
) -> Result<Option<Arc<Authority>>, FollowError> {
    let (kept, version) = place.kept().await?;
    let now = issuing.authority();
    if !Place::is_ours(&version) {
        return Ok(None);
    }
    let found = kept.authority(Some(trust_domain), &place.to_string())?;
    if is_same(&found, &now) && !*unserved {
        return Ok(None);
    }
    if !serving.trusts(&found) {
        return Err(FollowError::NotTrusted(place.to_string()));
    }
    // Where the hub cannot serve with it yet, it tries again.
    *unserved = true;
    issuing.exchange(found);
    serving.renew(SystemTime::now())?;
    *unserved = false;
    Ok(Some(now))
}

fn is_same(a: &Authority, b: &Authority) -> bool {
    a.bundle() == b.bundle() && a.cross() == b.cross() && a.facts() == b.facts()
}

fn say(place: &Place, authority: &Authority) {
    let keys: Vec<String> = authority
        .trusted()
        .iter()
        .map(ToString::to_string)
        .collect();
    let signs = &authority.facts().subject;
    info!(trusted = %keys.join(","), "the authority in {place} has changed: {signs} signs");
}
