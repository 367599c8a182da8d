//! What happens to the supervisor, and what it commands.

use pgraft_core::liveness::Unresponsive;
use std::time::Duration;

use super::{REPLACE_INTERVAL, Repair, StartMode, SupervisorFacts};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SupervisorEvent {
    /// No process of an earlier server is left.
    Cleared,
    /// A process of an earlier server could not be stopped.
    ClearFailed,
    /// The disk was read.
    Inspected(SupervisorFacts),
    /// The disk could not be read.
    InspectFailed,
    /// A new PGDATA is in place.
    Initialized,
    /// `initdb` failed.
    InitFailed,
    /// A copy of the primary is in place.
    Cloned,
    /// The primary could not be copied.
    CloneFailed,
    /// No primary is known.
    NoPrimary,
    /// The running server needs this repair, and the primary is reachable.
    Needs(Repair),
    /// PGDATA has the primary's history.
    Rewound,
    /// PGDATA cannot be rewound, or is broken now.
    RewindFailed,
    /// Nothing was changed, and a later attempt may succeed.
    RewindPutOff,
    /// The primary's worker has not answered for too long.
    WorkerSilent,
    /// What may be wrong with the running server. For `/status` only.
    Concern(Option<Unresponsive>),
    /// The running server has been unresponsive for too long.
    Unresponsive(Unresponsive),
    /// Another process is shutting the running server down.
    StoppedByOthers,
    /// The WAL that a standby replays needs higher settings. A restart applies them.
    SettingsTooLow,
    /// Postgres could not be started.
    StartFailed(StartFailure),
    /// The postmaster exited.
    Exited {
        /// How long it ran.
        ran_for: Duration,
    },
    /// The wait is over.
    Woke,
    /// The configuration, a secret or `instance.json` changed, or SIGHUP arrived.
    FilesChanged,
    /// SIGTERM or SIGINT.
    Shutdown,
    /// The aborted job and its processes have ended.
    JobEnded,
    /// No client is sent here any more.
    Drained,
}

/// Why Postgres could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFailure {
    /// The data directory lacks WAL that recovery needs.
    DamagedData,
    /// Anything that a clone would not repair: a file that cannot be written, a missing program.
    Other,
}

/// What to do. Each command leads to one of the events that its phase waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SupervisorCommand {
    /// Stop the processes of an earlier server.
    Clear,
    /// Read the disk, and ask the peers if `initdb` would be next.
    Inspect,
    /// Create PGDATA with `initdb`.
    InitDb,
    /// Find the primary and create PGDATA with `pg_basebackup`. An existing PGDATA is replaced when
    /// the copy is complete.
    Clone,
    /// The same, and record it: [`SupervisorFacts::replaced_ago`] counts from then.
    Replace,
    /// Give PGDATA the primary's history with `pg_rewind`.
    Rewind,
    /// Start Postgres.
    Start(StartMode),
    /// Read the configuration again, write the files and send SIGHUP to the postmaster.
    Reload,
    /// Log why nothing can be done now.
    Explain(FailureReason),
    /// Send [`SupervisorEvent::Woke`] after this time.
    Wait(Duration),
    /// Stop Postgres for good. A primary under failover hands over to a standby first. The shutdown
    /// is fast, and immediate after a timeout.
    Stop,
    /// The same for a standby that needs a repair, with a shorter timeout.
    Halt,
    /// Stop Postgres immediately.
    StopNow,
    /// Kill the postmaster: a stopped process handles no other signal. Its worker notices and
    /// releases the lease.
    Kill,
    /// Abort the running job and its processes.
    AbortJob,
    /// Send [`SupervisorEvent::Drained`] when the gateway may end.
    Drain,
    /// End this process.
    Exit,
}

/// Why nothing can be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FailureReason {
    /// PGDATA is not empty and is not a data directory.
    #[error(
        "the data directory is not empty and does not contain a Postgres server; empty it or configure another one"
    )]
    ForeignData,
    /// PGDATA of the primary is gone, its Raft directory is not.
    #[error(
        "the cluster names this node as its primary, but its data directory is empty; restore the data, or give the node a new id"
    )]
    DataLost,
    /// `--bootstrap` on an empty disk, while the cluster exists elsewhere.
    #[error(
        "--bootstrap was given and the data directory is empty, but other nodes are already in a cluster; no second cluster is created. Give the node a new id and start it without --bootstrap"
    )]
    ClusterElsewhere,
    /// A clone did not help, and the next one is not due yet.
    #[error(
        "Postgres still fails to start after its data directory was cloned {} min ago; it is not cloned again within {} h. To clone it now, stop pgraft-instance and empty the data directory",
        ago.as_secs() / 60,
        REPLACE_INTERVAL.as_secs() / 3600
    )]
    ReplacedRecently {
        /// Since the last clone.
        ago: Duration,
    },
}
