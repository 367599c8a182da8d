//! The words spoken over the control socket (`pgraft.data_dir/control.sock`): by backends, the
//! instance manager, tests and the plugin.
//!
//! A frame is a big-endian `u32` length and that many bytes of JSON; one request, one response, and
//! the connection may be used again.

use serde::{Deserialize, Serialize};

use crate::primary_view::PrimaryUpdate;
use crate::{NodeStatus, Refusal, SqlState};

/// The file name of the socket within the Raft directory.
pub const SOCKET_NAME: &str = "control.sock";

/// No request or response is longer, in bytes.
pub const MAX_FRAME: usize = 1 << 20;

/// What can be asked of a running member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "request")]
pub enum Request {
    /// Make a cluster of this one node.
    Init,
    /// Add a node; on the leader only. Raw values: the member checks them, so that every way in
    /// gives the same answer.
    AddNode {
        /// The newcomer's id.
        node_id: i64,
        /// Its Raft host.
        address: String,
        /// Its Raft port.
        port: i64,
    },
    /// Take a node out; on the leader only.
    RemoveNode {
        /// Who leaves.
        node_id: i64,
    },
    /// Tell where a member listens now; on the leader only.
    SetAddress {
        /// Who has moved.
        node_id: i64,
        /// Its Raft host.
        address: String,
        /// Its Raft port.
        port: i64,
    },
    /// Have another node be the primary; any member passes it on to the leader.
    Switchover {
        /// Who is to be the primary.
        target: i64,
    },
    /// Make a node the primary whose WAL may lack what was acknowledged; on the leader only.
    ForcePrimary {
        /// Who is to be the primary.
        node_id: i64,
        /// Somebody knows what that means.
        accept_data_loss: bool,
    },
    /// Have whichever standby has the most be the primary, where this node is: its server is about
    /// to be stopped.
    HandOver,
    /// What this node knows.
    Status,
    /// Who is the primary: answered when that is not what was heard last, and within some seconds
    /// in any case.
    WatchPrimary {
        /// The last answer.
        heard: Option<PrimaryUpdate>,
    },
    /// The latest log entries, oldest first.
    Log {
        /// At most this many.
        limit: usize,
    },
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "response")]
pub enum Response {
    /// It is done: committed by a majority and applied here.
    Done {
        /// Something that the caller should know, although all went well.
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
    /// It was not done.
    Refused {
        /// Stable.
        sqlstate: SqlState,
        /// What is wrong.
        message: String,
        /// What to do.
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
    /// `init`, `join`, `remove`, `join_expired`, `set_address`, `register`, or Raft's own
    /// `membership` and `blank`.
    pub kind: String,
    /// The entry as JSON text.
    pub data: String,
    /// Whether this node knows it to be committed.
    pub committed: bool,
    /// Microseconds since the Unix epoch at which it was applied here, since the worker's last
    /// start; None before.
    pub applied_at: Option<i64>,
}
