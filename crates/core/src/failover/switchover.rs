//! Whether another node may become the primary because somebody asks for it.

use std::collections::{BTreeMap, BTreeSet};

use crate::primary_term::{Phase, PrimaryTerm};
use crate::quorum::majority;
use crate::wal::WalPosition;
use crate::{MemberStatus, NodeId, Outcome, Refusal};

/// More WAL than this takes a standby too long to read, in bytes: one segment. Commits would wait
/// for it.
pub const MAX_LAG: u64 = 16 << 20;

/// Whether to begin, by what the leader sees.
///
/// # Errors
/// Who asked for the impossible, or at the wrong moment.
pub fn may_switch(
    primary_term: &PrimaryTerm,
    voters: &BTreeSet<NodeId>,
    members: &[MemberStatus],
    target: NodeId,
) -> Result<Outcome, Refusal> {
    let Some(member) = members.iter().find(|m| m.node_id == target) else {
        return Err(Refusal::UnknownNode(target));
    };
    if primary_term.phase != Phase::Steady || !primary_term.is_settled() {
        return Err(Refusal::PrimaryChanging);
    }
    if primary_term.primary == target {
        return Ok(Outcome::AlreadySo);
    }
    if !voters.contains(&target) {
        return Err(Refusal::HasNoVote(target));
    }
    if member.reachable != Some(true) {
        return Err(Refusal::Unreachable(target));
    }
    match member.lag_bytes {
        Some(lag) if lag > MAX_LAG => Err(Refusal::Lags { node: target, bytes: lag }),
        _ => Ok(Outcome::Changed),
    }
}

/// Whether the change can go through at once: `ready` are those who may be recruited as soon as the
/// primary gives its lease back. Whoever has just started is not: it may owe a lease that it has
/// forgotten.
pub fn is_at_once(voters: &BTreeSet<NodeId>, ready: &BTreeSet<NodeId>, target: NodeId) -> bool {
    ready.contains(&target) && voters.intersection(ready).count() >= majority(voters.len())
}

/// Who takes over from a primary that is about to stop: of the voters that were heard just now the
/// one that has most of its WAL.
pub fn successor(
    confirmed: &BTreeMap<NodeId, WalPosition>,
    voters: &BTreeSet<NodeId>,
    heard: &BTreeSet<NodeId>,
) -> Option<NodeId> {
    let fit = confirmed.iter().filter(|(id, _)| voters.contains(id) && heard.contains(id));
    fit.max_by_key(|(_, has)| **has).map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Address, Role};

    fn id(n: u8) -> NodeId {
        NodeId::new(i64::from(n)).unwrap()
    }

    #[test]
    fn the_successor_votes_was_heard_and_has_most() {
        let at = |lsn| WalPosition { timeline: 1, lsn };
        let confirmed =
            BTreeMap::from([(id(2), at(5)), (id(3), at(7)), (id(4), at(9)), (id(5), at(9))]);
        let (voters, all) =
            (BTreeSet::from([1, 2, 3, 4].map(id)), BTreeSet::from([2, 3, 4, 5].map(id)));
        assert_eq!(successor(&confirmed, &voters, &all), Some(id(4)), "who has no vote is none");
        assert_eq!(
            successor(&confirmed, &voters, &BTreeSet::from([2, 3].map(id))),
            Some(id(3)),
            "who is silent is none"
        );
        assert_eq!(successor(&confirmed, &voters, &BTreeSet::new()), None);
        assert_eq!(
            successor(&BTreeMap::new(), &voters, &all),
            None,
            "nobody has taken anything from this primary"
        );
    }

    #[test]
    fn at_once_where_a_majority_with_the_target_may_be_recruited() {
        let ids = |ids: &[u8]| ids.iter().copied().map(id).collect::<BTreeSet<_>>();
        let voters = ids(&[1, 2, 3]);
        assert!(is_at_once(&voters, &ids(&[1, 2]), id(2)), "the primary and its successor");
        assert!(!is_at_once(&voters, &ids(&[1, 3]), id(2)), "the successor has just started");
        assert!(!is_at_once(&voters, &ids(&[2]), id(2)));
        assert!(!is_at_once(&voters, &ids(&[2, 4, 5]), id(2)), "who has no vote is not counted");
        assert!(
            !is_at_once(&ids(&[1, 2, 3, 4]), &ids(&[1, 2]), id(2)),
            "half of them are no majority"
        );
    }

    #[test]
    fn who_may_become_the_primary() {
        let mut primary_term = PrimaryTerm::bootstrap(id(1));
        let member = |n: u8, reachable, lag_bytes| MemberStatus {
            node_id: id(n),
            address: Address::new("h", 7001).unwrap(),
            role: Role::Voter,
            is_leader: false,
            is_primary: n == 1,
            postgres: None,
            zone: String::new(),
            reachable,
            last_contact_ms: None,
            match_index: None,
            wal: None,
            lag_bytes,
        };
        let members = [
            member(1, Some(true), Some(0)),
            member(2, Some(true), Some(5)),
            member(3, Some(false), None),
            member(4, Some(true), Some(MAX_LAG + 1)),
            member(5, Some(true), Some(0)),
        ];
        let voters: BTreeSet<NodeId> = (1..=4).map(id).collect();
        let may =
            |primary_term: &PrimaryTerm, n| may_switch(primary_term, &voters, &members, id(n));
        assert_eq!(may(&primary_term, 1), Ok(Outcome::AlreadySo));
        assert_eq!(may(&primary_term, 2), Ok(Outcome::Changed));
        assert_eq!(may(&primary_term, 3), Err(Refusal::Unreachable(id(3))));
        assert_eq!(may(&primary_term, 4), Err(Refusal::Lags { node: id(4), bytes: MAX_LAG + 1 }));
        assert_eq!(may(&primary_term, 5), Err(Refusal::HasNoVote(id(5))));
        assert_eq!(may(&primary_term, 6), Err(Refusal::UnknownNode(id(6))));
        primary_term.recruit(2).unwrap();
        assert_eq!(may(&primary_term, 2), Err(Refusal::PrimaryChanging));
    }
}
