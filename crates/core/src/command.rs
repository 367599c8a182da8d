//! What the Raft log carries, apart from Raft's own entries.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use crate::primary_term::TermEndReason;
use crate::{Address, ClusterId, InstanceId, NodeId};

/// A change of the replicated state. Every member applies the same commands in the same order
/// (`state.rs`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Command {
    /// The first command of a cluster: its identity, its bootstrap node, who is also its first
    /// primary.
    Init {
        /// The new cluster.
        cluster: ClusterId,
        /// The node that `pgraft_init()` was called on.
        node: NodeId,
        /// Where its Raft member listens.
        address: Address,
    },
    /// A node joins: a learner from here on, a voter when it has caught up.
    Join {
        /// The newcomer; an id that no member has or had.
        node: NodeId,
        /// Where its Raft member listens.
        address: Address,
    },
    /// A node leaves. Its id is never used again.
    Remove {
        /// Who leaves.
        node: NodeId,
    },
    /// A newcomer was not reached in time and is given up: it leaves again, and its id is spent
    /// like any other.
    JoinExpired {
        /// Who never came.
        node: NodeId,
    },
    /// A member has moved: the same node and directory, listening elsewhere.
    SetAddress {
        /// Who has moved.
        node: NodeId,
        /// Where its Raft member listens from now on.
        address: Address,
    },
    /// What a member tells the group about itself, once it is in and whenever it changes.
    Register {
        /// Who speaks.
        node: NodeId,
        /// Its Raft directory.
        instance: InstanceId,
        /// Its Postgres server.
        postgres: Address,
        /// Its failure domain; empty when nobody said.
        zone: String,
    },
    /// The primary term of the primary ends: a majority of voters owes it no lease any more. A
    /// successor is looked for.
    Recruit {
        /// The new epoch, one above the present one.
        epoch: u64,
        /// Why.
        reason: TermEndReason,
        /// When the leader said so: milliseconds since the Unix epoch, for people to look at.
        at_ms: i64,
    },
    /// A new primary, on a timeline that was never given before.
    Appoint {
        /// The epoch that recruits.
        epoch: u64,
        /// The most advanced recruit.
        primary: NodeId,
    },
    /// A new primary by a person's word, although it may lack what was acknowledged: nobody who
    /// could know answers.
    Force {
        /// The epoch that recruits.
        epoch: u64,
        /// Who was chosen.
        primary: NodeId,
    },
    /// The primary is to wait for these standbys.
    ProposeSyncConfig {
        /// Its epoch.
        epoch: u64,
        /// The change of the sync configs that this one follows.
        change: u64,
        /// Who is to confirm commits.
        standbys: BTreeSet<NodeId>,
    },
    /// The latest sync config has confirmed all that is to be confirmed: it alone is in force.
    CommitSyncConfig {
        /// The primary's epoch.
        epoch: u64,
        /// The change that was confirmed.
        change: u64,
        /// When the primary said so: milliseconds since the Unix epoch, for people to look at.
        at_ms: i64,
    },
}

impl Command {
    /// The word that `pgraft_log()` shows in its column `kind`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Init { .. } => "init",
            Self::Join { .. } => "join",
            Self::Remove { .. } => "remove",
            Self::JoinExpired { .. } => "join_expired",
            Self::SetAddress { .. } => "set_address",
            Self::Register { .. } => "register",
            Self::Recruit { .. } => "recruit",
            Self::Appoint { .. } => "appoint",
            Self::Force { .. } => "force",
            Self::ProposeSyncConfig { .. } => "propose_sync_config",
            Self::CommitSyncConfig { .. } => "commit_sync_config",
        }
    }
}
