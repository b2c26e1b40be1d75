//! Findings that are not mended yet: what the simulator has found and the hub still does. Each is excused by name, so that
//! everything else is still checked, and each has a schedule in `tests/findings.rs` that shows it without the excuse.

/// Something that is known to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// The refusal of a version that cannot be read is told once, to the session that brought the version. An agent that
    /// comes again is told nothing, for its digests agree; and after a restart of the hub the refusal names no address, and
    /// the agent takes the one away that is still served.
    UnreadableForgotten,
    /// The answer of a load balancer that went by absence stays. It is told to the next session, with an address that may be
    /// somebody else's by then.
    StaleAnswer,
    /// When enough of what the brake held comes back, nobody looks at the rest again: it stays until the hub is restarted, and
    /// then goes.
    BrakeForgotten,
    /// Who comes back while the management Service is still being deleted is told the address that goes with it.
    DyingAddress,
    /// The reply to a write that arrives after the watch has told the object's end puts it back into the hub's cache, and a
    /// deletion waits for it for ever.
    GhostOfAReply,
    /// An address that stands in the pin alone is lost: while the allocator shows none and the record has none (its status was
    /// not written yet when the hub died, or somebody deleted it) the planner does not look at the pin, and takes it away.
    PinIgnored,
    /// A Hello that arrives after a newer session has come and gone is welcomed, though its number is the older.
    LateHello,
    /// What is missed and has no objects is dropped from memory; when objects of it appear after all (a reply was lost), its
    /// grace counts from when the tenant's state was whole, which may be long ago.
    GraceForgotten,
}

/// What is excused today: the others are mended.
pub const EXCUSED: &[Finding] = &[
    Finding::UnreadableForgotten,
    Finding::DyingAddress,
    Finding::GhostOfAReply,
    Finding::PinIgnored,
    Finding::GraceForgotten,
];
