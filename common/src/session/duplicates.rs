//! Two versions of one resource within one snapshot. A snapshot tells states, each once: where it tells two that differ, nobody can
//! say which is meant, and neither is taken. The last good state stays.

use std::collections::BTreeMap;

use super::held::Received;
use crate::{
    model::{Generation, Key},
    wire::Refusal,
};

/// Each key once, in the order of keys. What was told in two ways comes back as what cannot be read, under the number that was
/// told last.
pub(super) fn merged(
    resources: Vec<(Key, (Generation, Received))>,
) -> Vec<(Key, Generation, Received)> {
    let mut merged: BTreeMap<Key, (Generation, Received)> = BTreeMap::new();
    for (key, (generation, received)) in resources {
        let known = merged.get_mut(&key);
        match known {
            Some(known) if known.1 == received => known.0 = generation,
            Some(known) => *known = (generation, Err(contradiction())),
            None => {
                merged.insert(key, (generation, received));
            }
        }
    }
    merged
        .into_iter()
        .map(|(key, (generation, received))| (key, generation, received))
        .collect()
}

/// Why neither is taken.
fn contradiction() -> Refusal {
    Refusal {
        field: "metadata.name".into(),
        reason: DUPLICATE,
        message: "the snapshot has this resource twice, and differently: neither is taken. An agent sends each once".into(),
    }
}

/// The reason of that refusal.
pub(super) const DUPLICATE: &str = "Duplicate";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Body, Node, NodeName};

    fn node(name: &str, generation: u64, address: &str) -> (Key, (Generation, Received)) {
        let key = Key::Node(NodeName(name.into()));
        let node = Node {
            addresses: [address.parse().unwrap()].into(),
        };
        (key, (Generation(generation), Ok(Body::Node(node))))
    }

    #[test]
    fn hostile_43_what_is_told_in_two_ways_is_refused_and_what_is_told_twice_is_not() {
        let told = vec![
            node("a", 1, "192.0.2.1"),
            node("b", 2, "192.0.2.2"),
            node("a", 3, "192.0.2.3"),
            node("b", 2, "192.0.2.2"),
            node("a", 4, "192.0.2.1"),
        ];
        let merged = merged(told);
        let [(_, first, refused), (_, second, taken)] = &merged[..] else {
            panic!("{merged:?}")
        };
        assert_eq!((*first, *second), (Generation(4), Generation(2)));
        assert_eq!(refused.as_ref().unwrap_err().reason, DUPLICATE);
        assert!(taken.is_ok());
    }
}
