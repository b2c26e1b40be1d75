//! What is in `proto/` now against the descriptor of the last release (`proto/released`): a peer one release older or newer
//! has to work, so fields, values, messages and calls are added, and nothing that was released changes.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod rules;
mod teeth;

use prost::Message as _;
use prost_types::FileDescriptorSet;

/// The descriptor of the last release.
const RELEASED: &[u8] = include_bytes!("../../proto/released/berth.v1.binpb");

fn released() -> FileDescriptorSet {
    FileDescriptorSet::decode(RELEASED).unwrap()
}

#[test]
fn nothing_that_was_released_has_changed() {
    let current = FileDescriptorSet::decode(berth_wire::DESCRIPTORS).unwrap();
    let found = rules::breaking(&released(), &current);
    assert!(
        found.is_empty(),
        "peers of the last release would not understand this one:\n  {}",
        found.join("\n  ")
    );
}
