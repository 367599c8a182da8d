//! The body of the instance manager's `/status`, for other nodes, the operator and people.

use pgraft_core::configuration::ConfigurationStatus;
use pgraft_core::{NodeId, NodeStatus};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The body of `/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node.
    pub node_id: NodeId,
    /// The role of its Postgres server.
    pub role: ServerRole,
    /// Whether `/readyz` succeeds.
    pub ready: bool,
    /// Its Postgres server.
    pub postgres: PostgresStatus,
    /// Its Raft member; null if it does not answer.
    pub raft: Option<NodeStatus>,
    /// The primary, as far as this node knows.
    pub primary: Option<Upstream>,
    /// Whether the configuration is in force.
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

/// `host:port`, with an IPv6 address in brackets.
pub fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The role of a Postgres server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerRole {
    /// The primary.
    Primary,
    /// A standby.
    Standby,
    /// The server does not answer.
    Starting,
}

/// The Postgres server's part of [`Status`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresStatus {
    /// Whether a postmaster runs.
    pub running: bool,
    /// Whether it is in recovery. None while the server does not answer, like the next fields.
    pub in_recovery: Option<bool>,
    /// Standby: whether the walreceiver streams.
    pub streaming: Option<bool>,
    /// The timeline of the WAL that is written or received.
    pub timeline: Option<u32>,
    /// Standby: the end of the WAL that was received and flushed.
    pub receive_lsn: Option<String>,
    /// Standby: the end of the WAL that was replayed.
    #[serde(default)]
    pub replay_lsn: Option<String>,
    /// Primary: the end of the WAL that was flushed.
    pub flush_lsn: Option<String>,
    /// Whether a changed setting requires a restart.
    pub pending_restart: Option<bool>,
    /// Why the server cannot serve its clients, while that lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
    /// Why the instance manager last killed the server as unresponsive, since its own start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unresponsive: Option<String>,
}
