//! What one node knows about itself and its cluster: published by the worker, read from shared
//! memory, over the control socket and by the instance manager's `/status`.

use serde::{Deserialize, Serialize};
use std::fmt;

pub use crate::wal::{WalPosition, WalProgress};

use crate::primary_term::{LastFailover, Phase};
use crate::{Address, ClusterId, NodeId, Role};

/// What a node is doing in Raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// In no cluster yet: waits for `pgraft_init()` or for a leader that adds it.
    Uninitialized,
    /// Receives the log, does not vote.
    Learner,
    /// Votes, follows a leader.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
    /// Was removed from the cluster; its id is spent.
    Removed,
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uninitialized => "uninitialized",
            Self::Learner => "learner",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
            Self::Removed => "removed",
        })
    }
}

/// One row of `pgraft_status()`, and all rows of `pgraft_members`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// This node.
    pub node_id: NodeId,
    /// None before the node is in a cluster.
    pub cluster_id: Option<ClusterId>,
    /// What it is doing.
    pub state: NodeState,
    /// Raft's current term.
    pub term: u64,
    /// None when this node knows of no leader.
    pub leader: Option<NodeId>,
    /// Counts the primaries: 1 is the bootstrap node's.
    pub epoch: u64,
    /// Who takes writes. None before the cluster exists.
    pub primary: Option<NodeId>,
    /// The last log index known to be committed; 0 when there is none.
    pub commit_index: u64,
    /// The last log index applied here; 0 when there is none.
    pub applied_index: u64,
    /// Voters of the applied membership.
    pub voters: usize,
    /// How many of them decide.
    pub quorum: usize,
    /// The lowest id above all that were ever used: what to call the next node.
    pub next_node_id: u32,
    /// Every member, ordered by id.
    pub members: Vec<MemberStatus>,
    /// What the failover protocol is at on this node; None where it is off.
    #[serde(default)]
    pub failover: Option<FailoverStatus>,
}

/// What the failover protocol is at on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverStatus {
    /// Whether there is a primary, or its successor is looked for.
    pub phase: Phase,
    /// The timeline that the primary was given.
    pub timeline: u32,
    /// What this node is doing about it, in a few words.
    pub step: String,
    /// Primary only: for how many more milliseconds its lease stands; None where its gate is
    /// closed.
    pub gate_ms: Option<u64>,
    /// Whose word or confirmation is waited for.
    pub waits_for: Vec<NodeId>,
    /// Whom commits wait for, or are about to.
    pub sync_standbys: Vec<NodeId>,
    /// ... and for how many of them.
    pub sync_required: usize,
    /// The latest change of the primary.
    pub last: Option<LastFailover>,
}

/// One member, as this node sees it. The fields that are `Option` are known to the leader only, or
/// not yet told by the member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its id.
    pub node_id: NodeId,
    /// Its Raft address.
    pub address: Address,
    /// Learner or voter.
    pub role: Role,
    /// Whether it is the Raft leader.
    pub is_leader: bool,
    /// Whether it is the primary.
    pub is_primary: bool,
    /// Its Postgres server, once it has told the group.
    pub postgres: Option<Address>,
    /// Its failure domain; empty when nobody said.
    pub zone: String,
    /// Leader only: whether it answered lately.
    pub reachable: Option<bool>,
    /// Leader only: milliseconds since it last answered.
    pub last_contact_ms: Option<u64>,
    /// Leader only: the last log index that it has on disk.
    pub match_index: Option<u64>,
    /// Leader only: the end of its WAL.
    pub wal: Option<WalPosition>,
    /// Leader only: bytes of WAL that the primary has and it has not replayed.
    pub lag_bytes: Option<u64>,
}
