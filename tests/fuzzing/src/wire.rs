//! Bytes as they come from a peer: whatever they are, reading them gives a value that survives the way back, or a refusal
//! that may be printed.

use berth_common::{
    model::{Body, Key},
    wire::{
        Refusal, answer_from_wire, answer_to_wire, generation_of, key_from_wire, key_to_wire,
        printable, refusal_to_wire, resource_from_wire, resource_to_wire,
    },
};
use berth_wire::{
    codec::weigh,
    v1::{self, agent_message::Body as Up, change::Change, hub_message::Body as Down},
};
use prost::Message as _;

use crate::say::Say;

/// Takes the bytes for a message of either side, and for the choices of a well-shaped one.
pub fn run(data: &[u8]) {
    if weigh::<v1::AgentMessage>(data).is_ok()
        && let Ok(message) = v1::AgentMessage::decode(data)
    {
        agent_message(message);
    }
    if weigh::<v1::HubMessage>(data).is_ok()
        && let Ok(message) = v1::HubMessage::decode(data)
    {
        hub_message(message);
    }
    let mut unstructured = arbitrary::Unstructured::new(&data[..data.len().min(4096)]);
    while !unstructured.is_empty()
        && let Ok(say) = unstructured.arbitrary::<Say>()
    {
        resource(&say.resource());
    }
}

fn agent_message(message: v1::AgentMessage) {
    match message.body {
        Some(Up::SnapshotPage(page)) => page.resources.iter().for_each(resource),
        Some(Up::Delta(delta)) => {
            for change in delta.changes {
                match change.change {
                    Some(Change::Upsert(upsert)) => resource(&upsert),
                    Some(Change::Delete(deletion)) => {
                        key(&deletion.key.unwrap_or_default());
                    }
                    None => {}
                }
            }
        }
        _ => {}
    }
}

fn hub_message(message: v1::HubMessage) {
    if let Some(Down::Answers(answers)) = message.body {
        answers.answers.iter().for_each(answer);
    }
}

fn key(key: &v1::Key) -> Option<Key> {
    let text = printable(key);
    assert!(text.chars().count() <= 300 && !text.chars().any(char::is_control));
    match key_from_wire(key) {
        Ok(read) => {
            assert_eq!(key_to_wire(&read), *key, "a key is what came, or nothing");
            Some(read)
        }
        Err(refusal) => {
            refused(&refusal);
            None
        }
    }
}

fn resource(resource: &v1::Resource) {
    let key = resource.key.as_ref().and_then(key);
    match resource_from_wire(resource) {
        Ok((read, versioned)) => {
            assert_eq!(Some(&read), key.as_ref());
            assert_eq!(versioned.generation.0, resource.generation);
            let kinds = (&read, &versioned.body);
            assert!(matches!(
                kinds,
                (Key::Service(_), Body::Service(_)) | (Key::Node(_), Body::Node(_))
            ));
            let back = resource_to_wire(&read, &versioned);
            let again = resource_from_wire(&back);
            assert_eq!(again.as_ref(), Ok(&(read, versioned.clone())));
            // What was read has one number, by whatever way it was written.
            let reread = again.map(|(_, v)| generation_of(&v.body));
            assert_eq!(reread, Ok(generation_of(&versioned.body)));
        }
        Err(refusal) => {
            refused(&refusal);
            let generation = berth_common::model::Generation(resource.generation);
            let told = refusal_to_wire(resource.key.clone(), generation, &refusal);
            answer(&told);
        }
    }
}

fn answer(answer: &v1::Answer) {
    match answer_from_wire(answer) {
        Ok((key, read)) => {
            let back = answer_to_wire(&key, &read);
            assert_eq!(answer_from_wire(&back), Ok((key, read)));
        }
        Err(refusal) => refused(&refusal),
    }
}

/// A refusal is shown to people: it names a field, says something, and repeats nothing of what a peer made up.
fn refused(refusal: &Refusal) {
    let text = refusal.to_string();
    assert!(!refusal.field.is_empty() && !refusal.message.is_empty());
    assert!(
        text.len() < 300 && !text.chars().any(char::is_control),
        "{text:?}"
    );
}
