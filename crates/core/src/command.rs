//! The commands in the Raft log.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use crate::primary_term::TermEndReason;
use crate::{Address, ClusterId, InstanceId, NodeId};

/// A change of the replicated state. Every member applies the same commands in the same order
/// (`state.rs`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Command {
    /// The first command of a cluster. The bootstrap node is its first primary.
    Init {
        /// The new cluster.
        cluster: ClusterId,
        /// The node that `pgraft_init()` was called on.
        node: NodeId,
        /// Where its Raft member listens.
        address: Address,
    },
    /// A node joins as a learner. It becomes a voter when it has caught up.
    Join {
        /// The new node, with an id that no member has or had.
        node: NodeId,
        /// Where its Raft member listens.
        address: Address,
    },
    /// A node leaves. Its id is never used again.
    Remove {
        /// The node that leaves.
        node: NodeId,
    },
    /// A new node was not reached within the join timeout and leaves again. Its id is not reused
    /// either.
    JoinExpired {
        /// The node that was not reached.
        node: NodeId,
    },
    /// A member has moved to another address with its Raft directory.
    SetAddress {
        /// The member that has moved.
        node: NodeId,
        /// The new address of its Raft member.
        address: Address,
    },
    /// A member registers itself, when it has joined and whenever its registration changes.
    Register {
        /// The member.
        node: NodeId,
        /// Its Raft directory.
        instance: InstanceId,
        /// Its Postgres server.
        postgres: Address,
        /// Its failure domain; empty if not set.
        zone: String,
    },
    /// The primary term ends, because the promises of a majority of voters have ended. The group
    /// starts to determine a successor.
    Recruit {
        /// The new epoch: the current one plus 1.
        epoch: u64,
        /// Why.
        reason: TermEndReason,
        /// The leader's clock: milliseconds since the Unix epoch, for display only.
        at_ms: i64,
    },
    /// A new primary, on a timeline that was never assigned before.
    Appoint {
        /// The epoch in which voters were recruited.
        epoch: u64,
        /// The most advanced recruit.
        primary: NodeId,
    },
    /// A new primary chosen by an administrator, although it may lack acknowledged writes.
    Force {
        /// The epoch in which voters were recruited.
        epoch: u64,
        /// The chosen primary.
        primary: NodeId,
    },
    /// The primary must wait for these standbys.
    ProposeSyncConfig {
        /// Its epoch.
        epoch: u64,
        /// The number of the previous change of the sync configs.
        change: u64,
        /// The standbys that confirm commits.
        standbys: BTreeSet<NodeId>,
    },
    /// The latest sync config has confirmed everything required and is the only one in force.
    CommitSyncConfig {
        /// The primary's epoch.
        epoch: u64,
        /// The number of the confirmed change.
        change: u64,
        /// The primary's clock: milliseconds since the Unix epoch, for display only.
        at_ms: i64,
    },
}

impl Command {
    /// The value in the column `kind` of `pgraft_log()`.
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
