//! Having another primary: because somebody asked for it, and before the primary's member or pod is
//! taken away. The members decide; this asks them, once, and again later when they refused.
//!
//! ```text
//!  asked for       nothing else waits for a request that can't be carried out now
//!  scaled away     switchover ▸ RemoveNode ▸ pod ▸ volume
//!  restarted       the standbys' pods ▸ switchover ▸ the old primary's pod
//! ```

use pgraft_core::NodeId;
use pgraft_core::failover::Phase;

use super::Plan;
use crate::cluster::observe::group::{GroupView, MemberSeen};
use crate::cluster::plan::switchover::{SwitchoverRequest, request, unfit};
use crate::cluster::plan::switchover_attempt::SwitchoverAttempt;
use crate::cluster::step::{MembershipRequest, Step, WaitReason};

impl Plan<'_> {
    /// There is no primary at the moment: who joins or leaves is decided when there is one.
    pub(super) fn without_primary(group: &GroupView) -> Option<Step> {
        let failover = group.failover.as_ref().filter(|f| f.phase == Phase::Recruiting)?;
        Some(Step::Wait(WaitReason::NoPrimary(failover.waits_for.clone())))
    }

    /// What somebody asked for.
    pub(super) fn requested(&self) -> Option<Step> {
        let target = self.want.switchover?;
        (request(target, self.seen) == SwitchoverRequest::Due).then_some(Step::SwitchOver(target))
    }

    /// Takes a member out. The primary is another one first, where the members choose it; where
    /// they don't it stays.
    pub(super) fn take_out(
        &self,
        group: &GroupView,
        member: &MemberSeen,
        stays: impl Fn(&MemberSeen) -> bool,
    ) -> Option<Step> {
        if group.primary != Some(member.id) {
            return Some(Step::RemoveNode(member.id));
        }
        group.failover.as_ref().map(|_| self.hand_over(group, member.id, stays))
    }

    /// Moves the primary to another member, one of those that stay where there is one.
    pub(super) fn hand_over(
        &self,
        group: &GroupView,
        from: NodeId,
        stays: impl Fn(&MemberSeen) -> bool,
    ) -> Step {
        if let Some(asked) =
            self.seen.switchover_attempt.as_ref().filter(|asked| asked.is_fresh(self.seen.now))
        {
            let SwitchoverAttempt { target, refused, .. } = asked.clone();
            return Step::Wait(match refused {
                Some((code, message)) => WaitReason::Refused {
                    change: MembershipRequest::SwitchOver(target),
                    code,
                    message,
                },
                None => WaitReason::SwitchingOver(target),
            });
        }
        let fit = |m: &&MemberSeen| {
            m.id != from
                && self.is_ours(m)
                && self.seen.is_ready(m.id)
                && unfit(group, m.id).is_none()
        };
        let heirs = group.members.iter().filter(fit).filter(|m| m.lag_bytes.is_some());
        // Not the Raft leader, where there is a choice: it would hand the lead on.
        let failed = |m: &MemberSeen| {
            Step::SwitchOver(m.id)
                .targets()
                .iter()
                .any(|target| self.seen.failing.get(target).is_some())
        };
        let successor =
            heirs.min_by_key(|m| (failed(m), !stays(m), group.leader == Some(m.id), m.id));
        successor.map_or(Step::Wait(WaitReason::NoSuccessor(from)), |m| Step::SwitchOver(m.id))
    }

    /// Who has been away for longer than somebody is ready to wait, and can be done without. Nobody
    /// else is on the way in or out.
    pub(super) fn overdue<'m>(
        &self,
        group: &GroupView,
        ours: &[&'m MemberSeen],
    ) -> Option<&'m MemberSeen> {
        let patience = self.want.replace_after?;
        if group.changing().is_some() || ours.len() != self.want.replicas {
            return None;
        }
        let away = |m: &&&MemberSeen| {
            let since = self.seen.away.get(&m.id).filter(|_| m.reachable == Some(false));
            since.is_some_and(|since| self.seen.now.duration_since(*since) >= patience)
        };
        let spared = |m: &&&MemberSeen| {
            group.primary != Some(m.id) && super::counts(group, m) && leaves_a_majority(group, m)
        };
        ours.iter().filter(away).find(spared).copied()
    }
}

/// Whether most of those who vote without this member are reached.
pub(super) fn leaves_a_majority(group: &GroupView, member: &MemberSeen) -> bool {
    let rest =
        || group.members.iter().filter(|m| m.id != member.id && m.role == pgraft_core::Role::Voter);
    rest().filter(|m| m.reachable == Some(true)).count() * 2 > rest().count()
}
