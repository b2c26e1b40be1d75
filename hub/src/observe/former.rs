//! Tenants that were deleted, and when: an annotation on their namespaces, which stay. Whoever still has a certificate of one is not
//! its successor of the same name, and no object of the successor's says so.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use berth_common::identity::TenantName;
use k8s_openapi::{api::core::v1::Namespace, jiff::Timestamp};
use tokio::sync::watch;

use crate::objects::DELETED_AT;

#[derive(Debug, Default)]
struct Known {
    synced: bool,
    until: BTreeMap<TenantName, SystemTime>,
}

/// When Tenants of these names were last deleted, as far as that is known.
#[derive(Debug)]
pub struct Former(watch::Sender<Known>);

impl Default for Former {
    fn default() -> Self {
        Self(watch::Sender::new(Known::default()))
    }
}

impl Former {
    /// Until when a name was another Tenant's.
    pub fn of(&self, tenant: &TenantName) -> Option<SystemTime> {
        self.0.borrow().until.get(tenant).copied()
    }

    /// Resolves when all namespaces were seen once.
    pub async fn synced(&self) {
        // The sender is ours, and lives as long as the borrow.
        let _ = self.0.subscribe().wait_for(|known| known.synced).await;
    }

    /// Resolves when anything has changed since the call.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut known = self.0.subscribe();
        async move {
            if known.changed().await.is_err() {
                // Nothing will ever change.
                std::future::pending::<()>().await;
            }
        }
    }

    /// It was written just now, and the watch has yet to tell.
    pub fn noted(&self, tenant: &TenantName, until: SystemTime) {
        self.0
            .send_if_modified(|known| known.until.insert(tenant.clone(), until) != Some(until));
    }

    pub(super) fn reported(&self, namespace: &Namespace) {
        let Some((tenant, until)) = read(namespace) else {
            return;
        };
        self.0.send_if_modified(|known| match until {
            Some(until) => known.until.insert(tenant, until) != Some(until),
            None => known.until.remove(&tenant).is_some(),
        });
    }

    pub(super) fn reported_gone(&self, namespace: &Namespace) {
        if let Some((tenant, _)) = read(namespace) {
            self.0
                .send_if_modified(|known| known.until.remove(&tenant).is_some());
        }
    }

    /// A complete list.
    pub(super) fn listed(&self, namespaces: &[Namespace]) {
        let all = namespaces.iter().filter_map(read);
        let until: BTreeMap<_, _> = all
            .filter_map(|(name, until)| Some((name, until?)))
            .collect();
        self.0.send_if_modified(|known| {
            let news = !known.synced || known.until != until;
            *known = Known {
                synced: true,
                until,
            };
            news
        });
    }
}

/// What the annotation is to say: the next whole second, for certificates tell no fractions of one.
pub fn deleted_at(now: SystemTime) -> (SystemTime, String) {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since.unwrap_or_default().as_secs() + 1;
    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let text = Timestamp::try_from(until).unwrap_or_default().to_string();
    (until, text)
}

/// Whose namespace this is, and what it says. One that says it in no way that can be read says nothing.
fn read(namespace: &Namespace) -> Option<(TenantName, Option<SystemTime>)> {
    let name = namespace.metadata.name.as_ref()?.strip_prefix("berth-")?;
    let tenant = TenantName::parse(name).ok()?;
    let annotations = namespace.metadata.annotations.as_ref();
    let text = annotations.and_then(|all| all.get(DELETED_AT));
    let until = text.and_then(|text| text.parse::<Timestamp>().ok());
    Some((tenant, until.map(SystemTime::from)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str, deleted_at: Option<&str>) -> Namespace {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.into());
        let annotation = deleted_at.map(|text| (DELETED_AT.to_owned(), text.to_owned()));
        namespace.metadata.annotations = annotation.map(|it| [it].into());
        namespace
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_only_of_tenants_namespaces() {
        let (until, text) = deleted_at(SystemTime::UNIX_EPOCH + Duration::from_millis(7_200));
        assert_eq!(text, "1970-01-01T00:00:08Z");
        let former = Former::default();
        let acme = TenantName::parse("acme").unwrap();
        former.listed(&[
            namespace("berth-acme", Some(&text)),
            namespace("berth-bravo", None),
            namespace("acme", Some(&text)),
            namespace("berth-odd", Some("yesterday")),
        ]);
        former.synced().await;
        assert_eq!(former.of(&acme), Some(until));
        assert_eq!(former.0.borrow().until.len(), 1);

        let changed = former.changed();
        former.reported(&namespace("berth-acme", None));
        changed.await;
        assert_eq!(former.of(&acme), None, "the operator took it away");
        former.noted(&acme, until);
        former.reported_gone(&namespace("berth-acme", Some(&text)));
        assert_eq!(former.of(&acme), None);
    }
}
