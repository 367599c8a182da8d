//! What a member does with its own Postgres in a failover: the same for everybody, primary or not.
//!
//! ```text
//!  a higher epoch   (primary: stop) ▸ wait for the promise ▸ epoch on disk ▸ intake closed ▸ report
//!  appointed        promote, on the timeline that was given
//!  somebody else    follow; rewind first where the histories have diverged
//! ```

use super::report::{Holds, Report};
use crate::NodeId;
use crate::primary_term::{Phase, PrimaryTerm};
use crate::wal::WalPosition;

/// Where a standby's WAL comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Intake {
    /// It follows that node, or tries to, as long as that one writes this timeline.
    Open {
        /// Whom.
        from: NodeId,
        /// The timeline that was given to the primary term that it was opened in.
        timeline: u32,
    },
    /// It was told to take no more, but a receiver lives, or one can still be started: the startup
    /// process has not read the new setting.
    Closing,
    /// No receiver lives and none can be started.
    Closed,
}

/// What this member's Postgres is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServerMode {
    /// A primary, gate open or not.
    Primary {
        /// The epoch that it was promoted or started in.
        epoch: u64,
        /// The timeline that it writes.
        timeline: u32,
    },
    /// A standby.
    Standby {
        /// Whether its files are whole. One that has only been rewound may need the primary's WAL
        /// for that: it follows as others do, and has nothing to report before.
        consistent: bool,
        /// The timeline of a promotion that was begun here and did not come to its end: Postgres
        /// would not take that number again.
        abandoned_promotion: Option<u32>,
        /// Where its WAL comes from.
        intake: Intake,
        /// The end of its last valid record, and that record's timeline.
        end: WalPosition,
        /// Whether its WAL has diverged from that of the primary; None until that one's history is
        /// known.
        diverged: Option<bool>,
    },
    /// It is being rewound or cloned: from the first changed byte to consistency its files are
    /// nobody's.
    Rewinding {
        /// The epoch in which its WAL was found to have diverged from the primary's, where it is
        /// rewound for that: it has confirmed nothing to that primary, and will confirm nothing to
        /// anybody before it is whole.
        diverged_in: Option<u64>,
    },
}

/// What a member knows.
#[derive(Debug, Clone, Copy)]
pub struct NodeFacts<'a> {
    /// This member.
    pub me: NodeId,
    /// The applied state.
    pub primary_term: &'a PrimaryTerm,
    /// The epoch that it has on disk.
    pub epoch: u64,
    /// Whether its promise is over.
    pub free: bool,
    /// Its Postgres.
    pub server: ServerMode,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeStep {
    /// Nothing until something changes.
    Nothing,
    /// This server is no longer the primary: close the gate, end every process of it, and let it
    /// come back as a standby.
    Stop,
    /// A lease that this voter carries may stand.
    WaitForPromise,
    /// Put that epoch on disk.
    Enter(u64),
    /// Take no more WAL from anybody.
    CloseIntake,
    /// Tell the leader.
    Report(Report),
    /// Become the primary, on that timeline.
    Promote(u32),
    /// Take WAL from the primary.
    Follow(NodeId),
    /// The histories have diverged: rewind to the primary's, or clone it, and nobody else.
    Rewind(NodeId),
    /// It is the primary: `primary::next_step` goes on.
    RunAsPrimary,
}

/// The next step.
pub fn next_step(facts: &NodeFacts<'_>) -> NodeStep {
    let NodeFacts { me, primary_term, epoch, free, server } = *facts;
    let is_primary = |e: u64, timeline: u32| {
        e == primary_term.epoch
            && e == epoch
            && primary_term.phase == Phase::Steady
            && primary_term.primary == me
            && timeline == primary_term.timeline
    };
    if let ServerMode::Primary { epoch: e, timeline } = server
        && !is_primary(e, timeline)
        && (e < primary_term.epoch || e < epoch || e == primary_term.epoch)
    {
        return NodeStep::Stop;
    }
    if primary_term.epoch < epoch {
        return NodeStep::Nothing; // after a restart: what it has applied is older than what it has promised
    }
    if primary_term.epoch > epoch {
        return if free { NodeStep::Enter(primary_term.epoch) } else { NodeStep::WaitForPromise };
    }
    match (primary_term.phase, primary_term.primary == me) {
        (Phase::Recruiting, _) => recruited(primary_term, server),
        (Phase::Steady, true) => appointed(primary_term, server),
        (Phase::Steady, false) => follower(primary_term, server),
    }
}

fn recruited(primary_term: &PrimaryTerm, server: ServerMode) -> NodeStep {
    let report = |holds| NodeStep::Report(Report { epoch: primary_term.epoch, holds });
    match server {
        ServerMode::Standby { consistent: true, intake: Intake::Closed, end, .. } => {
            report(Holds::UpTo(end))
        }
        ServerMode::Rewinding { diverged_in: Some(epoch) } => report(Holds::NothingSince(epoch)),
        ServerMode::Standby { consistent: true, intake: Intake::Open { .. }, .. } => {
            NodeStep::CloseIntake
        }
        ServerMode::Standby { .. }
        | ServerMode::Rewinding { diverged_in: None }
        | ServerMode::Primary { .. } => NodeStep::Nothing,
    }
}

fn appointed(primary_term: &PrimaryTerm, server: ServerMode) -> NodeStep {
    match server {
        // The number is spent: by a promotion that broke off, or by one that was complete before
        // this node fell back in the log and came up as a standby. The next primary term gives
        // another one; this primary term ends, since nobody hears its heartbeats.
        ServerMode::Standby { abandoned_promotion, end, .. }
            if abandoned_promotion == Some(primary_term.timeline)
                || end.timeline >= primary_term.timeline =>
        {
            NodeStep::Nothing
        }
        ServerMode::Standby { consistent: true, intake: Intake::Closed, .. } => {
            NodeStep::Promote(primary_term.timeline)
        }
        ServerMode::Standby { consistent: true, intake: Intake::Open { .. }, .. } => {
            NodeStep::CloseIntake
        }
        ServerMode::Primary { .. } => NodeStep::RunAsPrimary,
        ServerMode::Standby { .. } | ServerMode::Rewinding { .. } => NodeStep::Nothing,
    }
}

fn follower(primary_term: &PrimaryTerm, server: ServerMode) -> NodeStep {
    match server {
        ServerMode::Standby { intake: Intake::Open { from, timeline }, .. }
            if from == primary_term.primary && timeline == primary_term.timeline =>
        {
            NodeStep::Nothing
        }
        // A walreceiver begins by saying how far its server has replayed, whatever WAL that was,
        // and the primary takes it for a confirmation: what is here is compared before there is
        // one.
        ServerMode::Standby { intake: Intake::Open { .. } | Intake::Closing, .. } => {
            NodeStep::CloseIntake
        }
        ServerMode::Standby { diverged: Some(true), .. } => NodeStep::Rewind(primary_term.primary),
        ServerMode::Standby { diverged: Some(false), .. } => NodeStep::Follow(primary_term.primary),
        ServerMode::Standby { diverged: None, .. }
        | ServerMode::Primary { .. }
        | ServerMode::Rewinding { .. } => NodeStep::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn id(n: u8) -> NodeId {
        NodeId::new(i64::from(n)).unwrap()
    }

    /// Nodes 1, 2 and 3 in epoch 2, which 2 was appointed in with timeline 2.
    fn second_primary_term() -> PrimaryTerm {
        let mut primary_term = PrimaryTerm::bootstrap(id(1));
        primary_term.recruit(2).unwrap();
        let voters: BTreeSet<NodeId> = [1, 2, 3].map(id).into();
        primary_term.appoint(2, id(2), &voters).unwrap();
        primary_term
    }

    fn standby(intake: Intake) -> ServerMode {
        ServerMode::Standby {
            consistent: true,
            abandoned_promotion: None,
            intake,
            end: WalPosition { timeline: 1, lsn: 10 },
            diverged: Some(false),
        }
    }

    fn open(from: u8, timeline: u32) -> Intake {
        Intake::Open { from: id(from), timeline }
    }

    fn step(
        me: u8,
        primary_term: &PrimaryTerm,
        epoch: u64,
        free: bool,
        server: ServerMode,
    ) -> NodeStep {
        next_step(&NodeFacts { me: id(me), primary_term, epoch, free, server })
    }

    #[test]
    fn from_recruitment_to_report() {
        let mut primary_term = PrimaryTerm::bootstrap(id(1));
        primary_term.recruit(2).unwrap();
        let open = standby(open(1, 1));
        assert_eq!(step(3, &primary_term, 1, false, open), NodeStep::WaitForPromise);
        assert_eq!(step(3, &primary_term, 1, true, open), NodeStep::Enter(2));
        assert_eq!(step(3, &primary_term, 2, true, open), NodeStep::CloseIntake);
        assert_eq!(step(3, &primary_term, 2, true, standby(Intake::Closing)), NodeStep::Nothing);
        let report = Report { epoch: 2, holds: Holds::UpTo(WalPosition { timeline: 1, lsn: 10 }) };
        assert_eq!(
            step(3, &primary_term, 2, true, standby(Intake::Closed)),
            NodeStep::Report(report)
        );
        assert_eq!(
            step(3, &primary_term, 2, true, ServerMode::Rewinding { diverged_in: None }),
            NodeStep::Nothing,
            "its files are nobody's"
        );
        let nothing = Report { epoch: 2, holds: Holds::NothingSince(1) };
        assert_eq!(
            step(3, &primary_term, 2, true, ServerMode::Rewinding { diverged_in: Some(1) }),
            NodeStep::Report(nothing)
        );
        // The old primary stops; it comes back, and reports, as a standby.
        let primary = ServerMode::Primary { epoch: 1, timeline: 1 };
        assert_eq!(step(1, &primary_term, 1, false, primary), NodeStep::Stop);
    }

    #[test]
    fn the_appointed_one() {
        let primary_term = second_primary_term();
        assert_eq!(step(2, &primary_term, 2, true, standby(Intake::Closed)), NodeStep::Promote(2));
        assert_eq!(step(2, &primary_term, 2, true, standby(open(1, 1))), NodeStep::CloseIntake);
        assert_eq!(
            step(2, &primary_term, 2, true, ServerMode::Primary { epoch: 2, timeline: 2 }),
            NodeStep::RunAsPrimary
        );
        assert_eq!(
            step(2, &primary_term, 2, true, ServerMode::Primary { epoch: 2, timeline: 3 }),
            NodeStep::Stop,
            "not the timeline that it was given"
        );
    }

    #[test]
    fn who_is_not_whole_follows_and_no_more() {
        let not_whole = |intake| {
            let end = WalPosition { timeline: 1, lsn: 10 };
            ServerMode::Standby {
                consistent: false,
                abandoned_promotion: None,
                intake,
                end,
                diverged: Some(false),
            }
        };
        let mut primary_term = second_primary_term();
        assert_eq!(
            step(3, &primary_term, 2, true, not_whole(Intake::Closed)),
            NodeStep::Follow(id(2))
        );
        assert_eq!(step(2, &primary_term, 2, true, not_whole(Intake::Closed)), NodeStep::Nothing);
        primary_term.recruit(3).unwrap();
        assert_eq!(step(3, &primary_term, 3, true, not_whole(Intake::Closed)), NodeStep::Nothing);
    }

    #[test]
    fn a_promotion_that_broke_off_burns_its_number() {
        let primary_term = second_primary_term();
        let end = WalPosition { timeline: 1, lsn: 10 };
        let abandoned_promotion = ServerMode::Standby {
            consistent: true,
            abandoned_promotion: Some(2),
            intake: Intake::Closed,
            end,
            diverged: Some(false),
        };
        assert_eq!(step(2, &primary_term, 2, true, abandoned_promotion), NodeStep::Nothing);
    }

    #[test]
    fn the_others() {
        let primary_term = second_primary_term();
        assert_eq!(
            step(3, &primary_term, 2, true, standby(Intake::Closed)),
            NodeStep::Follow(id(2))
        );
        assert_eq!(step(3, &primary_term, 2, true, standby(open(2, 2))), NodeStep::Nothing);
        let closed = |diverged| ServerMode::Standby {
            consistent: true,
            abandoned_promotion: None,
            intake: Intake::Closed,
            end: WalPosition { timeline: 1, lsn: 10 },
            diverged,
        };
        assert_eq!(step(1, &primary_term, 2, true, closed(Some(true))), NodeStep::Rewind(id(2)));
        assert_eq!(
            step(1, &primary_term, 2, true, closed(None)),
            NodeStep::Nothing,
            "what it has is not compared yet"
        );
        for intake in [open(1, 1), open(2, 1), open(1, 2), Intake::Closing] {
            assert_eq!(
                step(3, &primary_term, 2, true, standby(intake)),
                NodeStep::CloseIntake,
                "{intake:?}: it was opened in another primary term"
            );
        }
        assert_eq!(
            step(1, &primary_term, 2, true, ServerMode::Primary { epoch: 1, timeline: 1 }),
            NodeStep::Stop
        );
        assert_eq!(
            step(1, &primary_term, 3, true, standby(Intake::Closed)),
            NodeStep::Nothing,
            "it has promised more than it has applied"
        );
    }
}
