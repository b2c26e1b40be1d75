//! Whose a node's address is. Two tenants that name the same address are one too many: one of them would reach the other's
//! machines, past whatever guards these (CVE-2021-25740). Who has it first keeps it, and a newcomer cannot change that, not even
//! by being faster after the hub has been restarted: what stands in a tenant's EndpointSlices is its own, and the slices are
//! known before the first agent is let in. Beside them counts what a tenant's nodes were when its Services were last planned, so
//! that a node that fails its health check is not free for others.
//!
//! An address that several tenants have in their slices already, from before this was looked at, stays with all of them. An
//! address of a load balancer is nobody's, for whoever points one at another goes round its source ranges.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use berth_common::identity::TenantName;

use super::{NodeRules, Unfit};
use crate::plan::Nodes;

/// The addresses of a tenant's nodes that receive no traffic, and why.
pub type Barred = BTreeMap<IpAddr, Unfit>;

/// The rules under which a tenant's nodes are judged, shared.
pub type Rules = Arc<NodeRules>;

/// What became of a tenant's nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// All that may not be.
    pub barred: Arc<Barred>,
    /// Those of them that are news.
    pub news: Vec<(IpAddr, Unfit)>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Claims {
    /// In how many slices of which tenants an address stands.
    backends: BTreeMap<IpAddr, BTreeMap<TenantName, usize>>,
    /// Whose Services have an address: each once for each Service.
    frontends: BTreeMap<IpAddr, Vec<TenantName>>,
    /// Whose node an address is, also where no slice has it at the moment.
    claimed: BTreeMap<IpAddr, TenantName>,
    /// Who has a node with an address that is another's, or a load balancer's.
    waiting: BTreeMap<IpAddr, BTreeSet<TenantName>>,
    tenants: BTreeMap<TenantName, Known>,
    /// Whose nodes are to be judged again.
    disputed: BTreeSet<TenantName>,
}

/// How a tenant's nodes were judged.
#[derive(Debug)]
struct Known {
    nodes: Arc<Nodes>,
    rules: Rules,
    barred: Arc<Barred>,
    /// How many addresses serve although they are outside of the Tenant's list, or beyond its quota of nodes.
    tolerated: usize,
    stale: bool,
}

impl Known {
    fn is(&self, nodes: &Arc<Nodes>, rules: &Rules) -> bool {
        let same_rules = Arc::ptr_eq(&self.rules, rules) || self.rules == *rules;
        !self.stale && Arc::ptr_eq(&self.nodes, nodes) && same_rules
    }
}

impl Claims {
    /// What was judged of these nodes, if nothing has changed since.
    pub fn known(
        &self,
        tenant: &TenantName,
        nodes: &Arc<Nodes>,
        rules: &Rules,
    ) -> Option<Arc<Barred>> {
        let known = self.tenants.get(tenant)?;
        known.is(nodes, rules).then(|| known.barred.clone())
    }

    /// Judges the nodes of a tenant's. What may be is the tenant's from now on; what it had and has no more is free.
    pub fn judge(&mut self, tenant: &TenantName, nodes: &Arc<Nodes>, rules: &Rules) -> Judged {
        let before = self.tenants.remove(tenant);
        let addresses: BTreeSet<IpAddr> = addresses(nodes).collect();
        let mut found = Barred::new();
        let mut tolerated = BTreeSet::new();
        for ip in &addresses {
            let mut unfit = rules.judge(ip);
            // What serves already stays when the operator narrows its list, unless that is enforced.
            if unfit == Some(Unfit::Outside) && !rules.enforce && self.serves(tenant, ip) {
                tolerated.insert(*ip);
                unfit = None;
            }
            if let Some(unfit) = unfit.or_else(|| self.taken(tenant, ip)) {
                found.insert(*ip, unfit);
            }
        }
        self.count(tenant, nodes, rules, (&mut found, &mut tolerated));
        let mut barred = Barred::new();
        for ip in &addresses {
            match found.get(ip).copied() {
                None => {
                    self.claimed.entry(*ip).or_insert_with(|| tenant.clone());
                    self.stop_waiting(tenant, ip);
                }
                Some(unfit) => {
                    barred.insert(*ip, unfit);
                    self.unclaim(tenant, ip);
                    if matches!(unfit, Unfit::OtherTenant | Unfit::LoadBalancer) {
                        self.waiting.entry(*ip).or_default().insert(tenant.clone());
                    } else {
                        self.stop_waiting(tenant, ip);
                    }
                }
            }
        }
        let mut news: Vec<(IpAddr, Unfit)> = barred.iter().map(|(ip, why)| (*ip, *why)).collect();
        if let Some(before) = &before {
            for ip in self::addresses(&before.nodes).filter(|ip| !addresses.contains(ip)) {
                self.unclaim(tenant, &ip);
                self.stop_waiting(tenant, &ip);
            }
            news.retain(|(ip, why)| before.barred.get(ip) != Some(why));
        }
        let barred = Arc::new(barred);
        let known = Known {
            nodes: nodes.clone(),
            rules: rules.clone(),
            barred: barred.clone(),
            tolerated: tolerated.len(),
            stale: false,
        };
        self.tenants.insert(tenant.clone(), known);
        self.disputed.remove(tenant);
        Judged { barred, news }
    }

    /// Nothing is left of a tenant's load balancers: it needs no nodes.
    pub fn forget(&mut self, tenant: &TenantName) {
        if let Some(known) = self.tenants.remove(tenant) {
            for ip in addresses(&known.nodes) {
                self.unclaim(tenant, &ip);
                self.stop_waiting(tenant, &ip);
            }
        }
    }

    /// A slice of a tenant's has other addresses than before.
    pub fn backends(&mut self, tenant: &TenantName, before: &[IpAddr], after: &[IpAddr]) {
        if before == after {
            return;
        }
        for ip in after {
            let of = self.backends.entry(*ip).or_default();
            *of.entry(tenant.clone()).or_default() += 1;
        }
        // A slice has up to a thousand, and is written whenever one of them fails.
        let stay: BTreeSet<&IpAddr> = after.iter().collect();
        for ip in before {
            let Entry::Occupied(mut of) = self.backends.entry(*ip) else {
                continue;
            };
            if down(of.get_mut(), tenant) && of.get().is_empty() {
                of.remove();
            }
            if !stay.contains(ip) {
                self.freed(ip);
            }
        }
    }

    /// A management Service of a tenant's has other addresses than before.
    pub fn frontends(
        &mut self,
        tenant: &TenantName,
        before: &BTreeSet<IpAddr>,
        after: &BTreeSet<IpAddr>,
    ) {
        if before == after {
            return;
        }
        for ip in after {
            let holders = self.frontends.entry(*ip);
            let holders = holders.or_insert_with(|| Vec::with_capacity(1));
            holders.push(tenant.clone());
            let in_slices = self.backends.get(ip).into_iter().flat_map(BTreeMap::keys);
            let holders: Vec<TenantName> = in_slices.chain(self.claimed.get(ip)).cloned().collect();
            for tenant in holders {
                self.dispute(tenant);
            }
        }
        for ip in before {
            let Entry::Occupied(mut holders) = self.frontends.entry(*ip) else {
                continue;
            };
            let one = holders.get().iter().position(|holder| holder == tenant);
            one.map(|at| holders.get_mut().swap_remove(at));
            if holders.get().is_empty() {
                holders.remove();
                if !after.contains(ip) {
                    self.freed(ip);
                }
            }
        }
    }

    /// Which other tenants have a load balancer at this address.
    pub fn others_at(&self, tenant: &TenantName, ip: &IpAddr) -> impl Iterator<Item = &TenantName> {
        let holders = self.frontends.get(ip).into_iter().flatten();
        holders.filter(move |holder| *holder != tenant)
    }

    /// Whether any tenant's nodes are to be judged again.
    pub fn is_disputed(&self) -> bool {
        !self.disputed.is_empty()
    }

    /// Whose nodes are to be judged again, once.
    pub fn take_disputed(&mut self) -> BTreeSet<TenantName> {
        std::mem::take(&mut self.disputed)
    }

    /// Bars the addresses of the nodes beyond the quota. Those that receive traffic already come first, then the others by name:
    /// so a restart, or a node that joins, takes nobody's place. A node of which nothing may receive traffic is not counted. One
    /// that serves stays where the quota is not enforced, and is tolerated.
    fn count(
        &self,
        tenant: &TenantName,
        nodes: &Nodes,
        rules: &NodeRules,
        (barred, tolerated): (&mut Barred, &mut BTreeSet<IpAddr>),
    ) {
        let Some(most) = rules.quotas.nodes else {
            return;
        };
        let serves = |ip: &IpAddr| self.serves(tenant, ip);
        let fit = nodes
            .iter()
            .filter(|(_, node)| node.addresses.iter().any(|ip| !barred.contains_key(ip)))
            .map(|(name, node)| (!node.addresses.iter().any(serves), name, node));
        let in_line: BTreeMap<_, _> = fit.map(|(new, name, node)| ((new, name), node)).collect();
        for ((new, _), node) in in_line.into_iter().skip(most) {
            let addresses = node.addresses.iter();
            if new || rules.enforce {
                for ip in addresses {
                    barred.entry(*ip).or_insert(Unfit::Quota(most));
                }
            } else {
                tolerated.extend(addresses.filter(|ip| serves(ip) && !barred.contains_key(*ip)));
            }
        }
    }

    /// How many addresses of a tenant's nodes serve although its list does not have them any more, or its quota no room.
    pub fn tolerated(&self, tenant: &TenantName) -> usize {
        self.tenants.get(tenant).map_or(0, |known| known.tolerated)
    }

    /// Whether an address stands in a slice of the tenant's.
    fn serves(&self, tenant: &TenantName, ip: &IpAddr) -> bool {
        let holders = self.backends.get(ip);
        holders.is_some_and(|holders| holders.contains_key(tenant))
    }

    /// Whether an address is somebody else's.
    fn taken(&self, tenant: &TenantName, ip: &IpAddr) -> Option<Unfit> {
        if self.frontends.contains_key(ip) {
            return Some(Unfit::LoadBalancer);
        }
        let holders = self.backends.get(ip);
        if holders.is_some_and(|holders| holders.contains_key(tenant)) {
            return None;
        }
        let claimed = self.claimed.get(ip).is_some_and(|other| other != tenant);
        (holders.is_some() || claimed).then_some(Unfit::OtherTenant)
    }

    fn unclaim(&mut self, tenant: &TenantName, ip: &IpAddr) {
        if self.claimed.get(ip) == Some(tenant) {
            self.claimed.remove(ip);
            self.freed(ip);
        }
    }

    fn stop_waiting(&mut self, tenant: &TenantName, ip: &IpAddr) {
        if let Entry::Occupied(mut waiting) = self.waiting.entry(*ip)
            && waiting.get_mut().remove(tenant)
            && waiting.get().is_empty()
        {
            waiting.remove();
        }
    }

    /// Whoever waits for an address may be lucky now.
    fn freed(&mut self, ip: &IpAddr) {
        for tenant in self.waiting.get(ip).cloned().unwrap_or_default() {
            self.dispute(tenant);
        }
    }

    fn dispute(&mut self, tenant: TenantName) {
        if let Some(known) = self.tenants.get_mut(&tenant) {
            known.stale = true;
            self.disputed.insert(tenant);
        }
    }
}

fn addresses(nodes: &Nodes) -> impl Iterator<Item = IpAddr> {
    nodes.values().flat_map(|node| &node.addresses).copied()
}

/// One less. Returns whether it was the last.
fn down<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) -> bool {
    let Some(count) = counts.get_mut(key) else {
        return false;
    };
    *count = count.saturating_sub(1);
    let last = *count == 0;
    if last {
        counts.remove(key);
    }
    last
}

#[cfg(test)]
mod tests {
    use berth_common::model::{Node, NodeName};

    use super::*;
    use crate::policy::Quotas;

    fn tenant(name: &str) -> TenantName {
        TenantName::parse(name).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn nodes(addresses: &[&str]) -> Arc<Nodes> {
        let node = |(index, text): (usize, &&str)| {
            let addresses = BTreeSet::from([ip(text)]);
            (NodeName(format!("n{index}")), Node { addresses })
        };
        Arc::new(addresses.iter().enumerate().map(node).collect())
    }

    fn judge(claims: &mut Claims, who: &str, addresses: &[&str]) -> Vec<(IpAddr, Unfit)> {
        let judged = claims.judge(&tenant(who), &nodes(addresses), &Rules::default());
        judged.barred.iter().map(|(ip, why)| (*ip, *why)).collect()
    }

    const A: &str = "10.0.0.1";
    const B: &str = "10.0.0.2";

    #[test]
    fn hostile_55_another_tenants_node_is_no_backend_and_who_was_first_keeps_it() {
        let mut claims = Claims::default();
        assert_eq!(judge(&mut claims, "acme", &[A]), []);
        let refused = [(ip(A), Unfit::OtherTenant)];
        assert_eq!(judge(&mut claims, "evil", &[A, B]), refused);
        assert_eq!(
            judge(&mut claims, "acme", &[A]),
            [],
            "and is not thrown out"
        );
        assert_eq!(
            judge(&mut claims, "acme", &[A, B]),
            [(ip(B), Unfit::OtherTenant)]
        );
    }

    #[test]
    fn hostile_55_after_a_restart_a_faster_newcomer_gets_nothing_that_is_in_anothers_slices() {
        let mut claims = Claims::default();
        claims.backends(&tenant("acme"), &[], &[ip(A)]);
        assert_eq!(
            judge(&mut claims, "evil", &[A]),
            [(ip(A), Unfit::OtherTenant)]
        );
        assert_eq!(judge(&mut claims, "acme", &[A]), []);
    }

    #[test]
    fn hostile_55_a_node_that_fails_its_health_check_is_not_free_for_others() {
        let mut claims = Claims::default();
        judge(&mut claims, "acme", &[A, B]);
        claims.backends(&tenant("acme"), &[], &[ip(A), ip(B)]);
        claims.backends(&tenant("acme"), &[ip(A), ip(B)], &[ip(B)]);
        assert_eq!(
            judge(&mut claims, "evil", &[A]),
            [(ip(A), Unfit::OtherTenant)]
        );
    }

    #[test]
    fn hostile_55_an_address_of_a_load_balancer_is_no_backend_also_when_it_is_given_later() {
        let mut claims = Claims::default();
        assert_eq!(judge(&mut claims, "evil", &[A]), []);
        claims.backends(&tenant("evil"), &[], &[ip(A)]);
        let (none, given) = (BTreeSet::new(), BTreeSet::from([ip(A)]));
        claims.frontends(&tenant("acme"), &none, &given);
        assert_eq!(claims.take_disputed(), [tenant("evil")].into());
        assert_eq!(
            judge(&mut claims, "evil", &[A]),
            [(ip(A), Unfit::LoadBalancer)]
        );
        claims.frontends(&tenant("acme"), &given, &none);
        assert!(claims.is_disputed());
        assert_eq!(judge(&mut claims, "evil", &[A]), []);
    }

    #[test]
    fn what_becomes_free_is_had_by_who_waits_for_it() {
        let mut claims = Claims::default();
        judge(&mut claims, "acme", &[A]);
        claims.backends(&tenant("acme"), &[], &[ip(A)]);
        judge(&mut claims, "later", &[A]);
        judge(&mut claims, "acme", &[B]);
        claims.take_disputed();
        assert_eq!(
            judge(&mut claims, "later", &[A]),
            [(ip(A), Unfit::OtherTenant)],
            "while traffic still goes there it is not free"
        );
        claims.backends(&tenant("acme"), &[ip(A)], &[ip(B)]);
        assert_eq!(claims.take_disputed(), [tenant("later")].into());
        assert_eq!(judge(&mut claims, "later", &[A]), []);
        claims.forget(&tenant("later"));
        assert_eq!(judge(&mut claims, "third", &[A]), []);
    }

    #[test]
    fn what_was_shared_before_stays_with_both() {
        let mut claims = Claims::default();
        claims.backends(&tenant("acme"), &[], &[ip(A)]);
        claims.backends(&tenant("globex"), &[], &[ip(A)]);
        assert_eq!(judge(&mut claims, "acme", &[A]), []);
        assert_eq!(judge(&mut claims, "globex", &[A]), []);
        assert_eq!(
            judge(&mut claims, "third", &[A]),
            [(ip(A), Unfit::OtherTenant)]
        );
    }

    #[test]
    fn a_narrowed_list_leaves_what_serves_and_takes_it_only_where_it_is_enforced() {
        let mut claims = Claims::default();
        let acme = tenant("acme");
        let both = nodes(&[A, B]);
        let narrow = |enforce| {
            Rules::new(NodeRules {
                allowed: vec!["10.9.0.0/16".parse().unwrap()],
                enforce,
                ..NodeRules::default()
            })
        };
        claims.backends(&acme, &[], &[ip(A)]);
        let judged = claims.judge(&acme, &both, &narrow(false));
        assert_eq!(
            *judged.barred,
            [(ip(B), Unfit::Outside)].into(),
            "a new one is left out"
        );
        assert_eq!(claims.tolerated(&acme), 1);
        let judged = claims.judge(&acme, &both, &narrow(true));
        assert_eq!(judged.barred.len(), 2);
        assert_eq!(claims.tolerated(&acme), 0);
        // What no Tenant opens is not tolerated.
        claims.frontends(&acme, &BTreeSet::new(), &BTreeSet::from([ip(A)]));
        let judged = claims.judge(&acme, &both, &narrow(false));
        assert_eq!(judged.barred[&ip(A)], Unfit::LoadBalancer);
    }

    #[test]
    fn quota_of_nodes_is_for_those_that_serve_first_and_withdraws_only_where_it_is_enforced() {
        let mut claims = Claims::default();
        let rules = |most, enforce| {
            Rules::new(NodeRules {
                quotas: Quotas {
                    nodes: Some(most),
                    ..Quotas::default()
                },
                enforce,
                ..NodeRules::default()
            })
        };
        const C: &str = "10.0.0.3";
        let (acme, three) = (tenant("acme"), nodes(&[A, B, C]));
        let beyond = |claims: &mut Claims, most, enforce| {
            let judged = claims.judge(&acme, &three, &rules(most, enforce));
            judged.barred.keys().copied().collect::<Vec<_>>()
        };
        assert_eq!(beyond(&mut claims, 2, false), [ip(C)], "by name");
        claims.backends(&acme, &[], &[ip(B), ip(C)]);
        assert_eq!(
            beyond(&mut claims, 2, false),
            [ip(A)],
            "also after a restart"
        );
        assert_eq!(
            beyond(&mut claims, 1, false),
            [ip(A)],
            "nothing is withdrawn"
        );
        assert_eq!(claims.tolerated(&acme), 1, "and that is reported");
        assert_eq!(beyond(&mut claims, 1, true), [ip(A), ip(C)]);
        assert_eq!(claims.tolerated(&acme), 0);
        assert_eq!(judge(&mut claims, "other", &[A]), [], "nor is it claimed");
    }

    #[test]
    fn only_what_may_be_is_claimed_and_what_was_judged_is_not_judged_again() {
        let mut claims = Claims::default();
        let rules = Rules::new(NodeRules {
            allowed: vec!["10.1.0.0/16".parse().unwrap()],
            ..NodeRules::default()
        });
        let outside = nodes(&[A]);
        let squatter = tenant("squatter");
        let judged = claims.judge(&squatter, &outside, &rules);
        assert_eq!(judged.news, [(ip(A), Unfit::Outside)]);
        assert_eq!(judge(&mut claims, "acme", &[A]), []);
        let again = claims.known(&squatter, &outside, &rules).unwrap();
        assert!(Arc::ptr_eq(&again, &judged.barred));
        assert_eq!(
            claims.judge(&squatter, &outside, &rules).news,
            [],
            "no news"
        );
        assert_eq!(claims.known(&squatter, &outside, &Rules::default()), None);
        assert_eq!(claims.known(&squatter, &nodes(&[A]), &rules), None);
    }
}
