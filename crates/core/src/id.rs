//! Identities of members, clusters and Raft directories.

use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// The number of a member, 1 or more. It is assigned once and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct NodeId(u32);

/// A number that is not a node id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("invalid node id {0}: it must be between 1 and 2147483647")]
pub struct InvalidNodeId(pub i64);

impl NodeId {
    /// Checks a number from outside.
    ///
    /// # Errors
    /// [`InvalidNodeId`] outside 1..=2147483647, the positive values of a Postgres `integer`.
    pub fn new(id: i64) -> Result<Self, InvalidNodeId> {
        match u32::try_from(id) {
            Ok(n) if n >= 1 && i32::try_from(n).is_ok() => Ok(Self(n)),
            _ => Err(InvalidNodeId(id)),
        }
    }

    /// The number as logs and SQL show it.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number as Postgres' `integer`.
    pub const fn as_i32(self) -> i32 {
        self.0.cast_signed()
    }
}

/// Openraft requires a default. It never stands for "none", which is an `Option`.
impl Default for NodeId {
    fn default() -> Self {
        Self(1)
    }
}

impl TryFrom<i64> for NodeId {
    type Error = InvalidNodeId;
    fn try_from(id: i64) -> Result<Self, InvalidNodeId> {
        Self::new(id)
    }
}

impl From<NodeId> for i64 {
    fn from(id: NodeId) -> Self {
        Self::from(id.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of a cluster, made by `pgraft_init()`. Members of different clusters refuse each
/// other's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub Uuid);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of a Raft directory, made at its first start. It distinguishes a member from an
/// empty or copied directory under the same node id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(pub Uuid);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_is_a_positive_postgres_integer() {
        assert!(NodeId::new(0).is_err());
        assert!(NodeId::new(-1).is_err());
        assert!(NodeId::new(i64::from(i32::MAX) + 1).is_err());
        assert_eq!(NodeId::new(i64::from(i32::MAX)).unwrap().as_i32(), i32::MAX);
    }
}
