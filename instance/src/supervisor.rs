//! What to do next: a pure `(State, Event) -> (State, Vec<Command>)`. No disk, clock or process is
//! touched here; `driver.rs` carries the commands out and turns what happens into events.
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

use pgraft_core::liveness::Fault;
use std::time::Duration;

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
pub const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// How long a node with nothing to copy waits before it asks again: no failure, the primary is on
/// its way.
pub const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Where the supervisor stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The step under way.
    pub phase: Phase,
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
pub enum Phase {
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
    Running(Mode),
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

impl Phase {
    /// As logs and `/livez` show it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Clearing => "clearing",
            Self::Inspecting => "inspecting",
            Self::Initializing => "initializing",
            Self::Cloning => "cloning",
            Self::Rewinding => "rewinding",
            Self::Halting => "halting",
            Self::Running(Mode::Primary) => "running as primary",
            Self::Running(Mode::Standby) => "running as standby",
            Self::Waiting => "waiting",
            Self::Stopping => "stopping",
            Self::Draining => "draining",
            Self::Ended => "ended",
        }
    }
}

/// How Postgres is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Without `standby.signal`: takes writes.
    Primary,
    /// With `standby.signal`.
    Standby,
}

/// What stands on the disk, and what the cluster said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// PGDATA.
    pub data: Data,
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
pub enum Data {
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
pub enum Event {
    /// No process of an earlier server lives.
    Cleared,
    /// That could not be brought about.
    ClearFailed,
    /// The disk was read.
    Inspected(Facts),
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
    Concern(Option<Fault>),
    /// The running server has not done what its clients need for too long.
    Unresponsive(Fault),
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
pub enum Command {
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
    Start(Mode),
    /// Read the configuration again, write the files, SIGHUP the postmaster.
    Reload,
    /// Say why nothing can be done now.
    Explain(Why),
    /// Send [`Event::Woke`] after this.
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
    /// Send [`Event::Drained`] when the gateway may end.
    Drain,
    /// End this process.
    Exit,
}

/// Why nothing can be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
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
pub fn begin() -> (State, Vec<Command>) {
    (
        State { phase: Phase::Clearing, failures: 0, repair: None, rewound_in: None },
        vec![Command::Clear],
    )
}

/// One step. An event that the phase does not wait for changes nothing.
pub fn step(state: State, event: Event) -> (State, Vec<Command>) {
    match (state.phase, event) {
        (Phase::Ended, _) => stay(state),
        (Phase::Stopping, event) => stopping(state, event),
        (Phase::Draining, Event::Drained | Event::Shutdown) => {
            go(state, Phase::Ended, vec![Command::Exit])
        }
        (Phase::Running(_) | Phase::Halting, Event::Shutdown) => {
            go(state, Phase::Stopping, vec![Command::Stop])
        }
        (_, Event::Shutdown) => go(state, Phase::Stopping, vec![Command::AbortJob]),
        (Phase::Running(mode), event) => running(state, mode, event),

        (Phase::Clearing, Event::Cleared) | (Phase::Rewinding, Event::Rewound) => {
            go(state, Phase::Inspecting, vec![Command::Inspect])
        }
        (Phase::Rewinding, Event::RewindFailed) => (
            State { phase: Phase::Inspecting, repair: Some(Repair::Clone), ..state },
            vec![Command::Inspect],
        ),
        (Phase::Initializing, Event::Initialized) | (Phase::Cloning, Event::Cloned) => {
            (State { phase: Phase::Inspecting, failures: 0, ..state }, vec![Command::Inspect])
        }
        (Phase::Inspecting, Event::Inspected(facts)) => {
            decided(State { repair: None, ..state }, next(facts, state), facts.epoch)
        }

        (Phase::Rewinding, Event::RewindPutOff) => {
            failed(State { rewound_in: None, ..state }, vec![])
        }
        (Phase::Clearing, Event::ClearFailed)
        | (Phase::Inspecting, Event::InspectFailed)
        | (Phase::Initializing, Event::InitFailed)
        | (Phase::Cloning, Event::CloneFailed) => failed(state, vec![]),

        (Phase::Cloning, Event::NoPrimary) => {
            go(state, Phase::Waiting, vec![Command::Wait(ASK_AGAIN)])
        }
        (Phase::Halting, Event::Exited { .. } | Event::StartFailed)
        | (Phase::Waiting, Event::Woke | Event::FilesChanged) => {
            go(state, Phase::Clearing, vec![Command::Clear])
        }
        _ => stay(state),
    }
}

fn running(state: State, mode: Mode, event: Event) -> (State, Vec<Command>) {
    match event {
        Event::StartFailed => failed(state, vec![]),
        Event::Exited { ran_for } => {
            if ran_for >= HEALTHY_RUN {
                return (
                    State { phase: Phase::Clearing, failures: 0, ..state },
                    vec![Command::Clear],
                );
            }
            if ran_for >= SETTLED_RUN && state.failures < ENDS_AT_ONCE {
                return (
                    State { phase: Phase::Clearing, failures: state.failures + 1, ..state },
                    vec![Command::Clear],
                );
            }
            let (state, commands) = failed(state, vec![]);
            // What is on this disk does not run: the primary's copy may. Where there is no primary
            // it is tried again.
            let repair = (mode == Mode::Standby && state.failures.is_multiple_of(GIVES_UP))
                .then_some(Repair::Clone);
            (State { repair, ..state }, commands)
        }
        Event::FilesChanged => (state, vec![Command::Reload]),
        Event::Needs(repair) if mode == Mode::Standby => {
            (State { phase: Phase::Halting, repair: Some(repair), ..state }, vec![Command::Halt])
        }
        Event::SettingsTooLow if mode == Mode::Standby => {
            (State { phase: Phase::Halting, repair: None, ..state }, vec![Command::Halt])
        }
        Event::WorkerSilent => (state, vec![Command::StopNow]),
        Event::Unresponsive(_) => (state, vec![Command::Kill]),
        // Who wants it down for good stops this process: a server alone is started again.
        Event::StoppedByOthers => (state, vec![Command::Stop]),
        _ => stay(state),
    }
}

/// What the facts lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    InitDb,
    Clone,
    Rewind,
    Start(Mode),
    Refuse(Why),
}

/// Writes are taken only where the bootstrap node's `initdb` was made and no cluster exists yet,
/// or, without failover, where `instance.json` names this node and a promotion (or `initdb`) was
/// finished on this very PGDATA. `initdb` runs only on nothing, for a bootstrap node, with no trace
/// of a cluster.
fn next(facts: Facts, state: State) -> Next {
    match (facts.data, facts.named) {
        (Data::Foreign, _) => Next::Refuse(Why::ForeignData),
        (Data::Empty, Named::This) => Next::Refuse(Why::DataLost),
        (Data::Empty, Named::Nothing) => match facts.bootstrap {
            BootstrapNode::No => Next::Clone,
            BootstrapNode::Yes => Next::InitDb,
            BootstrapNode::TooLate => Next::Refuse(Why::ClusterElsewhere),
        },
        (Data::Empty | Data::Broken, _) => Next::Clone,
        (Data::Whole { standby_signal: false, bootstrapping: true }, Named::Nothing) => {
            Next::Start(Mode::Primary)
        }
        (Data::Whole { standby_signal: false, .. }, Named::This) if !facts.failover => {
            Next::Start(Mode::Primary)
        }
        (Data::Whole { .. }, Named::This) => Next::Start(Mode::Standby),
        (Data::Whole { .. }, _) => match state.repair {
            Some(Repair::Rewind) if facts.diverged && state.rewound_in != Some(facts.epoch) => {
                Next::Rewind
            }
            // It was asked for by a member that has listened since: it follows by now.
            Some(Repair::Rewind) if !facts.diverged => Next::Start(Mode::Standby),
            Some(_) => Next::Clone,
            None => Next::Start(Mode::Standby),
        },
    }
}

fn decided(state: State, next: Next, epoch: u64) -> (State, Vec<Command>) {
    match next {
        Next::InitDb => go(state, Phase::Initializing, vec![Command::InitDb]),
        Next::Clone => go(state, Phase::Cloning, vec![Command::Clone]),
        Next::Rewind => (
            State { phase: Phase::Rewinding, rewound_in: Some(epoch), ..state },
            vec![Command::Rewind],
        ),
        Next::Start(mode) => go(state, Phase::Running(mode), vec![Command::Start(mode)]),
        Next::Refuse(why) => failed(state, vec![Command::Explain(why)]),
    }
}

/// The first `Exited` or `JobEnded` leads to a last look for processes, and that to the end, once
/// clients go elsewhere. A second signal is an order to hurry.
fn stopping(state: State, event: Event) -> (State, Vec<Command>) {
    match event {
        Event::Exited { .. } | Event::StartFailed | Event::JobEnded => {
            (state, vec![Command::Clear])
        }
        Event::Cleared | Event::ClearFailed => go(state, Phase::Draining, vec![Command::Drain]),
        Event::Shutdown => (state, vec![Command::StopNow]),
        _ => stay(state),
    }
}

fn failed(state: State, mut commands: Vec<Command>) -> (State, Vec<Command>) {
    let failures = state.failures.saturating_add(1);
    commands.push(Command::Wait(wait_after(failures)));
    (State { phase: Phase::Waiting, failures, repair: None, ..state }, commands)
}

/// 0.5 s, 1 s, 2 s … and never more than [`LONGEST_WAIT`].
fn wait_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT)
}

fn go(state: State, phase: Phase, commands: Vec<Command>) -> (State, Vec<Command>) {
    (State { phase, ..state }, commands)
}

const fn stay(state: State) -> (State, Vec<Command>) {
    (state, vec![])
}

#[cfg(test)]
mod tests;
