//! Identities: checked when they are made, so that nobody checks them again.

use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

use crate::refusal::Refusal;

/// A member's number: 1 or more, given once and never again, whatever becomes of the member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct NodeId(u32);

impl NodeId {
    /// # Errors
    /// [`Refusal::BadNodeId`] outside 1..=2147483647, which is what a Postgres `integer` can carry.
    pub fn new(id: i64) -> Result<Self, Refusal> {
        match u32::try_from(id) {
            Ok(n) if n >= 1 && i32::try_from(n).is_ok() => Ok(Self(n)),
            _ => Err(Refusal::BadNodeId(id)),
        }
    }

    /// The number, as every log and SQL row shows it.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number as Postgres' `integer`.
    pub const fn as_i32(self) -> i32 {
        self.0.cast_signed()
    }
}

/// Openraft asks for a default; 1 is the bootstrap node's usual id and never stands for "none" here
/// (that is `Option`).
impl Default for NodeId {
    fn default() -> Self {
        Self(1)
    }
}

impl TryFrom<i64> for NodeId {
    type Error = Refusal;
    fn try_from(id: i64) -> Result<Self, Refusal> {
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

/// One cluster, from `pgraft_init()` on. Members of different clusters refuse each other's
/// connections by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub Uuid);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One Raft directory, from its first start on: what tells a member from an empty or copied
/// directory under the same node id.
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
