//! What recruits report, when there are enough of them, and who is the most advanced.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use super::reign::Reign;
use crate::NodeId;
use crate::status::WalPosition;

/// A recruit's word: its WAL ends there, and takes nothing more in this epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Report {
    /// The epoch that it was recruited for. A report for another one is not looked at.
    pub epoch: u64,
    /// The timeline of its last valid record, and the end of that record.
    pub end: WalPosition,
}

/// Who is missing, when the reports are not enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Any of these would bring it further, the (former) primary alone all the way.
    pub any_of: BTreeSet<NodeId>,
}

/// Whether every set of nodes that could have confirmed a commit has a member among the recruits, for every config in force.
///
/// The primary of the present reign has everything that any config confirmed: it was the most advanced when it was appointed, and what was
/// confirmed since was its own.
pub fn enough(reign: &Reign, reports: &BTreeMap<NodeId, Report>) -> Result<BTreeSet<NodeId>, Missing> {
    let recruits: BTreeSet<NodeId> = reports.iter().filter(|(_, r)| r.epoch == reign.epoch).map(|(id, _)| *id).collect();
    if recruits.contains(&reign.primary) {
        return Ok(recruits);
    }
    let unmet = reign.configs.iter().filter(|c| !c.is_met_by(&recruits));
    let mut any_of: BTreeSet<NodeId> = unmet.flat_map(|c| c.standbys.difference(&recruits).copied().chain([c.primary])).collect();
    if any_of.is_empty() {
        return Ok(recruits);
    }
    any_of.insert(reign.primary);
    Err(Missing { any_of })
}

/// Who is to be the primary where several are as advanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tie {
    /// Above all: a switchover's target.
    pub preferred: Option<NodeId>,
    /// Only where there is nobody else: the Raft leader, so that a primary that dies does not take the leader along.
    pub leader: NodeId,
}

/// The most advanced recruit that may be appointed: the highest timeline, then the highest LSN; on a tie as `tie` says, then the lowest id.
pub fn choose(reign: &Reign, reports: &BTreeMap<NodeId, Report>, voters: &BTreeSet<NodeId>, tie: Tie) -> Option<NodeId> {
    let of_epoch = || reports.iter().filter(|(_, r)| r.epoch == reign.epoch);
    let furthest = of_epoch().map(|(_, r)| r.end).max()?;
    // Somebody who has no vote may be ahead of all who have: then there is nobody to appoint until a voter has what it has.
    let candidates = || of_epoch().filter(|(id, r)| r.end == furthest && voters.contains(*id)).map(|(id, _)| *id);
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
    fn recruiting() -> Reign {
        let mut reign = Reign::of_founder(id(1));
        reign.retarget(1, 0, ids(&[2, 3])).unwrap();
        reign.settle(1, 1).unwrap();
        reign.recruit(2).unwrap();
        reign
    }

    fn tied(preferred: Option<u8>, leader: u8) -> Tie {
        Tie { preferred: preferred.map(id), leader: id(leader) }
    }

    fn report(epoch: u64, timeline: u32, lsn: u64) -> Report {
        Report { epoch, end: WalPosition { timeline, lsn } }
    }

    #[test]
    fn one_standby_of_two_may_lack_a_commit_and_both_together_can_not() {
        let reign = recruiting();
        let one = BTreeMap::from([(id(2), report(2, 1, 10))]);
        assert_eq!(enough(&reign, &one), Err(Missing { any_of: ids(&[1, 3]) }));
        let both = BTreeMap::from([(id(2), report(2, 1, 10)), (id(3), report(2, 1, 10))]);
        assert_eq!(enough(&reign, &both), Ok(ids(&[2, 3])));
        let the_primary = BTreeMap::from([(id(1), report(2, 1, 10))]);
        assert_eq!(enough(&reign, &the_primary), Ok(ids(&[1])));
    }

    #[test]
    fn a_report_of_another_epoch_counts_for_nothing() {
        let reign = recruiting();
        let late = BTreeMap::from([(id(2), report(2, 1, 10)), (id(3), report(1, 1, 10))]);
        assert!(enough(&reign, &late).is_err());
        let ahead = BTreeMap::from([(id(2), report(2, 1, 10)), (id(3), report(1, 9, 99))]);
        assert_eq!(choose(&reign, &ahead, &ids(&[1, 2, 3]), tied(None, 3)), Some(id(2)));
    }

    #[test]
    fn the_timeline_comes_before_the_position() {
        let reign = recruiting();
        let reports = BTreeMap::from([(id(2), report(2, 1, 99)), (id(3), report(2, 2, 10))]);
        assert_eq!(choose(&reign, &reports, &ids(&[1, 2, 3]), tied(Some(2), 2)), Some(id(3)), "the preferred one lags");
        let tie = BTreeMap::from([(id(2), report(2, 2, 10)), (id(3), report(2, 2, 10))]);
        assert_eq!(choose(&reign, &tie, &ids(&[1, 2, 3]), tied(Some(3), 3)), Some(id(3)));
        assert_eq!(choose(&reign, &tie, &ids(&[1, 2, 3]), tied(None, 3)), Some(id(2)));
        assert_eq!(choose(&reign, &tie, &ids(&[1, 2, 3]), tied(None, 2)), Some(id(3)), "the leader only where there is nobody else");
        assert_eq!(choose(&reign, &tie, &ids(&[1, 2]), tied(None, 2)), Some(id(2)));
        assert_eq!(choose(&reign, &reports, &ids(&[1, 2]), tied(None, 3)), None, "the most advanced has no vote");
    }
}
