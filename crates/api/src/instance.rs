//! The body of `/status`: what this node is, as other nodes, the operator and people read it.

use pgraft_core::configuration::ConfigurationStatus;
use pgraft_core::{NodeId, NodeStatus};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The body of `/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// This node.
    pub node_id: NodeId,
    /// What its Postgres server does.
    pub role: ServerRole,
    /// What `/readyz` says.
    pub ready: bool,
    /// Its Postgres server.
    pub postgres: PostgresStatus,
    /// Its Raft member; null when it doesn't answer.
    pub raft: Option<NodeStatus>,
    /// Who takes writes, as far as this node knows.
    pub primary: Option<Upstream>,
    /// Whether what is configured is in force.
    #[serde(default)]
    pub configuration: ConfigurationStatus,
}

/// A primary's Postgres server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Its node.
    pub node_id: NodeId,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} ({})", self.node_id, host_and_port(&self.host, self.port))
    }
}

/// As it is written for people and in URLs: an IPv6 address in brackets.
pub fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// What a Postgres server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerRole {
    /// Takes writes.
    Primary,
    /// Follows.
    Standby,
    /// Doesn't answer yet, or not now.
    Starting,
}

/// The Postgres server's part of [`Status`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresStatus {
    /// A postmaster is there.
    pub running: bool,
    /// None while it doesn't answer, like all that follow.
    pub in_recovery: Option<bool>,
    /// A standby's walreceiver is streaming.
    pub streaming: Option<bool>,
    /// Of the WAL that is written or received.
    pub timeline: Option<u32>,
    /// Standby: the end of the WAL that was received and flushed.
    pub receive_lsn: Option<String>,
    /// Standby: the end of the WAL that was replayed.
    #[serde(default)]
    pub replay_lsn: Option<String>,
    /// Primary: the end of the WAL that was flushed.
    pub flush_lsn: Option<String>,
    /// A changed setting takes effect at the next restart only.
    pub pending_restart: Option<bool>,
    /// What keeps it from doing what its clients need, while that lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
    /// Why `pgraft-instance` has killed a server as unresponsive, the last time since its own
    /// start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unresponsive: Option<String>,
}
