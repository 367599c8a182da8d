//! What the Raft leader does next so that Raft's membership follows the replicated state. One step at a time, each of which a new leader
//! can take up where the old one stopped, since the step follows from the state and from nothing that a leader remembers.
//!
//! ```text
//!  join    Learner in the state ──▶ AddLearner ──▶ (caught up) ──▶ Promote ──▶ Voter
//!  remove  Leaving in the state ──▶ [Transfer, when it is the leader itself] ──▶ Drop ──▶ retired
//! ```

use std::collections::BTreeSet;

use crate::state::RaftMembership;
use crate::{ClusterState, MAX_VOTERS, NodeId, Role};

/// What the leader knows.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
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
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The membership is what the state says.
    Nothing,
    /// A joint configuration was left behind: make it uniform.
    FinishJoint,
    /// Begin to send the log to a newcomer.
    AddLearner(NodeId),
    /// The newcomer has not caught up: look again when replication moves.
    WaitFor(NodeId),
    /// Give the newcomer its vote.
    Promote(NodeId),
    /// This leader is the one that leaves: hand the lead to that voter first.
    Transfer(NodeId),
    /// Take a leaving member out.
    Drop(NodeId),
    /// A member leaves that Raft never had: write the membership once more, for the state to follow it.
    Confirm,
}

/// The next step. At most one voter changes in it (invariant 6).
pub fn next_step(facts: &Facts<'_>) -> Step {
    let Facts { state, raft, me, settled, caught_up } = facts;
    if raft.joint {
        return Step::FinishJoint;
    }
    if let Some((&leaving, _)) = state.members.iter().find(|(_, m)| m.role == Role::Leaving) {
        if !raft.contains(leaving) {
            // The state follows when an entry is applied; where none is under way (it left before Raft heard of it), one must be written.
            return if *settled { Step::Confirm } else { Step::Nothing };
        }
        if leaving != *me {
            return Step::Drop(leaving);
        }
        return match raft.voters.iter().find(|id| *id != me && caught_up.contains(id)) {
            Some(&heir) => Step::Transfer(heir),
            None => Step::WaitFor(leaving),
        };
    }
    let newcomers = || state.members.iter().filter(|(_, m)| m.role == Role::Learner).map(|(id, _)| *id);
    if let Some(newcomer) = newcomers().find(|id| !raft.contains(*id)) {
        return Step::AddLearner(newcomer);
    }
    if raft.voters.len() >= MAX_VOTERS {
        return Step::Nothing;
    }
    let mut waiting = newcomers().filter(|id| !raft.voters.contains(id)).peekable();
    // Who has not told which directory it lives in gets no vote: nobody could tell a wiped one from it.
    let told = |id: &NodeId| state.members.get(id).is_some_and(|m| m.told.is_some());
    match (waiting.clone().find(|id| caught_up.contains(id) && told(id)), waiting.peek()) {
        (Some(ready), _) => Step::Promote(ready),
        (None, Some(&late)) => Step::WaitFor(late),
        (None, None) => Step::Nothing,
    }
}

/// How many of `voters` decide.
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Address, ClusterId, Command, InstanceId};
    use proptest::prelude::*;
    use uuid::Uuid;

    /// Raft as far as the driver sees it: each step is carried out at once, a voter change through a joint configuration that may be left
    /// behind by a crash.
    fn carry_out(step: Step, raft: &mut RaftMembership, crash: bool, me: &mut NodeId) -> bool {
        match step {
            Step::Nothing | Step::WaitFor(_) => return false,
            Step::FinishJoint => raft.joint = false,
            Step::Confirm => {}
            Step::AddLearner(id) => {
                raft.learners.insert(id);
            }
            Step::Promote(id) => {
                raft.learners.remove(&id);
                raft.voters.insert(id);
                raft.joint = crash;
            }
            Step::Transfer(id) => {
                *me = id;
                return false;
            }
            Step::Drop(id) => {
                raft.learners.remove(&id);
                raft.voters.remove(&id);
            }
        }
        true
    }

    fn tell(state: &mut ClusterState, node: NodeId) {
        let instance = InstanceId(Uuid::from_u128(u128::from(node.get())));
        let _ = state.apply(&Command::Describe { node, instance, postgres: address(node), zone: String::new() });
    }

    fn address(id: NodeId) -> Address {
        Address::new(&format!("node-{id}"), 7001).unwrap()
    }

    proptest! {
        /// From any mix of joins, removals and leaders that die half way, the membership becomes what the state says, and no step changes
        /// more than one voter.
        #[test]
        fn it_gets_there_one_voter_at_a_time(
            wishes in prop::collection::vec((1..10i64, any::<bool>(), any::<bool>(), 0..4usize), 1..40)
        ) {
            let founder = NodeId::new(1).unwrap();
            let mut me = founder;
            let mut state = ClusterState::default();
            state.apply(&Command::Init { cluster: ClusterId(Uuid::nil()), node: founder, address: address(founder) }).unwrap();
            let mut raft = RaftMembership { voters: BTreeSet::from([founder]), learners: BTreeSet::new(), joint: false };
            let drive = |state: &mut ClusterState, raft: &mut RaftMembership, me: &mut NodeId, steps: usize, crash: bool| {
                let everyone: BTreeSet<NodeId> = state.members.keys().copied().collect();
                for n in 0..steps {
                    let step = next_step(&Facts { state, raft, me: *me, settled: true, caught_up: &everyone });
                    let voters = raft.voters.clone();
                    let wrote = carry_out(step, raft, crash && n == 0, me);
                    assert!(voters.symmetric_difference(&raft.voters).count() <= 1, "{step:?} changed several voters");
                    assert!(!raft.voters.is_empty());
                    // Only an entry makes the state follow.
                    if wrote {
                        state.apply_membership(raft);
                    }
                }
            };
            for (id, join, crash, steps) in wishes {
                let node = NodeId::new(id).unwrap();
                let _ = if join { state.apply(&Command::Join { node, address: address(node) }) } else { state.apply(&Command::Remove { node }) };
                tell(&mut state, node);
                drive(&mut state, &mut raft, &mut me, steps, crash);
            }
            drive(&mut state, &mut raft, &mut me, 30, false);
            let everyone = state.members.keys().copied().collect();
            prop_assert_eq!(next_step(&Facts { state: &state, raft: &raft, me, settled: true, caught_up: &everyone }), Step::Nothing);
            let in_raft: BTreeSet<NodeId> = raft.voters.union(&raft.learners).copied().collect();
            prop_assert_eq!(in_raft, everyone);
            prop_assert_eq!(raft.voters.len(), state.members.len().min(MAX_VOTERS));
            prop_assert!(state.members.values().all(|m| m.role != Role::Leaving));
        }
    }

    #[test]
    fn a_newcomer_that_has_not_caught_up_or_not_told_gets_no_vote() {
        let (one, two) = (NodeId::new(1).unwrap(), NodeId::new(2).unwrap());
        let mut state = ClusterState::default();
        state.apply(&Command::Init { cluster: ClusterId(Uuid::nil()), node: one, address: address(one) }).unwrap();
        state.apply(&Command::Join { node: two, address: address(two) }).unwrap();
        let raft = RaftMembership { voters: BTreeSet::from([one]), learners: BTreeSet::from([two]), joint: false };
        let step = |state: &ClusterState, caught_up: &[NodeId]| {
            next_step(&Facts { state, raft: &raft, me: one, settled: true, caught_up: &caught_up.iter().copied().collect() })
        };
        assert_eq!(step(&state, &[one, two]), Step::WaitFor(two), "it has not told");
        tell(&mut state, two);
        assert_eq!(step(&state, &[one]), Step::WaitFor(two));
        assert_eq!(step(&state, &[one, two]), Step::Promote(two));
    }

    #[test]
    fn majorities() {
        assert_eq!([1, 2, 3, 4, 5, 6, 7].map(majority), [1, 2, 2, 3, 3, 4, 4]);
    }
}
