//! What must be so of an account after every step, whatever has happened: all sums are those of its places, nobody in line could be
//! served, and no parked one stays where that would help somebody.

use super::{Account, Lack, Sum};

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
        assert_eq!(recount.newest.ages(), self.newest.ages());
        assert_eq!(recount.beyond, self.beyond);
        assert_eq!(
            recount.beyond_quotas(),
            self.newest.beyond(),
            "counted one by one, and as it moved with each change"
        );
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

    /// How often somebody was put beyond the quotas or taken back: what finding that number has cost.
    pub(in crate::policy) fn moves(&self) -> usize {
        self.newest.moves
    }

    /// How many of the newest would have to go for the others to be within the quotas.
    fn beyond_quotas(&self) -> usize {
        let mut left = Sum::default();
        left.add(self.taken(|sum| sum.count), self.taken(|sum| sum.ports));
        let mut newest = self.newest.ages().values().rev();
        let mut beyond = 0;
        while !self.limits.have_room_for(left.count, left.ports)
            && let Some(ports) = newest.next()
        {
            left.take(1, *ports);
            beyond += 1;
        }
        beyond
    }
}
