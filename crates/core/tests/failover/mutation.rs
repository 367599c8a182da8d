//! The rules of the protocol, each taken out: what the world does wrong then.

/// One rule less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// A recruit reports while its receiver lives.
    ReportBeforeTheReceiverIsGone,
    /// ... or while the startup process can still start one.
    ReportBeforeTheStartupProcessKnows,
    /// The old primary reports with its gate open.
    ReportWhilePrimary,
    /// A report in mid-rewind.
    ReportWhileRewinding,
    /// Who is being rewound says that it has never confirmed anything.
    AbstainsFromEverything,
    /// A standby turns to a primary before it has compared its WAL with that one's history.
    FollowsUncompared,
    /// A walreceiver takes whatever timeline the server writes that it was sent to.
    FollowsAnyTimeline,
    /// A clone from somebody else than the primary.
    CloneFromAnybody,
    /// The epoch is forgotten in a crash.
    EpochNotDurable,
    /// A promise ends while its lease stands.
    PromiseForgotten,
    /// Reports of an earlier epoch count.
    LateReportsCount,
    /// Reports from outside of a config count for it.
    AnybodysReportCounts,
    /// The LSN decides alone.
    PositionBeforeTimeline,
    /// Postgres takes the next number.
    TimelineByPostgres,
    /// A restarted server starts as a primary where `instance.json` names its node, whether it was
    /// promoted or not.
    StartsAsRecorded,
    /// `Appoint` forgets the configs before it.
    AppointReplacesConfigs,
    /// Postgres waits for one confirmation less than the config says.
    OneConfirmationLess,
    /// Nobody has to confirm anything for a change.
    NoBarrier,
    /// The end of the WAL is noted while some walsender goes by the old names.
    NoteBeforeAllHaveLoaded,
    /// The names are set before the change is committed.
    NamesBeforeTheyAreCommitted,
    /// Going back needs no confirmation.
    ChangeOfMindWithoutBarrier,
    /// A confirmation for an earlier change settles a later one.
    LateConfirmationsCount,
    /// The gate opens with the lease.
    GateBeforeConfirmed,
    /// A restarted primary goes by what it has applied.
    NoRead,
    /// Voters change twice within a lease time.
    VotersChangeAtOnce,
    /// Heartbeats do not say by which membership they count.
    MembershipNotCompared,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::ReportBeforeTheReceiverIsGone,
        Self::ReportBeforeTheStartupProcessKnows,
        Self::ReportWhilePrimary,
        Self::ReportWhileRewinding,
        Self::AbstainsFromEverything,
        Self::FollowsUncompared,
        Self::FollowsAnyTimeline,
        Self::CloneFromAnybody,
        Self::EpochNotDurable,
        Self::PromiseForgotten,
        Self::LateReportsCount,
        Self::AnybodysReportCounts,
        Self::PositionBeforeTimeline,
        Self::TimelineByPostgres,
        Self::StartsAsRecorded,
        Self::AppointReplacesConfigs,
        Self::OneConfirmationLess,
        Self::NoBarrier,
        Self::NoteBeforeAllHaveLoaded,
        Self::NamesBeforeTheyAreCommitted,
        Self::ChangeOfMindWithoutBarrier,
        Self::LateConfirmationsCount,
        Self::GateBeforeConfirmed,
        Self::NoRead,
        Self::VotersChangeAtOnce,
        Self::MembershipNotCompared,
    ];
}
