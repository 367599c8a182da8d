//! What to do next: a pure `(SupervisorState, SupervisorEvent) -> (SupervisorState,
//! Vec<SupervisorCommand>)`. No disk, clock or process is touched here; `driver.rs` carries the
//! commands out and turns what happens into events.
//!
//! ```text
//!             ┌──────────────────── Woke, FilesChanged ────────────────────┐
//!             ▼                                                            │
//!         Clearing ─▶ Inspecting ─▶ Running(primary | standby) ─ Exited ─▶ Waiting
//!        (no old     ▲ │  ▲ ▲ ▲      │          │                          ▲
//!         process  ┌─┘ │  │ │ │      │          └ Exited, after a while    │
//!         lives)   │   │  │ │ │      ▼                 └─▶ Clearing        │
//!                  │   │  │ │ │    Needs(repair)                           │
//!                  └───│──│─│─│── Halting                                  │
//!                      │  │ │ └── Rewound ───── Rewinding ─ RewindPutOff ──┤
//!                      │  │ └──── Cloned ────── Cloning ─── CloneFailed ───┤
//!                      │  └────── Initialized ─ Initializing ─ InitFailed ─┤
//!                      └─────── nothing can be done now, NoPrimary ────────┘
//!   from everywhere: Shutdown ─▶ Stopping ─▶ Draining ─▶ Ended
//! ```
//!
//! Whatever was done to the disk is inspected again before the next step, so that no step relies on
//! what an earlier one meant to do.
//!
//! Where the members choose the primary (`failover`) a server starts as a standby, always: its
//! worker promotes it when the group appoints it. Only the bootstrap node's runs before there is a
//! group are a primary's. A data directory is rewound or replaced only for a server that has just
//! run and asked for it, so that its member has voted and listened until then; when that comes to
//! nothing, the server starts on what it had.

use std::time::Duration;

pub use pgraft_core::failover::start::StartMode;
use pgraft_core::failover::start::{RecordedPrimary, StartFacts, start_mode};
use pgraft_core::liveness::Unresponsive;

/// How long a server must have run for its end to count as a first failure again.
pub const HEALTHY_RUN: Duration = Duration::from_mins(1);

/// How long a server must have run to be started again at once: it did not fail to start.
pub const SETTLED_RUN: Duration = Duration::from_secs(3);

/// How often in a row a server that has settled may end before the next start waits.
const ENDS_AT_ONCE: u32 = 5;

/// After so many failures in a row, and each time so many more, a standby is replaced by a clone of
/// the primary, where there is one.
const GIVES_UP: u32 = 8;

/// The first wait after a failure; it doubles with each further one.
pub const FIRST_WAIT: Duration = Duration::from_millis(500);

/// No wait is longer.
pub const MAX_WAIT: Duration = Duration::from_secs(15);

/// How long a node with nothing to copy waits before it asks again: no failure, the primary is on
/// its way.
pub const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Where the supervisor stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SupervisorState {
    /// The step under way.
    pub phase: SupervisorPhase,
    /// Failures in a row, for the backoff.
    pub failures: u32,
    /// What the server was stopped for.
    pub repair: Option<Repair>,
    /// The epoch in which a rewind was begun last: where one did not help, a second would not
    /// either.
    pub rewound_in: Option<u64>,
}

/// What a standby can't do while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Its WAL has diverged from the primary's.
    Rewind,
    /// The primary has no more the WAL that it needs, or it can't be rewound.
    Clone,
}

/// The step under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SupervisorPhase {
    /// Makes sure that no process of an earlier server lives.
    Clearing,
    /// Reads the disk.
    Inspecting,
    /// `initdb` runs.
    Initializing,
    /// A primary is looked for, then copied.
    Cloning,
    /// `pg_rewind` runs.
    Rewinding,
    /// Postgres runs.
    Running(StartMode),
    /// Postgres is being stopped for a repair.
    Halting,
    /// A failure is slept off.
    Waiting,
    /// Everything is being stopped.
    Stopping,
    /// Nothing runs but the gateway, for clients that are still led here.
    Draining,
    /// Nothing runs any more.
    Ended,
}

impl SupervisorPhase {
    /// As logs and `/livez` show it.
    pub const fn word(self) -> &'static str {
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

/// What stands on the disk, and what the cluster said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SupervisorFacts {
    /// PGDATA.
    pub data: DataDirectory,
    /// Whom `instance.json` names as the primary.
    pub named: Named,
    /// The epoch that `instance.json` is of; 0 where there is none.
    pub epoch: u64,
    /// `instance.json` says that this server's WAL has diverged from the primary's.
    pub diverged: bool,
    /// The members choose the primary.
    pub failover: bool,
    /// Whether this node makes a cluster where there is none.
    pub bootstrap: BootstrapNode,
}

/// Whether this node makes a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootstrapNode {
    /// `--bootstrap` was not given.
    No,
    /// It was.
    Yes,
    /// It was, and a peer that answered is in a cluster or knows a primary. Looked into only where
    /// `initdb` would be next.
    TooLate,
}

/// What PGDATA is. It comes into place by one rename only, so that there is no half of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataDirectory {
    /// Missing, or an empty directory.
    Empty,
    /// A whole data directory.
    Whole {
        /// It was made here by `initdb`, and the cluster that it founds does not know so yet.
        bootstrapping: bool,
        /// `standby.signal` is there: it has never been promoted since it was a standby.
        standby_signal: bool,
    },
    /// A rewind or a replacement of it did not come to its end: it must never be started.
    Broken,
    /// Something else is there; it is nobody's to overwrite.
    Foreign,
}

/// What `instance.json` says of the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// There is no `instance.json`: this node is in no cluster yet.
    Nothing,
    /// A cluster without a primary.
    Nobody,
    /// This node.
    This,
    /// Another node.
    Other,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SupervisorEvent {
    /// No process of an earlier server lives.
    Cleared,
    /// That could not be brought about.
    ClearFailed,
    /// The disk was read.
    Inspected(SupervisorFacts),
    /// The disk could not be read.
    InspectFailed,
    /// A fresh PGDATA is in place.
    Initialized,
    /// It is not.
    InitFailed,
    /// A copy of the primary is in place.
    Cloned,
    /// It is not.
    CloneFailed,
    /// Nobody says who the primary is.
    NoPrimary,
    /// The running server needs this, and the primary that it needs for it is there.
    Needs(Repair),
    /// PGDATA's history is the primary's.
    Rewound,
    /// It can't be, or the data directory is broken by now.
    RewindFailed,
    /// Nothing was changed, and another time it may work.
    RewindPutOff,
    /// The worker of a primary does not answer, and has not for long.
    WorkerSilent,
    /// What may be wrong with the running server. For people: nothing follows from it.
    Concern(Option<Unresponsive>),
    /// The running server has not done what its clients need for too long.
    Unresponsive(Unresponsive),
    /// The running server is being shut down, and not by this process.
    StoppedByOthers,
    /// The WAL that a standby replays needs higher settings than it runs with: started again it has
    /// them.
    SettingsTooLow,
    /// Postgres could not be started at all.
    StartFailed,
    /// The postmaster's exit was collected.
    Exited {
        /// Since its start.
        ran_for: Duration,
    },
    /// The wait is over.
    Woke,
    /// Configuration, secrets or `instance.json` are not what they were; or SIGHUP.
    FilesChanged,
    /// SIGTERM or SIGINT.
    Shutdown,
    /// The job that was to be broken off is gone, and its processes with it.
    JobEnded,
    /// No client is led here any more.
    Drained,
}

/// What is to be done. Each command leads to one of the events that its phase waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SupervisorCommand {
    /// Make sure that no process of an earlier server lives.
    Clear,
    /// Read the disk (and ask the peers, where `initdb` would be next).
    Inspect,
    /// Make PGDATA by `initdb`.
    InitDb,
    /// Find the primary and make PGDATA by `pg_basebackup`; one that is there gives way when the
    /// copy is whole.
    Clone,
    /// Make PGDATA's history the primary's by `pg_rewind`.
    Rewind,
    /// Start Postgres.
    Start(StartMode),
    /// Read the configuration again, write the files, SIGHUP the postmaster.
    Reload,
    /// Say why nothing can be done now.
    Explain(FailureReason),
    /// Send [`SupervisorEvent::Woke`] after this.
    Wait(Duration),
    /// Stop Postgres for good: where the members choose the primary and this is it, a standby takes
    /// over first; then fast, and harder when that takes too long.
    Stop,
    /// The same for a standby that needs repair, with less patience.
    Halt,
    /// Stop Postgres at once.
    StopNow,
    /// Kill the postmaster: one that is stopped heeds no other signal. Its worker notices and
    /// releases the lease.
    Kill,
    /// End the job under way and its processes.
    AbortJob,
    /// Send [`SupervisorEvent::Drained`] when the gateway may end.
    Drain,
    /// End this process.
    Exit,
}

/// Why nothing can be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FailureReason {
    /// PGDATA is not empty, and not PGDATA.
    #[error(
        "the data directory is not empty and holds no Postgres server: empty it, or name another one"
    )]
    ForeignData,
    /// The Raft directory outlived PGDATA on the primary.
    #[error(
        "the cluster names this node as its primary, but its data directory is empty: put the data back, or give the node a new id"
    )]
    DataLost,
    /// `--bootstrap` on an empty disk, while the cluster is alive elsewhere.
    #[error(
        "--bootstrap was given and the data directory is empty, but other nodes are already in a cluster: a second one is not bootstrapped; give the node a new id without --bootstrap"
    )]
    ClusterElsewhere,
}

/// The beginning, and the first command.
pub fn begin() -> (SupervisorState, Vec<SupervisorCommand>) {
    (
        SupervisorState {
            phase: SupervisorPhase::Clearing,
            failures: 0,
            repair: None,
            rewound_in: None,
        },
        vec![SupervisorCommand::Clear],
    )
}

/// One step. An event that the phase does not wait for changes nothing.
pub fn step(
    state: SupervisorState,
    event: SupervisorEvent,
) -> (SupervisorState, Vec<SupervisorCommand>) {
    match (state.phase, event) {
        (SupervisorPhase::Ended, _) => stay(state),
        (SupervisorPhase::Stopping, event) => stopping(state, event),
        (SupervisorPhase::Draining, SupervisorEvent::Drained | SupervisorEvent::Shutdown) => {
            go(state, SupervisorPhase::Ended, vec![SupervisorCommand::Exit])
        }
        (SupervisorPhase::Running(_) | SupervisorPhase::Halting, SupervisorEvent::Shutdown) => {
            go(state, SupervisorPhase::Stopping, vec![SupervisorCommand::Stop])
        }
        (_, SupervisorEvent::Shutdown) => {
            go(state, SupervisorPhase::Stopping, vec![SupervisorCommand::AbortJob])
        }
        (SupervisorPhase::Running(mode), event) => running(state, mode, event),

        (SupervisorPhase::Clearing, SupervisorEvent::Cleared)
        | (SupervisorPhase::Rewinding, SupervisorEvent::Rewound) => {
            go(state, SupervisorPhase::Inspecting, vec![SupervisorCommand::Inspect])
        }
        (SupervisorPhase::Rewinding, SupervisorEvent::RewindFailed) => (
            SupervisorState {
                phase: SupervisorPhase::Inspecting,
                repair: Some(Repair::Clone),
                ..state
            },
            vec![SupervisorCommand::Inspect],
        ),
        (SupervisorPhase::Initializing, SupervisorEvent::Initialized)
        | (SupervisorPhase::Cloning, SupervisorEvent::Cloned) => (
            SupervisorState { phase: SupervisorPhase::Inspecting, failures: 0, ..state },
            vec![SupervisorCommand::Inspect],
        ),
        (SupervisorPhase::Inspecting, SupervisorEvent::Inspected(facts)) => {
            decided(SupervisorState { repair: None, ..state }, next(facts, state), facts.epoch)
        }

        (SupervisorPhase::Rewinding, SupervisorEvent::RewindPutOff) => {
            failed(SupervisorState { rewound_in: None, ..state }, vec![])
        }
        (SupervisorPhase::Clearing, SupervisorEvent::ClearFailed)
        | (SupervisorPhase::Inspecting, SupervisorEvent::InspectFailed)
        | (SupervisorPhase::Initializing, SupervisorEvent::InitFailed)
        | (SupervisorPhase::Cloning, SupervisorEvent::CloneFailed) => failed(state, vec![]),

        (SupervisorPhase::Cloning, SupervisorEvent::NoPrimary) => {
            go(state, SupervisorPhase::Waiting, vec![SupervisorCommand::Wait(ASK_AGAIN)])
        }
        (
            SupervisorPhase::Halting,
            SupervisorEvent::Exited { .. } | SupervisorEvent::StartFailed,
        )
        | (SupervisorPhase::Waiting, SupervisorEvent::Woke | SupervisorEvent::FilesChanged) => {
            go(state, SupervisorPhase::Clearing, vec![SupervisorCommand::Clear])
        }
        _ => stay(state),
    }
}

fn running(
    state: SupervisorState,
    mode: StartMode,
    event: SupervisorEvent,
) -> (SupervisorState, Vec<SupervisorCommand>) {
    match event {
        SupervisorEvent::StartFailed => failed(state, vec![]),
        SupervisorEvent::Exited { ran_for } => {
            if ran_for >= HEALTHY_RUN {
                return (
                    SupervisorState { phase: SupervisorPhase::Clearing, failures: 0, ..state },
                    vec![SupervisorCommand::Clear],
                );
            }
            if ran_for >= SETTLED_RUN && state.failures < ENDS_AT_ONCE {
                return (
                    SupervisorState {
                        phase: SupervisorPhase::Clearing,
                        failures: state.failures + 1,
                        ..state
                    },
                    vec![SupervisorCommand::Clear],
                );
            }
            let (state, commands) = failed(state, vec![]);
            // What is on this disk does not run: the primary's copy may. Where there is no primary
            // it is tried again.
            let repair = (mode == StartMode::Standby && state.failures.is_multiple_of(GIVES_UP))
                .then_some(Repair::Clone);
            (SupervisorState { repair, ..state }, commands)
        }
        SupervisorEvent::FilesChanged => (state, vec![SupervisorCommand::Reload]),
        SupervisorEvent::Needs(repair) if mode == StartMode::Standby => (
            SupervisorState { phase: SupervisorPhase::Halting, repair: Some(repair), ..state },
            vec![SupervisorCommand::Halt],
        ),
        SupervisorEvent::SettingsTooLow if mode == StartMode::Standby => (
            SupervisorState { phase: SupervisorPhase::Halting, repair: None, ..state },
            vec![SupervisorCommand::Halt],
        ),
        SupervisorEvent::WorkerSilent => (state, vec![SupervisorCommand::StopNow]),
        SupervisorEvent::Unresponsive(_) => (state, vec![SupervisorCommand::Kill]),
        // Who wants it down for good stops this process: a server alone is started again.
        SupervisorEvent::StoppedByOthers => (state, vec![SupervisorCommand::Stop]),
        _ => stay(state),
    }
}

/// What the facts lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NextAction {
    InitDb,
    Clone,
    Rewind,
    Start(StartMode),
    Refuse(FailureReason),
}

/// Writes are taken only where the bootstrap node's `initdb` was made and no cluster exists yet,
/// or, without failover, where `instance.json` names this node and a promotion (or `initdb`) was
/// finished on this very PGDATA. `initdb` runs only on nothing, for a bootstrap node, with no trace
/// of a cluster.
fn next(facts: SupervisorFacts, state: SupervisorState) -> NextAction {
    match (facts.data, facts.named) {
        (DataDirectory::Foreign, _) => NextAction::Refuse(FailureReason::ForeignData),
        (DataDirectory::Empty, Named::This) => NextAction::Refuse(FailureReason::DataLost),
        (DataDirectory::Empty, Named::Nothing) => match facts.bootstrap {
            BootstrapNode::No => NextAction::Clone,
            BootstrapNode::Yes => NextAction::InitDb,
            BootstrapNode::TooLate => NextAction::Refuse(FailureReason::ClusterElsewhere),
        },
        (DataDirectory::Empty | DataDirectory::Broken, _) => NextAction::Clone,
        (DataDirectory::Whole { standby_signal, bootstrapping }, named) => {
            let primary = match named {
                Named::Nothing => RecordedPrimary::NoCluster,
                Named::This => RecordedPrimary::ThisNode,
                Named::Nobody | Named::Other => RecordedPrimary::AnotherNode,
            };
            let failover = facts.failover;
            match start_mode(StartFacts { failover, bootstrapping, standby_signal, primary }) {
                StartMode::Standby if named != Named::This => repaired(facts, state),
                mode => NextAction::Start(mode),
            }
        }
    }
}

/// What a standby needs before it starts.
fn repaired(facts: SupervisorFacts, state: SupervisorState) -> NextAction {
    match state.repair {
        Some(Repair::Rewind) if facts.diverged && state.rewound_in != Some(facts.epoch) => {
            NextAction::Rewind
        }
        // It was asked for by a member that has listened since: it follows by now.
        Some(Repair::Rewind) if !facts.diverged => NextAction::Start(StartMode::Standby),
        Some(_) => NextAction::Clone,
        None => NextAction::Start(StartMode::Standby),
    }
}

fn decided(
    state: SupervisorState,
    next: NextAction,
    epoch: u64,
) -> (SupervisorState, Vec<SupervisorCommand>) {
    match next {
        NextAction::InitDb => {
            go(state, SupervisorPhase::Initializing, vec![SupervisorCommand::InitDb])
        }
        NextAction::Clone => go(state, SupervisorPhase::Cloning, vec![SupervisorCommand::Clone]),
        NextAction::Rewind => (
            SupervisorState { phase: SupervisorPhase::Rewinding, rewound_in: Some(epoch), ..state },
            vec![SupervisorCommand::Rewind],
        ),
        NextAction::Start(mode) => {
            go(state, SupervisorPhase::Running(mode), vec![SupervisorCommand::Start(mode)])
        }
        NextAction::Refuse(why) => failed(state, vec![SupervisorCommand::Explain(why)]),
    }
}

/// The first `Exited` or `JobEnded` leads to a last look for processes, and that to the end, once
/// clients go elsewhere. A second signal is an order to hurry.
fn stopping(
    state: SupervisorState,
    event: SupervisorEvent,
) -> (SupervisorState, Vec<SupervisorCommand>) {
    match event {
        SupervisorEvent::Exited { .. }
        | SupervisorEvent::StartFailed
        | SupervisorEvent::JobEnded => (state, vec![SupervisorCommand::Clear]),
        SupervisorEvent::Cleared | SupervisorEvent::ClearFailed => {
            go(state, SupervisorPhase::Draining, vec![SupervisorCommand::Drain])
        }
        SupervisorEvent::Shutdown => (state, vec![SupervisorCommand::StopNow]),
        _ => stay(state),
    }
}

fn failed(
    state: SupervisorState,
    mut commands: Vec<SupervisorCommand>,
) -> (SupervisorState, Vec<SupervisorCommand>) {
    let failures = state.failures.saturating_add(1);
    commands.push(SupervisorCommand::Wait(wait_after(failures)));
    (SupervisorState { phase: SupervisorPhase::Waiting, failures, repair: None, ..state }, commands)
}

/// 0.5 s, 1 s, 2 s … and never more than [`MAX_WAIT`].
fn wait_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_WAIT.saturating_mul(1 << doublings).min(MAX_WAIT)
}

fn go(
    state: SupervisorState,
    phase: SupervisorPhase,
    commands: Vec<SupervisorCommand>,
) -> (SupervisorState, Vec<SupervisorCommand>) {
    (SupervisorState { phase, ..state }, commands)
}

const fn stay(state: SupervisorState) -> (SupervisorState, Vec<SupervisorCommand>) {
    (state, vec![])
}

#[cfg(test)]
mod tests;
