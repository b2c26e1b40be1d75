//! The accounts of all tenants: who has which place, who waits, and whom something has become of. Quotas come with every
//! question and with every change of a Tenant; of two the newer version of the object counts, for a plan may have read the older.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use berth_common::{identity::TenantName, model::ServiceKey};

use super::{
    account::Account,
    terms::{Holding, Limits, News, Said, Usage},
};

/// See the module.
#[derive(Debug, Default)]
pub struct Ledger {
    accounts: BTreeMap<TenantName, Book>,
    /// Whose account has news.
    stirred: BTreeSet<TenantName>,
    /// Who waits, of all tenants.
    waiting: usize,
    /// How often what some tenant uses has changed.
    moves: u64,
}

#[derive(Debug, Default)]
struct Book {
    account: Account,
    /// Of the Tenant that the limits are from.
    version: u64,
}

impl Book {
    fn limit(&mut self, version: u64, limits: Limits) {
        if self.version <= version {
            self.version = version;
            if !self.account.has(limits) {
                self.account.limit(limits);
            }
        }
    }
}

impl Ledger {
    /// What a version of the Tenant says of a tenant's quotas.
    pub fn limit(&mut self, tenant: &TenantName, version: u64, limits: Limits) {
        if self.accounts.contains_key(tenant) {
            self.with(tenant, |book| book.limit(version, limits));
        }
    }

    /// The management cluster has this of a key; `None`: nothing.
    pub fn observe(&mut self, tenant: &TenantName, key: &ServiceKey, seen: Option<Holding>) {
        if seen.is_none() && !self.accounts.contains_key(tenant) {
            return;
        }
        self.with(tenant, |book| book.account.observe(key, seen));
    }

    /// A key was planned: with so many ports it is to be there, or (`None`) there is nothing to write for it.
    pub fn ask(
        &mut self,
        tenant: &TenantName,
        key: &ServiceKey,
        ports: Option<usize>,
        (version, limits): (u64, Limits),
        now: Instant,
    ) -> Said {
        let known = self.accounts.get(tenant);
        let idle = |book: &Book| book.account.has(limits) && book.account.is_settled(key, ports);
        if known.map_or(ports.is_none(), idle) {
            return Said::GRANTED;
        }
        self.with(tenant, |book| {
            book.limit(version, limits);
            match ports {
                Some(ports) => book.account.ask(key, ports, now),
                None => Said {
                    again: book.account.need_not(key, now),
                    ..Said::GRANTED
                },
            }
        })
    }

    /// Nothing is decided about a key any more.
    pub fn forget(&mut self, tenant: &TenantName, key: &ServiceKey, now: Instant) {
        if self.accounts.contains_key(tenant) {
            self.with(tenant, |book| book.account.need_not(key, now));
        }
    }

    /// What was written for a key may have come to be, or not; by then it will have been seen.
    pub fn doubt(&mut self, tenant: &TenantName, key: &ServiceKey, until: Instant) {
        self.with(tenant, |book| book.account.doubt(key, until));
    }

    /// A list does not show a key any more, and may be older than what was seen of it; by then that will have been seen again.
    pub fn hold(&mut self, tenant: &TenantName, key: &ServiceKey, until: Instant) {
        self.with(tenant, |book| book.account.hold(key, until));
    }

    /// Only the address of a key is kept, for a while.
    pub fn park(&mut self, tenant: &TenantName, key: &ServiceKey) {
        self.with(tenant, |book| book.account.park(key));
    }

    /// It is kept no longer.
    pub fn leave(&mut self, tenant: &TenantName, key: &ServiceKey) {
        self.with(tenant, |book| book.account.leave(key));
    }

    /// Whether [`Ledger::take_news`] has any.
    pub fn has_news(&self) -> bool {
        !self.stirred.is_empty()
    }

    /// Whom something has become of by somebody else's doing, each told once.
    pub fn take_news(&mut self) -> Vec<(TenantName, News)> {
        let stirred = std::mem::take(&mut self.stirred);
        let news = stirred.into_iter().filter_map(|tenant| {
            let news = self.accounts.get_mut(&tenant)?.account.take_news();
            Some((tenant, news))
        });
        let news: Vec<_> = news.collect();
        for (tenant, _) in &news {
            self.prune(tenant);
        }
        news
    }

    /// What a tenant uses.
    pub fn usage(&self, tenant: &TenantName) -> Usage {
        let book = self.accounts.get(tenant);
        book.map(|book| book.account.usage()).unwrap_or_default()
    }

    /// How often what some tenant uses has changed: a number to compare.
    pub fn moves(&self) -> u64 {
        self.moves
    }

    /// Of all tenants together, how many Services wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    fn with<T>(&mut self, tenant: &TenantName, f: impl FnOnce(&mut Book) -> T) -> T {
        let book = self.accounts.entry(tenant.clone()).or_default();
        let before = book.account.usage();
        let answer = f(book);
        let after = book.account.usage();
        self.waiting = self.waiting - before.waiting + after.waiting;
        self.moves += u64::from(before != after);
        self.stir(tenant);
        answer
    }

    fn stir(&mut self, tenant: &TenantName) {
        let Some(book) = self.accounts.get(tenant) else {
            return;
        };
        if book.account.has_news() {
            self.stirred.insert(tenant.clone());
        } else {
            self.prune(tenant);
        }
    }

    /// Nothing is kept of who has nothing.
    fn prune(&mut self, tenant: &TenantName) {
        let empty = |book: &Book| book.account.is_empty() && !book.account.has_news();
        if self.accounts.get(tenant).is_some_and(empty) {
            self.accounts.remove(tenant);
        }
    }
}

#[cfg(test)]
impl Ledger {
    fn check(&self) {
        self.accounts.values().for_each(|book| book.account.check());
    }
}

#[cfg(test)]
mod tests;
