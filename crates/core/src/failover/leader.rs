//! What the Raft leader does about the primary. It looks at nothing but what voters say: one link
//! that is down starts nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::report::{Missing, Report, Tie, choose, enough};
use crate::NodeId;
use crate::primary_term::{Phase, PrimaryTerm};
use crate::quorum::majority;

/// What the leader knows.
#[derive(Debug, Clone, Copy)]
pub struct LeaderFacts<'a> {
    /// The leader itself.
    pub me: NodeId,
    /// The applied state.
    pub primary_term: &'a PrimaryTerm,
    /// Who votes, by the last membership in the log.
    pub voters: &'a BTreeSet<NodeId>,
    /// Who may be appointed, by the applied state: whoever is leaving votes until it is out, and is
    /// the primary no more.
    pub electorate: &'a BTreeSet<NodeId>,
    /// Whether that membership is applied and uniform: no change of it is under way.
    pub steady_membership: bool,
    /// Voters that say that their promise is over, asked just now.
    pub free: &'a BTreeSet<NodeId>,
    /// The last report of each member.
    pub reports: &'a BTreeMap<NodeId, Report>,
    /// Who is to be the primary if it is as advanced as anybody: a switchover's target.
    pub preferred: Option<NodeId>,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaderStep {
    /// The primary has its lease, as far as anybody can tell.
    Nothing,
    /// Propose the end of the primary term.
    Recruit(u64),
    /// Not enough reports: these would help.
    WaitFor(Missing),
    /// Everybody who was counted is accounted for, but the most advanced recruit has no vote, or is
    /// leaving.
    WaitForVoter,
    /// Propose a new primary.
    Appoint {
        /// The epoch that recruits.
        epoch: u64,
        /// The most advanced recruit.
        primary: NodeId,
    },
}

/// The next step.
pub fn next_step(facts: &LeaderFacts<'_>) -> LeaderStep {
    let LeaderFacts {
        me,
        primary_term,
        voters,
        electorate,
        steady_membership,
        free,
        reports,
        preferred,
    } = *facts;
    match primary_term.phase {
        Phase::Steady => {
            let gone = free.intersection(voters).count() >= majority(voters.len());
            if gone && steady_membership {
                LeaderStep::Recruit(primary_term.epoch + 1)
            } else {
                LeaderStep::Nothing
            }
        }
        Phase::Recruiting => match enough(primary_term, reports) {
            Err(missing) => LeaderStep::WaitFor(missing),
            Ok(_) => {
                match choose(
                    primary_term,
                    reports,
                    &(voters & electorate),
                    Tie { preferred, leader: me },
                ) {
                    Some(primary) => LeaderStep::Appoint { epoch: primary_term.epoch, primary },
                    None => LeaderStep::WaitForVoter,
                }
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Holds;
    use super::*;
    use crate::wal::WalPosition;

    fn id(n: u8) -> NodeId {
        NodeId::new(i64::from(n)).unwrap()
    }

    #[test]
    fn one_link_starts_nothing_and_a_majority_does() {
        let mut primary_term = PrimaryTerm::bootstrap(id(1));
        let voters: BTreeSet<NodeId> = [1, 2, 3].map(id).into();
        let (one, two) = (BTreeSet::from([id(2)]), BTreeSet::from([id(2), id(3)]));
        let none = BTreeMap::new();
        let facts = LeaderFacts {
            me: id(2),
            primary_term: &primary_term.clone(),
            voters: &voters,
            electorate: &voters,
            steady_membership: true,
            free: &one,
            reports: &none,
            preferred: None,
        };
        assert_eq!(next_step(&facts), LeaderStep::Nothing);
        assert_eq!(next_step(&LeaderFacts { free: &two, ..facts }), LeaderStep::Recruit(2));
        assert_eq!(
            next_step(&LeaderFacts { free: &two, steady_membership: false, ..facts }),
            LeaderStep::Nothing
        );
        primary_term.propose_sync_config(1, 0, [2, 3].map(id).into()).unwrap();
        primary_term.commit_sync_config(1, 1).unwrap();
        primary_term.recruit(2).unwrap();
        let facts = LeaderFacts { primary_term: &primary_term, ..facts };
        assert!(matches!(next_step(&facts), LeaderStep::WaitFor(_)));
        let at = |lsn| Report { epoch: 2, holds: Holds::UpTo(WalPosition { timeline: 1, lsn }) };
        let reports = BTreeMap::from([(id(2), at(5)), (id(3), at(6))]);
        assert_eq!(
            next_step(&LeaderFacts { reports: &reports, ..facts }),
            LeaderStep::Appoint { epoch: 2, primary: id(3) }
        );
    }

    /// The group refuses to appoint it: to propose it again and again would bring nobody further.
    #[test]
    fn who_is_leaving_is_not_appointed() {
        let mut primary_term = PrimaryTerm::bootstrap(id(1));
        primary_term.propose_sync_config(1, 0, [2, 3].map(id).into()).unwrap();
        primary_term.commit_sync_config(1, 1).unwrap();
        primary_term.recruit(2).unwrap();
        let (voters, electorate) =
            (BTreeSet::from([1, 2, 3].map(id)), BTreeSet::from([1, 3].map(id)));
        let at = |lsn| Report { epoch: 2, holds: Holds::UpTo(WalPosition { timeline: 1, lsn }) };
        let step = |reports: &BTreeMap<NodeId, Report>| {
            let (none, voters, electorate) = (&BTreeSet::new(), &voters, &electorate);
            next_step(&LeaderFacts {
                me: id(3),
                primary_term: &primary_term,
                voters,
                electorate,
                steady_membership: true,
                free: none,
                reports,
                preferred: None,
            })
        };
        assert_eq!(
            step(&BTreeMap::from([(id(2), at(5)), (id(3), at(5))])),
            LeaderStep::Appoint { epoch: 2, primary: id(3) }
        );
        assert_eq!(
            step(&BTreeMap::from([(id(2), at(6)), (id(3), at(5))])),
            LeaderStep::WaitForVoter
        );
    }
}
