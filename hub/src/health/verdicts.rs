//! What is known of the health of a tenant's backends, and which of them receive traffic for it. Pure.

use std::{collections::BTreeSet, net::IpAddr};

/// The verdicts about one tenant's addresses; none at all where they are not probed. What is in neither set is not judged yet: it was never probed by this
/// process, or nobody else has answered since it fell silent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// They answer.
    pub good: BTreeSet<IpAddr>,
    /// They do not, or say themselves that they are to receive nothing.
    pub failing: BTreeSet<IpAddr>,
}

impl Verdicts {
    /// Which of the addresses that a Service wants in one family receive traffic. Who is not judged yet stays in or out, as
    /// it was (`present`): a hub that was just started changes nothing, and a new node comes in with its first answer. Where
    /// nobody else is left, those who are not known to fail serve, and if there are none of these, all.
    pub fn fit(
        &self,
        wanted: BTreeSet<IpAddr>,
        present: impl Fn(&IpAddr) -> bool,
    ) -> BTreeSet<IpAddr> {
        let open = |ip: &&IpAddr| !self.failing.contains(*ip);
        let stays = |ip: &&IpAddr| open(ip) && (self.good.contains(*ip) || present(ip));
        let fit: BTreeSet<IpAddr> = wanted.iter().filter(stays).copied().collect();
        if !fit.is_empty() {
            return fit;
        }
        let untold: BTreeSet<IpAddr> = wanted.iter().filter(open).copied().collect();
        if untold.is_empty() { wanted } else { untold }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses() -> impl Strategy<Value = BTreeSet<IpAddr>> {
        prop::collection::btree_set((0_u8..6).prop_map(|n| IpAddr::from([10, 0, 0, n])), 0..6)
    }

    fn ips(last: &[u8]) -> BTreeSet<IpAddr> {
        last.iter().map(|n| IpAddr::from([10, 0, 0, *n])).collect()
    }

    #[test]
    fn a_failing_node_leaves_and_one_that_is_not_judged_stays_as_it_was() {
        let verdicts = Verdicts {
            good: ips(&[1]),
            failing: ips(&[2]),
        };
        let present = ips(&[2, 3]);
        let fit = verdicts.fit(ips(&[1, 2, 3, 4]), |ip| present.contains(ip));
        assert_eq!(fit, ips(&[1, 3]));
    }

    proptest! {
        #[test]
        fn point_26_never_is_everybody_excluded(
            wanted in addresses(), good in addresses(), failing in addresses(), present in addresses(),
        ) {
            let good = good.difference(&failing).copied().collect();
            let verdicts = Verdicts { good, failing };
            let fit = verdicts.fit(wanted.clone(), |ip| present.contains(ip));
            prop_assert!(fit.is_subset(&wanted));
            prop_assert_eq!(fit.is_empty(), wanted.is_empty());
            // Nobody who fails serves beside somebody who does not.
            let failing = fit.intersection(&verdicts.failing).count();
            prop_assert!(failing == 0 || failing == fit.len());
            // What was written so is planned so again.
            prop_assert_eq!(verdicts.fit(wanted, |ip| fit.contains(ip)), fit);
        }

        #[test]
        fn a_hub_that_knows_nothing_yet_changes_nothing(wanted in addresses(), present in addresses()) {
            let fit = Verdicts::default().fit(wanted.clone(), |ip| present.contains(ip));
            let kept: BTreeSet<_> = wanted.intersection(&present).copied().collect();
            prop_assert_eq!(fit, if kept.is_empty() { wanted } else { kept });
        }
    }
}
