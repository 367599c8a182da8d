//! What the supervisor decides by: the state of the disk and what the cluster recorded. `facts.rs`
//! of the crate reads them.

use std::time::Duration;

/// What is on disk, and what the cluster recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SupervisorFacts {
    /// PGDATA.
    pub data: DataDirectory,
    /// The primary that `instance.json` names.
    pub named: Named,
    /// The epoch of `instance.json`; 0 if the file does not exist.
    pub epoch: u64,
    /// `instance.json` says that this server's WAL has diverged from the primary's.
    pub diverged: bool,
    /// The members choose the primary.
    pub failover: bool,
    /// Whether this node creates the cluster.
    pub bootstrap: BootstrapNode,
    /// How long ago this data directory was last replaced because its server kept failing to start.
    pub replaced_ago: Option<Duration>,
}

/// Whether this node creates the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootstrapNode {
    /// `--bootstrap` was not given.
    No,
    /// `--bootstrap` was given.
    Yes,
    /// `--bootstrap` was given, but a peer is already in a cluster or knows a primary. Checked only
    /// if `initdb` would be the next step.
    TooLate,
}

/// What PGDATA is. A new data directory is moved into place by a single rename, so it is never
/// half complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataDirectory {
    /// Missing, or an empty directory.
    Empty,
    /// A complete data directory.
    Whole {
        /// `initdb` created it here, and the cluster that it bootstraps does not exist yet.
        bootstrapping: bool,
        /// It contains `standby.signal`: the server has not been promoted since it was a standby.
        standby_signal: bool,
    },
    /// A rewind or a replacement was interrupted. A server must never be started on it.
    Broken,
    /// It contains something else, which must not be overwritten.
    Foreign,
}

/// What `instance.json` says about the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// There is no `instance.json`: this node is not in a cluster yet.
    Nothing,
    /// The cluster has no primary.
    Nobody,
    /// This node is the primary.
    This,
    /// Another node is the primary.
    Other,
}
