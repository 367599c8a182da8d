//! The Raft group, put together from what each pod answered. The leader's answer counts before all
//! others: it alone knows who is alive.

use jiff::SignedDuration;
use pgraft_core::failover::{LastFailover, Phase};
use pgraft_core::membership::majority;
use pgraft_core::status::WalPosition;
use pgraft_core::{Address, ClusterId, MAX_VOTERS, NodeId, NodeState, Role};

/// What the members say about the primary, where they choose it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverSeen {
    /// Whether there is one, or its successor is looked for.
    pub phase: Phase,
    /// Counts the primaries.
    pub epoch: u64,
    /// While a successor is looked for, on the Raft leader: whose word is missing.
    pub waits_for: Vec<NodeId>,
    /// The latest change.
    pub last: Option<LastFailover>,
}

/// What one pod said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodAnswer {
    /// Who spoke.
    pub node: NodeId,
    /// None before it is in a cluster.
    pub cluster_id: Option<ClusterId>,
    /// What it is doing.
    pub state: NodeState,
    /// Raft's term.
    pub term: u64,
    /// Whom it takes for the leader.
    pub leader: Option<NodeId>,
    /// Who takes writes.
    pub primary: Option<NodeId>,
    /// What it says about the primary; None where the bootstrap node stays it.
    pub failover: Option<FailoverSeen>,
    /// How far it has applied the log.
    pub applied_index: u64,
    /// The lowest id above all that were ever used.
    pub next_node_id: u32,
    /// The members, by id.
    pub members: Vec<MemberSeen>,
}

/// One member, as the pod that answered sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSeen {
    /// Its id.
    pub id: NodeId,
    /// Where its Raft member listens.
    pub address: Address,
    /// What it is.
    pub role: Role,
    /// Leader only.
    pub reachable: Option<bool>,
    /// Leader only: how long ago it was heard; None where this leader never heard it.
    pub last_contact: Option<SignedDuration>,
    /// Leader only: the end of its WAL.
    pub wal: Option<WalPosition>,
    /// Leader only.
    pub lag_bytes: Option<u64>,
}

/// The group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// Its identity.
    pub cluster_id: ClusterId,
    /// Raft's term.
    pub term: u64,
    /// None when whoever answered knows of none.
    pub leader: Option<NodeId>,
    /// Who takes writes, or, while a successor is looked for, took them last.
    pub primary: Option<NodeId>,
    /// What is said about the primary; None where the bootstrap node stays it.
    pub failover: Option<FailoverSeen>,
    /// The lowest id above all that were ever used.
    pub next_node_id: u32,
    /// The members, by id.
    pub members: Vec<MemberSeen>,
    /// Whether this is the word of a leader that reaches a majority. Nothing is taken away on any
    /// other word: a member that lags behind could have missed that somebody joined.
    pub authoritative: bool,
    /// Voters that answer.
    pub available: usize,
    /// Pods that say they are in another cluster.
    pub foreign: Vec<NodeId>,
    /// Pods that are ready, were asked, and did not answer.
    pub silent: Vec<NodeId>,
}

impl GroupView {
    /// How many members vote.
    pub fn voters(&self) -> usize {
        self.members.iter().filter(|m| m.role == Role::Voter).count()
    }

    /// How many of them must agree.
    pub fn required(&self) -> usize {
        majority(self.voters())
    }

    /// The member with this id.
    pub fn member(&self, node: NodeId) -> Option<&MemberSeen> {
        self.members.iter().find(|m| m.id == node)
    }

    /// Whether this id was used and its member has left.
    pub fn is_spent(&self, node: NodeId) -> bool {
        node.get() < self.next_node_id && self.member(node).is_none()
    }

    /// Who is on the way in or out: until that is done, nobody else is.
    pub fn changing(&self) -> Option<&MemberSeen> {
        let leaving = self.members.iter().find(|m| m.role == Role::Leaving);
        let room = self.voters() < MAX_VOTERS;
        leaving.or_else(|| self.members.iter().find(|m| m.role == Role::Learner && room))
    }
}

/// One group from all answers; None when nobody is in a cluster yet. `known` is the cluster that it
/// must be, once it is known.
pub fn merge(answers: &[PodAnswer], known: Option<ClusterId>) -> Option<GroupView> {
    let in_cluster = || {
        answers
            .iter()
            .filter(|a| a.state != NodeState::Removed && a.state != NodeState::Uninitialized)
    };
    let cluster_id = known.or_else(|| {
        in_cluster().filter_map(|a| Some((a.node, a.cluster_id?))).min().map(|(_, id)| id)
    })?;
    let ours = || in_cluster().filter(|a| a.cluster_id == Some(cluster_id));
    let foreign = in_cluster()
        .filter(|a| a.cluster_id.is_some_and(|id| id != cluster_id))
        .map(|a| a.node)
        .collect();
    let term = ours().map(|a| a.term).max()?;
    let leader = ours()
        .filter(|a| a.state == NodeState::Leader && a.term == term)
        .max_by_key(|a| a.applied_index);
    let source = leader.or_else(|| ours().max_by_key(|a| (a.term, a.applied_index)))?;

    let answered = |id: NodeId| ours().any(|a| a.node == id);
    let alive =
        |m: &&MemberSeen| m.role == Role::Voter && m.reachable.unwrap_or_else(|| answered(m.id));
    let mut group = GroupView {
        cluster_id,
        term,
        leader: leader.map(|a| a.node).or(source.leader),
        primary: source.primary,
        failover: source.failover.clone(),
        next_node_id: source.next_node_id,
        available: source.members.iter().filter(alive).count(),
        members: source.members.clone(),
        authoritative: false,
        foreign,
        silent: Vec::new(),
    };
    group.authoritative = leader.is_some() && group.available >= group.required();
    Some(group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn id(n: i64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn answer(node: i64, state: NodeState, term: u64, reachable: &[Option<bool>]) -> PodAnswer {
        let members = (1..).zip(reachable).map(|(n, reachable)| MemberSeen {
            id: id(n),
            address: Address::new("host", 7001).unwrap(),
            role: Role::Voter,
            reachable: *reachable,
            last_contact: None,
            wal: None,
            lag_bytes: None,
        });
        PodAnswer {
            node: id(node),
            cluster_id: Some(ClusterId(Uuid::from_u128(1))),
            state,
            term,
            leader: None,
            primary: Some(id(1)),
            failover: None,
            applied_index: 1,
            next_node_id: 4,
            members: members.collect(),
        }
    }

    #[test]
    fn the_leaders_word_counts() {
        let leader = answer(2, NodeState::Leader, 3, &[Some(true), Some(true), Some(false)]);
        let follower = answer(1, NodeState::Follower, 3, &[None, None]);
        let group = merge(&[follower, leader], None).unwrap();
        assert_eq!(group.leader, Some(id(2)));
        assert!(group.authoritative);
        assert_eq!((group.voters(), group.required(), group.available), (3, 2, 2));
    }

    #[test]
    fn a_deposed_leader_or_one_without_a_majority_has_no_authority() {
        let deposed = answer(1, NodeState::Leader, 3, &[Some(true), Some(true), Some(true)]);
        let candidate = answer(2, NodeState::Candidate, 4, &[None, None, None]);
        assert!(!merge(&[deposed, candidate], None).unwrap().authoritative);
        let alone = answer(1, NodeState::Leader, 3, &[Some(true), Some(false), Some(false)]);
        let group = merge(&[alone], None).unwrap();
        assert!(!group.authoritative);
        assert_eq!(group.available, 1);
    }

    #[test]
    fn whoever_is_in_no_cluster_or_in_another_one_is_not_asked() {
        let mut newcomer = answer(1, NodeState::Uninitialized, 0, &[]);
        newcomer.cluster_id = None;
        assert_eq!(merge(std::slice::from_ref(&newcomer), None), None);
        let mut foreign = answer(3, NodeState::Leader, 9, &[Some(true)]);
        foreign.cluster_id = Some(ClusterId(Uuid::from_u128(2)));
        let ours = answer(2, NodeState::Leader, 1, &[Some(true)]);
        let group = merge(&[newcomer, foreign, ours], None).unwrap();
        assert_eq!(group.cluster_id, ClusterId(Uuid::from_u128(1)));
        assert_eq!(group.foreign, [id(3)]);
    }
}
