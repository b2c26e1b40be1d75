//! What the allocator says of a Service that it gives no address: an event, and nothing else. Pure.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Event;

/// One thing it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    /// The Service's name, which is unique among the hub's, and its UID.
    pub(super) service: String,
    pub(super) uid: String,
    pub(super) words: String,
    /// The event's version: it grows when the same is said again, for then the event is only counted on.
    version: u64,
}

impl Complaint {
    pub(super) fn read(event: Event) -> Option<Self> {
        Some(Self {
            service: event.involved_object.name?,
            uid: event.involved_object.uid?,
            words: event.message?,
            version: event.metadata.resource_version?.parse().ok()?,
        })
    }
}

/// Of each Service what was said last: a list is in the order of names, and holds what was said before, too.
pub(super) fn latest(all: Vec<Complaint>) -> impl Iterator<Item = Complaint> {
    let mut latest: HashMap<String, Complaint> = HashMap::new();
    for complaint in all {
        match latest.get(&complaint.uid) {
            Some(known) if known.version > complaint.version => {}
            _ => {
                latest.insert(complaint.uid.clone(), complaint);
            }
        }
    }
    latest.into_values()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(name: &str, uid: &str, words: &str, version: &str) -> Complaint {
        let event = json!({
            "metadata": { "name": name, "resourceVersion": version },
            "involvedObject": { "name": "web", "uid": uid },
            "message": words,
        });
        Complaint::read(serde_json::from_value(event).unwrap()).unwrap()
    }

    #[test]
    fn point_31_what_was_said_last_counts_also_where_it_was_said_before() {
        let all = vec![
            event("web.1", "u", "no such pool", "120"),
            event("web.2", "u", "exhausted", "99"),
            event("web.0", "v", "in use", "7"),
        ];
        let mut words: Vec<String> = latest(all).map(|complaint| complaint.words).collect();
        words.sort();
        assert_eq!(words, ["in use", "no such pool"]);
    }
}
