//! What must be so of an account after every step, whatever has happened: all sums are those of its places, nobody in line could be
//! served, and no parked one stays where that would help somebody.

use super::{Account, Lack};

impl Account {
    /// What must be so after every step.
    pub(in crate::policy) fn check(&self) {
        let mut recount = Account {
            limits: self.limits,
            ..Account::default()
        };
        for (key, place) in &self.places {
            assert!(!place.is_empty());
            recount.count(key, place, true);
            recount.places.insert(key.clone(), place.clone());
        }
        assert_eq!(
            (
                recount.all,
                recount.parked,
                recount.leaving,
                recount.withdrawn
            ),
            (self.all, self.parked, self.leaving, self.withdrawn)
        );
        assert_eq!(recount.kept, self.kept);
        assert_eq!(recount.ages, self.ages);
        assert_eq!(recount.beyond, self.beyond);
        assert_eq!(recount.beyond_quotas(), self.over, "as the usage has it");
        assert_eq!(
            (recount.recorded, recount.reserved),
            (self.recorded, self.reserved)
        );
        for need in self.lacks.keys() {
            assert!(!self.meets(*need), "{need:?} is met, and waits");
        }
        let short = !self.lacks.is_empty() && self.lacks.keys().any(|need| need.0 != Lack::Own);
        assert!(
            self.kept.is_empty() || !short || {
                let most = |limit: Option<usize>| limit.unwrap_or(usize::MAX);
                self.all.count - self.leaving.count + self.lacking.count
                    <= most(self.limits.load_balancers)
                    && self.all.ports - self.leaving.ports + self.lacking.ports
                        <= most(self.limits.ports)
            }
        );
    }
}
