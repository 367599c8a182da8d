//! Orders of events, each of which leads to a violation where a rule is taken out, and nowhere with
//! it. Some were come across by walks and shortened, some were thought up.

use crate::mutation::Mutation;
use crate::world::{Budget, ModelViolation, ModelWorld};

/// One of them.
pub struct Trace {
    pub mutation: Mutation,
    /// What it leads to.
    pub violation: ModelViolation,
    pub world: ModelWorld,
    /// The names of the actions.
    pub story: &'static str,
}

/// Three voters; writes, crashes, epochs and changes of the standbys that there may be.
fn three(standbys: u8, [writes, crashes, epochs, changes]: [u8; 4]) -> ModelWorld {
    ModelWorld::new(3, 0b111, standbys, Budget { writes, crashes, epochs, changes, voters: 0 })
}

/// Five nodes: all of them vote where no vote changes, else the first three.
fn five(standbys: u8, [writes, crashes, epochs, changes]: [u8; 4], voters: u8) -> ModelWorld {
    let votes = if voters == 0 { 0b1_1111 } else { 0b111 };
    ModelWorld::new(5, votes, standbys, Budget { writes, crashes, epochs, changes, voters })
}

#[allow(clippy::too_many_lines, reason = "data")]
pub fn traces() -> Vec<Trace> {
    vec![
        Trace {
            mutation: Mutation::ReportBeforeTheReceiverIsGone,
            violation: ModelViolation::AcknowledgedWriteMissing,
            world: three(0b110, [1, 0, 1, 0]),
            story: "Write(0) PromiseEnds(0) LeaseEnds(0) PromiseEnds(2) Lead Commit(0) Apply(2) Apply(1) Step(2) Step(2) Step(2) \
                    PromiseEnds(1) Step(1) Step(1) Step(1) Lead Commit(0) Receive(2) Confirm(0,2)",
        },
        // Node 2 reports when its receiver is gone. Its startup process, which knows the old
        // address only, starts another one: that takes the write and confirms it. Node 1 is
        // appointed and has never seen it.
        Trace {
            mutation: Mutation::ReportBeforeTheStartupProcessKnows,
            violation: ModelViolation::AcknowledgedWriteMissing,
            world: three(0b110, [1, 0, 1, 0]),
            story: "Write(0) LeaseEnds(0) PromiseEnds(1) PromiseEnds(2) Lead Commit(0) Apply(2) Step(2) Step(2) ReceiverEnds(2) \
                    Step(2) Apply(1) Step(1) Step(1) ReceiverEnds(1) Step(1) Lead Commit(0) ReceiverStarts(2) Receive(2) \
                    Confirm(0,2)",
        },
        // The primary gets its lease back before the end of its primary term is committed, hears of
        // that end, and says where its WAL ends. What it writes then node 1 confirms; by the
        // reports nobody has more than node 2, which does not have it.
        Trace {
            mutation: Mutation::ReportWhilePrimary,
            violation: ModelViolation::AcknowledgedWriteMissing,
            world: three(0b110, [1, 0, 1, 0]),
            story: "LeaseEnds(0) PromiseEnds(1) PromiseEnds(2) Lead Grant(0,0) Grant(0,1) Commit(0) Apply(0) Step(0) Write(0) \
                    Receive(1) Confirm(0,1) Apply(2) Step(2) Step(2) ReceiverEnds(2) LoadConninfo(2) Step(2) Lead Commit(0)",
        },
        // As where it abstains from everything (below): node 1 had confirmed the first write, and
        // is being rewound to node 2, which is lost. It says that its WAL ends somewhere, and is
        // counted with the two that never had the write.
        Trace {
            mutation: Mutation::ReportWhileRewinding,
            violation: ModelViolation::AcknowledgedWriteMissing,
            world: five(0b1_1110, [2, 0, 2, 0], 0),
            story: "Write(0) Receive(1) Receive(2) Confirm(0,1) Confirm(0,2) Write(0) Receive(1) LeaseEnds(0) PromiseEnds(2) \
                    PromiseEnds(3) PromiseEnds(4) Lead Commit(0) Apply(2) Step(2) Step(2) ReceiverEnds(2) LoadConninfo(2) Step(2) \
                    Apply(3) Step(3) Step(3) ReceiverEnds(3) LoadConninfo(3) Step(3) Apply(4) Step(4) Step(4) ReceiverEnds(4) \
                    LoadConninfo(4) Step(4) Lead Commit(0) Apply(2) Step(2) Apply(1) Apply(1) PromiseEnds(1) Step(1) Step(1) \
                    ReceiverEnds(1) LoadConninfo(1) Step(1) Lead Commit(0) Apply(1) Step(1) Step(1) Apply(3) Apply(3) Step(3) \
                    Step(3) Apply(4) Apply(4) Step(4) Step(4) Lead Commit(0)",
        },
        // Node 1 had confirmed the first write, and the second one has diverged it from node 2, to
        // which it is being rewound. Node 2 is lost.
        Trace {
            mutation: Mutation::AbstainsFromEverything,
            violation: ModelViolation::AcknowledgedWriteMissing,
            world: five(0b1_1110, [2, 0, 2, 0], 0),
            story: "Write(0) Receive(1) Receive(2) Confirm(0,1) Confirm(0,2) Write(0) Receive(1) LeaseEnds(0) PromiseEnds(2) \
                    PromiseEnds(3) PromiseEnds(4) Lead Commit(0) Apply(2) Step(2) Step(2) ReceiverEnds(2) LoadConninfo(2) Step(2) \
                    Apply(3) Step(3) Step(3) ReceiverEnds(3) LoadConninfo(3) Step(3) Apply(4) Step(4) Step(4) ReceiverEnds(4) \
                    LoadConninfo(4) Step(4) Lead Commit(0) Apply(2) Step(2) Apply(1) Apply(1) PromiseEnds(1) Step(1) Step(1) \
                    ReceiverEnds(1) LoadConninfo(1) Step(1) Lead Commit(0) Apply(3) Apply(3) Step(3) Step(3) Apply(4) Apply(4) \
                    Step(4) Step(4) Apply(1) Step(1) Step(1) Lead Commit(0)",
        },
        Trace {
            mutation: Mutation::FollowsAnyTimeline,
            violation: ModelViolation::ConfirmsWhatItHasNot,
            world: three(0b110, [3, 1, 3, 0]),
            story: "PromiseEnds(1) LeaseEnds(0) Crash(2) Restart(2,0) Start(2) PromiseEnds(2) \
                    Lead Commit(0) Apply(2) Apply(1) Step(2) Step(2) Step(1) Step(1) \
                    ReceiverEnds(1) LoadConninfo(1) Step(1) Lead PromiseEnds(0) Commit(0) \
                    Apply(1) Lead Apply(2) Step(1) Step(2) LoadConninfo(2) Apply(0) Apply(0) \
                    Step(0) Commit(0) Apply(0) ReceiverStarts(2) Start(0) Step(0) Apply(1) \
                    Step(0) Lead Receive(2) Commit(0) Apply(0) Apply(1) Step(0) Step(1) \
                    Start(1) Step(1) Step(1) RewindEnds(1,0) Lead Commit(0) Apply(1) Apply(0) \
                    Step(0) Step(1) Step(1) Start(0) Step(0) Step(0) Lead Commit(0) Apply(1) \
                    Step(1) ReceiverStarts(2)",
        },
        // The same again, but node 1 is whole when it reports: it was cloned from node 3, which
        // never had the write that node 1 had confirmed.
        Trace {
            mutation: Mutation::CloneFromAnybody,
            violation: ModelViolation::AcknowledgedWriteMissing,
            world: five(0b1_1110, [2, 0, 2, 0], 0),
            story: "Write(0) Receive(1) Receive(2) Confirm(0,1) Confirm(0,2) Write(0) Receive(1) LeaseEnds(0) PromiseEnds(2) \
                    PromiseEnds(3) PromiseEnds(4) Lead Commit(0) Apply(2) Step(2) Step(2) ReceiverEnds(2) LoadConninfo(2) Step(2) \
                    Apply(3) Step(3) Step(3) ReceiverEnds(3) LoadConninfo(3) Step(3) Apply(4) Step(4) Step(4) ReceiverEnds(4) \
                    LoadConninfo(4) Step(4) Lead Commit(0) Apply(2) Step(2) Apply(1) Apply(1) PromiseEnds(1) Step(1) Step(1) \
                    ReceiverEnds(1) LoadConninfo(1) Step(1) RewindEnds(1,3) Lead Commit(0) Apply(1) Step(1) Step(1) Apply(3) \
                    Apply(3) Step(3) Step(3) Apply(4) Apply(4) Step(4) Step(4) Lead Commit(0)",
        },
        // Node 2 has reported, crashes, and has forgotten that: it follows the old primary as
        // before, and confirms the write. Its report still counts, and node 1 is appointed.
        Trace {
            mutation: Mutation::EpochNotDurable,
            violation: ModelViolation::AcknowledgedWriteMissing,
            world: three(0b110, [1, 1, 1, 0]),
            story: "Write(0) LeaseEnds(0) PromiseEnds(1) PromiseEnds(2) Lead Commit(0) \
                    Apply(2) Step(2) Step(2) ReceiverEnds(2) LoadConninfo(2) Step(2) Crash(2) \
                    Restart(2,0) Start(2) Step(2) LoadConninfo(2) ReceiverStarts(2) Receive(2) \
                    Apply(1) Step(1) Step(1) ReceiverEnds(1) LoadConninfo(1) Step(1) Lead \
                    Commit(0) Confirm(0,2)",
        },
        // Commits wait for node 1, which has confirmed the write. The report of node 2 is taken for
        // its own.
        Trace {
            mutation: Mutation::AnybodysReportCounts,
            violation: ModelViolation::AcknowledgedWriteMissing,
            world: three(0b10, [1, 0, 1, 0]),
            story: "Write(0) Receive(1) Confirm(0,1) LeaseEnds(0) PromiseEnds(1) PromiseEnds(2) Lead Commit(0) Apply(2) Step(2) \
                    Step(2) ReceiverEnds(2) LoadConninfo(2) Step(2) Lead Commit(0)",
        },
        // The WAL of node 0, which is no longer the primary, ends with writes that nobody has
        // confirmed, and so where that of node 2 does, which has confirmed a write of node 1 on the
        // next timeline. Node 1 is lost; by the LSN alone node 0 is as advanced as node 2.
        Trace {
            mutation: Mutation::PositionBeforeTimeline,
            violation: ModelViolation::AcknowledgedWriteMissing,
            world: three(0b110, [3, 0, 2, 0]),
            story: "Write(0) Write(0) LeaseEnds(0) PromiseEnds(1) PromiseEnds(2) Lead \
                    Commit(0) Apply(1) Step(1) Step(1) ReceiverEnds(1) LoadConninfo(1) Step(1) \
                    Apply(2) Step(2) Step(2) ReceiverEnds(2) LoadConninfo(2) Step(2) Lead \
                    Commit(0) Apply(1) Step(1) Apply(2) Step(2) LoadConninfo(2) \
                    ReceiverStarts(2) Receive(2) PrimaryTerm(1) PrimaryTerm(1) PrimaryTerm(1) \
                    Confirm(1,2) PrimaryTerm(1) Commit(0) Apply(1) Grant(1,1) Grant(1,2) \
                    PrimaryTerm(1) Write(1) Receive(2) Confirm(1,2) LeaseEnds(1) \
                    PromiseEnds(2) PromiseEnds(0) Lead Commit(0) Apply(0) Apply(0) Apply(0) \
                    Apply(0) Step(0) Start(0) Step(0) Step(0) Apply(2) Apply(2) Step(2) \
                    Step(2) ReceiverEnds(2) LoadConninfo(2) Step(2) Lead Commit(0)",
        },
        // Node 1 is promoted to timeline 2 and has no standby. Node 0 is appointed after it,
        // crashes before it is promoted, and starts as the primary that it was, on timeline 1: node
        // 2, which has heard of nothing, still follows that one and confirms a write. Node 1 comes
        // back: its timeline is the higher one.
        Trace {
            mutation: Mutation::StartsAsRecorded,
            violation: ModelViolation::AcknowledgedWriteMissing,
            world: three(0b110, [1, 1, 3, 0]),
            story: "LeaseEnds(0) PromiseEnds(0) PromiseEnds(1) Lead Commit(0) Apply(0) Step(0) \
                    Start(0) Step(0) Step(0) Apply(1) Step(1) Step(1) LoadConninfo(1) Step(1) \
                    Lead Commit(0) Apply(1) Step(1) Lead Commit(0) Apply(0) Apply(0) Step(0) \
                    Step(0) Lead Commit(0) Crash(0) Restart(0,0) Apply(0) Start(0) \
                    ReceiverStarts(2) PrimaryTerm(0) PrimaryTerm(0) PrimaryTerm(0) \
                    Confirm(0,2) PrimaryTerm(0) Commit(0) Apply(0) Apply(1) Step(1) Start(1) \
                    Step(1) Apply(1) Grant(0,0) Grant(0,1) PrimaryTerm(0) Write(0) Receive(2) \
                    Confirm(0,2) LeaseEnds(0) PromiseEnds(0) PromiseEnds(1) Lead Commit(0) \
                    Apply(1) Apply(1) Step(1) Step(1) Apply(0) Step(0) Start(0) Step(0) \
                    Step(0) Lead Commit(0)",
        },
        Trace {
            mutation: Mutation::NoteBeforeAllHaveLoaded,
            violation: ModelViolation::AcknowledgedWriteMissing,
            world: three(0b10, [1, 0, 1, 1]),
            story: "ChangeStandbys(4) Apply(0) PrimaryTerm(0) Apply(2) PrimaryTerm(0) PrimaryTerm(0) Write(0) Receive(1) PromiseEnds(2) LeaseEnds(0) \
                    Confirm(0,1) Commit(0) PromiseEnds(1) Apply(2) Lead Commit(0) Apply(2) Step(2) Step(2) Apply(0) \
                    LoadConninfo(2) Apply(0) Step(0) Step(2) Lead Commit(0)",
        },
        Trace {
            mutation: Mutation::LateConfirmationsCount,
            violation: ModelViolation::AcknowledgedWriteMissing,
            world: three(0b10, [1, 0, 1, 2]),
            story: "Write(0) ChangeStandbys(0) Apply(2) ChangeStandbys(4) Apply(2) Apply(0) \
                    PrimaryTerm(0) NamesLoaded(0) LeaseEnds(0) PrimaryTerm(0) PrimaryTerm(0) \
                    Apply(0) Commit(0) Apply(0) PromiseEnds(0) Apply(2) PromiseEnds(1) Lead \
                    Commit(0) Apply(2) PromiseEnds(2) Apply(0) Step(2) Step(2) ReceiverEnds(2) \
                    LoadConninfo(2) Step(2) Lead Step(0) Start(0) Step(0) Step(0) Lead \
                    Commit(1)",
        },
        Trace {
            mutation: Mutation::GateBeforeConfirmed,
            violation: ModelViolation::AcknowledgedWriteMissing,
            world: three(0b110, [1, 0, 2, 0]),
            story: "PromiseEnds(2) LeaseEnds(0) PromiseEnds(0) Lead Commit(0) Apply(0) \
                    Apply(1) PromiseEnds(1) Step(1) Apply(2) Step(2) Step(2) LoadConninfo(2) \
                    Step(1) Step(0) Step(2) LoadConninfo(1) Step(1) Lead Start(0) Step(0) \
                    Commit(0) Apply(1) Apply(0) Step(1) PrimaryTerm(1) Lead Commit(0) Apply(0) \
                    PrimaryTerm(1) PrimaryTerm(1) Step(0) Step(0) Lead Commit(0) Apply(2) \
                    Grant(1,1) Step(2) LoadConninfo(2) ReceiverStarts(2) Grant(1,2) Receive(2) \
                    PrimaryTerm(1) Write(1) Receive(2) Confirm(1,2)",
        },
        // The primary has gone over from node 1 to node 2. Its worker restarts and falls back behind
        // that: it opens its gate with node 1, which confirms a write. For the group the report of node 2 is
        // enough.
        Trace {
            mutation: Mutation::NoRead,
            violation: ModelViolation::AcknowledgedWriteMissing,
            world: three(0b10, [1, 1, 1, 1]),
            story: "ChangeStandbys(4) Apply(0) PrimaryTerm(0) NamesLoaded(0) PrimaryTerm(0) PrimaryTerm(0) Commit(0) WorkerRestarts(0,1) \
                    PrimaryTerm(0) NamesLoaded(0) PrimaryTerm(0) Grant(0,0) Grant(0,1) PrimaryTerm(0) Write(0) Receive(1) \
                    Confirm(0,1) LeaseEnds(0) PromiseEnds(1) PromiseEnds(2) Lead Commit(0) Apply(2) Apply(2) Apply(2) Step(2) \
                    Step(2) ReceiverEnds(2) LoadConninfo(2) Step(2) Lead Commit(0)",
        },
        // Nodes 0, 1 and 2 vote; node 4 comes, and node 2 goes at once. Node 0 has heard of
        // neither, and what node 2 promised it before still stands: the two of them carry a lease,
        // and nodes 1 and 4 carry another one.
        Trace {
            mutation: Mutation::VotersChangeAtOnce,
            violation: ModelViolation::TwoOpenGates,
            world: five(0b10, [0, 0, 1, 0], 2),
            story: "ChangeVoter(4,22) ChangeVoter(2,18) PromiseEnds(1) PromiseEnds(4) Lead Commit(0) Apply(1) Apply(1) Apply(1) \
                    Step(1) Step(1) ReceiverEnds(1) LoadConninfo(1) Step(1) Lead Commit(0) Apply(1) Step(1) PrimaryTerm(1) PrimaryTerm(1) \
                    PrimaryTerm(1) Apply(4) Apply(4) Apply(4) Apply(4) Step(4) Step(4) ReceiverEnds(4) LoadConninfo(4) Step(4) \
                    LoadConninfo(4) ReceiverStarts(4) Receive(4) Confirm(1,4) PrimaryTerm(1) Commit(0) Apply(1) Grant(1,1) Grant(1,4) \
                    PrimaryTerm(1)",
        },
        // The same with a lease time between the two changes: node 2 has the first one in its log,
        // and goes on acknowledging the heartbeats of node 0, which has not.
        Trace {
            mutation: Mutation::MembershipNotCompared,
            violation: ModelViolation::TwoOpenGates,
            world: five(0b10, [0, 0, 1, 0], 2),
            story: "ChangeVoter(4,22) LeaseEnds(0) Grant(0,0) Grant(0,2) ChangeVoter(2,18) PromiseEnds(1) PromiseEnds(4) Lead \
                    Commit(0) Apply(1) Apply(1) Apply(1) Step(1) Step(1) ReceiverEnds(1) LoadConninfo(1) Step(1) Lead Commit(0) \
                    Apply(1) Step(1) PrimaryTerm(1) PrimaryTerm(1) PrimaryTerm(1) Apply(4) Apply(4) Apply(4) Apply(4) Step(4) Step(4) \
                    ReceiverEnds(4) LoadConninfo(4) Step(4) LoadConninfo(4) ReceiverStarts(4) Receive(4) Confirm(1,4) PrimaryTerm(1) \
                    Commit(0) Apply(1) Grant(1,1) Grant(1,4) PrimaryTerm(1)",
        },
    ]
}
