//! The next step of the Raft leader to make Raft's membership follow the replicated state. A step
//! depends on the state only, so a new leader continues where the old one stopped.
//!
//! ```text
//!  join    Learner in the state ──▶ AddLearner ──▶ (caught up) ──▶ Promote ──▶ Voter
//!                                                └─▶ (not reached in join_timeout) ──▶ GiveUp ──▶ Leaving
//!  move    another address in the state ──▶ Move
//!  remove  Leaving in the state ──▶ [Transfer, when it is the leader itself] ──▶ Drop ──▶ retired
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use crate::quorum::majority;

use crate::primary_term::Phase;
use crate::quorum::MAX_VOTERS;
use crate::state::RaftMembership;
use crate::{ClusterState, MemberStatus, NodeId, Refusal, Role};

/// The facts known to the leader.
#[derive(Debug, Clone)]
pub struct MembershipFacts<'a> {
    /// The applied state.
    pub state: &'a ClusterState,
    /// Raft's membership in force.
    pub raft: &'a RaftMembership,
    /// The leader itself.
    pub me: NodeId,
    /// Whether `raft` is applied here, so that no membership entry is in flight.
    pub settled: bool,
    /// Members that have responded recently and have the log up to the leader's commit index.
    pub caught_up: &'a BTreeSet<NodeId>,
    /// New nodes that have not registered, and for how long this member has known them.
    pub unheard: &'a BTreeMap<NodeId, Duration>,
    /// After this time such a node is removed again; None for never.
    pub join_timeout: Option<Duration>,
}

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembershipStep {
    /// The membership follows the state.
    Nothing,
    /// Make a joint configuration uniform.
    FinishJoint,
    /// A member has moved: change its address in Raft.
    Move(NodeId),
    /// Start to send the log to a new node.
    AddLearner(NodeId),
    /// The new node has not caught up. Check again when replication has advanced.
    WaitFor(NodeId),
    /// Make the new node a voter.
    Promote(NodeId),
    /// The new node was not reached in time and leaves again.
    GiveUp(NodeId),
    /// This leader leaves: transfer the leadership to that voter first.
    Transfer(NodeId),
    /// Remove a leaving member from Raft.
    Drop(NodeId),
    /// A leaving member was never in Raft: write the membership again, so that the state follows.
    Confirm,
}

/// Returns the next step, which changes at most one voter.
pub fn next_step(facts: &MembershipFacts<'_>) -> MembershipStep {
    let MembershipFacts { state, raft, me, settled, caught_up, unheard, join_timeout } = facts;
    if raft.joint {
        return MembershipStep::FinishJoint;
    }
    let is_elsewhere =
        |id: &NodeId, address| raft.contains(*id) && raft.addresses.get(id) != Some(address);
    if let Some((&moved, _)) =
        state.members.iter().find(|(id, m)| m.role != Role::Leaving && is_elsewhere(id, &m.address))
    {
        return MembershipStep::Move(moved);
    }
    if let Some((&leaving, _)) = state.members.iter().find(|(_, m)| m.role == Role::Leaving) {
        if !raft.contains(leaving) {
            // The state follows when an entry is applied. If none is in flight, because the member
            // left before it was in Raft, one must be written.
            return if *settled { MembershipStep::Confirm } else { MembershipStep::Nothing };
        }
        // It keeps its vote while commits wait for it, and while a successor is being determined.
        if state.primary_term.as_ref().is_some_and(|r| {
            r.phase == Phase::Recruiting || r.configs.iter().any(|c| c.standbys.contains(&leaving))
        }) {
            return MembershipStep::WaitFor(leaving);
        }
        if leaving != *me {
            return MembershipStep::Drop(leaving);
        }
        return match raft.voters.iter().find(|id| *id != me && caught_up.contains(id)) {
            Some(&successor) => MembershipStep::Transfer(successor),
            None => MembershipStep::WaitFor(leaving),
        };
    }
    let newcomers =
        || state.members.iter().filter(|(_, m)| m.role == Role::Learner).map(|(id, _)| *id);
    let info = |id: &NodeId| state.members.get(id).is_some_and(|m| m.info.is_some());
    let too_long = |id: &NodeId| {
        join_timeout.is_some_and(|limit| unheard.get(id).is_some_and(|since| *since >= limit))
    };
    if let Some(lost) = newcomers().find(|id| !info(id) && too_long(id)) {
        return MembershipStep::GiveUp(lost);
    }
    if let Some(newcomer) = newcomers().find(|id| !raft.contains(*id)) {
        return MembershipStep::AddLearner(newcomer);
    }
    if raft.voters.len() >= MAX_VOTERS {
        return newcomers()
            .find(|id| !info(id))
            .map_or(MembershipStep::Nothing, MembershipStep::WaitFor);
    }
    if state.primary_term.as_ref().is_some_and(|r| r.phase == Phase::Recruiting) {
        return newcomers().next().map_or(MembershipStep::Nothing, MembershipStep::WaitFor);
    }
    let mut waiting = newcomers().filter(|id| !raft.voters.contains(id)).peekable();
    // A node that has not registered its directory does not become a voter: an empty directory
    // could not be detected.
    match (waiting.clone().find(|id| caught_up.contains(id) && info(id)), waiting.peek()) {
        (Some(ready), _) => MembershipStep::Promote(ready),
        (None, Some(&late)) => MembershipStep::WaitFor(late),
        (None, None) => MembershipStep::Nothing,
    }
}

/// Whether a node may join: with it as a voter, the reachable voters must be a majority. Otherwise a
/// node that never starts could cost the group its majority. This is the rule of etcd
/// (`mayAddMember`); as there, a single voter may always add a second one. A new node that `answers`
/// counts as reachable, because it becomes a voter only after it has caught up.
///
/// # Errors
/// [`Refusal::NoMajorityWith`]
pub fn may_join(members: &[MemberStatus], node: NodeId, answers: bool) -> Result<(), Refusal> {
    let (voters, alive) = voters_alive(members.iter());
    let required = majority(voters + 1);
    let alive = alive + usize::from(answers);
    if voters <= 1 || voters >= MAX_VOTERS || alive >= required {
        return Ok(());
    }
    Err(Refusal::NoMajorityWith { node, alive, voters: voters + 1, required })
}

/// Whether a node may leave: the reachable ones of the remaining voters must be a majority. An
/// unreachable voter and a learner may always leave.
///
/// # Errors
/// [`Refusal::NoMajorityLeft`]
pub fn may_leave(members: &[MemberStatus], node: NodeId) -> Result<(), Refusal> {
    let counts = members
        .iter()
        .any(|m| m.node_id == node && m.role == Role::Voter && m.reachable == Some(true));
    let (voters, alive) = voters_alive(members.iter().filter(|m| m.node_id != node));
    let required = majority(voters);
    if !counts || alive >= required {
        Ok(())
    } else {
        Err(Refusal::NoMajorityLeft { node, alive, voters, required })
    }
}

/// The number of voters, and how many of them are reachable.
fn voters_alive<'a>(members: impl Iterator<Item = &'a MemberStatus>) -> (usize, usize) {
    members
        .filter(|m| m.role == Role::Voter)
        .fold((0, 0), |(all, alive), m| (all + 1, alive + usize::from(m.reachable == Some(true))))
}

#[cfg(test)]
mod tests;
