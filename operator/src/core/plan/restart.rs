//! The rolling restart: pods that are not as the spec has them now are made again, each on its volume and under its id.
//!
//! ```text
//!  a pod that can't start   at once: it takes nothing from anybody, and a better spec may be its only way out
//!  a pod that runs          only while every member is well and has nearly all of the WAL; followers ▸ the leader ▸ the primary, which
//!                           is another one before, where the members can choose
//! ```
//!
//! Nobody is removed for it: a member whose pod is made again is a server that was restarted. Called by [`super::next_step`].

use pgraft_core::{NodeId, Role};
use std::cmp::Reverse;

use super::Plan;
use crate::core::group::{Group, MemberSeen};
use crate::core::observed::{PodPhase, PodSeen};
use crate::core::step::{Step, Why};

/// How much WAL a standby may lack while another pod is restarted: one segment, so that it stays with the primary under any load.
const NEARLY_ALL: u64 = 16 << 20;

impl Plan<'_> {
    /// A pod whose containers Kubernetes can't start, or whose program ends again and again, and that the spec has otherwise now.
    pub(super) fn stuck_pod(&self) -> Option<Step> {
        let is_stuck = |pod: &PodSeen| matches!(pod.phase, PodPhase::Starting(Some(_)));
        self.seen.pods.iter().find(|(id, pod)| is_stuck(pod) && self.is_stale(**id)).map(|(id, _)| Step::RestartPod(*id))
    }

    /// The next pod, or what it waits for. None when all pods are as the spec has them.
    pub(super) fn restart(&self, group: &Group) -> Option<Step> {
        let stale = group.members.iter().map(|m| m.id).filter(|id| self.is_stale(*id));
        let next = stale.min_by_key(|id| (group.primary == Some(*id), group.leader == Some(*id), Reverse(*id)))?;
        let held = group.members.iter().find_map(|member| self.holds_back(group, member));
        if let Some(why) = held {
            return Some(Step::Wait(why));
        }
        let can_move = group.failover.is_some()
            && group.primary == Some(next)
            && group.members.iter().any(|m| m.id != next && m.role == Role::Voter && self.is_ours(m));
        Some(if can_move { self.hand_over(group, next, |m| !self.is_stale(m.id)) } else { Step::RestartPod(next) })
    }

    fn is_stale(&self, node: NodeId) -> bool {
        self.seen.pods.get(&node).is_some_and(|pod| !pod.terminating && pod.template != Some(self.template))
    }

    /// Why no pod may be restarted now, as far as this member is concerned.
    fn holds_back(&self, group: &Group, member: &MemberSeen) -> Option<Why> {
        if !self.is_ours(member) {
            return (member.reachable == Some(false)).then_some(Why::MemberUnreachable(member.id));
        }
        let behind = group.primary != Some(member.id) && member.lag_bytes.is_none_or(|lag| lag > NEARLY_ALL);
        self.unwell(member).or_else(|| behind.then_some(Why::Behind(member.id)))
    }
}
