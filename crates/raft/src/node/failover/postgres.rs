//! This member's Postgres as the protocol sees and steers it: implemented by the extension's worker,
//! by the instance manager's stand-in member, and by the simulation.

use pgraft_core::failover::lease::BootTime;
use pgraft_core::failover::node::Intake;
use pgraft_core::failover::{History, SyncConfig};
use pgraft_core::status::WalPosition;
use pgraft_core::{Address, NodeId};

/// This member's Postgres. Its methods are called from the runtime's threads and never wait.
pub trait PostgresControl: Send + Sync {
    /// The host's boot-time clock.
    fn now(&self) -> BootTime;
    /// The latest observation of the server; None before the first one.
    fn observed(&self) -> Option<ServerState>;
    /// Why there is no server to observe: its data directory is being rewound or cloned.
    fn repair(&self) -> Option<ServerRepair> {
        None
    }
    /// Asks for a new observation now.
    fn refresh(&self) {}
    /// Asks for a new observation after all WAL that was written so far has been flushed: what a
    /// primary has not flushed is not part of [`ServerState::end`], and could be flushed later.
    fn flush(&self) {
        self.refresh();
    }
    /// Sets what the server must do. The latest directive counts; it is carried out repeatedly until
    /// the observation fits it. `fast` asks for frequent observations.
    fn direct(&self, directive: ServerDirective, fast: bool);
    /// Opens the gate until that time, or closes it, immediately.
    fn gate(&self, until: Option<BootTime>);
}

/// A data directory on which no server can run. The member goes on without one: it votes, and does
/// nothing else in a failover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerRepair {
    /// The epoch in which its WAL was found to have diverged from the primary's, if that is the
    /// reason.
    pub diverged_in: Option<u64>,
}

/// One observation of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerState {
    /// Identifies the run of the server: each postmaster has another number.
    pub run: i64,
    /// Whether it accepts connections. Before that its files may be inconsistent.
    pub consistent: bool,
    /// Whether it is in recovery.
    pub standby: bool,
    /// The end of its WAL: flushed as a primary, received or replayed as a standby.
    pub end: WalPosition,
    /// As a standby: where its WAL comes from.
    pub intake: Intake,
    /// The highest timeline to which a promotion was begun here.
    pub newest_timeline: u32,
    /// As a primary: the history of its timeline.
    pub history: History,
    /// As a primary: the sync config change whose names it has, and whether every process has
    /// loaded them.
    pub names: Option<(u64, bool)>,
}

/// What the server must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerDirective {
    /// Take no WAL.
    Close,
    /// Take WAL from that node, as long as it is a primary on that timeline.
    Follow(NodeId, Address, u32),
    /// Become the primary on that timeline, and wait for these standbys from the first moment on:
    /// the names of that change.
    Promote(u32, u64, SyncConfig),
    /// Wait for these standbys: `synchronous_standby_names` of that change.
    Names(u64, SyncConfig),
    /// End, with every process of the server.
    Stop,
}
