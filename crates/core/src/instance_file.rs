//! `instance.json`: what a node needs to start with nobody to ask. Written by the worker on every
//! change, read by the instance manager.

use serde::{Deserialize, Serialize};

use crate::{Address, ClusterId, NodeId};

/// The file name within the Raft directory.
pub const FILE_NAME: &str = "instance.json";

/// The format that this version writes and reads. Another one is refused, never guessed at.
pub const FORMAT: u32 = 1;

/// The applied state, in the words of the instance manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceFile {
    /// [`FORMAT`].
    pub format: u32,
    /// The cluster that this directory belongs to.
    pub cluster_id: ClusterId,
    /// Whose directory this is.
    pub node_id: NodeId,
    /// Counts the primaries.
    pub epoch: u64,
    /// Who takes writes.
    pub primary: Option<NodeId>,
    /// Every member's Postgres server, as far as it has told.
    pub members: Vec<InstanceMember>,
    /// Ids of removed members: what they left behind on the primary (replication slots) can go.
    pub retired: Vec<NodeId>,
    /// Whether the members decide who is the primary (`pgraft.failover`): a server is started as a
    /// standby then, and its worker promotes it.
    #[serde(default)]
    pub failover: bool,
    /// Whose history this server's WAL has diverged from: it is to be rewound to that node's, or
    /// cloned from it.
    #[serde(default)]
    pub rewind: Option<NodeId>,
}

/// One member of [`InstanceFile`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceMember {
    /// Its id.
    pub node_id: NodeId,
    /// Its Postgres server, once it has told the group.
    pub postgres: Option<Address>,
}

impl InstanceFile {
    /// The primary's Postgres server, when it is known.
    pub fn primary_postgres(&self) -> Option<&Address> {
        let primary = self.primary?;
        self.members.iter().find(|m| m.node_id == primary)?.postgres.as_ref()
    }
}
