//! What the Raft leader does next so that Raft's membership follows the replicated state. One step
//! at a time, each of which a new leader can take up where the old one stopped, since the step
//! follows from the state and from nothing that a leader remembers.
//!
//! ```text
//!  join    Learner in the state ──▶ AddLearner ──▶ (caught up) ──▶ Promote ──▶ Voter
//!                                                └─▶ (never heard in join_timeout) ──▶ GiveUp ──▶ Leaving
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

/// What the leader knows.
#[derive(Debug, Clone)]
pub struct MembershipFacts<'a> {
    /// The applied state.
    pub state: &'a ClusterState,
    /// Raft's membership in force.
    pub raft: &'a RaftMembership,
    /// The leader itself.
    pub me: NodeId,
    /// Whether `raft` is applied here as well: no membership entry is on its way.
    pub settled: bool,
    /// Members that answered lately and have all of the log up to the leader's commit index.
    pub caught_up: &'a BTreeSet<NodeId>,
    /// For how long this member has known of each newcomer that has told nothing about itself yet:
    /// it was never reached, or not to its end.
    pub unheard: &'a BTreeMap<NodeId, Duration>,
    /// After so long such a newcomer is given up; None: never.
    pub join_timeout: Option<Duration>,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembershipStep {
    /// The membership is what the state says.
    Nothing,
    /// A joint configuration was left behind: make it uniform.
    FinishJoint,
    /// A member has moved: have Raft look for it where the state says.
    Move(NodeId),
    /// Begin to send the log to a newcomer.
    AddLearner(NodeId),
    /// The newcomer has not caught up: look again when replication moves.
    WaitFor(NodeId),
    /// Give the newcomer its vote.
    Promote(NodeId),
    /// The newcomer was not reached in time: it leaves again.
    GiveUp(NodeId),
    /// This leader is the one that leaves: hand the lead to that voter first.
    Transfer(NodeId),
    /// Take a leaving member out.
    Drop(NodeId),
    /// A member leaves that Raft never had: write the membership once more, for the state to follow
    /// it.
    Confirm,
}

/// The next step. At most one voter changes in it (invariant 6).
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
            // The state follows when an entry is applied; where none is under way (it left before
            // Raft heard of it), one must be written.
            return if *settled { MembershipStep::Confirm } else { MembershipStep::Nothing };
        }
        // Its vote goes when no commit waits for it any more, and not while a primary is looked
        // for.
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
    // Who has not told which directory it lives in gets no vote: nobody could tell a wiped one from
    // it.
    match (waiting.clone().find(|id| caught_up.contains(id) && info(id)), waiting.peek()) {
        (Some(ready), _) => MembershipStep::Promote(ready),
        (None, Some(&late)) => MembershipStep::WaitFor(late),
        (None, None) => MembershipStep::Nothing,
    }
}

/// Whether a node may join, by what the leader sees. With it as a voter, those who answer must be
/// able to decide: a newcomer that never comes would otherwise cost the group its last majority.
/// (etcd's rule, `mayAddMember`; and as there a single voter may call a second one. A newcomer that
/// `answers` counts, since it gets its vote only when it is there.)
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

/// Whether a node may leave, by what the leader sees. The voters that remain must be able to decide
/// without it. A voter that is dead may always go, and a learner decides nothing.
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

/// How many vote, and how many of them answer.
fn voters_alive<'a>(members: impl Iterator<Item = &'a MemberStatus>) -> (usize, usize) {
    members
        .filter(|m| m.role == Role::Voter)
        .fold((0, 0), |(all, alive), m| (all + 1, alive + usize::from(m.reachable == Some(true))))
}

#[cfg(test)]
mod tests;
