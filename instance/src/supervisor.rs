//! Decides what to do next: a pure `(SupervisorState, SupervisorEvent) -> (SupervisorState,
//! Vec<SupervisorCommand>)`. `driver.rs` carries the commands out and turns their results into
//! events.
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
//! After every change the disk is inspected again, so no step relies on what an earlier one was
//! meant to do.
//!
//! With `failover` a server always starts as a standby, and its worker promotes it when the group
//! appoints it. The only exception is the bootstrap node before its cluster exists. A data directory
//! is rewound or replaced only for a server that has just run, or has failed to start
//! [`FAILURES_BEFORE_REPLACE`] times, so the member votes until then. If the repair fails, the
//! server starts on the data it has. A clone after failed starts is made at most once in
//! [`REPLACE_INTERVAL`]: if the copy does not start either, another copy of the same primary would
//! only load the primary.

mod event;
mod facts;
mod state;

use std::time::Duration;

pub use pgraft_core::failover::start::StartMode;
use pgraft_core::failover::start::{RecordedPrimary, StartFacts, start_mode};

pub use event::{FailureReason, StartFailure, SupervisorCommand, SupervisorEvent};
pub use facts::{BootstrapNode, DataDirectory, Named, SupervisorFacts};
pub use state::{Repair, SupervisorPhase, SupervisorState};

/// A server that ran for at least this long starts again without a wait, and its failures are
/// forgotten.
pub const HEALTHY_RUN: Duration = Duration::from_mins(1);

/// A server that ran for at least this long did not fail to start.
pub const SETTLED_RUN: Duration = Duration::from_secs(3);

/// How often in a row a settled server is restarted without a wait.
const IMMEDIATE_RESTARTS: u32 = 5;

/// After this many consecutive failures, and every multiple, a standby is replaced by a clone of
/// the primary if there is one.
const FAILURES_BEFORE_REPLACE: u32 = 8;

/// The minimum time between two clones that are made because the server fails to start.
pub const REPLACE_INTERVAL: Duration = Duration::from_hours(6);

/// The wait after the first failure. It doubles with each further failure.
pub const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The longest wait after a failure.
pub const MAX_WAIT: Duration = Duration::from_secs(15);

/// How often a node without data looks for a primary to clone. This is not a failure.
pub const PRIMARY_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The initial state and command.
pub fn begin() -> (SupervisorState, Vec<SupervisorCommand>) {
    (
        SupervisorState {
            phase: SupervisorPhase::Clearing,
            failures: 0,
            repair: None,
            rewound_in: None,
            reason: None,
        },
        vec![SupervisorCommand::Clear],
    )
}

/// Takes one step. An event that the phase does not wait for changes nothing.
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
            SupervisorState {
                phase: SupervisorPhase::Inspecting,
                failures: 0,
                reason: None,
                ..state
            },
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

        (SupervisorPhase::Cloning, SupervisorEvent::NoPrimary) => go(
            state,
            SupervisorPhase::Waiting,
            vec![SupervisorCommand::Wait(PRIMARY_POLL_INTERVAL)],
        ),
        (
            SupervisorPhase::Halting,
            SupervisorEvent::Exited { .. } | SupervisorEvent::StartFailed(_),
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
        SupervisorEvent::StartFailed(StartFailure::Other) => failed(state, vec![]),
        SupervisorEvent::StartFailed(StartFailure::DamagedData) => did_not_start(state, mode),
        SupervisorEvent::Exited { ran_for } => {
            if ran_for >= HEALTHY_RUN {
                return (
                    SupervisorState {
                        phase: SupervisorPhase::Clearing,
                        failures: 0,
                        reason: None,
                        ..state
                    },
                    vec![SupervisorCommand::Clear],
                );
            }
            if ran_for >= SETTLED_RUN && state.failures < IMMEDIATE_RESTARTS {
                return (
                    SupervisorState {
                        phase: SupervisorPhase::Clearing,
                        failures: state.failures + 1,
                        ..state
                    },
                    vec![SupervisorCommand::Clear],
                );
            }
            did_not_start(state, mode)
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
        // The whole node stops; otherwise the server would be started again.
        SupervisorEvent::StoppedByOthers => (state, vec![SupervisorCommand::Stop]),
        _ => stay(state),
    }
}

/// A failed start. The primary's copy may start where this data directory does not; without a
/// primary the next start uses the same data.
fn did_not_start(
    state: SupervisorState,
    mode: StartMode,
) -> (SupervisorState, Vec<SupervisorCommand>) {
    let (state, commands) = failed(state, vec![]);
    let repair = (mode == StartMode::Standby
        && state.failures.is_multiple_of(FAILURES_BEFORE_REPLACE))
    .then_some(Repair::Replace);
    (SupervisorState { repair, ..state }, commands)
}

/// What follows from the facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NextAction {
    InitDb,
    Clone,
    Replace,
    Rewind,
    Start(StartMode),
    /// Start although a clone is needed: it is not due yet.
    StartAgain(FailureReason),
    Refuse(FailureReason),
}

/// A server starts as a primary only if the bootstrap node's `initdb` created it and no cluster
/// exists yet, or, without failover, if `instance.json` names this node and a promotion (or
/// `initdb`) finished on this PGDATA. `initdb` runs only on an empty data directory, on a bootstrap
/// node, with no trace of a cluster.
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
        // The member asked for it earlier; by now the histories agree again.
        Some(Repair::Rewind) if !facts.diverged => NextAction::Start(StartMode::Standby),
        Some(Repair::Replace) => match facts.replaced_ago {
            Some(ago) if ago < REPLACE_INTERVAL => {
                NextAction::StartAgain(FailureReason::ReplacedRecently { ago })
            }
            _ => NextAction::Replace,
        },
        Some(Repair::Rewind | Repair::Clone) => NextAction::Clone,
        None => NextAction::Start(StartMode::Standby),
    }
}

impl NextAction {
    const fn reason(self) -> Option<FailureReason> {
        match self {
            Self::StartAgain(why) | Self::Refuse(why) => Some(why),
            Self::InitDb | Self::Clone | Self::Replace | Self::Rewind | Self::Start(_) => None,
        }
    }
}

/// The starts between two attempts at a clone do not take back why none is made.
fn kept_reason(state: SupervisorState, next: NextAction) -> Option<FailureReason> {
    state.reason.filter(|why| {
        state.failures > 0
            && matches!(next, NextAction::Start(_))
            && matches!(why, FailureReason::ReplacedRecently { .. })
    })
}

fn decided(
    state: SupervisorState,
    next: NextAction,
    epoch: u64,
) -> (SupervisorState, Vec<SupervisorCommand>) {
    let state = SupervisorState { reason: next.reason().or(kept_reason(state, next)), ..state };
    match next {
        NextAction::InitDb => {
            go(state, SupervisorPhase::Initializing, vec![SupervisorCommand::InitDb])
        }
        NextAction::Clone => go(state, SupervisorPhase::Cloning, vec![SupervisorCommand::Clone]),
        NextAction::Replace => {
            go(state, SupervisorPhase::Cloning, vec![SupervisorCommand::Replace])
        }
        NextAction::Rewind => (
            SupervisorState { phase: SupervisorPhase::Rewinding, rewound_in: Some(epoch), ..state },
            vec![SupervisorCommand::Rewind],
        ),
        NextAction::Start(mode) => {
            go(state, SupervisorPhase::Running(mode), vec![SupervisorCommand::Start(mode)])
        }
        NextAction::StartAgain(why) => go(
            state,
            SupervisorPhase::Running(StartMode::Standby),
            vec![SupervisorCommand::Explain(why), SupervisorCommand::Start(StartMode::Standby)],
        ),
        NextAction::Refuse(why) => failed(state, vec![SupervisorCommand::Explain(why)]),
    }
}

/// After the first `Exited` or `JobEnded` the remaining processes are stopped, then clients are
/// drained. A second signal stops Postgres immediately.
fn stopping(
    state: SupervisorState,
    event: SupervisorEvent,
) -> (SupervisorState, Vec<SupervisorCommand>) {
    match event {
        SupervisorEvent::Exited { .. }
        | SupervisorEvent::StartFailed(_)
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

/// 0.5 s, 1 s, 2 s … at most [`MAX_WAIT`].
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
