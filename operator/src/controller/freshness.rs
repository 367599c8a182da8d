//! How closely the operator looks: a glance costs the API server nothing.

use pgraft_core::NodeId;

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// At what the watches have brought, and ask only this member, who led lately. Enough to see
    /// that all is well.
    LeaderOnly(NodeId),
    /// At what the watches have brought, and ask everybody. Enough to go on waiting.
    Cached,
    /// Ask the API server, and everybody. What is done is decided from this.
    Live,
}
