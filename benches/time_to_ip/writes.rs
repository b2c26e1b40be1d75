//! Who wrote how often for each Service, from the API server's audit log. Knows users; must not know targets.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use berth_lab::Audit;

use crate::ground::Ground;

/// The lab's own user, which creates and deletes the Services.
const BENCH: &str = "admin";

/// A place in the audit log of the management cluster, and in that of the tenant's.
pub(crate) struct Marks(usize, usize);

impl Marks {
    /// Where the logs end so far.
    pub(crate) async fn now(ground: &Ground) -> Result<Self> {
        let (management, tenant) = (ground.lab.management(), ground.lab.acme());
        let ends = (management.audit().await?.0, tenant.audit().await?.0);
        Ok(Self(ends.0.len(), ends.1.len()))
    }

    /// What was written to each since, for that many Services.
    pub(crate) async fn until_now(
        &self,
        ground: &Ground,
        services: usize,
    ) -> Result<(PerService, PerService)> {
        let management = ground.lab.management().audit().await?.since(self.0);
        let tenant = ground.lab.acme().audit().await?.since(self.1);
        let per_service = |audit| PerService::new(audit, services);
        Ok((per_service(&management), per_service(&tenant)))
    }
}

/// Writes per Service by user and kind: `patch services/status`.
#[derive(Debug, Clone)]
pub(crate) struct PerService {
    counts: BTreeMap<(String, String), u32>,
    services: u32,
}

impl PerService {
    fn new(audit: &Audit, services: usize) -> Self {
        let mut counts = BTreeMap::new();
        for write in audit.0.iter().filter(|write| write.user != BENCH) {
            // `system:serviceaccount:berth-system:berth-hub` is known as `berth-hub`.
            let user = write.user.rsplit(':').next().unwrap_or_default();
            let kind = format!("{} {}", write.verb, write.resource);
            *counts.entry((user.to_owned(), kind)).or_default() += 1;
        }
        let services = u32::try_from(services).unwrap_or(u32::MAX);
        Self { counts, services }
    }

    /// Those of a user, of events or of everything else.
    pub(crate) fn of(&self, user: &str, events: bool) -> f64 {
        let of_user = self
            .counts
            .iter()
            .filter(|((writer, kind), _)| writer == user && kind.ends_with(" events") == events);
        self.each(of_user.map(|(_, count)| count).sum())
    }

    fn each(&self, count: u32) -> f64 {
        f64::from(count) / f64::from(self.services.max(1))
    }
}

impl fmt::Display for PerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = "";
        for ((user, kind), count) in &self.counts {
            // A few for the whole burst (a new token, a namespace) say nothing about one Service.
            if self.each(*count) < 0.05 {
                continue;
            }
            let separator = match (last == user, last.is_empty()) {
                (true, _) => ", ".to_owned(),
                (false, true) => format!("{user}: "),
                (false, false) => format!("; {user}: "),
            };
            write!(f, "{separator}{:.1} {kind}", self.each(*count))?;
            last = user;
        }
        Ok(())
    }
}
