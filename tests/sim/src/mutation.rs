//! Bugs that the engine does not have, made by standing between it and its surroundings: what it says is bent on its way,
//! or what it is told is. No line of production code knows of them. For each, the simulator has to find a schedule that
//! breaks an invariant; a simulator that finds none would find nothing.

/// One bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mutation {
    /// What a fenced session still says is taken as if the newest had said it.
    FenceIgnored,
    /// A snapshot that broke off is taken for whole: its end is made up.
    UnverifiedEnd,
    /// An answer to an older generation is taken for one to the present.
    OldAnswerWins,
    /// What is absent goes at once.
    NoGrace,
    /// However much is absent, it goes.
    NoBrake,
    /// The hub takes absence for a deletion.
    AbsenceIsDeletion,
    /// The agent takes absence from a re-read for a deletion.
    AbsenceIsDeletionInAgent,
    /// What a hub's process was not told yet counts as absent for long.
    UnknownIsAbsent,
    /// Explicit deletions get lost on their way.
    LostTombstone,
    /// Changes get lost on their way, and their sequence numbers do not.
    LostUpsert,
    /// ResyncRequired is not heard.
    NoResync,
    /// The hub claims to hold what the agent has.
    DigestsLie,
    /// A second cluster under one identity is let in.
    OtherClusterAccepted,
    /// An unreadable cluster is told as an empty one.
    EmptyListsWhenUnsynced,
    /// The allocator is not told which address to keep.
    NotPinned,
    /// Answers go to another tenant.
    AnswersCross,
    /// Answers get lost on their way.
    LostAnswers,
    /// A deletion is confirmed before it was carried out.
    DeletedTooEarly,
    /// Silence is not noticed by the agent.
    SilenceIgnored,
    /// A key whose write failed is not tried again.
    FailuresForgotten,
    /// The hub does not notice when writes are not needed.
    WritesRepeated,
    /// The address of a Service that is being deleted is told.
    DyingAddressTold,
    /// What is parked is given back at once.
    ReleasedTooEarly,
    /// Who comes back to a parked address is not given it.
    ParkedNotTaken,
    /// What is parked is never given back.
    NeverReleased,
    /// A parked address is told to another of the tenant's Services.
    ParkedAddressTold,
    /// A plan is carried out, though what it was made for was overtaken meanwhile.
    OvertakenPlan,
    /// Nodes that come and go change no backends.
    BackendsForgotten,
    /// After a restart one load balancer that is there is not counted against the quota.
    PlaceForgotten,
    /// Who is refused for want of room is not called when there is some.
    LineForgotten,
    /// Who asks again goes to the end of the line.
    TurnForgotten,
    /// Who comes last for a place is served first.
    LastComeFirstServed,
    /// What is beyond a quota is withdrawn, although the policy does not say so.
    EnforcedUnasked,
    /// A deleted Tenant's addresses go, although its policy is to keep them.
    RetainIgnored,
    /// What a deleted Tenant has goes at once, and however many are deleted.
    DeletedTenantRushed,
    /// A Tenant that is not there is taken for one that was deleted.
    OrphansDeleted,
}

impl Mutation {
    /// All of them.
    pub fn all() -> &'static [Self] {
        <Self as clap::ValueEnum>::value_variants()
    }
}
