//! The status that a wanted Service should have, how that is compared with the one it has, and what a person is told
//! about the difference.

use berth_common::model::{Answer, Ingress, Outcome, Reason};
use k8s_openapi::jiff::Timestamp;

use super::{Notice, View};
use crate::project::{PORTS_ERROR, PROGRAMMED, SeenCondition, SeenIngress, SeenService};

/// Delivery is to a node port, so the packets' destination is not the address (KEP-1860).
const IP_MODE: &str = "Proxy";
/// The hub's word for a protocol that the management side cannot carry.
const UNSUPPORTED_PROTOCOL: &str = "UnsupportedProtocol";
/// The hub's words for an address that is there with no node that could take its traffic.
const NO_NODES: [&str; 2] = ["NoBackends", "NoNodeAddresses"];
/// How long a reason may be in the API.
const MAX_REASON: usize = 256;
/// How long a message becomes; the API allows more, and nobody reads it.
const MAX_MESSAGE: usize = 1_024;

/// Our whole part of a Service's status.
#[derive(Debug)]
pub(super) struct Desired {
    pub(super) ingress: Vec<SeenIngress>,
    pub(super) conditions: Vec<SeenCondition>,
    /// The word of the event about trouble.
    trouble: Option<&'static str>,
    /// What of the Service is not followed; it stands in the condition's message too.
    note: Option<String>,
}

/// None: nothing is known that would be worth a write.
pub(super) fn desired(view: &View<'_>) -> Option<Desired> {
    let seen = &view.entry.seen;
    let told = view.answer.and_then(verdict);
    // With trouble of our own and no word from the hub the addresses stay as they are.
    let ingress = match (&told, view.answer) {
        (Some(_), Some(answer)) => answer.ingress.iter().map(entry).collect(),
        _ if seen.status.ours => seen.status.ingress.clone(),
        _ => Vec::new(),
    };
    let verdict = match &view.problem {
        Some(problem) => Verdict {
            programmed: false,
            reason: problem.reason.clone(),
            message: problem.message.clone(),
            trouble: Some(if problem.reason == "Invalid" {
                "SyncLoadBalancerFailed"
            } else {
                "UnAvailableLoadBalancer"
            }),
        },
        None => told?,
    };
    let message = match &view.note {
        Some(note) => format!("{} {note}", verdict.message),
        None => verdict.message,
    };
    let condition = |type_: &str, status| SeenCondition {
        type_: type_.to_owned(),
        status,
        reason: reason(&verdict.reason),
        message: shorten(&message, MAX_MESSAGE),
        observed_generation: seen.generation,
        since: Timestamp::UNIX_EPOCH,
    };
    let mut conditions = vec![condition(PROGRAMMED, verdict.programmed)];
    if verdict.reason == UNSUPPORTED_PROTOCOL {
        conditions.push(condition(PORTS_ERROR, true));
    }
    Some(Desired {
        ingress,
        conditions,
        trouble: verdict.trouble,
        note: view.note.clone(),
    })
}

struct Verdict {
    programmed: bool,
    reason: String,
    message: String,
    trouble: Option<&'static str>,
}

/// None for an answer that has nothing to say yet.
fn verdict(answer: &Answer) -> Option<Verdict> {
    let trouble = |why: &Reason, message: String| Verdict {
        programmed: false,
        reason: why.reason.clone(),
        message,
        trouble: Some(if NO_NODES.contains(&why.reason.as_str()) {
            "UnAvailableLoadBalancer"
        } else {
            "SyncLoadBalancerFailed"
        }),
    };
    match &answer.outcome {
        Outcome::Programmed => Some(Verdict {
            programmed: true,
            reason: "Programmed".into(),
            message: "The load balancer serves this Service.".into(),
            trouble: None,
        }),
        Outcome::Pending(why) if why.message.is_empty() => None,
        Outcome::Pending(why) => Some(trouble(why, why.message.clone())),
        Outcome::Refused { field, why } => {
            let message = match field.as_str() {
                "" => why.message.clone(),
                field => format!("{field}: {}", why.message),
            };
            let mut verdict = trouble(why, message);
            if !answer.ingress.is_empty() {
                // A version before it is served still: it is the change that has failed.
                verdict.trouble = Some("UpdateLoadBalancerFailed");
            }
            Some(verdict)
        }
        Outcome::Deleted => None,
    }
}

impl Desired {
    /// Whether nothing has to be written.
    pub(super) fn is_met_by(&self, seen: &SeenService) -> bool {
        let same_ingress = self.ingress.len() == seen.status.ingress.len()
            && self
                .ingress
                .iter()
                .zip(&seen.status.ingress)
                .all(|(want, have)| same_entry(want, have, seen.status.ours));
        same_ingress
            && same_condition(self.condition(PROGRAMMED), seen.condition(PROGRAMMED))
            && same_condition(self.condition(PORTS_ERROR), ports_error_of_ours(seen))
    }

    /// What to tell about the difference to what was seen.
    pub(super) fn notices(&self, seen: &SeenService) -> Vec<Notice> {
        let old = seen.condition(PROGRAMMED);
        let Some(new) = self.condition(PROGRAMMED) else {
            return Vec::new();
        };
        if let Some(word) = self.trouble {
            // What stayed for a while goes for the same reason, and that is news.
            let goes = self.ingress.is_empty() && !seen.status.ingress.is_empty();
            let known = old.is_some_and(|old| !old.status && old.message == new.message) && !goes;
            let notice = (!known).then(|| Notice::warning(word, new.message.clone()));
            return notice.into_iter().collect();
        }
        let mut notices: Vec<_> = self.served(seen, old, new).into_iter().collect();
        if let Some(note) = &self.note
            && !old.is_some_and(|old| old.message.contains(note.as_str()))
        {
            notices.push(Notice::warning("AnnotationsIgnored", note.clone()));
        }
        notices
    }

    fn served(
        &self,
        seen: &SeenService,
        old: Option<&SeenCondition>,
        new: &SeenCondition,
    ) -> Option<Notice> {
        let had = if seen.status.ours {
            names(&seen.status.ingress)
        } else {
            String::new()
        };
        let has = names(&self.ingress);
        let Some(old) = old.filter(|old| old.status && !had.is_empty()) else {
            return Some(Notice::normal(
                "EnsuredLoadBalancer",
                format!("Ensured load balancer {has}"),
            ));
        };
        if had != has {
            let note = format!("Updated load balancer: {has} (it was {had})");
            return Some(Notice::normal("UpdatedLoadBalancer", note));
        }
        // Where only the message changes nothing has happened to the load balancer.
        let same = old.observed_generation == new.observed_generation && old.reason == new.reason;
        (!same || old.message == new.message).then(|| {
            Notice::normal(
                "UpdatedLoadBalancer",
                format!("Updated load balancer {has}"),
            )
        })
    }

    fn condition(&self, type_: &str) -> Option<&SeenCondition> {
        self.conditions.iter().find(|c| c.type_ == type_)
    }
}

fn entry(ingress: &Ingress) -> SeenIngress {
    match ingress {
        Ingress::Ip(ip) => SeenIngress {
            ip: Some(ip.to_string()),
            hostname: None,
            ip_mode: Some(IP_MODE.into()),
        },
        Ingress::Hostname(name) => SeenIngress {
            ip: None,
            hostname: Some(name.clone()),
            ip_mode: None,
        },
    }
}

/// An API server that is too old for the mode drops it: what we wrote and find without one is as it should be.
fn same_entry(want: &SeenIngress, have: &SeenIngress, ours: bool) -> bool {
    want.ip == have.ip
        && want.hostname == have.hostname
        && (want.ip_mode == have.ip_mode || ours && have.ip_mode.is_none())
}

fn same_condition(want: Option<&SeenCondition>, have: Option<&SeenCondition>) -> bool {
    match (want, have) {
        (None, None) => true,
        (Some(want), Some(have)) => {
            want.status == have.status
                && want.reason == have.reason
                && want.message == have.message
                && want.observed_generation == have.observed_generation
        }
        _ => false,
    }
}

/// Others may set the same condition: ours says the same as our own condition beside it.
fn ports_error_of_ours(seen: &SeenService) -> Option<&SeenCondition> {
    let programmed = seen.condition(PROGRAMMED)?;
    seen.condition(PORTS_ERROR)
        .filter(|error| error.reason == programmed.reason)
}

fn names(ingress: &[SeenIngress]) -> String {
    let names: Vec<&str> = ingress
        .iter()
        .filter_map(|i| i.ip.as_deref().or(i.hostname.as_deref()))
        .collect();
    names.join(", ")
}

/// A word that the API takes as a condition's reason, whatever the hub said.
fn reason(text: &str) -> String {
    let word: String = text
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .skip_while(char::is_ascii_digit)
        .take(MAX_REASON)
        .collect();
    if word.is_empty() {
        "Unknown".into()
    } else {
        word
    }
}

fn shorten(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => text[..end].to_owned(),
        None => text.to_owned(),
    }
}
