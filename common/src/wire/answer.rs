//! Answers, out of and into messages.

use berth_wire::v1;

use super::{Refusal, UNIMPLEMENTED, key_from_wire, key_to_wire};
use crate::model::{Answer, Generation, Ingress, Key, Outcome, Reason};

/// Writes an answer.
pub fn answer_to_wire(key: &Key, answer: &Answer) -> v1::Answer {
    let (outcome, field, why) = match &answer.outcome {
        Outcome::Programmed => (v1::Outcome::Programmed, "", None),
        Outcome::Pending(why) => (v1::Outcome::Pending, "", Some(why)),
        Outcome::Refused { field, why } => (refused_as(&why.reason), field.as_str(), Some(why)),
        Outcome::Deleted => (v1::Outcome::Deleted, "", None),
    };
    v1::Answer {
        key: Some(key_to_wire(key)),
        generation: answer.generation.0,
        outcome: outcome.into(),
        ingress: answer.ingress.iter().map(ingress_to_wire).collect(),
        field: field.into(),
        reason: why.map(|w| w.reason.clone()).unwrap_or_default(),
        message: why.map(|w| w.message.clone()).unwrap_or_default(),
        retry_after_ms: 0,
    }
}

/// What is refused for its content, or for being unknown to this release.
fn refused_as(reason: &str) -> v1::Outcome {
    match reason {
        UNIMPLEMENTED => v1::Outcome::Unimplemented,
        _ => v1::Outcome::Refused,
    }
}

/// The answer to a resource that could not be read at all, under the key as it came.
pub fn refusal_to_wire(
    key: Option<v1::Key>,
    generation: Generation,
    refusal: &Refusal,
) -> v1::Answer {
    v1::Answer {
        key,
        generation: generation.0,
        outcome: refused_as(refusal.reason).into(),
        field: refusal.field.clone(),
        reason: refusal.reason.into(),
        message: refusal.message.clone(),
        ..Default::default()
    }
}

/// Reads an answer. An outcome that this agent does not know is an error: it must not act on it.
pub fn answer_from_wire(answer: &v1::Answer) -> Result<(Key, Answer), Refusal> {
    let key = answer
        .key
        .as_ref()
        .ok_or_else(|| Refusal::new("key", "missing"))?;
    let key = key_from_wire(key)?;
    let why = || Reason::new(answer.reason.clone(), answer.message.clone());
    let outcome = match v1::Outcome::try_from(answer.outcome) {
        Ok(v1::Outcome::Programmed) => Outcome::Programmed,
        Ok(v1::Outcome::Pending) => Outcome::Pending(why()),
        Ok(v1::Outcome::Refused) => Outcome::Refused {
            field: answer.field.clone(),
            why: why(),
        },
        Ok(v1::Outcome::Unimplemented) => Outcome::Refused {
            field: answer.field.clone(),
            why: Reason::new(UNIMPLEMENTED, answer.message.clone()),
        },
        Ok(v1::Outcome::Deleted) => Outcome::Deleted,
        Ok(v1::Outcome::Unspecified) | Err(_) => {
            return Err(Refusal::new(
                "outcome",
                format!(
                    "{} is unknown: this agent is older than the hub",
                    answer.outcome
                ),
            ));
        }
    };
    let ingress = answer
        .ingress
        .iter()
        .map(ingress_from_wire)
        .collect::<Result<_, _>>()?;
    Ok((
        key,
        Answer {
            generation: Generation(answer.generation),
            outcome,
            ingress,
        },
    ))
}

fn ingress_to_wire(ingress: &Ingress) -> v1::Ingress {
    match ingress {
        Ingress::Ip(ip) => v1::Ingress {
            ip: ip.to_string(),
            hostname: String::new(),
        },
        Ingress::Hostname(name) => v1::Ingress {
            ip: String::new(),
            hostname: name.clone(),
        },
    }
}

fn ingress_from_wire(ingress: &v1::Ingress) -> Result<Ingress, Refusal> {
    match (ingress.ip.as_str(), ingress.hostname.as_str()) {
        (ip, "") => ip
            .parse()
            .map(Ingress::Ip)
            .map_err(|_| Refusal::new("ingress.ip", "not an IP address")),
        ("", name) if name.len() <= 253 => Ok(Ingress::Hostname(name.into())),
        _ => Err(Refusal::new(
            "ingress",
            "neither an address nor a host name",
        )),
    }
}
