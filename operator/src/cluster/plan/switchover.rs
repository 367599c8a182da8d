//! The next primary: who is fit to be it, and how it stands with a request for one. Who it is only
//! the members decide.

use pgraft_core::failover::Phase;
use pgraft_core::failover::switchover::MAX_LAG;
use pgraft_core::{NodeId, Refusal, Role};

use super::switchover_attempt::SwitchoverAttempt;
use crate::cluster::observe::group::GroupView;
use crate::cluster::observe::observed::Observed;

/// Why this member can't be the primary now, as far as can be seen. The members look once more when
/// they are asked.
pub fn unfit(group: &GroupView, node: NodeId) -> Option<String> {
    let Some(member) = group.member(node) else {
        return Some(Refusal::UnknownNode(node).to_string());
    };
    if member.role != Role::Voter {
        return Some(Refusal::HasNoVote(node).to_string());
    }
    if member.reachable != Some(true) {
        return Some(Refusal::Unreachable(node).to_string());
    }
    // Not how much it lacks: that is another number at every look.
    let lags = member.lag_bytes.is_some_and(|lag| lag > MAX_LAG);
    lags.then(|| {
        format!("node {node} is more than {} MiB of WAL behind the primary", MAX_LAG >> 20)
    })
}

/// What is to be done about the request in `spec.switchover`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwitchoverRequest {
    /// It was carried out.
    Done,
    /// The members are to be asked.
    Due,
    /// It was asked, or will be when somebody leads; nothing is in its way.
    Pending,
    /// Not now, for this reason. It is tried again; nothing else waits for it.
    Refused(String),
}

/// How it stands with the request that this member be the primary.
pub fn request(target: NodeId, seen: &Observed) -> SwitchoverRequest {
    if seen.switched_to == Some(target) {
        return SwitchoverRequest::Done;
    }
    let Some(group) = seen.group.as_ref().filter(|group| group.authoritative) else {
        return SwitchoverRequest::Pending;
    };
    let Some(failover) = &group.failover else {
        return SwitchoverRequest::Refused(Refusal::FailoverIsOff.to_string());
    };
    if failover.phase != Phase::Steady {
        return SwitchoverRequest::Pending;
    }
    if group.primary == Some(target) {
        return SwitchoverRequest::Done;
    }
    if let Some(why) = unfit(group, target) {
        return SwitchoverRequest::Refused(why);
    }
    match seen
        .switchover_attempt
        .as_ref()
        .filter(|asked| asked.target == target && asked.is_fresh(seen.now))
    {
        Some(SwitchoverAttempt { refused: Some((_, words)), .. }) => {
            SwitchoverRequest::Refused(words.clone())
        }
        Some(SwitchoverAttempt { refused: None, .. }) => SwitchoverRequest::Pending,
        None => SwitchoverRequest::Due,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::*;
    use crate::cluster::observe::group::MemberSeen;
    use jiff::SignedDuration;

    #[test]
    fn how_it_stands_with_a_request() {
        let want = with_failover(3);
        let seen = healthy(&want, 3);
        let with = |change: &dyn Fn(&mut Observed)| {
            let mut seen = seen.clone();
            change(&mut seen);
            request(id(3), &seen)
        };
        let member = |seen: &mut Observed, change: &dyn Fn(&mut MemberSeen)| {
            change(&mut seen.group.as_mut().unwrap().members[2]);
        };
        assert_eq!(with(&|_| ()), SwitchoverRequest::Due);
        assert_eq!(
            with(&|s| s.group.as_mut().unwrap().primary = Some(id(3))),
            SwitchoverRequest::Done
        );
        assert_eq!(
            with(&|s| s.switched_to = Some(id(3))),
            SwitchoverRequest::Done,
            "whoever is the primary by now"
        );
        assert_eq!(with(&|s| s.switched_to = Some(id(2))), SwitchoverRequest::Due);
        assert_eq!(
            with(&|s| s.group.as_mut().unwrap().authoritative = false),
            SwitchoverRequest::Pending
        );
        assert_eq!(
            with(
                &|s| s.group.as_mut().unwrap().failover.as_mut().unwrap().phase = Phase::Recruiting
            ),
            SwitchoverRequest::Pending
        );
        let refused = |words: &str| SwitchoverRequest::Refused(words.to_owned());
        assert_eq!(
            with(&|s| s.group.as_mut().unwrap().failover = None),
            refused("cannot change the primary while pgraft.failover is off")
        );
        assert_eq!(
            with(&|s| member(s, &|m| m.reachable = Some(false))),
            refused("node 3 did not respond in time")
        );
        assert_eq!(
            with(&|s| member(s, &|m| m.role = Role::Learner)),
            refused("node 3 is not a voter and cannot be the primary")
        );
        let lags = refused("node 3 is more than 16 MiB of WAL behind the primary");
        assert_eq!(with(&|s| member(s, &|m| m.lag_bytes = Some(MAX_LAG + 1))), lags);
        assert_eq!(request(id(9), &seen), refused(&Refusal::UnknownNode(id(9)).to_string()));
        let asked =
            |refused| Some(SwitchoverAttempt { target: id(3), at: seen.now, refusals: 1, refused });
        assert_eq!(with(&|s| s.switchover_attempt = asked(None)), SwitchoverRequest::Pending);
        assert_eq!(
            with(&|s| s.switchover_attempt = asked(Some(("PGR08".into(), "not now".into())))),
            refused("not now")
        );
        assert_eq!(
            with(&|s| (s.switchover_attempt, s.now) =
                (asked(None), s.now + SignedDuration::from_mins(1))),
            SwitchoverRequest::Due
        );
    }
}
