//! The supervisor's state.

use super::{FailureReason, StartMode};

/// The supervisor's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SupervisorState {
    /// The step in progress.
    pub phase: SupervisorPhase,
    /// Consecutive failures, which determine the backoff.
    pub failures: u32,
    /// The repair that the server was stopped for.
    pub repair: Option<Repair>,
    /// The epoch of the last rewind: if it did not help, a second one in that epoch would not
    /// either.
    pub rewound_in: Option<u64>,
    /// Why the last inspection did not lead to a repair or a start that could help.
    pub reason: Option<FailureReason>,
}

/// What a standby needs and cannot do while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// A rewind: its WAL has diverged from the primary's.
    Rewind,
    /// A clone: the primary no longer has the WAL that it needs, or it cannot be rewound.
    Clone,
    /// A clone because the server keeps failing to start. Limited by
    /// [`REPLACE_INTERVAL`](super::REPLACE_INTERVAL).
    Replace,
}

/// The step in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SupervisorPhase {
    /// Stops processes of an earlier server.
    Clearing,
    /// Reads the disk.
    Inspecting,
    /// Runs `initdb`.
    Initializing,
    /// Finds the primary and copies it.
    Cloning,
    /// Runs `pg_rewind`.
    Rewinding,
    /// Postgres runs.
    Running(StartMode),
    /// Stops Postgres for a repair.
    Halting,
    /// Waits after a failure.
    Waiting,
    /// Stops everything.
    Stopping,
    /// Only the gateway runs, for clients that are still sent here.
    Draining,
    /// Nothing runs any more.
    Ended,
}

impl SupervisorPhase {
    /// The phase as logs and `/livez` show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clearing => "clearing",
            Self::Inspecting => "inspecting",
            Self::Initializing => "initializing",
            Self::Cloning => "cloning",
            Self::Rewinding => "rewinding",
            Self::Halting => "halting",
            Self::Running(StartMode::Primary) => "running as primary",
            Self::Running(StartMode::Standby) => "running as standby",
            Self::Waiting => "waiting",
            Self::Stopping => "stopping",
            Self::Draining => "draining",
            Self::Ended => "ended",
        }
    }
}
