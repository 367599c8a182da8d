//! `instance.json`: what a node needs to start without contact to other nodes. Written by the worker
//! on every change, read by the instance manager.

use serde::{Deserialize, Serialize};

use crate::{Address, ClusterId, NodeId};

/// The file name within the Raft directory.
pub const FILE_NAME: &str = "instance.json";

/// The format that this version writes and reads. Any other format is refused.
pub const FORMAT: u32 = 1;

/// The part of the applied state that the instance manager needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceFile {
    /// [`FORMAT`].
    pub format: u32,
    /// The cluster that this directory belongs to.
    pub cluster_id: ClusterId,
    /// The node that the directory belongs to.
    pub node_id: NodeId,
    /// The epoch of the primary.
    pub epoch: u64,
    /// The primary.
    pub primary: Option<NodeId>,
    /// The Postgres servers of all members.
    pub members: Vec<InstanceMember>,
    /// Ids of removed members, whose replication slots on the primary can be dropped.
    pub retired: Vec<NodeId>,
    /// `pgraft.failover`. If it is on, a server is started as a standby, and its worker promotes it.
    #[serde(default)]
    pub failover: bool,
    /// The node from whose history this server's WAL has diverged. This server must be rewound to it
    /// or cloned from it.
    #[serde(default)]
    pub rewind: Option<NodeId>,
}

/// One member of [`InstanceFile`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceMember {
    /// Its id.
    pub node_id: NodeId,
    /// Its Postgres server, if it has registered.
    pub postgres: Option<Address>,
}

impl InstanceFile {
    /// The primary's Postgres server, if it is known.
    pub fn primary_postgres(&self) -> Option<&Address> {
        let primary = self.primary?;
        self.members.iter().find(|m| m.node_id == primary)?.postgres.as_ref()
    }
}
