//! Who of those that are there is the newest, and how many of the newest would have to go for the others to be within the quotas. That
//! number moves with each change by about as much as the change itself, and is never counted anew: a tenant may have thousands beyond
//! a quota that was lowered and is not enforced.

use std::collections::BTreeMap;

use berth_common::model::ServiceKey;

use super::place::Sum;

/// By what it is known which of two is the newer: when it was created, and its key.
pub(super) type Age = (i64, ServiceKey);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Newest {
    /// With their ports, the oldest first.
    ages: BTreeMap<Age, usize>,
    /// From here on they are beyond, whoever comes; `None`: nobody is.
    edge: Option<Age>,
    /// Those.
    beyond: Sum,
    /// How often somebody was put beyond or taken back.
    #[cfg(test)]
    pub(super) moves: usize,
}

impl Newest {
    pub(super) fn put(&mut self, age: Age, ports: usize) {
        if self.is_beyond(&age) {
            self.beyond.add(1, ports);
        }
        self.ages.insert(age, ports);
    }

    pub(super) fn remove(&mut self, age: &Age) {
        if let Some(ports) = self.ages.remove(age)
            && self.is_beyond(age)
        {
            self.beyond.take(1, ports);
        }
    }

    pub(super) fn newest(&self) -> Option<&ServiceKey> {
        self.ages.keys().next_back().map(|(_, key)| key)
    }

    /// How many are beyond.
    pub(super) fn beyond(&self) -> usize {
        self.beyond.count
    }

    /// Moves the edge to where it has to be: the fewest of the newest are beyond with whom gone there is room.
    pub(super) fn settle(&mut self, has_room_without: impl Fn(Sum) -> bool) {
        while !has_room_without(self.beyond)
            && let Some((age, ports)) = self.last_within()
        {
            self.beyond.add(1, ports);
            self.moved_to(Some(age));
        }
        while let Some((age, ports)) = self.first_beyond() {
            let mut fewer = self.beyond;
            fewer.take(1, ports);
            if !has_room_without(fewer) {
                return;
            }
            self.beyond = fewer;
            let newer = self.ages.range(age..).nth(1);
            let edge = newer.map(|(age, _)| age.clone());
            self.moved_to(edge);
        }
        self.edge = None;
    }

    fn moved_to(&mut self, edge: Option<Age>) {
        self.edge = edge;
        #[cfg(test)]
        {
            self.moves += 1;
        }
    }

    fn is_beyond(&self, age: &Age) -> bool {
        self.edge.as_ref().is_some_and(|edge| age >= edge)
    }

    fn first_beyond(&self) -> Option<(Age, usize)> {
        let beyond = self.ages.range(self.edge.clone()?..);
        let mut beyond = beyond.map(|(age, ports)| (age.clone(), *ports));
        beyond.next()
    }

    fn last_within(&self) -> Option<(Age, usize)> {
        let last = match &self.edge {
            Some(edge) => self.ages.range(..edge).next_back(),
            None => self.ages.iter().next_back(),
        };
        last.map(|(age, ports)| (age.clone(), *ports))
    }
}

#[cfg(test)]
impl Newest {
    pub(super) fn ages(&self) -> &BTreeMap<Age, usize> {
        &self.ages
    }
}
