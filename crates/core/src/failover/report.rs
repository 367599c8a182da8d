//! What recruits report, when there are enough of them, and who is the most advanced.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use crate::NodeId;
use crate::primary_term::PrimaryTerm;
use crate::sync_config::SyncConfig;
use crate::wal::WalPosition;

/// A recruit's word. It takes no WAL in this epoch, until there is a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Report {
    /// The epoch that it was recruited for. A report for another one is not looked at.
    pub epoch: u64,
    /// What it has.
    pub holds: Holds,
}

/// What a recruit has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// All that it ever confirmed: the timeline of its last valid record, and the end of that
    /// record.
    UpTo(WalPosition),
    /// Nothing that anybody could use: it is being rewound, since its WAL had diverged from that of
    /// this epoch's primary. So it has confirmed nothing to that one, nor to any later one.
    NothingSince(u64),
}

impl Report {
    /// Where its WAL ends, if it has any.
    pub const fn end(&self) -> Option<WalPosition> {
        match self.holds {
            Holds::UpTo(end) => Some(end),
            Holds::NothingSince(_) => None,
        }
    }
}

/// Who is missing, when the reports are not enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Any of these would bring it further, the (former) primary alone all the way.
    pub any_of: BTreeSet<NodeId>,
}

/// Whether every set of nodes that could have confirmed a commit has a member among the recruits,
/// for every config in force.
///
/// The primary of the present primary term has everything that any config confirmed: it was the
/// most advanced when it was appointed, and what was confirmed since was its own. Who has nothing
/// since a certain epoch is no confirming standby of a config of that epoch or of a later one.
pub fn enough(
    primary_term: &PrimaryTerm,
    reports: &BTreeMap<NodeId, Report>,
) -> Result<BTreeSet<NodeId>, Missing> {
    let of_epoch = || reports.iter().filter(|(_, r)| r.epoch == primary_term.epoch);
    let recruits: BTreeSet<NodeId> =
        of_epoch().filter(|(_, r)| r.end().is_some()).map(|(id, _)| *id).collect();
    if recruits.contains(&primary_term.primary) {
        return Ok(recruits);
    }
    let met = |config: &SyncConfig| {
        let abstains = of_epoch().filter(
            |(_, r)| matches!(r.holds, Holds::NothingSince(epoch) if epoch <= config.epoch),
        );
        config.is_met_by(&recruits, &abstains.map(|(id, _)| *id).collect())
    };
    let unmet = primary_term.configs.iter().filter(|c| !met(c));
    let mut any_of: BTreeSet<NodeId> =
        unmet.flat_map(|c| c.standbys.difference(&recruits).copied().chain([c.primary])).collect();
    if any_of.is_empty() {
        return Ok(recruits);
    }
    any_of.insert(primary_term.primary);
    Err(Missing { any_of })
}

/// Who is to be the primary where several are as advanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tie {
    /// Above all: a switchover's target.
    pub preferred: Option<NodeId>,
    /// Only where there is nobody else: the Raft leader, so that a primary that dies does not take
    /// the leader along.
    pub leader: NodeId,
}

/// The most advanced recruit that may be appointed: the highest timeline, then the highest LSN; on
/// a tie as `tie` says, then the lowest id.
pub fn choose(
    primary_term: &PrimaryTerm,
    reports: &BTreeMap<NodeId, Report>,
    voters: &BTreeSet<NodeId>,
    tie: Tie,
) -> Option<NodeId> {
    let of_epoch = || reports.iter().filter(|(_, r)| r.epoch == primary_term.epoch);
    let furthest = of_epoch().filter_map(|(_, r)| r.end()).max()?;
    // Somebody who has no vote may be ahead of all who have: then there is nobody to appoint until
    // a voter has what it has.
    let candidates = || {
        of_epoch()
            .filter(|(id, r)| r.end() == Some(furthest) && voters.contains(*id))
            .map(|(id, _)| *id)
    };
    let preferred = tie.preferred.filter(|p| candidates().any(|c| c == *p));
    preferred.or_else(|| candidates().find(|c| *c != tie.leader)).or_else(|| candidates().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> NodeId {
        NodeId::new(i64::from(n)).unwrap()
    }

    fn ids(all: &[u8]) -> BTreeSet<NodeId> {
        all.iter().map(|n| id(*n)).collect()
    }

    /// Three nodes, 1 was the primary, epoch 2 recruits.
    fn recruiting() -> PrimaryTerm {
        let mut primary_term = PrimaryTerm::bootstrap(id(1));
        primary_term.propose_sync_config(1, 0, ids(&[2, 3])).unwrap();
        primary_term.commit_sync_config(1, 1).unwrap();
        primary_term.recruit(2).unwrap();
        primary_term
    }

    fn tied(preferred: Option<u8>, leader: u8) -> Tie {
        Tie { preferred: preferred.map(id), leader: id(leader) }
    }

    fn report(epoch: u64, timeline: u32, lsn: u64) -> Report {
        Report { epoch, holds: Holds::UpTo(WalPosition { timeline, lsn }) }
    }

    #[test]
    fn one_standby_of_two_may_lack_a_commit_and_both_together_can_not() {
        let primary_term = recruiting();
        let one = BTreeMap::from([(id(2), report(2, 1, 10))]);
        assert_eq!(enough(&primary_term, &one), Err(Missing { any_of: ids(&[1, 3]) }));
        let both = BTreeMap::from([(id(2), report(2, 1, 10)), (id(3), report(2, 1, 10))]);
        assert_eq!(enough(&primary_term, &both), Ok(ids(&[2, 3])));
        let the_primary = BTreeMap::from([(id(1), report(2, 1, 10))]);
        assert_eq!(enough(&primary_term, &the_primary), Ok(ids(&[1])));
    }

    /// Node 2 is being rewound to node 1, the primary of epoch 1, which is lost.
    #[test]
    fn who_has_confirmed_nothing_is_not_waited_for() {
        let primary_term = recruiting();
        let nothing = |since| Report { epoch: 2, holds: Holds::NothingSince(since) };
        let reports = |since| BTreeMap::from([(id(2), nothing(since)), (id(3), report(2, 1, 10))]);
        assert_eq!(enough(&primary_term, &reports(1)), Ok(ids(&[3])));
        assert_eq!(
            choose(&primary_term, &reports(1), &ids(&[1, 2, 3]), tied(Some(2), 3)),
            Some(id(3))
        );
        assert_eq!(
            enough(&primary_term, &reports(2)),
            Err(Missing { any_of: ids(&[1, 2]) }),
            "it may have confirmed in epoch 1"
        );
        let alone = BTreeMap::from([(id(2), nothing(1))]);
        assert!(enough(&primary_term, &alone).is_err());
        assert_eq!(choose(&primary_term, &alone, &ids(&[1, 2, 3]), tied(None, 3)), None);
        // The former primary has it all, unless it is what was being rewound.
        let primary = BTreeMap::from([(id(1), nothing(1))]);
        assert!(enough(&primary_term, &primary).is_err());
    }

    #[test]
    fn a_report_of_another_epoch_counts_for_nothing() {
        let primary_term = recruiting();
        let late = BTreeMap::from([(id(2), report(2, 1, 10)), (id(3), report(1, 1, 10))]);
        assert!(enough(&primary_term, &late).is_err());
        let ahead = BTreeMap::from([(id(2), report(2, 1, 10)), (id(3), report(1, 9, 99))]);
        assert_eq!(choose(&primary_term, &ahead, &ids(&[1, 2, 3]), tied(None, 3)), Some(id(2)));
    }

    #[test]
    fn the_timeline_comes_before_the_position() {
        let primary_term = recruiting();
        let reports = BTreeMap::from([(id(2), report(2, 1, 99)), (id(3), report(2, 2, 10))]);
        assert_eq!(
            choose(&primary_term, &reports, &ids(&[1, 2, 3]), tied(Some(2), 2)),
            Some(id(3)),
            "the preferred one lags"
        );
        let tie = BTreeMap::from([(id(2), report(2, 2, 10)), (id(3), report(2, 2, 10))]);
        assert_eq!(choose(&primary_term, &tie, &ids(&[1, 2, 3]), tied(Some(3), 3)), Some(id(3)));
        assert_eq!(choose(&primary_term, &tie, &ids(&[1, 2, 3]), tied(None, 3)), Some(id(2)));
        assert_eq!(
            choose(&primary_term, &tie, &ids(&[1, 2, 3]), tied(None, 2)),
            Some(id(3)),
            "the leader only where there is nobody else"
        );
        assert_eq!(choose(&primary_term, &tie, &ids(&[1, 2]), tied(None, 2)), Some(id(2)));
        assert_eq!(
            choose(&primary_term, &reports, &ids(&[1, 2]), tied(None, 3)),
            None,
            "the most advanced has no vote"
        );
    }
}
