//! The protocol of the control socket (`pgraft.data_dir/control.sock`), used by backends, the
//! instance manager and tests.
//!
//! A frame is a big-endian `u32` length and that many bytes of JSON. Each request gets one response;
//! a connection can be reused.

use serde::{Deserialize, Serialize};

use crate::primary_view::PrimaryUpdate;
use crate::{NodeStatus, Refusal, SqlState};

/// The file name of the socket within the Raft directory.
pub const SOCKET_NAME: &str = "control.sock";

/// The maximum length of a request or response in bytes.
pub const MAX_FRAME: usize = 1 << 20;

/// A request to a running member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "request")]
pub enum Request {
    /// Create a cluster with this node as its only member.
    Init,
    /// Add a node; on the leader only. The member checks the values, so that every caller gets the
    /// same errors.
    AddNode {
        /// The id of the new node.
        node_id: i64,
        /// Its Raft host.
        address: String,
        /// Its Raft port.
        port: i64,
    },
    /// Remove a node; on the leader only.
    RemoveNode {
        /// The node to remove.
        node_id: i64,
    },
    /// Change the address of a member; on the leader only.
    SetAddress {
        /// The member that has moved.
        node_id: i64,
        /// Its Raft host.
        address: String,
        /// Its Raft port.
        port: i64,
    },
    /// Make another node the primary. Any member forwards the request to the leader.
    Switchover {
        /// The new primary.
        target: i64,
    },
    /// Make a node the primary although it may lack acknowledged writes; on the leader only.
    ForcePrimary {
        /// The new primary.
        node_id: i64,
        /// Whether the loss of acknowledged writes is accepted.
        accept_data_loss: bool,
    },
    /// If this node is the primary, make the most advanced standby the primary, because this server
    /// is about to stop.
    HandOver,
    /// The status of this node.
    Status,
    /// The primary view: answered when it differs from the last one, and after some seconds in any
    /// case.
    WatchPrimary {
        /// The last response.
        heard: Option<PrimaryUpdate>,
    },
    /// The latest log entries, oldest first.
    Log {
        /// The maximum of entries.
        limit: usize,
    },
}

/// The response to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "response")]
pub enum Response {
    /// The change is committed by a majority and applied on this node.
    Done {
        /// A notice for the caller.
        notice: Option<String>,
    },
    /// To [`Request::Status`].
    Status(Box<NodeStatus>),
    /// To [`Request::WatchPrimary`].
    WatchPrimary(PrimaryUpdate),
    /// To [`Request::Log`].
    Log {
        /// Oldest first.
        entries: Vec<LogRow>,
    },
    /// The request was refused.
    Refused {
        /// The code of the error, which never changes.
        sqlstate: SqlState,
        /// The error message.
        message: String,
        /// What the caller can do.
        hint: String,
    },
}

impl From<Refusal> for Response {
    fn from(no: Refusal) -> Self {
        Self::Refused { sqlstate: no.sqlstate(), message: no.to_string(), hint: no.hint() }
    }
}

/// One row of `pgraft_log()`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRow {
    /// Log index.
    pub index: u64,
    /// The term of the leader that wrote it.
    pub term: u64,
    /// The kind of a [`Command`](crate::Command), or Raft's own `membership` and `blank`.
    pub kind: String,
    /// The entry as JSON text.
    pub data: String,
    /// Whether it is committed, as far as this node knows.
    pub committed: bool,
    /// Microseconds since the Unix epoch at which this node applied it; None if that was before the
    /// worker's last start.
    pub applied_at: Option<i64>,
}
