//! Whether a person may name the primary, where the protocol waits for servers that nobody will
//! bring back.

use std::collections::{BTreeMap, BTreeSet};

use super::report::{Report, enough};
use crate::primary_term::{Phase, PrimaryTerm};
use crate::{NodeId, Outcome, Refusal};

/// Whether to do it, by what the leader knows. Only where nothing else helps: while a successor is
/// looked for, and the reports are not enough.
///
/// # Errors
/// There is no need, the node can't be the primary, or nobody has accepted what may be lost.
pub fn may_force(
    primary_term: &PrimaryTerm,
    voters: &BTreeSet<NodeId>,
    reports: &BTreeMap<NodeId, Report>,
    target: NodeId,
    accept_data_loss: bool,
) -> Result<Outcome, Refusal> {
    if !voters.contains(&target) {
        return Err(Refusal::HasNoVote(target));
    }
    if primary_term.phase == Phase::Steady {
        return if primary_term.primary == target {
            Ok(Outcome::AlreadySo)
        } else {
            Err(Refusal::PrimaryExists)
        };
    }
    let Err(missing) = enough(primary_term, reports) else { return Err(Refusal::PrimaryChanging) };
    // Without its word it may take WAL from somebody yet, or not be there at all.
    if reports
        .get(&target)
        .is_none_or(|report| report.epoch != primary_term.epoch || report.end().is_none())
    {
        return Err(Refusal::Unreachable(target));
    }
    if accept_data_loss {
        Ok(Outcome::Changed)
    } else {
        Err(Refusal::LosesData { node: target, missing: missing.any_of.into_iter().collect() })
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
    fn only_where_nothing_else_helps_and_somebody_says_so() {
        let voters: BTreeSet<NodeId> = [1, 2, 3].map(id).into();
        let mut primary_term = PrimaryTerm::bootstrap(id(1));
        primary_term.propose_sync_config(1, 0, [2, 3].map(id).into()).unwrap();
        primary_term.commit_sync_config(1, 1).unwrap();
        let report =
            |epoch| Report { epoch, holds: Holds::UpTo(WalPosition { timeline: 1, lsn: 7 }) };
        let (none, old) = (BTreeMap::new(), BTreeMap::from([(id(2), report(1))]));
        let (one, both) = (
            BTreeMap::from([(id(2), report(2))]),
            BTreeMap::from([(id(2), report(2)), (id(3), report(2))]),
        );
        let may = |primary_term: &PrimaryTerm, reports, target, accept| {
            may_force(primary_term, &voters, reports, id(target), accept)
        };

        assert_eq!(
            may(&primary_term, &none, 2, true),
            Err(Refusal::PrimaryExists),
            "there is a primary"
        );
        assert_eq!(may(&primary_term, &none, 1, true), Ok(Outcome::AlreadySo));
        primary_term.recruit(2).unwrap();
        assert_eq!(may(&primary_term, &one, 4, true), Err(Refusal::HasNoVote(id(4))));
        assert_eq!(
            may(&primary_term, &both, 2, true),
            Err(Refusal::PrimaryChanging),
            "it comes by itself"
        );
        assert_eq!(may(&primary_term, &one, 3, true), Err(Refusal::Unreachable(id(3))));
        assert_eq!(
            may(&primary_term, &old, 2, true),
            Err(Refusal::Unreachable(id(2))),
            "it has said nothing in this epoch"
        );
        assert_eq!(
            may(&primary_term, &one, 2, false),
            Err(Refusal::LosesData { node: id(2), missing: [1, 3].map(id).into() })
        );
        assert_eq!(may(&primary_term, &one, 2, true), Ok(Outcome::Changed));
    }
}
