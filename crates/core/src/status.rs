//! The status of a node and its cluster. Published by the worker; available in shared memory, over
//! the control socket and at the instance manager's `/status`.

use serde::{Deserialize, Serialize};
use std::fmt;

pub use crate::wal::{WalPosition, WalProgress};

use crate::primary_term::{LastFailover, Phase};
use crate::{Address, ClusterId, NodeId, Role};

/// The state of a node in Raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Not in a cluster yet; waits for `pgraft_init()` or a leader that adds it.
    Uninitialized,
    /// Receives the log and does not vote.
    Learner,
    /// Votes and follows a leader.
    Follower,
    /// Requests votes.
    Candidate,
    /// Is the leader.
    Leader,
    /// Was removed from the cluster. Its id is not reused.
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
    /// Its state in Raft.
    pub state: NodeState,
    /// Raft's current term.
    pub term: u64,
    /// The Raft leader, if this node knows it.
    pub leader: Option<NodeId>,
    /// The epoch of the primary; that of the bootstrap node is 1.
    pub epoch: u64,
    /// The primary. None before the cluster exists.
    pub primary: Option<NodeId>,
    /// The last log index known to be committed; 0 if there is none.
    pub commit_index: u64,
    /// The last log index that this node has applied; 0 if there is none.
    pub applied_index: u64,
    /// The number of voters in the applied membership.
    pub voters: usize,
    /// The majority of the voters.
    pub quorum: usize,
    /// The lowest id above all ids that were ever used: the id for the next node.
    pub next_node_id: u32,
    /// Every member, ordered by id.
    pub members: Vec<MemberStatus>,
    /// The state of the failover protocol on this node; None if `pgraft.failover` is off.
    #[serde(default)]
    pub failover: Option<FailoverStatus>,
}

/// The state of the failover protocol on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverStatus {
    /// Whether there is a primary, or a successor is being determined.
    pub phase: Phase,
    /// The timeline assigned to the primary.
    pub timeline: u32,
    /// The current step of this node, as text.
    pub step: String,
    /// The remaining lease of the primary in milliseconds; None on other nodes and while the gate is
    /// closed.
    pub gate_ms: Option<u64>,
    /// The nodes whose report or confirmation this node is waiting for.
    pub waits_for: Vec<NodeId>,
    /// The standbys of the target sync config.
    pub sync_standbys: Vec<NodeId>,
    /// How many of them must confirm a commit.
    pub sync_required: usize,
    /// The latest change of the primary.
    pub last: Option<LastFailover>,
}

/// One member as known to this node. Fields are `None` if only the leader knows them, or if the
/// member has not registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its id.
    pub node_id: NodeId,
    /// Its Raft address.
    pub address: Address,
    /// Its role in the group.
    pub role: Role,
    /// Whether it is the Raft leader.
    pub is_leader: bool,
    /// Whether it is the primary.
    pub is_primary: bool,
    /// Its Postgres server, if it has registered.
    pub postgres: Option<Address>,
    /// Its failure domain; empty if not set.
    pub zone: String,
    /// Leader only: whether it has responded recently.
    pub reachable: Option<bool>,
    /// Leader only: milliseconds since its last response.
    pub last_contact_ms: Option<u64>,
    /// Leader only: the last log index that it has on disk.
    pub match_index: Option<u64>,
    /// Leader only: the end of its WAL.
    pub wal: Option<WalPosition>,
    /// Leader only: bytes of the primary's WAL that it has not replayed.
    pub lag_bytes: Option<u64>,
}
